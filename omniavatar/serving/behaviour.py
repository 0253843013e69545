"""Sentences that make good prompts: who is seen, how they behave, what is behind them.

The published models were trained on prompts in that order. A press of a chip puts its sentence in
its place and takes out the one that another chip of the same row has put there.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Chip:
    """A button and the sentence that it writes."""

    label: str
    sentence: str


@dataclass(frozen=True, slots=True)
class Row:
    """Chips of which one at a time makes sense."""

    title: str
    chips: tuple[Chip, ...]


ROWS = (
    Row(
        "Who",
        (
            Chip("Woman", "A woman is talking to the camera."),
            Chip("Man", "A man is talking to the camera."),
            Chip("Presenter", "A professional presenter is speaking directly to the camera."),
            Chip("Cartoon", "A cartoon of a person is talking to the camera."),
        ),
    ),
    Row(
        "Mood",
        (
            Chip("Friendly", "The person is speaking with a friendly face and a happy smile."),
            Chip("Calm", "The person is speaking with a calm face, relaxed and confident."),
            Chip("Serious", "The person is speaking with a serious expression."),
            Chip("Sad", "The person is speaking with a sad expression."),
        ),
    ),
    Row(
        "Movement",
        (
            Chip("Keeps still", "The person keeps still, and the hands stay down."),
            Chip("Looks around", "The person looks around while speaking."),
            Chip("Nods", "The person nods slowly while speaking."),
            Chip("Waves", "The person raises a hand and waves at the camera."),
            Chip("Gestures", "The hands move with gentle gestures and stay clearly visible."),
        ),
    ),
    Row(
        "Background",
        (
            Chip("Nothing moves", "The camera and the background stay still."),
            Chip("Studio", "The background is a plain wall of a studio in soft light."),
            Chip("Outdoors", "The background is outdoors, blurred and far behind."),
        ),
    ),
)


def with_sentence(prompt: str, row: Row, chip: Chip) -> str:
    """The prompt with the chip's sentence in it, or without it when it is there already.

    What people wrote themselves stays; sentences of chips stand in the order of `ROWS`.
    """
    there = chip.sentence in prompt
    for other in row.chips:
        prompt = _without(prompt, other.sentence)
    if there:
        return prompt
    place = 0
    if row != ROWS[0]:
        later = [c.sentence for each in ROWS[ROWS.index(row) + 1 :] for c in each.chips]
        places = [place for sentence in later if (place := prompt.find(sentence)) >= 0]
        place = min(places, default=len(prompt))
    parts = (prompt[:place].strip(), chip.sentence, prompt[place:].strip())
    return " ".join(part for part in parts if part)


def _without(prompt: str, sentence: str) -> str:
    before, found, after = prompt.partition(sentence)
    return f"{before.rstrip()} {after.lstrip()}".strip() if found else prompt

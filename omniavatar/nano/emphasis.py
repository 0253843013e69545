"""Makes the transformer do all of what it hears: some of the speech's code made stronger.

A transformer answers a code that it cannot quite trust by less than the code says, and by least
where it matters most for reading lips: in what changes within the four video frames of a latent.
Its blocks take the code through one matrix each. Those are changed as if the code said more of it.
"""

# n codes, h numbers of a code, m of four mouths: rows, each opening, width and rounding

from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from omniavatar.errors import InputError
from omniavatar.models.transformer import FRAMES_PER_LATENT
from omniavatar.nano.audio_code import (
    change_transformer,
    hear,
    line_through,
    load_transformer,
    middle_of,
)
from omniavatar.nano.clips import sample_speech
from omniavatar.nano.speech import SpeechBank
from omniavatar.nano.train_speech_encoder import normalise
from omniavatar.nano.training import read_records, write_records
from omniavatar.nano.windows import load_speech_encoder

RECORD = "emphasis"
"""Its name in training.json."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Emphasis:
    """How many times more is said of a mouth: opening, width and rounding.

    Attributes:
        mean: of what a latent frame's mouths have in common.
        change: of what changes between them.
    """

    mean: tuple[float, float, float]
    change: tuple[float, float, float]

    def matrix(self) -> Tensor:
        """[m, m], the identity where nothing is emphasised."""
        common = torch.full((FRAMES_PER_LATENT, FRAMES_PER_LATENT), 1 / FRAMES_PER_LATENT)
        mean = torch.kron(common, torch.diag(torch.tensor(self.mean)))
        rest = torch.eye(FRAMES_PER_LATENT) - common
        return mean + torch.kron(rest, torch.diag(torch.tensor(self.change)))


SHIPPED = Emphasis(mean=(1.1, 1.3, 1.6), change=(1.3, 2.0, 2.2))
"""Near the best of some twenty that were tried on ten clips of presenters, voices and words held
out, and as many of flite's. More of the opening leaves audio guidance nothing to add."""


def emphasise(
    weights: Path,
    speech: SpeechBank,
    emphasis: Emphasis = SHIPPED,
    *,
    windows: int = 600,
) -> None:
    """Change the exported transformer, and note it in training.json.

    Args:
        speech: of many voices.
        windows: of five seconds, in which is found how the code says what the mouth does.

    Raises:
        InputError: this transformer was changed before.
    """
    records = read_records(weights)
    if RECORD in records:
        raise InputError("This transformer is emphasised already: export it again first.")
    device = torch.device("cpu")
    generator = torch.Generator().manual_seed(61)
    heard = sample_speech(speech, count=windows, rows=125, generator=generator, device=device)
    transformer = load_transformer(weights, device)
    code, mouths = hear(
        transformer.audio_proj,
        load_speech_encoder(weights, device),
        normalise(heard.waveform),
        heard.mouth,
    )
    projections = transformer.audio_cond_projs.state_dict()
    changed = stronger(projections, code, middle_of(mouths), emphasis)
    change_transformer(weights, {f"audio_cond_projs.{k}": v for k, v in changed.items()})
    write_records(weights, {**records, RECORD: asdict(emphasis)})


def stronger(
    projections: dict[str, Tensor], code: Tensor, mouths: Tensor, emphasis: Emphasis
) -> dict[str, Tensor]:
    """Projections of a code as they are, of what it says about the mouth with this emphasis.

    Args:
        projections: weights and biases by name.
        code, mouths: of the same moments, [n, h] and [n, m].
    """
    matrix = emphasis.matrix()
    more = matrix - torch.eye(len(matrix))
    # Read the mouth off the code, and write what there should be more of back into it.
    change = line_through(code, mouths)[:-1] @ more @ line_through(mouths, code)[:-1]
    centre = code.mean(0)
    found = {}
    for name, weight in projections.items():
        if name.endswith("weight"):
            bias = name.replace("weight", "bias")
            found[name] = weight + weight @ change.T
            found[bias] = projections[bias] - weight @ (centre @ change)
    return found

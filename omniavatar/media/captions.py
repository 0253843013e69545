"""A text that is known, laid over the speech in which it is said: captions, SRT, and burnt in.

Nothing is transcribed: that would need a model of its own, which is not bundled. The text has to be
given, and is expected to be what is said. Its words are placed by what needs no model: the pauses
in the sound, the punctuation, and how long words are. Measured with espeak-ng, whose word times are
known (`tests/test_captions.py` holds it to them): see `align_words`.
"""

# f frames of 10 ms, g gaps between words, p pauses, w words

import math
import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from omniavatar.errors import InputError
from omniavatar.media.speech import Speech

MOST_CHARACTERS = 200_000
LINE_CHARACTERS = 42
LINES = 2
MOST_SECONDS = 7.0
LEAST_SECONDS = 1.0

_FRAME_SECONDS = 0.01
_LEAST_PAUSE_SECONDS = 0.12
_WIDEST_BAND = 200
# Of Latin, Chinese, Arabic and Hindi.
_STRONG = frozenset(".!?…:;\u3002\uff01\uff1f\u061f\u0964")
_WEAK = frozenset(",—–\u3001\uff0c\u060c")
_CLOSING = "\"'\u201d’»)]}\u203a\u300d\u300f"

# Seconds of a word, at a speed of its own: fitted to espeak-ng's English voices.
_SECONDS_OF_WORD, _SECONDS_OF_SYLLABLE, _SECONDS_OF_LETTER = 0.02, 0.02, 0.05

_UNSPACED = re.compile(
    "[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff]"
)
"""Kana, Han, Thai, Lao, Burmese and Khmer, which put no spaces between words."""


@dataclass(frozen=True, slots=True)
class Caption:
    """A text and when it is shown, in seconds."""

    start_seconds: float
    stop_seconds: float
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Word:
    """A word of a text, punctuation included, and when it is said.

    Attributes:
        space: whether a space goes before it.
        breaks: whether it begins a line of the text.
    """

    text: str
    space: bool
    breaks: bool
    start_seconds: float = 0.0
    stop_seconds: float = 0.0

    @property
    def ending(self) -> str:
        """Its last character that is no quotation mark or bracket."""
        return self.text.rstrip(_CLOSING)[-1:]


def align_captions(
    text: str,
    speech: Speech,
    *,
    line_characters: int = LINE_CHARACTERS,
    lines: int = LINES,
) -> list[Caption]:
    """Cut a text into captions, each shown while it is said.

    A caption ends with a sentence or a line of the text, else where it is full, preferably behind
    a comma.

    Args:
        line_characters, lines: of one caption at most.

    Raises:
        InputError: there is no text, too much of it, or nothing is heard.
    """
    room = line_characters * lines
    captions: list[Caption] = []
    for words in _grouped(align_words(text, speech), room):
        start, stop = words[0].start_seconds, words[-1].stop_seconds
        captions.append(Caption(start, stop, wrap(join_words(words), line_characters)))
    return _held(captions, speech.duration_seconds)


def align_words(text: str, speech: Speech) -> list[Word]:
    """When each word of a text is said.

    Pauses are given to the gaps between words for which the durations of what lies between come
    out best, with a preference for punctuation; between pauses, words share the time by length.

    With four voices of espeak-ng at 130 to 215 words a minute, words of 3 to 44 a clip begin 0.09 s
    from where they are placed on average (median 0.07, nine in ten within 0.20, all within 0.55);
    the same with noise 40 dB below a peak of 1. Without using pauses it would be 0.31 s.

    Raises:
        InputError: there is no text, too much of it, or nothing is heard.
    """
    words = split_words(text)
    sounds = _sounds(speech)  # [p + 1, 2] in seconds
    lengths = np.array([_expected_seconds(word.text) for word in words])
    sounds = _joined(sounds, len(words))
    edges = _assign(lengths, [_pause_after(words, i) for i in range(len(words) - 1)], sounds)
    timed: list[Word] = []
    for (start, stop), first, last in zip(sounds, edges[:-1], edges[1:], strict=True):
        share = np.concatenate([[0.0], np.cumsum(lengths[first:last])])
        times = start + share / share[-1] * (stop - start)
        for word, begin, end in zip(words[first:last], times[:-1], times[1:], strict=True):
            timed.append(
                Word(
                    text=word.text,
                    space=word.space,
                    breaks=word.breaks,
                    start_seconds=float(begin),
                    stop_seconds=float(end),
                )
            )
    return timed


def split_words(text: str) -> list[Word]:
    """The words of a text; those of scripts without spaces are their characters.

    Raises:
        InputError: there are none, or too many.
    """
    if len(text) > MOST_CHARACTERS:
        raise InputError(
            f"The text has {len(text)} characters; up to {MOST_CHARACTERS} are captioned at once.",
            field="text",
        )
    words: list[Word] = []
    cleaned = "".join(c for c in text if c in "\n\t" or unicodedata.category(c)[0] != "C")
    for line in cleaned.splitlines():
        breaks = True
        for token in line.split():
            space = not breaks
            for part in _parts(token):
                if words and not any(c.isalnum() for c in part) and not breaks:
                    last = words.pop()  # a dash or a mark on its own belongs to the word before it
                    glue = " " if space else ""
                    words.append(
                        Word(text=last.text + glue + part, space=last.space, breaks=last.breaks)
                    )
                else:
                    words.append(Word(text=part, space=space, breaks=breaks))
                space = breaks = False
    if not any(c.isalnum() for word in words for c in word.text):
        raise InputError("There is no text. Give what is said in the recording.", field="text")
    return words


def join_words(words: Sequence[Word]) -> str:
    return "".join((" " if word.space and i else "") + word.text for i, word in enumerate(words))


def wrap(text: str, characters: int) -> str:
    """Break a text into lines of about the same length, as few as have room for it."""
    parts = [part for part in re.split(r"(?<=\s)", text) if part]
    if len(parts) == 1:
        parts = list(text) if _UNSPACED.search(text) else parts
    count = max(1, math.ceil(len(text.strip()) / characters))
    for wanted in range(count, count + 2):
        lines = _filled(parts, max(len(text) / wanted, 1), characters)
        if len(lines) <= wanted:
            break
    return "\n".join(line.strip() for line in lines)


def _filled(parts: Sequence[str], aim: float, most: int) -> list[str]:
    lines = [""]
    for part in parts:
        longer = lines[-1] + part
        over = len(longer.strip()) - aim
        if lines[-1] and (len(longer.strip()) > most or over > len(part.strip()) / 2):
            lines.append(part)
        else:
            lines[-1] = longer
    return lines


# ---- how a text is cut into captions


def _grouped(words: Sequence[Word], room: int) -> Iterator[list[Word]]:
    """The words of each caption."""
    for sentence in _sentences(words):
        begin = 0
        while begin < len(sentence):
            ahead = sentence[begin : begin + 2 * room]  # as many as two captions can hold
            count = _fitting(ahead, room)
            yield ahead[:count]
            begin += count


def _sentences(words: Sequence[Word]) -> Iterator[list[Word]]:
    sentence: list[Word] = []
    for word in words:
        if sentence and (word.breaks or sentence[-1].ending in _STRONG):
            yield sentence
            sentence = []
        sentence.append(word)
    if sentence:
        yield sentence


def _fitting(words: Sequence[Word], room: int) -> int:
    """How many of the words make the next caption: all that fit, or up to a comma among them."""

    most, characters = 1, len(words[0].text)
    for word in words[1:]:
        characters += word.space + len(word.text)
        if characters > room or word.stop_seconds - words[0].start_seconds > MOST_SECONDS:
            break
        most += 1
    if most == len(words):
        return most
    # What is left is shared between two captions of like length, if there will be but two.
    least = max(1, most // 2)
    for count in range(most, least, -1):
        if words[count - 1].ending in _WEAK:
            return count
    return min(most, max(least, math.ceil(len(words) / 2))) if len(words) < 2 * most else most


def _held(captions: Sequence[Caption], end: float) -> list[Caption]:
    """Captions that stay long enough to be read, as far as the next one leaves time."""
    held = []
    for i, caption in enumerate(captions):
        following = captions[i + 1].start_seconds if i + 1 < len(captions) else end
        wanted = max(caption.stop_seconds + 0.2, caption.start_seconds + LEAST_SECONDS)
        stop = max(min(wanted, following), min(caption.stop_seconds, following))
        held.append(Caption(caption.start_seconds, max(stop, caption.start_seconds), caption.text))
    return held


# ---- where the words are


def _sounds(speech: Speech) -> NDArray[np.float64]:
    """From when to when something is said, in seconds, [p + 1, 2].

    Raises:
        InputError: nothing is.
    """
    window = max(round(_FRAME_SECONDS * speech.sample_rate), 1)
    samples = np.pad(speech.samples, (0, -len(speech.samples) % window))
    level = np.sqrt(np.square(samples.reshape(-1, window)).mean(axis=1))  # [f]
    level = np.convolve(level, np.ones(3) / 3, "same")
    loud, floor = np.percentile(level, 95), np.percentile(level, 5)
    if loud < 1e-4:
        raise InputError(
            "Nothing is heard, so that no text can be laid over it. Use a video with speech.",
            field="text",
        )
    heard = level > max(0.05 * loud, min(3 * floor, 0.3 * loud))
    edges = np.flatnonzero(np.diff(np.concatenate([[0], heard.astype(np.int8), [0]])))
    spans = edges.reshape(-1, 2) * _FRAME_SECONDS
    kept = [spans[0]]
    for span in spans[1:]:
        if span[0] - kept[-1][1] < _LEAST_PAUSE_SECONDS:
            kept[-1] = np.array([kept[-1][0], span[1]])
        elif span[1] - span[0] >= 0.03:  # what is shorter is a click
            kept.append(span)
    return np.array(kept)


def _joined(sounds: NDArray[np.float64], most: int) -> NDArray[np.float64]:
    """The sounds, at most so many: the shortest pauses between them are ignored."""
    excess = len(sounds) - most
    if excess <= 0:
        return sounds
    pauses = sounds[1:, 0] - sounds[:-1, 1]
    kept = np.sort(np.argsort(pauses)[excess:])
    starts = np.concatenate([sounds[:1, 0], sounds[1:, 0][kept]])
    stops = np.concatenate([sounds[:-1, 1][kept], sounds[-1:, 1]])
    return np.stack([starts, stops], axis=1)


def _pause_after(words: Sequence[Word], i: int) -> int:
    """How much a pause is expected between two words: 2 behind a sentence, 1 a comma, 0 else."""
    if words[i].ending in _STRONG or words[i + 1].breaks:
        return 2
    return 1 if words[i].ending in _WEAK else 0


_COST_OF_PAUSE = np.array([2.5, 0.4, 0.0])
_COST_OF_NO_PAUSE = np.array([0.0, 0.3, 1.5])


def _assign(
    lengths: NDArray[np.float64], expected: Sequence[int], sounds: NDArray[np.float64]
) -> list[int]:
    """Which word each sound begins with, and the number of words at last, [p + 2].

    Dynamic programming over the pauses: the cost of a path is how far the duration of each sound is
    from that of its words, and how unlikely its pauses are for the punctuation.
    """
    count, pauses = len(lengths), len(sounds) - 1
    durations = sounds[:, 1] - sounds[:, 0]
    total = np.concatenate([[0.0], np.cumsum(lengths)]) * durations.sum() / lengths.sum()
    kind = np.array([0, *expected, 0])  # of the gap before each word
    missed = np.concatenate([[0.0], np.cumsum(_COST_OF_NO_PAUSE[kind])])
    reach = min(max(12, round(0.15 * count)), _WIDEST_BAND)
    spoken = np.concatenate([[0.0], np.cumsum(durations)])
    before = np.array([0])
    cost = np.zeros(1)
    paths: list[tuple[NDArray[np.int64], NDArray[np.int64]]] = []
    for number in range(1, pauses + 2):
        if number > pauses:
            here = np.array([count])
        else:
            middle = int(np.searchsorted(total, spoken[number]))
            # Every sound, before and after, has at least one word.
            low, high = number, count - (pauses + 1 - number)
            first = min(max(middle - reach, low), high)
            here = np.arange(first, min(max(middle + reach, first), high) + 1)
        wanted = total[here][None] - total[before][:, None]
        far = (durations[number - 1] - wanted) / (0.2 * np.maximum(wanted, 0) + 0.15)
        skipped = missed[here][None] - missed[before + 1][:, None]
        step = cost[:, None] + np.square(far) + skipped
        step[here[None] <= before[:, None]] = np.inf
        came = step.argmin(axis=0)
        cost = step[came, np.arange(len(here))]
        if number <= pauses:
            cost = cost + _COST_OF_PAUSE[kind[here]]
        paths.append((before, came))
        before = here
    edges, place = [count], 0
    for came_from, came in reversed(paths):
        place = int(came[place])
        edges.append(int(came_from[place]))
    return edges[::-1]


def _parts(token: str) -> Iterator[str]:
    """A token itself, or the characters of a script without spaces."""
    if not _UNSPACED.search(token):
        yield token
        return
    yield from re.findall(rf"{_UNSPACED.pattern}[^\w]*|(?:(?!{_UNSPACED.pattern}).)+", token)


def _expected_seconds(word: str) -> float:
    """How long a word is when it is said, up to the speed of the speaker."""
    if _UNSPACED.search(word):
        return _SECONDS_OF_WORD + 2 * _SECONDS_OF_SYLLABLE
    digits = sum(c.isdigit() for c in word)
    bare = "".join(c for c in unicodedata.normalize("NFD", word.lower()) if c.isalpha())
    latin = sum(c < "\u0250" for c in bare)
    if latin * 2 >= len(bare):
        vowels = re.findall(r"[aeiouyæøœ]+", bare)
        silent = len(vowels) > 1 and bare.endswith("e") and not bare.endswith("le")
        syllables = float(len(vowels) - silent)
    else:
        syllables = len(bare) / 2.3
    return (
        _SECONDS_OF_WORD
        + _SECONDS_OF_SYLLABLE * max(syllables + 1.7 * digits, 1)
        + _SECONDS_OF_LETTER * (len(bare) + 2 * digits)
    )


# ---- SRT


def to_srt(captions: Sequence[Caption]) -> str:
    """Captions as the text of an SRT file."""
    blocks = (
        f"{number}\n{_clock(caption.start_seconds)} --> {_clock(caption.stop_seconds)}\n"
        f"{caption.text}\n"
        for number, caption in enumerate(captions, start=1)
    )
    return "\n".join(blocks)


_TIMES = re.compile(
    r"(\d{1,3}):(\d\d):(\d\d)[,.](\d{1,3})\s*-->\s*(\d{1,3}):(\d\d):(\d\d)[,.](\d{1,3})"
)


def from_srt(text: str) -> list[Caption]:
    """Read the text of an SRT file; marks such as `<i>` are dropped.

    Raises:
        InputError: there is no caption in it, or it is too long.
    """
    if len(text) > MOST_CHARACTERS:
        raise InputError(
            f"The captions have {len(text)} characters; up to {MOST_CHARACTERS} are read.",
            field="text",
        )
    captions = []
    for block in re.split(r"\n[ \t]*\n", text.replace("\r\n", "\n").replace("\ufeff", "")):
        match = _TIMES.search(block)
        if match is None:
            continue
        start, stop = (
            int(h) * 3600 + int(m) * 60 + int(s) + int(f.ljust(3, "0")) / 1000
            for h, m, s, f in (match.groups()[:4], match.groups()[4:])
        )
        shown = re.sub(r"<[^>\n]*>|\{\\[^}\n]*\}", "", block[match.end() :]).strip()
        if shown and stop > start:
            captions.append(Caption(start, stop, shown))
    if not captions:
        if _TIMES.search(text):
            raise InputError(
                "Each caption is empty, or ends before it begins. Correct the times.", field="text"
            )
        raise InputError("No captions were found. Give the text of an SRT file.", field="text")
    return sorted(captions, key=lambda caption: caption.start_seconds)


def _clock(seconds: float) -> str:
    thousandths = round(seconds * 1000)
    return (
        f"{thousandths // 3_600_000:02}:{thousandths // 60_000 % 60:02}:"
        f"{thousandths // 1000 % 60:02},{thousandths % 1000:03}"
    )

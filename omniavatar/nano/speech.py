"""Speech with known mouth shapes: a synthesiser says a sentence and tells when each sound begins.

This file needs torch only for a bank, so the worker processes of a bank start at once.

A mouth is (opening, width, rounding), each about 0..1: at rest 0, 0.3, 0. A row is 40 ms, one
video frame; row r tells the mouth at r/25 + 0.02 s, the middle of its sound.
"""

import multiprocessing
import operator
import random
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from omniavatar.nano.espeak import SAMPLE_RATE, Phoneme, Synthesiser, Utterance, Voice
from omniavatar.nano.flite import Flite
from omniavatar.nano.languages import LANGUAGES
from omniavatar.nano.sentences import HELD_OUT_WORDS, TRAINING_WORDS, random_sentence

if TYPE_CHECKING:
    import torch

ROWS_PER_SECOND = 25
_GRID_HZ = 500

VISEMES = {
    "rest": (0.0, 0.30, 0.0),
    "p": (0.0, 0.30, 0.0),
    "f": (0.10, 0.40, 0.0),
    "th": (0.20, 0.40, 0.0),
    "t": (0.18, 0.50, 0.0),
    "l": (0.28, 0.45, 0.0),
    "s": (0.11, 0.75, 0.0),
    "sh": (0.15, 0.25, 0.60),
    "k": (0.25, 0.40, 0.0),
    "r": (0.20, 0.20, 0.50),
    "w": (0.10, 0.00, 1.00),
    "y": (0.17, 0.75, 0.0),
    "h": (0.32, 0.40, 0.0),
    "ee": (0.22, 0.95, 0.0),
    "ih": (0.34, 0.70, 0.0),
    "eh": (0.55, 0.65, 0.0),
    "ae": (0.82, 0.62, 0.0),
    "ah": (1.00, 0.40, 0.0),
    "uh": (0.48, 0.40, 0.0),
    "aw": (0.70, 0.15, 0.60),
    "oh": (0.45, 0.08, 0.85),
    "oo": (0.18, 0.00, 1.00),
    "er": (0.34, 0.22, 0.40),
}
"""Class name -> mouth; the order numbers the classes."""

_VISEME_NUMBERS = {name: number for number, name in enumerate(VISEMES)}
_SHAPES = np.array(list(VISEMES.values()), np.float32)

_SOUNDS = {
    "p": "p", "b": "p", "m": "p", "f": "f", "v": "f", "T": "th", "D": "th",
    "t": "t", "d": "t", "n": "t", "l": "l", "L": "l", "s": "s", "z": "s",
    "S": "sh", "Z": "sh", "k": "k", "g": "k", "N": "k", "x": "k", "?": "k", "r": "r", "R": "r",
    "w": "w", "j": "y", "h": "h", "i": "ee", "I": "ih", "E": "eh", "e": "eh", "a": "ae",
    "A": "ah", "V": "uh", "@": "uh", "3": "er", "O": "aw", "0": "aw", "o": "oh", "U": "oo",
    "u": "oo", "_": "rest",
}  # fmt: skip
_MODIFIERS = frozenset("',:;-#~2457%=!|^\"*.[]")
_VOICELESS_STOPS = frozenset("ptk")
_HOLD_SECONDS = 0.05
_VOWELS = frozenset(("ee", "ih", "eh", "ae", "ah", "uh", "aw", "oh", "oo", "er"))


_TRAINING_VARIANTS = """
f1 f2 f3 f5 m1 m2 m3 m5 m6 m8 klatt klatt2 klatt4 klatt6 Annie Alicia belinda linda shelby steph
adam david edward john Michael Mike benjamin Lee antonio boris pablo travis zac grandma aunty
"""
TRAINING_VOICES = (
    Voice("en-us"),
    *(Voice("en-us", variant) for variant in _TRAINING_VARIANTS.split()),
    *(Voice("en", variant) for variant in ("", "f2", "m3")),
    *(Voice("en-gb-x-rp", variant) for variant in ("", "f3", "m1", "linda")),
    *(Voice("en-gb-x-gbclan", variant) for variant in ("", "f1", "m5")),
    *(Voice("en-gb-x-gbcwmd", variant) for variant in ("", "f5")),
    *(Voice("en-us-nyc", variant) for variant in ("", "f3", "m2", "edward")),
)
HELD_OUT_VOICES = (
    Voice("en-us", "f4"),
    Voice("en-us", "m7"),
    Voice("en-us", "klatt3"),
    Voice("en-us", "Andy"),
    Voice("en-gb-scotland"),
    Voice("en-029", "m4"),
)

_HELD_OUT_VARIANTS = ("f4", "m7", "klatt3", "Andy")
_TRAINING_WHISPERS = ("whisper", "croak")
_HELD_OUT_WHISPERS = ("whisperf",)

FLITE_TRAINING_VOICES = ("kal16", "rms", "slt")
FLITE_HELD_OUT_VOICES = ("awb",)
_FLITE_WORDS_PER_MINUTE = 170
_FLITE_HERTZ = (85, 250)
"""Mean pitch of training's voices, lowest and highest; others keep their own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Manner:
    """How people speak.

    Attributes:
        languages: besides English, from `languages.LANGUAGES`.
        english_share: of the streams, if there are other languages.
        whispered_share: of the streams, whispered or hoarse.
        words_per_minute, pitch, pitch_range: lowest and highest, see `espeak.Synthesiser.speak`.
        longest_pause_seconds: between sentences.
        pause_power: the higher, the more of the pauses are short.
        loudness: peak of a sentence before others of its stream, lowest and highest.
        level: peak of a stream, lowest and highest; full scale is 1.
        flite_share: of the streams, said by flite, whose voices are cut from recordings.
    """

    languages: tuple[str, ...] = ()
    english_share: float = 0.6
    whispered_share: float = 0.0
    words_per_minute: tuple[int, int] = (125, 215)
    pitch: tuple[int, int] = (15, 85)
    pitch_range: tuple[int, int] = (20, 80)
    longest_pause_seconds: float = 1.5
    pause_power: int = 2
    loudness: tuple[float, float] = (0.7, 1.0)
    level: tuple[float, float] = (0.25, 0.8)
    flite_share: float = 0.0


PLAIN = Manner()
"""English, clear and even."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeechStream:
    """A minute or so of one voice.

    Attributes:
        samples: [n] float32 at 16 kHz.
        mouth: [rows, 3] float32, rows = n // 640.
        classes: [rows] int64, index into `VISEMES`.
    """

    samples: NDArray[np.float32]
    mouth: NDArray[np.float32]
    classes: NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeechBank:
    """Many streams of equal length as tensors.

    Attributes:
        samples: [streams, n] float32.
        mouth: [streams, rows, 3] float32.
        classes: [streams, rows] int64.
    """

    samples: "torch.Tensor"
    mouth: "torch.Tensor"
    classes: "torch.Tensor"

    def to(self, device: "torch.device | str") -> "SpeechBank":
        """The same bank on another device."""
        return SpeechBank(
            samples=self.samples.to(device),
            mouth=self.mouth.to(device),
            classes=self.classes.to(device),
        )

    def first(self, streams: int) -> "SpeechBank":
        """So many of its streams."""
        return SpeechBank(
            samples=self.samples[:streams],
            mouth=self.mouth[:streams],
            classes=self.classes[:streams],
        )

    def joined(self, other: "SpeechBank") -> "SpeechBank":
        """The streams of both, which are of equal length."""
        import torch

        return SpeechBank(
            samples=torch.cat([self.samples, other.samples]),
            mouth=torch.cat([self.mouth, other.mouth]),
            classes=torch.cat([self.classes, other.classes]),
        )


def visemes_of(phoneme: str, *, language: str = "en") -> tuple[str, ...]:
    """The mouth shapes that a phoneme goes through: one, or two and more for a diphthong.

    Raises:
        KeyError: espeak's spelling has a letter that the table does not know.
    """
    own: Mapping[str, str] = {} if language == "en" else LANGUAGES[language].sounds
    whole = phoneme.strip("',")
    if whole in own:
        return (own[whole],)
    letters = "".join(letter for letter in phoneme if letter not in _MODIFIERS)
    if letters in ("tS", "dZ"):
        return ("sh",)
    if letters[:2] in ("aI", "aU"):
        letters = f"A{letters[1:]}"
    return tuple(own.get(letter) or _SOUNDS[letter] for letter in letters) or ("rest",)


def _hann(values: NDArray[np.float32], seconds: float) -> NDArray[np.float32]:
    """Smooth the first axis with a Hann window of that length, ends held."""
    half = round(seconds * _GRID_HZ / 2)
    window = np.hanning(2 * half + 1)
    window /= window.sum()
    padded = np.pad(values, ((half, half), (0, 0)), mode="edge")
    columns = [np.convolve(column, window, mode="valid") for column in padded.T]
    return np.stack(columns, 1).astype(np.float32)


def _with_holds(phonemes: tuple[Phoneme, ...]) -> list[Phoneme]:
    """Begin voiceless stops where the mouth closes: espeak tells when the closure bursts."""
    moved = list(phonemes)
    for i in range(1, len(moved)):
        before, stop = moved[i - 1], moved[i]
        if stop.name[:1] in _VOICELESS_STOPS:
            middle = (before.start_seconds + before.stop_seconds) / 2
            begin = max(stop.start_seconds - _HOLD_SECONDS, middle)
            moved[i - 1] = replace(before, stop_seconds=begin)
            moved[i] = replace(stop, start_seconds=begin)
    return moved


def mouth_track(
    phonemes: tuple[Phoneme, ...], rows: int, *, language: str = "en"
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """What the mouth does while the phonemes sound.

    Shapes glide into each other over 110 ms, as lips do; but p, b and m press the lips together
    for 60 ms whatever their neighbours want, and f and v nearly so.

    Returns:
        mouth [rows, 3] and classes [rows], both at r/25 + 0.02 s.
    """
    length = rows * _GRID_HZ // ROWS_PER_SECOND + 1
    classes = np.zeros(length, np.int64)
    strength = np.ones(length, np.float32)
    limit = np.ones(length, np.float32)
    for phoneme in _with_holds(phonemes):
        shapes = visemes_of(phoneme.name, language=language)
        edges = np.linspace(phoneme.start_seconds, phoneme.stop_seconds, len(shapes) + 1)
        for shape, (start, stop) in zip(shapes, pairwise(edges), strict=True):
            span = slice(round(start * _GRID_HZ), round(stop * _GRID_HZ))
            classes[span] = _VISEME_NUMBERS[shape]
            if shape in _VOWELS and "'" not in phoneme.name:
                strength[span] = 0.9 if "," in phoneme.name else 0.8
        if shapes in (("p",), ("f",)):
            half, most = (0.03, 0.0) if shapes == ("p",) else (0.025, 0.12)
            middle = (phoneme.start_seconds + phoneme.stop_seconds) / 2
            if phoneme.name[:1] in _VOICELESS_STOPS:
                middle = phoneme.start_seconds + half
            first = max(0, round((middle - half) * _GRID_HZ))
            limit[first : round((middle + half) * _GRID_HZ) + 1] = most
    targets = _SHAPES[classes]
    targets[:, 0] *= strength
    track = _hann(targets, 0.110)
    track[:, 0] = np.minimum(track[:, 0], limit)
    track = _hann(track, 0.036)
    at_rows = (np.arange(rows) * _GRID_HZ // ROWS_PER_SECOND) + _GRID_HZ // 50
    return track[at_rows], classes[at_rows]


_Say = Callable[[], Utterance]
"""Says one more random sentence."""


@dataclass(frozen=True, slots=True)
class _EspeakSpeaker:
    """Who speaks in a stream, and from which words."""

    voice: Voice
    language: str
    held_out: bool

    @contextmanager
    def speaking(self, manner: Manner, chance: random.Random) -> Iterator[_Say]:
        pace, pitch = chance.uniform(*manner.words_per_minute), chance.uniform(*manner.pitch)
        with Synthesiser(seed=chance.randrange(2**31)) as synthesiser:
            yield lambda: synthesiser.speak(
                self._sentence(chance),
                voice=self.voice,
                words_per_minute=_near(pace, 20, manner.words_per_minute, chance),
                pitch=_near(pitch, 8, manner.pitch, chance),
                pitch_range=chance.randint(*manner.pitch_range),
            )

    def _sentence(self, chance: random.Random) -> str:
        if self.language != "en":
            return LANGUAGES[self.language].sentence(chance, held_out=self.held_out)
        return _english(chance, held_out=self.held_out)


def _english(chance: random.Random, *, held_out: bool) -> str:
    return random_sentence(HELD_OUT_WORDS if held_out else TRAINING_WORDS, chance)


@dataclass(frozen=True, slots=True)
class _FliteSpeaker:
    """The same of the other synthesiser, which knows English alone."""

    flite: Flite
    voice: str
    held_out: bool
    language: str = "en"

    @contextmanager
    def speaking(self, manner: Manner, chance: random.Random) -> Iterator[_Say]:
        pace = _FLITE_WORDS_PER_MINUTE / chance.uniform(*manner.words_per_minute)
        hertz = None if self.held_out else chance.uniform(*_FLITE_HERTZ)
        yield lambda: self.flite.speak(
            _english(chance, held_out=self.held_out),
            voice=self.voice,
            seconds_per_second=pace,
            hertz=hertz,
        )


def _espeak_speaker(manner: Manner, chance: random.Random, *, held_out: bool) -> _EspeakSpeaker:
    # Without other languages and whispers nothing is drawn but the voice: streams stay what they
    # were before there were any.
    voices = HELD_OUT_VOICES if held_out else TRAINING_VOICES
    language = "en"
    if manner.languages and chance.random() >= manner.english_share:
        language = chance.choice(manner.languages)
        variants = _HELD_OUT_VARIANTS if held_out else ("", *_TRAINING_VARIANTS.split())
        accents = LANGUAGES[language].accents
        voices = tuple(Voice(accent, variant) for accent in accents for variant in variants)
    voice = chance.choice(voices)
    if manner.whispered_share and chance.random() < manner.whispered_share:
        whispers = _HELD_OUT_WHISPERS if held_out else _TRAINING_WHISPERS
        voice = replace(voice, variant=chance.choice(whispers))
    return _EspeakSpeaker(voice, language, held_out)


def _near(value: float, spread: float, bounds: tuple[int, int], chance: random.Random) -> int:
    low, high = bounds
    return round(min(max(value + chance.uniform(-spread, spread), low), high))


def speech_stream(
    seconds: float,
    *,
    seed: int,
    held_out: bool = False,
    manner: Manner = PLAIN,
    flite: Flite | None = None,
) -> SpeechStream:
    """One voice saying random sentences, with pauses between them.

    Args:
        seconds: length; a multiple of 0.04.
        seed: the same seed is the same stream.
        held_out: take a voice and words that training never has.
        manner: who speaks, and how.
        flite: needed where the manner gives it a share.

    Raises:
        ModuleNotFoundError: `espeakng-loader` is not installed.
        ValueError: the manner asks for flite, and it is not given.
    """
    chance = random.Random(f"{seed} {held_out}")
    speaker: _EspeakSpeaker | _FliteSpeaker
    if random.Random(f"flite {seed} {held_out}").random() < manner.flite_share:
        if flite is None:
            raise ValueError("This manner of speaking needs flite; give it.")
        voices = FLITE_HELD_OUT_VOICES if held_out else FLITE_TRAINING_VOICES
        speaker = _FliteSpeaker(flite, chance.choice(voices), held_out)
    else:
        speaker = _espeak_speaker(manner, chance, held_out=held_out)
    rows = round(seconds * ROWS_PER_SECOND)
    samples = np.zeros(rows * SAMPLE_RATE // ROWS_PER_SECOND, np.float32)
    phonemes: list[Phoneme] = []
    longest = manner.longest_pause_seconds
    at = round(chance.uniform(0.05, longest) * SAMPLE_RATE)
    with speaker.speaking(manner, chance) as say:
        while at < len(samples):
            said = say()
            peak = max(float(np.abs(said.samples).max(initial=0)), 1e-3)
            kept = said.samples[: len(samples) - at]
            samples[at : at + len(kept)] = kept * (chance.uniform(*manner.loudness) / peak)
            phonemes += [phoneme.later(at / SAMPLE_RATE) for phoneme in said.phonemes]
            power = manner.pause_power
            pause = chance.uniform(0.05, longest) ** power / longest ** (power - 1)
            at += len(said.samples) + round(pause * SAMPLE_RATE)
    samples *= chance.uniform(*manner.level) / max(float(np.abs(samples).max()), 1e-3)
    mouth, classes = mouth_track(tuple(phonemes), rows, language=speaker.language)
    return SpeechStream(samples=samples, mouth=mouth, classes=classes)


def speech_bank(
    streams: int,
    seconds: float,
    *,
    seed: int,
    processes: int = 1,
    held_out: bool = False,
    manner: Manner = PLAIN,
    flite: Flite | None = None,
) -> SpeechBank:
    """Make `streams` streams of `seconds` each, in `processes` worker processes.

    The bank depends on the seed and not on the number of processes. With more than one, call it
    under `if __name__ == "__main__"`: workers are spawned.
    """
    import torch

    jobs = [
        partial(
            speech_stream,
            seconds,
            seed=seed * 1_000_003 + number,
            held_out=held_out,
            manner=manner,
            flite=flite,
        )
        for number in range(streams)
    ]
    if processes > 1:
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(processes, mp_context=context) as pool:
            made = list(pool.map(operator.call, jobs))
    else:
        made = [job() for job in jobs]
    return SpeechBank(
        samples=torch.from_numpy(np.stack([stream.samples for stream in made])),
        mouth=torch.from_numpy(np.stack([stream.mouth for stream in made])),
        classes=torch.from_numpy(np.stack([stream.classes for stream in made])),
    )

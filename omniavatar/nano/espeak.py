"""The speech synthesiser espeak-ng, by ctypes, with the time of every phoneme.

The library comes with its data as the wheel `espeakng-loader`, which only training needs.
"""

import _ctypes
import ctypes
import tempfile
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

SAMPLE_RATE = 16000
_NATIVE_RATE = 22050


@dataclass(frozen=True, slots=True)
class Voice:
    """A setting of the synthesiser: an accent, and a variant ("" for the accent's own)."""

    accent: str
    variant: str = ""

    @property
    def name(self) -> str:
        """As espeak-ng takes it."""
        return f"{self.accent}+{self.variant}" if self.variant else self.accent


@dataclass(frozen=True, slots=True)
class Phoneme:
    """A sound in espeak's own spelling, and when it begins and ends, in seconds."""

    name: str
    start_seconds: float
    stop_seconds: float

    def later(self, seconds: float) -> "Phoneme":
        """The same sound some time later."""
        return Phoneme(self.name, self.start_seconds + seconds, self.stop_seconds + seconds)


@dataclass(frozen=True, slots=True)
class Utterance:
    """Something said: samples [n] float32 at 16 kHz, peak 1 at most, and its phonemes in order."""

    samples: NDArray[np.float32]
    phonemes: tuple[Phoneme, ...]


class _Name(ctypes.Union):
    """The member `id` of an event."""

    _fields_ = (("number", ctypes.c_int), ("text", ctypes.c_char * 8))


class _Event(ctypes.Structure):
    """`espeak_EVENT` of speak_lib.h."""

    _fields_ = (
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", _Name),
    )


_PHONEME_EVENT = 7
_END_OF_EVENTS = 0
_RATE, _PITCH, _PITCH_RANGE = 1, 3, 4
_SynthCallback = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event)
)


class Synthesiser:
    """The library in a state of its own.

    espeak-ng keeps the state of its sound sources in static variables and has no call that resets
    them, so that what it said before changes what it says next. Each synthesiser therefore loads
    the library from a copy, and from the same seed always sounds the same.
    """

    def __init__(self, *, seed: int = 0) -> None:
        """Load the library.

        Raises:
            ModuleNotFoundError: `espeakng-loader` is not installed.
            RuntimeError: the library does not start.
        """
        import espeakng_loader

        with tempfile.NamedTemporaryFile(suffix=".so") as copy:
            copy.write(Path(espeakng_loader.get_library_path()).read_bytes())
            copy.flush()
            self._library: Any = ctypes.CDLL(copy.name)
        synchronous, phoneme_events, do_not_exit = 2, 1, 0x8000
        rate = self._library.espeak_Initialize(
            synchronous, 0, espeakng_loader.get_data_path().encode(), phoneme_events | do_not_exit
        )
        if rate != _NATIVE_RATE:
            raise RuntimeError(f"espeak-ng starts with rate {rate}, {_NATIVE_RATE} is expected.")
        self._library.espeak_ng_SetRandSeed(ctypes.c_long(seed))
        self._samples: list[NDArray[np.int16]] = []
        self._events: list[tuple[int, str]] = []
        self._callback = _SynthCallback(self._receive)  # kept: the library calls it later
        self._library.espeak_SetSynthCallback(self._callback)

    def __enter__(self) -> "Synthesiser":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._library.espeak_Terminate()
        _ctypes.dlclose(self._library._handle)

    def _receive(self, wave: Any, count: int, events: Any) -> int:
        if wave and count > 0:
            self._samples.append(np.ctypeslib.as_array(wave, (count,)).copy())
        i = 0
        while events[i].type != _END_OF_EVENTS:
            if events[i].type == _PHONEME_EVENT:
                self._events.append((events[i].sample, events[i].id.text.decode()))
            i += 1
        return 0

    def speak(
        self,
        text: str,
        *,
        voice: Voice,
        words_per_minute: int = 170,
        pitch: int = 50,
        pitch_range: int = 50,
    ) -> Utterance:
        """Say a text.

        Args:
            text: one or more sentences in the language of the voice.
            voice: who speaks.
            words_per_minute: 80 to 450.
            pitch, pitch_range: 0 to 100; 50 is the voice's own.

        Raises:
            ValueError: there is no such voice.
        """
        if self._library.espeak_SetVoiceByName(voice.name.encode()) != 0:
            raise ValueError(f"espeak-ng has no voice {voice.name!r}.")
        settings = ((_RATE, words_per_minute), (_PITCH, pitch), (_PITCH_RANGE, pitch_range))
        for parameter, value in settings:
            self._library.espeak_SetParameter(parameter, value, 0)
        self._samples, self._events = [], []
        data, utf8 = text.encode(), 1
        self._library.espeak_Synth(data, len(data) + 1, 0, 1, 0, utf8, None, None)
        samples = np.concatenate([np.zeros(0, np.int16), *self._samples])
        bounds = [(sample / _NATIVE_RATE, name) for sample, name in self._events]
        bounds.append((len(samples) / _NATIVE_RATE, ""))
        phonemes = tuple(
            Phoneme(name, start, max(start, stop)) for (start, name), (stop, _) in pairwise(bounds)
        )
        return Utterance(_resample((samples / 32768).astype(np.float32)), phonemes)


def _resample(samples: NDArray[np.float32]) -> NDArray[np.float32]:
    """22.05 kHz -> 16 kHz by cutting the spectrum; exact for a band-limited signal."""
    block = 441  # 20 ms are 441 samples before and 320 after, so whole blocks keep time exactly
    padded = np.pad(samples, (0, -len(samples) % block))
    length = len(padded) // block * 320
    spectrum = np.fft.rfft(padded)[: length // 2 + 1]
    return (np.fft.irfft(spectrum, length) * (length / len(padded))).astype(np.float32)


def speak(
    text: str, *, voice: Voice, words_per_minute: int = 170, pitch: int = 50, pitch_range: int = 50
) -> Utterance:
    """Say one text with a fresh synthesiser; arguments and errors are those of both."""
    with Synthesiser() as synthesiser:
        return synthesiser.speak(
            text,
            voice=voice,
            words_per_minute=words_per_minute,
            pitch=pitch,
            pitch_range=pitch_range,
        )

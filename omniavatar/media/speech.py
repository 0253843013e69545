"""A recording in any common format as mono samples at the rate that the speech encoder hears.

ffmpeg decodes, because phones send m4a and browsers webm, which librosa can not read by itself;
then the channels are averaged block by block, and librosa resamples: the same samples as
`librosa.load` gives in the published code.
"""

# n samples, c channels

import logging
import math
import os
import re
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from omniavatar.errors import InputError
from omniavatar.media.ffmpeg import Ffmpeg, sound_input

logger = logging.getLogger(__name__)

ACCEPTED = "WAV, MP3, M4A, AAC, OGG, Opus, FLAC or WebM"
MAX_SECONDS = 2 * 3600.0
"""A bound on memory (2 GB at 48 kHz): a small file can hold days of silence."""

MAX_CHANNELS = 8
"""Beyond 7.1 there is no common order of loudspeakers, so the video's stereo could not be mixed."""

MAX_LEVEL = 1e5
"""Of a sample; full scale is 1. Floats may go beyond, as in a WAV that holds 16-bit numbers as they
are, but from 1e8 on ffmpeg's AAC encoder does not come to an end."""

_BLOCK_SAMPLES = 1 << 16
_AU_HEADER = struct.Struct(">4sIIIII")  # magic, offset of the data, its size, coding, rate, c
_DURATION = re.compile(r"^  Duration: (\d+):(\d\d):(\d\d(?:\.\d+)?)", re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Speech:
    """A decoded recording.

    Attributes:
        samples: mono, [n]; -1 to 1 unless the recording itself goes beyond.
        sample_rate: of `samples`, in samples a second.
        duration_seconds: of what was read of the recording, before resampling.
    """

    samples: NDArray[np.float32]
    sample_rate: int
    duration_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Recording:
    """What a file says about its sound.

    Attributes:
        sample_rate: samples a second.
        channels: 1 is mono, 2 stereo, 6 surround.
        duration_seconds: as the header has it; None when it does not say, as in raw AAC and in
            what browsers record.
    """

    sample_rate: int
    channels: int
    duration_seconds: float | None


def load_speech(
    path: str | os.PathLike[str],
    *,
    sample_rate: int = 16000,
    start_seconds: float = 0.0,
    seconds: float | None = None,
) -> Speech:
    """Decode the first sound track of a recording or a video, or a part of it.

    Args:
        path: file in any format that ffmpeg knows, at any rate.
        sample_rate: of the result.
        start_seconds: what to leave out in front.
        seconds: how much to read from there, or as much as there is; None is all.

    Raises:
        InputError: the file is missing, empty, damaged, without sound, or has more than
            `MAX_CHANNELS`; the part begins behind its end or is longer than `MAX_SECONDS`.

    Source: librosa.load of librosa/librosa, ISC, for averaging, resampling and length.
    """
    path = Path(path)
    _check_file(path)
    heard, decoded = 0, bytearray()
    with _decode(path) as (process, recording):
        _check_channels(path, recording)
        rate = recording.sample_rate
        start = round(start_seconds * rate)
        stop = None if seconds is None else start + max(round(seconds * rate), 1)
        for block in _mono_blocks(process, path, recording.channels):
            part = block[max(start - heard, 0) : None if stop is None else max(stop - heard, 0)]
            heard += len(block)
            decoded += part.tobytes()
            if len(decoded) > 4 * MAX_SECONDS * rate:
                raise _too_long(path)
            if stop is not None and heard >= stop:
                break
        else:
            if not process.wait():
                raise _damaged(path, process.log)
            if process.log:
                logger.info("%s is used as far as it can be read: %s", path.name, process.log)
    if not heard:
        raise _soundless(path)
    if not decoded:
        raise InputError(
            f"audio_start is {start_seconds:g} s, but {path.name} lasts {heard / rate:.1f} s. "
            "Use an earlier start.",
            field="audio_start",
        )
    samples = np.frombuffer(decoded, np.float32)
    duration = len(samples) / rate
    if rate != sample_rate:
        import librosa  # takes seconds, which only recordings at another rate need to wait

        samples = librosa.resample(samples, orig_sr=rate, target_sr=sample_rate, res_type="soxr_hq")
    return Speech(samples=samples, sample_rate=sample_rate, duration_seconds=duration)


def probe_speech(path: str | os.PathLike[str]) -> Recording:
    """Read the header of a recording and decode a moment of it, in about a tenth of a second.

    Raises:
        InputError: the file is missing, empty, no recording, or not accepted by `load_speech`.
    """
    path = Path(path)
    _check_file(path)
    with _decode(path, "-t", "0.1", log_level="info") as (process, recording):
        _check_channels(path, recording)
        if not any(len(block) for block in _mono_blocks(process, path, recording.channels)):
            raise _soundless(path)
        process.wait()
        match = _DURATION.search(process.log)
    if match is None:
        return recording
    hours, minutes, seconds = map(float, match.groups())
    duration = hours * 3600 + minutes * 60 + seconds
    if duration > MAX_SECONDS:
        raise _too_long(path)
    return Recording(
        sample_rate=recording.sample_rate, channels=recording.channels, duration_seconds=duration
    )


def normalise(samples: NDArray[np.float32]) -> NDArray[np.float32]:
    """Shift and scale the whole clip [n] to mean 0 and variance 1; silence stays silence.

    Source: `Wav2Vec2FeatureExtractor` of huggingface/transformers, Apache-2.0.
    """
    spread = np.sqrt(samples.var() + np.float32(1e-7))
    return ((samples - samples.mean()) / spread).astype(np.float32, copy=False)


@contextmanager
def _decode(
    path: Path, *limits: str, log_level: str = "error"
) -> Iterator[tuple[Ffmpeg, Recording]]:
    """Start to decode the first sound track, at its own rate and with its own channels.

    The samples come as AU, a header of six numbers and floats: it tells the rate and the channels
    of what is really decoded, which for HE-AAC is twice the rate that the file states.
    """
    arguments = ["-map", "0:a:0", "-c:a", "pcm_f32be", *limits, "-f", "au", "-"]
    with Ffmpeg(*sound_input(path), *arguments, stdout=True, log_level=log_level) as process:
        header = process.stdout.read(_AU_HEADER.size)
        if len(header) < _AU_HEADER.size:
            process.wait()
            raise _damaged(path, process.log)
        _, data_offset, _, _, rate, channels = _AU_HEADER.unpack(header)
        process.stdout.read(data_offset - _AU_HEADER.size)
        yield process, Recording(sample_rate=rate, channels=channels, duration_seconds=None)


def _mono_blocks(process: Ffmpeg, path: Path, channels: int) -> Iterator[NDArray[np.float32]]:
    while data := process.stdout.read(_BLOCK_SAMPLES * channels * 4):
        whole = len(data) // (channels * 4) * channels
        block = np.frombuffer(data, ">f4", count=whole).astype(np.float32)
        _check_level(path, block)  # of each channel: their mean may hide it
        yield block.reshape(-1, channels).mean(axis=1)  # [n, c] -> [n]


def _check_file(path: Path) -> None:
    """Refuse, in one sentence, what is not a readable file with something in it."""
    if not path.exists():
        raise InputError(f"There is no recording at {path}. Check the path.", field="audio")
    if not path.is_file():
        raise InputError(f"{path} is not a file. Give the path of a recording.", field="audio")
    if path.stat().st_size == 0:
        raise InputError(f"{path.name} is empty. Give a {ACCEPTED} file.", field="audio")
    if not os.access(path, os.R_OK):
        raise InputError(f"{path.name} may not be read. Change its permissions.", field="audio")


def _check_level(path: Path, block: NDArray[np.float32]) -> None:
    loudest = float(np.abs(block).max(initial=0))
    if not loudest <= MAX_LEVEL:  # nor is NaN
        kind = "far too loud" if math.isfinite(loudest) else "not numbers"
        raise InputError(
            f"{path.name} holds samples that are {kind}. Export it again, as 16-bit WAV.",
            field="audio",
        )


def _check_channels(path: Path, recording: Recording) -> None:
    if recording.channels > MAX_CHANNELS:
        raise InputError(
            f"{path.name} has {recording.channels} channels. Mono to 7.1 surround, "
            f"{MAX_CHANNELS} channels, are accepted: mix it down to stereo.",
            field="audio",
        )


def _damaged(path: Path, log: str) -> InputError:
    if "matches no streams" in log or "does not contain any stream" in log:
        return _soundless(path)
    return InputError(
        f"{path.name} is not a recording that can be read, or it is damaged. "
        f"Give a {ACCEPTED} file.",
        field="audio",
    )


def _soundless(path: Path) -> InputError:
    return InputError(
        f"{path.name} holds no sound. Give a recording of at least a moment of speech.",
        field="audio",
    )


def _too_long(path: Path) -> InputError:
    return InputError(
        f"{path.name} is longer than {MAX_SECONDS / 3600:g} hours. Cut it into shorter parts.",
        field="audio",
    )

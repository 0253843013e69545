"""Recorded human speech: how mouths follow it, and whether they rest in digital silence."""

# n clips, t video frames, s samples

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from omniavatar.media.speech import load_speech
from omniavatar.nano.clips import SAMPLES_PER_ROW
from omniavatar.nano.debian import RECORDINGS
from omniavatar.nano.espeak import SAMPLE_RATE
from omniavatar.nano.mouths import envelope
from omniavatar.nano.train_speech_encoder import correlation

CHOSEN = (
    "demo-congrats", "demo-moreinfo", "demo-instruct", "dir-intro", "vm-options", "demo-abouttotry",
    "conf-usermenu", "basic-pbx-ivr-main",
)  # fmt: skip
"""Sentences among the telephone prompts; of another folder the longest files are taken."""

_SOUNDS = {".wav", ".flac", ".mp3", ".ogg", ".m4a"}
_OWN = Path("examples/recording.flac")


def find_recordings(folder: Path | None, fetched: Path, *, count: int) -> list[Path]:
    """Recordings of people, `examples/recording.flac` of the repository among them.

    Args:
        folder: the user's own; None takes what was fetched or what the system has.
        fetched: where packages were unpacked.

    Raises:
        FileNotFoundError: there is none.
    """
    root = Path(__file__).parents[2]
    places = [folder] if folder is not None else [
        fetched / "usr/share/asterisk/sounds", Path("/usr/share/asterisk/sounds")
    ]  # fmt: skip
    own = [root / _OWN] if (root / _OWN).exists() else []
    for place in places:
        found = [path for path in place.rglob("*") if path.suffix.lower() in _SOUNDS]
        if found:
            named = {path.stem: path for path in sorted(found)}
            chosen = [named[name] for name in CHOSEN if name in named]
            longest = sorted(found, key=lambda path: (-path.stat().st_size, path.name))
            return (own + (chosen or longest))[:count]
    raise FileNotFoundError(RECORDINGS)


def cut_recordings(
    paths: Sequence[Path], *, frames: int, silence_frames: int
) -> tuple[Tensor, Tensor]:
    """The start of each recording with digital silence after it.

    Args:
        frames: length of a clip, in video frames.
        silence_frames: how many of them are silent, at the end.

    Returns:
        Waveforms [n, s] at 16 kHz and which frames are digital silence, [n, frames] bool.
    """
    spoken = (frames - silence_frames) * SAMPLES_PER_ROW
    clips = np.zeros((len(paths), frames * SAMPLES_PER_ROW), np.float32)
    for clip, path in zip(clips, paths, strict=True):
        samples = load_speech(path, sample_rate=SAMPLE_RATE).samples
        begin = int((np.abs(samples) > 0.02).argmax())  # what comes before is no speech
        part = samples[begin : begin + spoken]
        clip[: len(part)] = part * (0.6 / max(float(np.abs(part).max()), 1e-3))
    waveforms = torch.from_numpy(clips)
    return waveforms, digital_silence(waveforms)


def digital_silence(waveforms: Tensor) -> Tensor:
    """Which video frames hold nothing but zeros, [n, s] -> [n, t] bool."""
    return (waveforms.unflatten(1, (-1, SAMPLES_PER_ROW)) == 0).all(2)


def follow_loudness(opening: Tensor, waveforms: Tensor) -> list[float]:
    """How far openings [n, t] go with the loudness of speech [n, s], where there is any sound.

    In digital silence every mouth that closes at all would agree.
    """
    return [
        correlation(one[~quiet], loud[~quiet]).item()
        for one, loud, quiet in zip(
            opening, envelope(waveforms), digital_silence(waveforms), strict=True
        )
    ]

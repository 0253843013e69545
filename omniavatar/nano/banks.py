"""The bank of speech on disk: made once, read by every part of training."""

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from omniavatar.nano.speech import SpeechBank


def write_speech(bank: SpeechBank, runs: Path, *, held_out: bool) -> None:
    """Write a bank, its sound as 16-bit samples."""
    runs.mkdir(parents=True, exist_ok=True)
    save_file(
        {
            "samples": (bank.samples * 32767).round().to(torch.int16),
            "mouth": bank.mouth.half(),
            "classes": bank.classes.to(torch.uint8),
        },
        _path(runs, held_out=held_out),
    )


def read_speech(runs: Path, *, held_out: bool) -> SpeechBank:
    """Read a bank back.

    Raises:
        FileNotFoundError: it has not been made.
    """
    path = _path(runs, held_out=held_out)
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing. Run `python -m omniavatar.nano speech` first.")
    state = load_file(path)
    return SpeechBank(
        samples=state["samples"].float() / 32767,
        mouth=state["mouth"].float(),
        classes=state["classes"].long(),
    )


def _path(runs: Path, *, held_out: bool) -> Path:
    return runs / ("speech-held-out.safetensors" if held_out else "speech.safetensors")

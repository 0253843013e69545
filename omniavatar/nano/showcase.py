"""README's pictures of the bundled model: presenters that training never saw, over time.

A sheet has a row for each: the portrait, moments of its video, and the sound below them; a loop
shows all of them moving.
"""

# t video frames, h, w rows and columns in pixels, s samples

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from omniavatar import AvatarPipeline
from omniavatar.nano.architecture import CHUNK_FRAMES
from omniavatar.nano.clips import SAMPLES_PER_ROW, sample_clips
from omniavatar.nano.footage import film, square_size
from omniavatar.nano.presenters import Look
from omniavatar.nano.speech import ROWS_PER_SECOND, speech_bank

BEHAVIOURS_SHOWN = ("plain", "smiling", "looking around", "plain", "serious", "blinking often")
_WAVE_PIXELS = 28
_INK, _PAPER = (52, 78, 110), 255
_GAP = 8
_LOOP_COLUMNS = 3


def film_presenters(
    pipeline: AvatarPipeline, *, seed: int, look: Look = "drawn"
) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Let six presenters talk for a chunk: portrait [3, h, w], frames [t, 3, h, w], samples [s]."""
    size, frames = square_size(pipeline), CHUNK_FRAMES
    drawn = sample_clips(
        speech_bank(len(BEHAVIOURS_SHOWN), 8.0, seed=seed, held_out=True),
        count=len(BEHAVIOURS_SHOWN),
        frames=1,
        height=size,
        width=size,
        generator=torch.Generator().manual_seed(seed),
        device="cpu",
        behaviours=BEHAVIOURS_SHOWN,
        continuation_share=0.0,
        context_rows=frames,
        look=look,
    )
    said = drawn.waveform[:, : (frames - 1) * SAMPLES_PER_ROW]
    return [
        (portrait, film(pipeline, portrait, samples, prompt=prompt, seed=number), samples)
        for number, (portrait, samples, prompt) in enumerate(
            zip(drawn.reference, said, drawn.prompts, strict=True)
        )
    ]


def write_presenter_sheet(
    films: Sequence[tuple[Tensor, Tensor, Tensor]], path: Path, *, moments: int = 8
) -> None:
    """A row for each film, with its waveform under its frames."""
    lines = []
    for portrait, frames, samples in films:
        chosen = torch.linspace(0, len(frames) - 1, moments).round().long()
        cells = rearrange(frames[chosen], "n c h w -> h (n w) c").numpy()
        height, width = cells.shape[:2]
        gap = np.full((height, _GAP, 3), _PAPER, np.uint8)
        row = np.concatenate([rearrange(portrait, "c h w -> h w c").numpy(), gap, cells], axis=1)
        below = np.full((_WAVE_PIXELS, row.shape[1], 3), _PAPER, np.uint8)
        below[:, -width:] = _draw_wave(samples.numpy(), width)
        lines += [row, below]
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.concatenate(lines)).save(path, optimize=True)


def _draw_wave(samples: NDArray[np.float32], width: int) -> NDArray[np.uint8]:
    """[_WAVE_PIXELS, width, 3]: the loudest sample of each column, about the middle."""
    picture = np.full((_WAVE_PIXELS, width, 3), _PAPER, np.uint8)
    columns = np.array_split(np.abs(samples), width)
    loud = np.array([part.max(initial=0) for part in columns])
    half = _WAVE_PIXELS / 2 - 2
    reach = np.maximum(loud / max(float(loud.max()), 1e-3) * half, 0.5)
    offset = np.abs(np.arange(_WAVE_PIXELS) + 0.5 - _WAVE_PIXELS / 2)
    picture[offset[:, None] <= reach[None]] = _INK
    return picture


def write_loop(films: Sequence[tuple[Tensor, Tensor, Tensor]], path: Path) -> None:
    """All films side by side as an animated WebP that repeats, every other frame of them."""
    together = torch.stack([frames[::2] for _, frames, _ in films])
    grid = rearrange(
        together, "(rows columns) t c h w -> t (rows h) (columns w) c", columns=_LOOP_COLUMNS
    )
    pictures = [Image.fromarray(frame) for frame in grid.numpy()]
    path.parent.mkdir(parents=True, exist_ok=True)
    pictures[0].save(
        path,
        save_all=True,
        append_images=pictures[1:],
        duration=round(2000 / ROWS_PER_SECOND),
        loop=0,
        quality=70,
        method=4,
    )

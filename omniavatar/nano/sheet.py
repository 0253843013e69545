"""Pictures of clips, for people to look at."""

# n clips, t frames, h, w rows and columns

from collections.abc import Sequence
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import torch
from einops import rearrange
from PIL import Image
from torch import Tensor


def write_sheet(frames: Tensor, truth: Tensor | None, path: Path, *, rows: int = 14) -> None:
    """A picture of ten moments of each clip.

    Args:
        frames: [n, t, 3, h, w] uint8.
        truth: the same clips as they should be: a row of them goes above each row of `frames`.
        rows: clips to show.
    """
    moments = torch.linspace(0, frames.shape[1] - 1, 10).long().tolist()
    lines = []
    for number in range(min(rows, len(frames))):
        for clips in (truth, frames):
            if clips is not None:
                lines.append(torch.cat([clips[number, moment] for moment in moments], dim=2))
    picture = rearrange(torch.cat(lines, dim=1), "c h w -> h w c").cpu().numpy()
    Image.fromarray(picture).save(path)


def write_rows(rows: Sequence[Sequence[Tensor]], path: Path, *, gap_after: int = 0) -> None:
    """A picture of rows of frames.

    Args:
        rows: as many [3, h, w] uint8 in each.
        gap_after: leave a white gap after so many frames of each row.
    """
    lines = []
    for row in rows:
        cells = list(row)
        if gap_after:
            cells.insert(gap_after, torch.full((3, cells[0].shape[1], 8), 255, dtype=torch.uint8))
        lines.append(torch.cat(cells, dim=2))
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = rearrange(torch.cat(lines, dim=1), "c h w -> h w c").numpy()
    Image.fromarray(picture).save(path, quality=85, method=6)


def write_film_sheet(
    portraits: Sequence[Path], films: Sequence[Path], path: Path, *, moments: int = 8
) -> None:
    """A row for each MP4: the picture that it was made from, then moments of its first 3 seconds.

    Args:
        portraits, films: as many of one as of the other, the films of one size.
    """
    lines = []
    for portrait, film in zip(portraits, films, strict=True):
        frames = iio.imread(film, plugin="FFMPEG")[:75]  # [t, h, w, 3]
        height, width = frames.shape[1:3]
        source = Image.open(portrait).convert("RGB").resize((width, height))
        chosen = np.linspace(5, len(frames) - 1, moments).astype(int)
        gap = np.full((height, 8, 3), 255, np.uint8)
        lines.append(np.concatenate([np.asarray(source), gap, *frames[chosen]], axis=1))
    Image.fromarray(np.concatenate(lines)).save(path, optimize=True)

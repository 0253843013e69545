"""Pictures of clips, for people to look at."""

# n clips, t frames, h, w rows and columns

from pathlib import Path

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

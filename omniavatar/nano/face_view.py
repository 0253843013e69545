"""The part of a picture that the reader of mouths looks at: the head, at one size."""

# n clips, t frames, h, w rows and columns

import torch
import torch.nn.functional as F
from torch import Tensor

from omniavatar.nano.canvas import lift
from omniavatar.nano.presenters import Presenters
from omniavatar.nano.reader import SIDE

_HEAD = 0.48
"""Half the head's width in half the view's: the middle of the first course's framings."""


def faces_of(presenters: Presenters) -> Tensor:
    """Where a presenter's head is at rest: middle in x and y, and size, [n, 3]."""
    return torch.stack([presenters.numbers[name] for name in ("centre_x", "centre_y", "size")], 1)


def face_view(frames: Tensor, presenters: Presenters) -> Tensor:
    """Heads at rest, each cut out at the same size: [n, t, 3, h, w] -> [n, t, 3, SIDE, SIDE]."""
    faces = faces_of(presenters).to(frames.device)
    views = [
        cut_out(clip[None].float(), face[None])[0].round_().clamp_(0, 255).to(torch.uint8)
        for clip, face in zip(frames, faces, strict=True)
    ]
    return torch.stack(views) if views else frames


def cut_out(frames: Tensor, faces: Tensor) -> Tensor:
    """The same of float frames and of `faces_of`, with a gradient."""
    moments, _, height, width = frames.shape[1:]
    half = min(height, width) / 2
    middle_x, middle_y, size = faces.unbind(1)
    reach = size * half / _HEAD  # half the view, in pixels
    steps = (torch.arange(SIDE, device=frames.device) + 0.5) / SIDE * 2 - 1
    x = (middle_x * half)[:, None] + reach[:, None] * steps  # [n, SIDE] from the picture's middle
    y = ((middle_y - lift(height, width)) * half)[:, None] + reach[:, None] * steps
    x, y = x / (width / 2), y / (height / 2)
    grid = torch.stack(
        (x[:, None].expand(-1, SIDE, -1), y[:, :, None].expand(-1, -1, SIDE)), -1
    )  # [n, SIDE, SIDE, 2]
    views = F.grid_sample(
        frames.flatten(0, 1),
        grid.repeat_interleave(moments, 0),
        mode="bilinear",
        padding_mode="border",
        align_corners=False,
    )
    return views.unflatten(0, frames.shape[:2])

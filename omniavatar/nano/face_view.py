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


def face_view(frames: Tensor, presenters: Presenters) -> Tensor:
    """Heads at rest, each cut out at the same size: [n, t, 3, h, w] -> [n, t, 3, SIDE, SIDE]."""
    count, moments, _, height, width = frames.shape
    half = min(height, width) / 2
    middle_x, middle_y, size = (
        presenters.numbers[name].to(frames.device) for name in ("centre_x", "centre_y", "size")
    )
    reach = size * half / _HEAD  # half the view, in pixels
    steps = (torch.arange(SIDE, device=frames.device) + 0.5) / SIDE * 2 - 1
    x = (middle_x * half)[:, None] + reach[:, None] * steps  # [n, SIDE] from the picture's middle
    y = ((middle_y - lift(height, width)) * half)[:, None] + reach[:, None] * steps
    x, y = x / (width / 2), y / (height / 2)
    grid = torch.stack(
        (x[:, None].expand(-1, SIDE, -1), y[:, :, None].expand(-1, -1, SIDE)), -1
    )  # [n, SIDE, SIDE, 2]
    views = []
    for clip, places in zip(frames, grid, strict=True):
        seen = F.grid_sample(
            clip.float(),
            places.expand(moments, -1, -1, -1),
            mode="bilinear",
            padding_mode="border",
            align_corners=False,
        )
        views.append(seen.round_().clamp_(0, 255).to(torch.uint8))
    return torch.stack(views) if count else frames

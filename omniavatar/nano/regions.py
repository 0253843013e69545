"""Boxes of mouth, eyes and head as weights on pixels and on latent cells."""

# n clips, t frames, f latent frames, h, w rows and columns

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor


def inside(boxes: Tensor, *, height: int, width: int) -> Tensor:
    """Which pixels lie in a box: [..., 4] left, top, right, bottom -> [..., h, w] bool."""
    left, top, right, bottom = boxes[..., None, None].unbind(-3)  # each [..., 1, 1]
    x = torch.arange(width, device=boxes.device) + 0.5
    y = (torch.arange(height, device=boxes.device) + 0.5)[:, None]
    return (x >= left) & (x < right) & (y >= top) & (y < bottom)


def to_latent_cells(mask: Tensor) -> Tensor:
    """Cells of 4 frames x 8 x 8 pixels that a mask touches: [n, t, h, w] -> [n, f, h/8, w/8].

    The first cell in time covers one frame.
    """
    cells = F.max_pool2d(mask.float(), 8)
    later = rearrange(cells[:, 1:], "n (f four) h w -> n f four h w", four=4).amax(2)
    return torch.cat([cells[:, :1], later], dim=1) > 0

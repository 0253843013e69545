"""A close-up put back into the picture that it is of.

A model that knows large faces alone is shown a small one from near. What changes in the close-up
changes in the picture; all else of the picture is as it was, to the last bit.
"""

# t video frames, h, w rows and columns in pixels

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

FADE = 0.08
"""Share of the close-up, at each side, in which its changes fade."""


class CloseUp:
    """One part of a picture, that is made in its place.

    Args:
        picture: all of it, [3, h, w] in 0..1.
        portrait: the part, enlarged to the same size, [3, h, w] in 0..1.
        box: left, top, right and bottom of the part, in pixels of the picture.
    """

    def __init__(
        self,
        picture: NDArray[np.float32],
        portrait: NDArray[np.float32],
        box: tuple[int, int, int, int],
    ) -> None:
        self._picture, self._portrait = map(torch.from_numpy, (picture, portrait))
        self._box = box
        left, top, right, bottom = box
        height, width = picture.shape[1:]
        across = _fade(right - left, begins=left > 0, ends=right < width)
        down = _fade(bottom - top, begins=top > 0, ends=bottom < height)
        self._share = down[:, None] * across

    def place(self, video: Tensor) -> Tensor:
        """Frames of the close-up as frames of the picture, [1, 3, t, h, w] in 0..1 -> the same."""
        left, top, right, bottom = self._box
        change = rearrange(video[0] - self._portrait[:, None].to(video), "c t h w -> t c h w")
        change = F.interpolate(change, size=(bottom - top, right - left), mode="area")
        placed = self._picture[None, :, None].to(video).repeat(1, 1, video.shape[2], 1, 1)
        part = placed[0, :, :, top:bottom, left:right]
        part += rearrange(change * self._share.to(video), "t c h w -> c t h w")
        return placed.clamp_(0, 1)

    def place_preview(self, preview: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """A rough small picture of the close-up amid the others of its scale, uint8 [h, w, 3]."""
        left, top, right, _ = self._box
        scale = preview.shape[1] / (right - left)
        height, width = (round(side * scale) for side in self._picture.shape[1:])
        pixels = rearrange(self._picture, "c h w -> h w c").mul(255).round().byte().numpy()
        whole = Image.fromarray(pixels).resize((width, height), Image.Resampling.BILINEAR)
        whole.paste(Image.fromarray(preview), (round(left * scale), round(top * scale)))
        return np.asarray(whole)


def _fade(size: int, *, begins: bool, ends: bool) -> Tensor:
    """How much changes count at each place, [size]: less near an end that lies in the picture."""
    place = (torch.arange(size) + 0.5) / size
    share = torch.ones(size)
    if begins:
        share = torch.minimum(share, place / FADE)
    if ends:
        share = torch.minimum(share, (1 - place) / FADE)
    return share

"""What the portrait shows is shown as it is, wherever a video does not differ from it.

A small VAE softens fabric and grain, and lets a still background shimmer. Where a decoded frame
differs from the decoded portrait by no more than that, the portrait's own pixels take its place;
where it differs visibly, nothing is changed, and in between one fades into the other. What the VAE
can not show of a portrait, edges and fine texture, shimmers most, and so may differ most there.

A model that knows drawings alone moves the face of a photograph well, and smears hats, hair and
what is behind them when it moves the head. Where a photograph's face is known, all else is calm.
"""

# t video frames, h, w rows and columns in pixels

import torch
import torch.nn.functional as F
from torch import Tensor

STILL, MOVING = 4 / 255, 12 / 255
"""Differences up to which a pixel holds still, and from which on it moves."""

SHIMMER = 1.5
"""Added to both: so many times what the VAE loses of the portrait around that pixel.

The more, the sharper photographs stay. From 2.5 on slight smiles and nods of drawn people stand
still, so that fewer of them do what their prompt says.
"""

CALM = 3.0
"""How many times as much a pixel may differ and still hold still, off the face of a photograph."""

REACH = 5
"""Side in pixels of the squares over which differences are averaged, and then spread."""

GREY = 2 / 255
"""A portrait whose colours differ from grey by no more has none, and its video gets none."""


class PortraitKeeper:
    """Puts the portrait's pixels back into the chunks of one video.

    Args:
        portrait: as it was encoded, [1, 3, 1, h, w] in 0..1.
        lively: where things move easily, [h, w] in 0..1; None if they do everywhere.
    """

    def __init__(self, portrait: Tensor, *, lively: Tensor | None = None) -> None:
        self._portrait = portrait
        self._calm = None if lively is None else CALM + (1 - CALM) * lively
        self._is_grey = bool((portrait.amax(1) - portrait.amin(1)).max() <= GREY)
        self._decoded: Tensor | None = None

    def keep(self, video: Tensor) -> Tensor:
        """A chunk's frames with the portrait where they hold still.

        Args:
            video: [1, 3, t, h, w] in 0..1. The first frame of the first chunk is taken for the
                decoded portrait, which it is: no frame before it has a part in it.
        """
        if self._is_grey:
            video = video.mean(1, keepdim=True).expand_as(video)
        if self._decoded is None:
            self._decoded = video[:, :, :1].clone()
        portrait = self._portrait.to(video)
        share = moving_share(video, decoded=self._decoded, portrait=portrait, calm=self._calm)
        return torch.lerp(portrait, video, share)


def moving_share(
    video: Tensor, *, decoded: Tensor, portrait: Tensor, calm: Tensor | None = None
) -> Tensor:
    """How much each pixel is one that moves, [1, 1, t, h, w] in 0..1.

    Args:
        video: [1, 3, t, h, w] in 0..1.
        decoded, portrait: after the VAE and before it, [1, 3, 1, h, w].
        calm: [h, w], times that a pixel may differ more; None is once everywhere.
    """
    spread = _spread(_averaged(_difference(video, decoded)))
    times = 1.0 if calm is None else calm.to(video)
    still = times * (STILL + SHIMMER * _averaged(_difference(portrait, decoded)))
    share = ((_averaged(spread) - still) / (times * (MOVING - STILL))).clamp(0, 1)
    return (share * share * (3 - 2 * share))[:, None]


def _difference(video: Tensor, picture: Tensor) -> Tensor:
    """Of the colour that differs most, [1, 3, t, h, w] and [1, 3, 1, h, w] -> [1, t, h, w].

    Frames last in memory, as if they were channels: so a CPU pools many at once.
    """
    return (video - picture).abs().amax(1).contiguous(memory_format=torch.channels_last)


def _averaged(values: Tensor) -> Tensor:
    """Over squares of `REACH`, along one side and then along the other: [1, t, h, w]."""
    values = F.pad(values, (REACH // 2,) * 4, mode="replicate")
    return F.avg_pool2d(F.avg_pool2d(values, (REACH, 1), stride=1), (1, REACH), stride=1)


def _spread(values: Tensor) -> Tensor:
    """The largest in squares of `REACH`, likewise."""
    half = REACH // 2
    values = F.max_pool2d(values, (REACH, 1), stride=1, padding=(half, 0))
    return F.max_pool2d(values, (1, REACH), stride=1, padding=(0, half))

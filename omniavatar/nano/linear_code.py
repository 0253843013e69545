"""The best linear code of small video blocks: where the training of the VAE starts.

A joint start from nothing spends most of its time finding what principal components give at once.
"""

# n blocks, p = 3 x 4 x 8 x 8 values of a block, k components; b batch, t frames, f latent frames

from dataclasses import dataclass
from typing import Self

import torch
from einops import rearrange
from torch import Tensor

COMPONENTS = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class LinearCode:
    """Principal components of blocks of 4 frames x 8 x 8 pixels.

    The first frame, which a latent holds alone, is repeated to make four, so that a component
    means the same in every latent.

    Attributes:
        mean: [p].
        components: [p, k], each scaled so that its coefficient has variance 1.
    """

    mean: Tensor
    components: Tensor

    @classmethod
    def fit(cls, blocks: Tensor, weights: Tensor) -> Self:
        """Fit to blocks [n, p] that count as much as `weights` [n] says."""
        share = (weights / weights.sum())[:, None]
        mean = (share * blocks).sum(0)
        centred = (blocks - mean) * share.sqrt()
        values, vectors = torch.linalg.eigh(centred.T @ centred)
        order = torch.arange(len(values) - 1, len(values) - 1 - COMPONENTS, -1)
        order = order.to(values.device)
        return cls(mean=mean, components=vectors[:, order] * values[order].rsqrt())

    def encode(self, video: Tensor) -> Tensor:
        """[b, 3, t, h, w] in -1..1 -> [b, k, f, h / 8, w / 8]."""
        blocks = to_blocks(video) - self.mean
        return torch.einsum("bfhwp,pk->bkfhw", blocks, self.components)

    def decode(self, code: Tensor) -> Tensor:
        """[b, k, f, h / 8, w / 8] -> [b, 3, t, h, w]: the least-squares inverse."""
        inverse = self.components / self.components.square().sum(0)
        blocks = torch.einsum("bkfhw,pk->bfhwp", code, inverse) + self.mean
        video = rearrange(
            blocks, "b f h w (c four y x) -> b c (f four) (h y) (w x)", c=3, four=4, y=8, x=8
        )
        return video[:, :, 3:]


def to_blocks(video: Tensor) -> Tensor:
    """[b, 3, t, h, w] with t = 4f - 3 -> [b, f, h / 8, w / 8, p]."""
    first = video[:, :, :1].expand(-1, -1, 3, -1, -1)
    video = torch.cat([first, video], dim=2)
    return rearrange(video, "b c (f four) (h y) (w x) -> b f h w (c four y x)", four=4, y=8, x=8)

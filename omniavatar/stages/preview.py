"""Latents to a small rough picture, without the VAE, to show while a chunk is being made."""

# c latent channels, f latent frames, h, w latent rows and columns

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def draw_preview(
    latents: Tensor, *, rows: Sequence[Sequence[float]], bias: Sequence[float]
) -> NDArray[np.uint8]:
    """Draw the middle frame of an estimate of the clean latents.

    Args:
        latents: normalised, [1, c, f, h, w]; no work on them is under way.
        rows: RGB, -1..1, of a unit of each channel: [c][3].
        bias: RGB of zero.

    Returns:
        uint8 [h, w, 3].

    Source of the idea and of the Wan2.1 values: Comfy-Org/ComfyUI latent_formats.py.
    """
    middle = _to_host(latents[0, :, latents.shape[2] // 2])
    picture = torch.einsum("chw,cr->hwr", middle, torch.tensor(rows)) + torch.tensor(bias)
    return ((picture + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).numpy()


def _to_host(finished: Tensor) -> Tensor:
    """Copy what the device has finished, without waiting for what it works on meanwhile."""
    if not finished.is_cuda:
        return finished.float().cpu()
    with torch.cuda.stream(torch.cuda.Stream(finished.device)):
        return finished.float().cpu()

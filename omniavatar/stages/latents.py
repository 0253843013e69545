"""Pixels to latents and back, through the Wan VAE.

Latents are normalised per channel: (mean of the posterior - latents_mean) / latents_std, with the
constants of the VAE's own config.
"""

# b batch, c channels, t video frames, f latent frames, h, w latent rows and columns

from typing import Literal

import numpy as np
import torch
from diffusers import AutoencoderKLWan
from einops import rearrange
from numpy.typing import NDArray
from torch import Tensor

from omniavatar.models.whole_sequence import decode_whole, encode_whole
from omniavatar.stages.tiles import PUBLISHED_DECODE, PUBLISHED_ENCODE, Tiling, run_tiled

Tiles = Literal["whole", "published"]

ONE_PASS_BYTES = 3 * 2**30
"""Working memory that the VAE may take: it decides how many frames go through it at a time."""

CPU_PASS_BYTES, CPU_PASS_LATENTS = 400 * 2**20, 8
"""What a CPU decodes at a time, the larger of the two: more leaves its caches and is written to
memory that is new each time, and less costs more calls than it saves."""


def encode_video(vae: AutoencoderKLWan, video: Tensor, *, tiling: Tiling | None = None) -> Tensor:
    """Encode pixels.

    Args:
        video: [b, 3, t, 8h, 8w] in -1..1. Frames beyond the last 4n + 1 are ignored, as published.
        tiling: the published tiles; None encodes each picture whole, without seams.

    Returns:
        Normalised latents, [b, c, f, h, w], float32.
    """
    frames = (video.shape[2] - 1) // 4 * 4 + 1
    video = video[:, :, :frames].to(vae.device, vae.dtype)
    scale = vae.config.scale_factor_spatial
    if tiling is None:
        moments_mean = _encode(vae, video)
    else:
        moments_mean = run_tiled(
            lambda tile: encode_whole(vae, tile),
            video,
            height=video.shape[-2] // scale,
            width=video.shape[-1] // scale,
            tiling=tiling,
            source_scale=scale,
            result_scale=1,
        )
    mean, std = _constants(vae, moments_mean.device)
    return (moments_mean.float() - mean) / std


def decode_latents(
    vae: AutoencoderKLWan, latents: Tensor, *, tiling: Tiling | None = None
) -> Tensor:
    """Decode normalised latents, [b, c, f, h, w] -> [b, 3, 4f - 3, 8h, 8w] in -1..1, float32."""
    mean, std = _constants(vae, latents.device)
    raw = (latents.float() * std + mean).to(vae.device, vae.dtype)
    if tiling is None:
        return _decode(vae, raw).float()
    video = run_tiled(
        lambda tile: decode_whole(vae, tile, clamp=False, window=_window(vae, tile)),
        raw,
        height=raw.shape[-2],
        width=raw.shape[-1],
        tiling=tiling,
        source_scale=1,
        result_scale=vae.config.scale_factor_spatial,
    )
    return video.float().clamp(-1, 1)


def encode_tiling(tiles: Tiles) -> Tiling | None:
    """The tiling that a request's `vae_tiles` means for encoding."""
    return PUBLISHED_ENCODE if tiles == "published" else None


def decode_tiling(tiles: Tiles) -> Tiling | None:
    """The tiling that a request's `vae_tiles` means for decoding."""
    return PUBLISHED_DECODE if tiles == "published" else None


def to_pixels(video: Tensor, *, rounding: Literal["nearest", "truncate"]) -> NDArray[np.uint8]:
    """[1, 3, t, h, w] in 0..1 -> uint8 [t, h, w, 3]. The published code truncates."""
    scaled = video[0] * 255
    scaled = scaled.round() if rounding == "nearest" else scaled
    frames = rearrange(scaled.clamp(0, 255).to(torch.uint8), "c t h w -> t h w c")
    return frames.contiguous().cpu().numpy()


def _encode(vae: AutoencoderKLWan, video: Tensor) -> Tensor:
    if _one_pass_bytes(vae, video.shape[2:]) <= ONE_PASS_BYTES:
        return encode_whole(vae, video)
    return vae.encode(video).latent_dist.mode()


def _decode(vae: AutoencoderKLWan, raw: Tensor) -> Tensor:
    if vae.use_tiling:  # the class's own tiles, for cards that hold no whole picture
        return vae.decode(raw).sample
    return decode_whole(vae, raw, window=_window(vae, raw))


def _window(vae: AutoencoderKLWan, raw: Tensor) -> int:
    """How many latent frames of this size are decoded at a time."""
    height, width = (size * vae.config.scale_factor_spatial for size in raw.shape[3:])
    latent_frame = _one_pass_bytes(vae, torch.Size((4, height, width)))
    # What the frames before hand over is as much as one more latent frame takes.
    fitting = max(1, ONE_PASS_BYTES // latent_frame - 1)
    if raw.device.type != "cpu":
        return fitting
    return min(fitting, max(CPU_PASS_LATENTS, CPU_PASS_BYTES // latent_frame))


def _one_pass_bytes(vae: AutoencoderKLWan, pixels: torch.Size) -> int:
    """What a pass over all frames holds at its widest, about seven tensors of the first level."""
    frames, height, width = pixels
    patch = vae.config.patch_size or 1
    width_of_first_level = max(vae.config.base_dim, vae.config.decoder_base_dim or 0)
    tensor = frames * (height // patch) * (width // patch) * width_of_first_level
    return 7 * tensor * vae.dtype.itemsize


def _constants(vae: AutoencoderKLWan, device: torch.device) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of the latents' channels, each [1, c, 1, 1, 1]."""
    mean, std = (
        torch.tensor(values, dtype=torch.float32, device=device).view(1, -1, 1, 1, 1)
        for values in (vae.config.latents_mean, vae.config.latents_std)
    )
    return mean, std

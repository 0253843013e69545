"""Clips to measure: made by the pipeline as a user's would be, or given back by the VAE alone."""

# n clips, t video frames, h, w rows and columns in pixels, s samples

import tempfile
import wave
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKLWan
from einops import rearrange
from PIL import Image
from torch import Tensor

from omniavatar import AvatarPipeline, ChunkDone, GenerationRequest
from omniavatar.nano.clips import SAMPLES_PER_ROW, Clips
from omniavatar.nano.espeak import SAMPLE_RATE
from omniavatar.stages.latents import decode_latents, encode_video


def film(
    pipeline: AvatarPipeline,
    portrait: Tensor,
    samples: Tensor,
    *,
    prompt: str = "",
    seed: int = 0,
    **settings: Any,
) -> Tensor:
    """What the pipeline makes of one portrait, its own first frame dropped.

    Args:
        portrait: [3, h, w] uint8.
        samples: [s] float32 at 16 kHz.
        settings: of the request; none are the shipped defaults.

    Returns:
        [t, 3, h, w] uint8.
    """
    with tempfile.TemporaryDirectory() as name:
        request = write_request(Path(name), portrait, samples, prompt=prompt, seed=seed, **settings)
        events = pipeline.stream(request, Path(name) / "clip.mp4")
        parts = [event.frames for event in events if isinstance(event, ChunkDone)]
    return rearrange(torch.from_numpy(np.concatenate(parts)), "t h w c -> t c h w")


def film_clips(pipeline: AvatarPipeline, truth: Clips, *, frames: int) -> Tensor:
    """What the pipeline makes of portraits, waveforms and prompts: [n, frames - 1, 3, h, w]."""
    samples = truth.waveform[:, : (frames - 1) * SAMPLES_PER_ROW]
    made = [
        film(pipeline, portrait, said, prompt=prompt, seed=number)
        for number, (portrait, said, prompt) in enumerate(
            zip(truth.reference, samples, truth.prompts, strict=True)
        )
    ]
    return torch.stack(made)


def write_request(
    folder: Path, portrait: Tensor, samples: Tensor, *, prompt: str, seed: int, **settings: Any
) -> GenerationRequest:
    """Files of one clip and the request that names them."""
    picture = rearrange(portrait, "c h w -> h w c").numpy()
    Image.fromarray(picture).save(folder / "portrait.png")
    with wave.open(str(folder / "speech.wav"), "wb") as sound:
        sound.setparams((1, 2, SAMPLE_RATE, 0, "NONE", ""))
        sound.writeframes((samples * 32767).round().to(torch.int16).numpy().tobytes())
    return GenerationRequest(
        image=folder / "portrait.png",
        audio=folder / "speech.wav",
        prompt=prompt,
        seed=seed,
        **settings,
    )


def through_vae(vae: AutoencoderKLWan, frames: Tensor) -> Tensor:
    """True frames encoded and decoded, [n, t, 3, h, w] uint8; t is 4k + 1."""
    results = []
    for clip in frames:
        video = rearrange(clip, "t c h w -> 1 c t h w").float() / 127.5 - 1
        again = decode_latents(vae, encode_video(vae, video))
        results.append(((again[0] + 1) * 127.5).round().clamp(0, 255).to(torch.uint8))
    return rearrange(torch.stack(results), "n c t h w -> n t c h w")


def square_size(pipeline: AvatarPipeline) -> int:
    """Side of the square video that the model makes, in pixels."""
    return next(height for height, width in pipeline.spec.sizes if height == width)


def decibels(error: Tensor, where: Tensor) -> float:
    """Peak signal to noise ratio of squared errors in 0..255: of each clip, then their mean.

    Args:
        error: [n, t, h, w].
        where: the pixels that count, of the same shape, bool.
    """
    of_clips = (error * where).sum((1, 2, 3)) / where.sum((1, 2, 3))
    return (10 * (255**2 / of_clips.clamp_min(1e-9)).log10()).mean().item()

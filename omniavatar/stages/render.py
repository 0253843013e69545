"""Chunk after chunk: denoise, decode, hand the end of the video over to the next.

Source: OmniAvatar (arXiv 2506.18866, section 3.4); Omni-Avatar/OmniAvatar wan_video.py, Apache-2.0.
"""

# c latent channels, f latent frames, h, w latent rows and columns, t video frames

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from torch import Tensor

from omniavatar.models import Models
from omniavatar.plan import VideoPlan
from omniavatar.stages.conditions import Conditions
from omniavatar.stages.denoise import (
    ChunkInputs,
    Sampler,
    Step,
    audio_terms,
    denoise,
    finished_latents,
)
from omniavatar.stages.latents import (
    Tiles,
    decode_latents,
    decode_tiling,
    encode_tiling,
    encode_video,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunkStep:
    """A denoising step of chunk number `chunk`, from 0."""

    chunk: int
    step: Step


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunkVideo:
    """A finished chunk.

    Attributes:
        chunk: number, from 0.
        latents: [1, c, f, h, w], normalised.
        video: all frames of the window, those that were given included, [1, 3, t, 8h, 8w] in 0..1.
    """

    chunk: int
    latents: Tensor
    video: Tensor


def render_chunks(
    models: Models,
    conditions: Conditions,
    plan: VideoPlan,
    sampler: Sampler,
    *,
    tiles: Tiles,
    draw_noise: Callable[[tuple[int, ...]], Tensor],
) -> Iterator[ChunkStep | ChunkVideo]:
    """Make all chunks of a video, in order.

    Args:
        draw_noise: called once a chunk with the shape of its latents, [1, c, f, h, w].
    """
    contexts = {True: conditions.prompt, False: conditions.negative_prompt}
    known = conditions.reference
    for number, chunk in enumerate(plan.chunks):
        channels, _, height, width = conditions.reference.shape[1:]
        noise = draw_noise((1, channels, chunk.latent_frames, height, width))
        rows = conditions.speech.rows(chunk.audio_start, chunk.audio_stop)
        inputs = ChunkInputs(
            noise=noise.to(conditions.reference.device),
            known=known,
            reference=conditions.reference,
            contexts=contexts,
            audio=audio_terms(models.transformer, rows, sampler.guidance),
        )
        step = None
        for step in denoise(models.transformer, inputs, sampler):
            yield ChunkStep(chunk=number, step=step)
        assert step is not None, "a schedule has at least one step"
        latents = finished_latents(step.latents, known)
        decoded = decode_latents(models.vae, latents, tiling=decode_tiling(tiles))
        video = ((decoded + 1) / 2).clamp(0, 1)
        yield ChunkVideo(chunk=number, latents=latents, video=video)

        if number + 1 < len(plan.chunks):
            tail = video[:, :, -plan.overlap_frames :] * 2 - 1
            known = encode_video(models.vae, tail, tiling=encode_tiling(tiles))
            known = known.to(conditions.reference)

"""Chunk after chunk: denoise, decode, hand the end of the video over to the next.

Source: OmniAvatar (arXiv 2506.18866, section 3.4); Omni-Avatar/OmniAvatar wan_video.py, Apache-2.0.
"""

# c latent channels, f latent frames, h, w latent rows and columns, t video frames

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from torch import Tensor

from omniavatar.models import Models
from omniavatar.models.transformer import Moments
from omniavatar.plan import Chunk, VideoPlan
from omniavatar.stages.blinks import Blinks
from omniavatar.stages.close_up import CloseUp
from omniavatar.stages.conditions import Conditions
from omniavatar.stages.denoise import (
    ChunkInputs,
    Sampler,
    Step,
    audio_terms,
    denoise,
    finished_latents,
)
from omniavatar.stages.keep_portrait import PortraitKeeper
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


class Rendering:
    """The chunks of one video, made in order.

    It holds what the next chunk needs of the ones before it, and changes only when a chunk is
    finished. So `run` can be called again after it broke off, also with networks that have been
    placed anew: it begins with the chunk that was not finished, and with the same noise.

    Args:
        draw_noise: called once a chunk with the shape of its latents, [1, c, f, h, w].
        blinks: when the prompt of `conditions.blinking` holds, if there is one.
        keeper: what puts the portrait back where nothing moves, if that is wanted. The next chunk
            goes on from frames that have it, so that still parts do not drift.
        close_up: what puts the frames into the picture of which they are a part, if they are. The
            next chunk goes on from the part alone.
    """

    def __init__(
        self,
        conditions: Conditions,
        plan: VideoPlan,
        *,
        tiles: Tiles,
        draw_noise: Callable[[tuple[int, ...]], Tensor],
        blinks: Blinks,
        keeper: PortraitKeeper | None = None,
        close_up: CloseUp | None = None,
    ) -> None:
        self._conditions, self._plan, self._tiles = conditions, plan, tiles
        self._draw_noise, self._blinks = draw_noise, blinks
        self._keeper, self._close_up = keeper, close_up
        self._next = 0
        self._noise: Tensor | None = None  # of the next chunk
        self._tail: Tensor | None = None  # last frames of the chunk before it, [1, 3, t, 8h, 8w]

    @property
    def finished(self) -> bool:
        """Whether all chunks are made."""
        return self._next == len(self._plan.chunks)

    def run(self, models: Models, sampler: Sampler) -> Iterator[ChunkStep | ChunkVideo]:
        """Make the chunks that are not made yet."""
        while not self.finished:
            yield from self._make_next(models, sampler)

    def _make_next(self, models: Models, sampler: Sampler) -> Iterator[ChunkStep | ChunkVideo]:
        number, conditions = self._next, self._conditions
        chunk = self._plan.chunks[number]
        if self._noise is None:
            channels, _, height, width = conditions.reference.shape[1:]
            self._noise = self._draw_noise((1, channels, chunk.latent_frames, height, width))
        known = conditions.reference
        if self._tail is not None:
            known = encode_video(models.vae, self._tail, tiling=encode_tiling(self._tiles))
            known = known.to(conditions.reference)
        rows = conditions.speech.rows(chunk.audio_start, chunk.audio_stop)
        inputs = ChunkInputs(
            noise=self._noise.to(conditions.reference.device),
            known=known,
            reference=conditions.reference,
            contexts={True: conditions.prompt, False: conditions.negative_prompt},
            audio=audio_terms(models.transformer, rows, sampler.guidance),
            moments=self._moments(chunk),
        )
        step = None
        for step in denoise(models.transformer, inputs, sampler):
            yield ChunkStep(chunk=number, step=step)
        assert step is not None, "a schedule has at least one step"
        latents = finished_latents(step.latents, known)
        decoded = decode_latents(models.vae, latents, tiling=decode_tiling(self._tiles))
        video = decoded.add_(1).div_(2).clamp_(0, 1)
        if self._keeper is not None:
            video = self._keeper.keep(video)
        tail = video[:, :, -self._plan.overlap_frames :] * 2 - 1
        if self._close_up is not None:
            video = self._close_up.place(video)
        self._next, self._noise, self._tail = number + 1, None, tail
        yield ChunkVideo(chunk=number, latents=latents, video=video)

    def _moments(self, chunk: Chunk) -> Moments | None:
        prompt = self._conditions.blinking
        if prompt is None:
            return None
        frames = self._blinks.frames(chunk)
        return Moments(prompt=prompt, frames=frames) if frames.any() else None

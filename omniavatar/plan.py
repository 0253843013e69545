"""Which frames are made when: size and chunks of a video, in integers, without tensors.

Frame 0 is the portrait itself; frame k + 1 shows row k of the speech. A chunk is a window of frames
of fixed length; each after the first begins with frames that the one before it has made.

Source: Omni-Avatar/OmniAvatar scripts/inference.py, Apache-2.0.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from omniavatar.errors import InputError

FRAMES_PER_LATENT = 4
PIXELS_PER_TOKEN = 16 * 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """One window of the video, in half-open frame numbers.

    The first `known` frames are given, not generated: the portrait in the first chunk, the end of
    the chunk before it in every other.
    """

    start: int
    stop: int
    known: int

    @property
    def frames(self) -> int:
        return self.stop - self.start

    @property
    def latent_frames(self) -> int:
        return _latents(self.frames)

    @property
    def known_latents(self) -> int:
        return _latents(self.known)

    @property
    def new_frames(self) -> slice:
        """The frames, counted within the window, that it adds to the video, the portrait's own
        included; the last chunk's are cut to the video's length by `VideoPlan.kept`."""
        return slice(self.known if self.start else 0, self.frames)

    @property
    def audio_start(self) -> int:
        """First row of the speech, counted from the zero row that belongs to the portrait."""
        return self.start

    @property
    def audio_stop(self) -> int:
        return self.stop


@dataclass(frozen=True, kw_only=True)
class VideoPlan:
    """Size and chunks of one video.

    Attributes:
        height, width: pixels.
        fps: frames per second.
        audio_frames: frames that the speech lasts.
        padded_audio_frames: the same, up to the end of the last chunk.
        chunk_frames: length of every chunk.
        overlap_frames: frames that each chunk hands to the next.
    """

    height: int
    width: int
    fps: int
    audio_frames: int
    padded_audio_frames: int
    chunk_frames: int
    overlap_frames: int

    @property
    def frames(self) -> int:
        """Frames of the speech and the portrait's own."""
        return self.audio_frames + 1

    @cached_property
    def chunks(self) -> tuple[Chunk, ...]:
        step = self.chunk_frames - self.overlap_frames
        count = (self.padded_audio_frames + 1 - self.chunk_frames) // step + 1
        return tuple(
            Chunk(
                start=number * step,
                stop=number * step + self.chunk_frames,
                known=self.overlap_frames if number else 1,
            )
            for number in range(count)
        )

    @property
    def kept(self) -> tuple[slice, ...]:
        """For each chunk, the frames within its window that are shown; together all `frames`."""
        return tuple(
            slice(chunk.new_frames.start, min(chunk.stop, self.frames) - chunk.start)
            for chunk in self.chunks
        )


def plan_video(
    *,
    image_height: int,
    image_width: int,
    samples: int,
    sizes: Sequence[tuple[int, int]],
    max_tokens: int,
    overlap_frames: int,
    fps: int,
    sample_rate: int,
    exact: bool = False,
    fitted: bool = False,
) -> VideoPlan:
    """Plan a video.

    Args:
        image_height, image_width: of the portrait, in pixels.
        samples: length of the speech.
        sizes: (height, width) that the model was trained for.
        max_tokens: bound on a chunk's tokens of 16 x 16 pixels and 4 frames.
        overlap_frames: 4n + 1.
        exact: see `count_audio_frames`.
        fitted: make as many chunks, each no longer than together they have to be.

    Raises:
        InputError: the overlap splits a latent, a chunk is too short for it, or there is no speech.
    """
    if samples < 1:
        raise InputError("The recording is empty. Use one that holds speech.", field="audio")
    if overlap_frames < 1 or overlap_frames % FRAMES_PER_LATENT != 1:
        raise InputError(
            f"overlap_frames is {overlap_frames}, but each latent after the first holds 4 frames. "
            f"Use 4n + 1, for example {max(overlap_frames, 0) // 4 * 4 + 1}.",
            field="overlap_frames",
        )
    height, width = choose_size(image_height, image_width, sizes)
    chunk_frames = frames_per_chunk(max_tokens, height, width)
    if chunk_frames <= overlap_frames:
        enough = tokens_for_chunk(overlap_frames + FRAMES_PER_LATENT, height, width)
        raise InputError(
            f"max_tokens is {max_tokens}, which makes chunks of {max(chunk_frames, 0)} frames at "
            f"{width}x{height}, no longer than the overlap of {overlap_frames}. "
            f"Use at least {enough}, or a smaller overlap_frames.",
            field="max_tokens",
        )
    audio_frames = count_audio_frames(samples, sample_rate=sample_rate, fps=fps, exact=exact)
    past_first = audio_frames - (chunk_frames - 1)
    later_chunks = max(0, math.ceil(past_first / (chunk_frames - overlap_frames)))
    if fitted:
        shown_twice = later_chunks * overlap_frames
        needed = math.ceil((1 + audio_frames + shown_twice) / (1 + later_chunks))
        chunk_frames = max(_whole_latents(needed), overlap_frames + FRAMES_PER_LATENT)
    return VideoPlan(
        height=height,
        width=width,
        fps=fps,
        audio_frames=audio_frames,
        padded_audio_frames=chunk_frames - 1 + later_chunks * (chunk_frames - overlap_frames),
        chunk_frames=chunk_frames,
        overlap_frames=overlap_frames,
    )


def choose_size(height: int, width: int, sizes: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """The (height, width) whose ratio is closest to the picture's.

    Of equal ratios the first wins, unless a later one's longest side differs from the picture's
    by the same amount, as published.
    """
    best = sizes[0]
    best_ratio = best_side = math.inf
    for size in sizes:
        ratio = abs(size[0] / size[1] - height / width)
        side = abs(max(size) - max(height, width))
        if ratio < best_ratio:
            best, best_ratio, best_side = size, ratio, side
        elif ratio == best_ratio and side == best_side:
            best = size
    return best


def frames_per_chunk(max_tokens: int, height: int, width: int) -> int:
    """The largest 4n + 1 frames whose latents keep within the tokens."""
    frames = int(max_tokens * PIXELS_PER_TOKEN * FRAMES_PER_LATENT / height / width)
    return (frames - 1) // FRAMES_PER_LATENT * FRAMES_PER_LATENT + 1


def tokens_for_chunk(frames: int, height: int, width: int) -> int:
    """The smallest `max_tokens` that makes chunks of at least so many frames."""
    tokens = max(1, frames * height * width // (PIXELS_PER_TOKEN * FRAMES_PER_LATENT))
    while frames_per_chunk(tokens, height, width) < frames:
        tokens += 1
    return tokens


def count_audio_frames(samples: int, *, sample_rate: int, fps: int, exact: bool = False) -> int:
    """Video frames that the speech lasts, rounded up.

    The published code divides in floating point, which makes one frame more of some lengths that
    are whole numbers of frames; `exact` counts in integers.
    """
    if exact:
        return -(-samples * fps // sample_rate)
    return math.ceil(samples / sample_rate * fps)


def _whole_latents(frames: int) -> int:
    """The smallest 4n + 1 that is not less."""
    return math.ceil((frames - 1) / FRAMES_PER_LATENT) * FRAMES_PER_LATENT + 1


def _latents(frames: int) -> int:
    return (frames - 1) // FRAMES_PER_LATENT + 1

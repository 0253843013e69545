"""When somebody blinks who is asked for something else.

A model that is distilled to few steps shows what is likeliest, and at each moment that is open
eyes. So for a moment now and then the prompt says that the person blinks; see
`models.transformer.Moments`. Some two of three such moments become a blink.
"""

# f latent frames

import torch
from torch import Tensor

from omniavatar.models.transformer import FRAMES_PER_LATENT
from omniavatar.plan import Chunk, VideoPlan

SECONDS_BETWEEN = 2.0, 4.5
"""From one moment to the next, at least and at most: people blink some 15 to 20 times a minute."""

MOMENT_LATENTS = 2
"""How long a moment is: a blink takes a fifth of a second."""


class Blinks:
    """The moments of one video: the same for a seed, however the video is made.

    Args:
        plan: of the video.
        seed: of the request.
    """

    def __init__(self, plan: VideoPlan, seed: int) -> None:
        # A generator of its own: with or without blinks, the noise of a seed is the same.
        generator = torch.Generator("cpu").manual_seed(seed)
        least, most = (seconds * plan.fps for seconds in SECONDS_BETWEEN)
        self._starts: list[float] = []
        start = most * _uniform(generator)
        while start < plan.chunks[-1].stop:
            self._starts.append(start)
            start += least + (most - least) * _uniform(generator)

    def frames(self, chunk: Chunk) -> Tensor:
        """Whether each latent frame of a chunk lies in a moment, [f]."""
        first = torch.arange(chunk.latent_frames) * FRAMES_PER_LATENT - FRAMES_PER_LATENT + 1
        middle = chunk.start + first + (FRAMES_PER_LATENT - 1) / 2
        middle[0] = chunk.start
        length = MOMENT_LATENTS * FRAMES_PER_LATENT
        is_moment = torch.zeros(chunk.latent_frames, dtype=torch.bool)
        for start in self._starts:
            is_moment |= (middle >= start) & (middle < start + length)
        return is_moment


def _uniform(generator: torch.Generator) -> float:
    return torch.rand((), generator=generator).item()

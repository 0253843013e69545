"""Where one chunk ends and the next begins.

The next chunk is conditioned on the end of the one before it, decoded and encoded again, and so
starts with a second rendering of frames that the first has already shown. The two differ a little
all over the picture. The published code cuts from one to the other; here one fades into the other
over frames that both show, in which each mouth and eye is at the same place in both.
"""

# t video frames, h, w rows and columns in pixels

import torch
from torch import Tensor

from omniavatar.plan import VideoPlan
from omniavatar.stages.render import ChunkVideo

FADE_FRAMES = 8


class Joiner:
    """Picks the frames that each chunk adds to the video.

    With a fade, the last frames of a chunk are held back until the next chunk's rendering of them
    is there.

    Args:
        plan: the video's plan.
        fade: fade from chunk to chunk, or cut, as published.
        keep_lead: keep frame 0, the portrait itself. It shows no speech, so that a video with it
            runs one frame behind its sound.
    """

    def __init__(self, plan: VideoPlan, *, fade: bool, keep_lead: bool) -> None:
        new_in_chunk = plan.chunk_frames - plan.overlap_frames
        self._fade_frames = min(FADE_FRAMES, plan.overlap_frames, new_in_chunk) if fade else 0
        self._plan, self._keep_lead = plan, keep_lead
        self._held: Tensor | None = None

    def new_frames(self, piece: ChunkVideo) -> Tensor:
        """The next frames of the video, [1, 3, t, h, w] in 0..1."""
        kept = self._plan.kept[piece.chunk]
        video = piece.video[:, :, kept]
        if piece.chunk == 0 and not self._keep_lead:
            video = video[:, :, 1:]
        if self._held is not None:
            again = piece.video[:, :, kept.start - self._fade_frames : kept.start]
            video = torch.cat([crossfade(self._held.to(again), again), video], dim=2)
        is_last = piece.chunk + 1 == len(self._plan.chunks)
        ready = video.shape[2] - (0 if is_last else self._fade_frames)
        # Copied, for a view would keep the whole chunk; last, for a step that runs out of memory
        # before it to be done again.
        self._held = None if ready == video.shape[2] else video[:, :, ready:].cpu().clone()
        return video[:, :, :ready]

    def take_held(self) -> Tensor | None:
        """Frames held back for a chunk that will not come, when a job ends early."""
        held, self._held = self._held, None
        return held


def crossfade(before: Tensor, after: Tensor) -> Tensor:
    """From one rendering of some frames to the other of the same, [1, 3, t, h, w] each."""
    frames = before.shape[2]
    weights = torch.arange(1, frames + 1, device=before.device) / (frames + 1)
    return before.lerp(after, weights.view(1, 1, -1, 1, 1).to(before))

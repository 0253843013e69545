"""Where one chunk ends and the next begins.

The next chunk is conditioned on the end of the one before it, decoded and encoded again, and so
starts with a second rendering of frames that are already in the video. The two renderings differ a
little, in colour most visibly. The published code cuts from one to the other; here the difference,
which is known on the last shared frame, is faded out over the frames that follow.
"""

# t video frames, h, w rows and columns in pixels

import torch
import torch.nn.functional as F
from torch import Tensor

from omniavatar.plan import VideoPlan
from omniavatar.stages.render import ChunkVideo

FADE_FRAMES = 8
BLUR_PIXELS = 9
"""The difference is blurred before it is added, so that a mouth or an eye which moves on leaves no
ghost: what lasts over frames, colour and light, is smooth."""


def fade_join(new: Tensor, *, shown: Tensor, again: Tensor) -> Tensor:
    """Carry the difference of two renderings of one frame into the frames after it, ever less.

    Args:
        new: the new frames, [1, 3, t, h, w].
        shown: the last frame that the video already has, [1, 3, 1, h, w].
        again: the new chunk's own rendering of that frame, [1, 3, 1, h, w].
    """
    difference = _blur(shown - again)
    count = min(FADE_FRAMES, new.shape[2])
    weights = torch.linspace(1, 0, FADE_FRAMES + 2, device=new.device)[1:-1][:count]
    faded = new.clone()
    faded[:, :, :count] += difference * weights.view(1, 1, -1, 1, 1).to(new)
    return faded.clamp(0, 1)


def _blur(frame: Tensor) -> Tensor:
    """Box blur of [1, 3, 1, h, w], twice, edges repeated."""
    flat = frame[:, :, 0]
    pad = BLUR_PIXELS // 2
    for _ in range(2):
        flat = F.avg_pool2d(F.pad(flat, (pad,) * 4, mode="replicate"), BLUR_PIXELS, stride=1)
    return flat[:, :, None]


class Joiner:
    """Picks the frames that each chunk adds to the video, and hides where two of them meet.

    Args:
        plan: the video's plan.
        fade: fade the difference of the two renderings out, or cut, as published.
        keep_lead: keep frame 0, the portrait itself. It shows no speech, so that a video with it
            runs one frame behind its sound.
    """

    def __init__(self, plan: VideoPlan, *, fade: bool, keep_lead: bool) -> None:
        self._plan, self._fade, self._keep_lead = plan, fade, keep_lead
        self._shown: Tensor | None = None

    def new_frames(self, piece: ChunkVideo) -> Tensor:
        """The next frames of the video, [1, 3, n, h, w] in 0..1."""
        kept = self._plan.kept[piece.chunk]
        video = piece.video[:, :, kept]
        if self._fade and self._shown is not None:
            again = piece.video[:, :, kept.start - 1 : kept.start]
            video = fade_join(video, shown=self._shown, again=again)
        self._shown = piece.video[:, :, -1:]
        if piece.chunk == 0 and not self._keep_lead:
            video = video[:, :, 1:]
        return video

"""Train the judge of behaviours on what the observer reads off drawn clips."""

# n clips, t video frames

import logging
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from omniavatar.nano.architecture import TWO_CHUNKS
from omniavatar.nano.behaviours import Judge, describe, save_judge
from omniavatar.nano.clips import sample_clips
from omniavatar.nano.observer import MIRRORED, Observer, load_observer
from omniavatar.nano.presenters import Look
from omniavatar.nano.prompts import BEHAVIOURS, WIDE_BEHAVIOURS
from omniavatar.nano.speech import speech_bank

logger = logging.getLogger(__name__)

_DRAWN = 192
"""Side of the pictures, in pixels: that of the videos."""

_COPIES = 6
_NOISE = 0.3
"""Share of the observer's errors that is added to what it reads, anew for each copy of a clip."""

_STEPS = 600


def train_judge(
    folder: Path,
    *,
    clips: int = 900,
    frames: int = TWO_CHUNKS,
    seed: int = 71,
    device: torch.device | str = "cpu",
) -> dict[str, float]:
    """Train for the observer in `folder`, and write `judge.safetensors` there.

    Args:
        clips: to draw and observe; a sixth of them are only judged.
        frames: of each.

    Returns:
        Share of those that are judged rightly, of each behaviour and of all.
    """
    observer = load_observer(folder)
    tracks, behaviour = observe_clips(
        observer, clips=clips, frames=frames, seed=seed, device=device
    )
    kept = clips - clips // 6
    judge = fit_judge(tracks[:kept], behaviour[:kept], noise=observer.noise.cpu(), seed=seed)
    save_judge(judge, folder)
    right = judge.judge(tracks[kept:]) == behaviour[kept:]
    shares = {
        name: right[behaviour[kept:] == number].float().mean().item()
        for number, name in enumerate(WIDE_BEHAVIOURS)
        if (behaviour == number).any()
    }
    return {**shares, "all": right.float().mean().item()}


@torch.no_grad()
def observe_clips(
    observer: Observer,
    *,
    clips: int,
    frames: int,
    seed: int,
    device: torch.device | str = "cpu",
) -> tuple[Tensor, Tensor]:
    """Draw people who do everything in turn, and read them: [n, t, 7], and the behaviours [n]."""
    look: Look = "wide" if observer.wide else "drawn"
    names = WIDE_BEHAVIOURS if observer.wide else BEHAVIOURS
    observer = observer.to(device)
    bank = speech_bank(40, 30.0, seed=seed).to(device)
    generator = torch.Generator().manual_seed(seed)
    tracks, behaviour = [], []
    began = time.monotonic()
    for start in range(0, clips, len(names)):
        drawn = sample_clips(
            bank,
            count=min(len(names), clips - start),
            frames=frames,
            height=_DRAWN,
            width=_DRAWN,
            generator=generator,
            device=device,
            behaviours=names,
            continuation_share=0.0,
            look=look,
        )
        heads = drawn.regions.head[:, 0]
        tracks.append(observer.observe(drawn.frames[:, 1:], drawn.reference, heads).cpu())
        behaviour.append(drawn.behaviour.cpu())
        seconds = time.monotonic() - began
        logger.info("observed %d of %d clips in %.0f s", start + len(tracks[-1]), clips, seconds)
    return torch.cat(tracks), torch.cat(behaviour)


def fit_judge(tracks: Tensor, behaviour: Tensor, *, noise: Tensor, seed: int) -> Judge:
    """Learn from observed clips, their mirror images, and both with a little noise.

    Args:
        tracks: [n, t, 7].
        behaviour: [n].
        noise: [3, 7], the observer's.
    """
    generator = torch.Generator().manual_seed(seed)
    both = torch.cat([tracks, tracks * torch.tensor(MIRRORED)]).repeat(_COPIES, 1, 1)
    described = describe(both + _NOISE * _errors(both.shape, noise, generator))
    wanted = behaviour.repeat(2 * _COPIES)
    torch.manual_seed(seed)
    judge = Judge().train()
    judge.mean.copy_(described.mean(0))
    judge.std.copy_(described.std(0) + 1e-4)
    optimiser = torch.optim.AdamW(judge.parameters(), lr=1e-2, weight_decay=0.3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, _STEPS)
    for _ in range(_STEPS):
        chosen = torch.randint(len(wanted), (1024,), generator=generator)
        loss = F.cross_entropy(judge(described[chosen]), wanted[chosen])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    return judge.eval()


def _errors(shape: torch.Size, noise: Tensor, generator: torch.Generator) -> Tensor:
    """Errors like the observer's, [n, t, 7]; of some people it reads better than of others."""
    clips, frames, kinds = shape
    kept = torch.randn(clips, 1, kinds, generator=generator)
    passing = torch.randn(clips, kinds, frames, generator=generator)
    passing = F.avg_pool1d(passing, 13, stride=1, padding=6).mT
    passing = passing / passing.std(1, keepdim=True)
    quick = torch.randn(shape, generator=generator)
    skill = 0.2 + torch.rand(clips, 1, 1, generator=generator)
    return skill * (noise[0] * kept + noise[1] * passing + noise[2] * quick)

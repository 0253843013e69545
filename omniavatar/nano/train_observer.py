"""Train the observer of faces on drawn presenters; minutes on two CPU cores."""

# n presenters, t moments of each, b pairs

import logging
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from omniavatar.nano.architecture import SIZE
from omniavatar.nano.clips import sample_moments
from omniavatar.nano.drawing import regions, render
from omniavatar.nano.observer import (
    OBSERVATIONS,
    SIDE,
    Observer,
    cut_head,
    observations_of,
    save_observer,
)
from omniavatar.nano.presenters import sample_presenters
from omniavatar.nano.train_reader import spoil
from omniavatar.nano.train_speech_encoder import correlation

logger = logging.getLogger(__name__)

MOMENTS = 6


def train_observer(
    folder: Path, *, presenters: int = 2_400, passes: int = 20, batch: int = 64, seed: int = 61
) -> dict[str, float]:
    """Train, write the weights to `folder`, and return the correlations on people never seen."""
    torch.manual_seed(seed)
    began = time.monotonic()
    portraits, moments, wanted = _draw(presenters, seed=seed)
    logger.info("drew %d presenters in %.0f s", presenters, time.monotonic() - began)
    observer = Observer()
    rate, steps = 3e-3, passes * portraits.shape[0] * MOMENTS // batch
    optimiser = torch.optim.AdamW(observer.parameters(), lr=rate, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, total_steps=steps)
    for step in range(steps):
        who = torch.randint(len(portraits), (batch,))
        when = torch.randint(MOMENTS, (batch,))
        first, later = (_as_seen(part) for part in (portraits[who], moments[who, when]))
        pairs, target = torch.cat([first, later], 1), wanted[who, when]
        mirrored = torch.rand(()) < 0.5
        if mirrored:
            pairs, target = pairs.flip(-1), target * torch.tensor([-1.0, 1, 1, -1, 1])
        loss = F.smooth_l1_loss(observer(pairs), target, beta=0.1)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        if step % 100 == 0:
            logger.info("step %d of %d, loss %.4f", step, steps, loss.item())
    observer.eval()
    scores = _test(observer, *_draw(60, seed=seed + 1))
    save_observer(observer, folder)
    return scores


@torch.no_grad()
def _test(
    observer: Observer, portraits: Tensor, moments: Tensor, wanted: Tensor
) -> dict[str, float]:
    """Note the size of the errors in the observer, and return the correlations."""
    pairs = torch.cat([portraits[:, None].expand_as(moments), moments], 2).flatten(0, 1)
    found = torch.cat([observer(part.float() / 127.5 - 1) for part in pairs.split(128)])
    target = wanted.flatten(0, 1)
    observer.noise.copy_((found - target).std(0))
    agreement = correlation(found.T, target.T).tolist()
    return dict(zip(OBSERVATIONS, agreement, strict=True))


def _draw(count: int, *, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Heads at the portrait [n, 3, s, s] and later [n, t, 3, s, s], uint8, and what is seen."""
    generator = torch.Generator().manual_seed(seed)
    portraits, moments, wanted = [], [], []
    for _ in range(-(-count // 60)):
        presenters = sample_presenters(60, generator=generator, device="cpu")
        pose = sample_moments(60, MOMENTS + 1, generator=generator)
        pictures = render(presenters, pose, height=SIZE, width=SIZE, as_bytes=True)
        heads = regions(presenters, pose, height=SIZE, width=SIZE).head[:, 0]
        cut = torch.stack([cut_head(*pair) for pair in zip(pictures, heads, strict=True)])
        cut = ((cut + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
        portraits.append(cut[:, 0])
        moments.append(cut[:, 1:])
        at_portrait = pose.map(lambda track: track[:, :1])
        wanted.append(observations_of(pose.map(lambda track: track[:, 1:]), at_portrait))
    return torch.cat(portraits)[:count], torch.cat(moments)[:count], torch.cat(wanted)[:count]


def _as_seen(heads: Tensor) -> Tensor:
    """As a decoder might give them back: half of them blurred, all a little noisy and shifted."""
    pictures = spoil(heads.float() / 127.5 - 1)
    assert pictures.shape[-1] == SIDE
    brightness = 1 + 0.08 * torch.randn(len(pictures), 1, 1, 1)
    return (pictures * brightness).clamp(-1, 1)

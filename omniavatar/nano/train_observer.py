"""Train the observer of faces on drawn presenters: a minute on a GPU, many on two CPU cores."""

# n presenters, t moments of each, b pairs

import logging
import time
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from omniavatar.nano.clips import sample_clips, sample_moments
from omniavatar.nano.drawing import regions, render
from omniavatar.nano.observer import (
    MIRRORED,
    OBSERVATIONS,
    SIDE,
    Observer,
    observations_of,
    save_observer,
    see,
)
from omniavatar.nano.presenters import Look, sample_presenters
from omniavatar.nano.prompts import BEHAVIOURS, WIDE_BEHAVIOURS
from omniavatar.nano.speech import speech_bank
from omniavatar.nano.train_reader import spoil
from omniavatar.nano.train_speech_encoder import correlation

logger = logging.getLogger(__name__)

MOMENTS = 4
_GROUP = 50
_DRAWN = 192
"""Side of the pictures, in pixels: that of the videos."""

_TEST_CLIPS = 72


def train_observer(
    folder: Path,
    *,
    look: Look = "drawn",
    presenters: int = 1_400,
    passes: int = 20,
    batch: int = 64,
    seed: int = 61,
    device: torch.device | str = "cpu",
) -> dict[str, float]:
    """Train, write the weights to `folder`, and return the correlations on people never seen.

    Args:
        look: of the people that it is for; the wide one takes several times as many presenters.
    """
    torch.manual_seed(seed)
    began = time.monotonic()
    portraits, moments, wanted = _draw(presenters, seed=seed, looks=_looks(look), device=device)
    logger.info("drew %d presenters in %.0f s", presenters, time.monotonic() - began)
    observer = Observer(wide=look == "wide").to(device)
    rate, steps = 3e-3, passes * portraits.shape[0] * MOMENTS // batch
    optimiser = torch.optim.AdamW(observer.parameters(), lr=rate, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, total_steps=steps)
    for step in range(steps):
        who = torch.randint(len(portraits), (batch,)).to(device)
        when = torch.randint(MOMENTS, (batch,)).to(device)
        first, later = (_as_seen(part) for part in (portraits[who], moments[who, when]))
        pairs, target = torch.cat([first, later], 1), wanted[who, when]
        mirrored = torch.rand(()) < 0.5
        if mirrored:
            pairs, target = pairs.flip(-1), target * torch.tensor(MIRRORED, device=device)
        loss = F.smooth_l1_loss(observer(pairs), target, beta=0.1)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        if step % 100 == 0:
            logger.info("step %d of %d, loss %.4f", step, steps, loss.item())
    observer.eval()
    scores = _test(observer, seed=seed + 1, looks=_looks(look), device=device)
    save_observer(observer, folder)
    return scores


@torch.no_grad()
def _test(
    observer: Observer, *, seed: int, looks: Sequence[Look], device: torch.device | str
) -> dict[str, float]:
    """Note the size of the errors in the observer, and return the correlations."""
    bank = speech_bank(8, 8.0, seed=seed, held_out=True)
    read, truth = [], []
    for look in looks:
        clips = sample_clips(
            bank,
            count=_TEST_CLIPS // len(looks),
            frames=76,
            height=_DRAWN,
            width=_DRAWN,
            generator=torch.Generator().manual_seed(seed),
            device=device,
            behaviours=WIDE_BEHAVIOURS if look == "wide" else BEHAVIOURS,
            continuation_share=0.0,
            look=look,
        )
        heads = clips.regions.head[:, 0]
        read.append(observer.observe(clips.frames[:, 1:], clips.reference, heads))
        at_portrait = clips.pose.map(lambda track: track[:, :1])
        truth.append(observations_of(clips.pose.map(lambda track: track[:, 1:]), at_portrait))
    found, target = torch.cat(read).cpu(), torch.cat(truth).cpu()
    error = found - target
    passing = error - error.mean(1, keepdim=True)
    quick = error.diff(dim=1).std((0, 1)) / 2**0.5
    observer.noise.copy_(torch.stack((error.mean(1).std(0), passing.std((0, 1)), quick)))
    agreement = correlation(found.flatten(0, 1).T, target.flatten(0, 1).T).tolist()
    return dict(zip(OBSERVATIONS, agreement, strict=True))


def _draw(
    count: int, *, seed: int, looks: Sequence[Look], device: torch.device | str
) -> tuple[Tensor, Tensor, Tensor]:
    """Views of portraits [n, 6, s, s] and of later moments [n, t, 6, s, s], uint8, and the truth.

    Groups of people take the looks in turn; those of the wide one have hands to wave.
    """
    generator = torch.Generator().manual_seed(seed)
    portraits, moments, wanted = [], [], []
    for group in range(-(-count // _GROUP)):
        look = looks[group % len(looks)]
        presenters = sample_presenters(_GROUP, generator=generator, device=device, look=look)
        pose = sample_moments(_GROUP, MOMENTS + 1, generator=generator, look=look)
        pose = pose.map(lambda track: track.to(device))
        presenters = presenters.with_waving((pose.wave > 0).any(1).tolist())
        pictures = render(presenters, pose, height=_DRAWN, width=_DRAWN, as_bytes=True)
        heads = regions(presenters, pose, height=_DRAWN, width=_DRAWN).head[:, 0]
        views = torch.stack([see(*pair, side=SIDE) for pair in zip(pictures, heads, strict=True)])
        views = ((views + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
        portraits.append(views[:, 0])
        moments.append(views[:, 1:])
        at_portrait = pose.map(lambda track: track[:, :1])
        wanted.append(observations_of(pose.map(lambda track: track[:, 1:]), at_portrait))
    return torch.cat(portraits)[:count], torch.cat(moments)[:count], torch.cat(wanted)[:count]


def _looks(look: Look) -> tuple[Look, ...]:
    """The wide look has drawings of the other among its people, but in other places."""
    return ("drawn", "wide", "wide") if look == "wide" else ("drawn",)


def _as_seen(views: Tensor) -> Tensor:
    """As a decoder might give them back: half of them blurred, all a little noisy."""
    pictures = torch.cat([spoil(part) for part in (views.float() / 127.5 - 1).split(3, dim=1)], 1)
    brightness = 1 + 0.08 * torch.randn(len(pictures), 1, 1, 1, device=pictures.device)
    return (pictures * brightness).clamp(-1, 1)

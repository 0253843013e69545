"""Whether a clip keeps what its portrait shows: stillness, colours, detail, quiet backgrounds."""

# n clips, t video frames, h, w rows and columns in pixels

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from omniavatar.nano.clips import Clips
from omniavatar.nano.drawing import Pose, render
from omniavatar.nano.figures import Figure
from omniavatar.nano.footage import decibels
from omniavatar.nano.probe import gradient_energy
from omniavatar.nano.prompts import WIDE_BEHAVIOURS
from omniavatar.nano.regions import inside

PARTS = ("hair", "skin", "clothes")
_FEWEST_PIXELS = 20

FROZEN = "nothing is generated"
"""Videos show the portrait's own pixels where they hold still, and those are sharper than what the
VAE gives back: head detail is to be read beside what a frozen portrait has of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Of one clip.

    Attributes:
        still: what holds still in the true clip, dB against the portrait.
        colours: error of each part's mean colour, of 255; parts too small are left out.
        energy: mean gradient energy of the head.
        flicker: mean change of what holds still from frame to frame, of 255.
        border_flicker: the same where one latent ends and the next begins.
    """

    still: float
    colours: Mapping[str, float]
    energy: float
    flicker: float
    border_flicker: float


def part_masks(truth: Clips) -> dict[str, Tensor]:
    """Where each of `PARTS` is in the portraits, well inside its edges and off eyes and mouth.

    Each is found by drawing the portrait again with only that colour changed.

    Returns:
        [n, h, w] bool each.
    """
    height, width = truth.reference.shape[-2:]
    at_portrait = truth.pose.map(lambda track: track[:, :1])
    moving = inside(truth.regions.mouth[:, 0], height=height, width=width)
    moving |= inside(truth.regions.eyes[:, 0], height=height, width=width)
    plain = _draw(truth, at_portrait, {})
    masks = {}
    for part in PARTS:
        other = {part: (truth.presenters.colours[part] + 0.5) % 1}
        changed = (_draw(truth, at_portrait, other) - plain).abs().amax(1) > 0.1
        edge = F.max_pool2d((~changed)[:, None].float(), 5, stride=1, padding=2)[:, 0] > 0
        masks[part] = changed & ~edge & ~moving
    return masks


def _draw(truth: Clips, pose: Pose, colours: Mapping[str, Tensor]) -> Tensor:
    presenters = replace(truth.presenters, colours={**truth.presenters.colours, **colours})
    height, width = truth.reference.shape[-2:]
    return render(presenters, pose, height=height, width=width)[:, 0]


def measure_identity(
    truth: Clips, number: int, frames: Tensor, masks: Mapping[str, Tensor]
) -> Identity:
    """Measure one clip [t, 3, h, w] against clip `number` of the truth.

    Frame k of the clip is frame k + 1 of the truth: the portrait's own is dropped.
    """
    portrait, static = truth.reference[number].float(), truth.static[number]
    shown = frames.float()
    error = (shown - portrait).square().mean(1)
    mean = shown.mean(0)
    colours = {}
    for part, mask in masks.items():
        chosen = mask[number]
        if chosen.sum() >= _FEWEST_PIXELS:
            found = (mean[:, chosen].mean(1) - portrait[:, chosen].mean(1)).abs()
            colours[part] = found.mean().item()
    boxes = truth.regions.head[number, 1 : 1 + len(frames)]
    change = shown.diff(dim=0).abs().mean(1)[:, static].mean(1)  # [t - 1]
    return Identity(
        still=decibels(error[None], static.expand_as(error)[None]),
        colours=colours,
        energy=gradient_energy(frames[None], boxes[None]).mean().item(),
        flicker=change.mean().item(),
        # Frame 0 is a latent of its own and is dropped: the others begin at 4, 8, ... from here.
        border_flicker=change[3::4].mean().item(),
    )


def portrait_energy(truth: Clips, portraits: Tensor) -> Tensor:
    """Gradient energy of the portraits' heads [n], from the pictures [n, 3, h, w] given."""
    return gradient_energy(portraits[:, None], truth.regions.head[:, :1])[:, 0]


def identity_figures(
    truth: Clips,
    *,
    made: Sequence[Identity],
    true: Sequence[Identity],
    decoded: Sequence[Identity],
    frozen: Sequence[Identity],
    decoded_energy: Tensor,
) -> list[Figure]:
    """Means over clips.

    Args:
        made, true, decoded: of generated clips, true ones, and those after the VAE.
        frozen: of the portraits themselves, shown for as long.
        decoded_energy: of the heads of the portraits after the VAE, [n]: head detail is told in
            units of it.
    """

    def mean(clips: Sequence[Identity], name: str) -> float:
        return sum(getattr(clip, name) for clip in clips) / len(clips)

    figures = [
        Figure(
            name="what holds still, dB to portrait",
            value=mean(made, "still"),
            decoded=mean(decoded, "still"),
            bar=32,
        )
    ]
    for part in PARTS:
        value, perfect, after_vae = (
            _mean([clip.colours[part] for clip in clips if part in clip.colours])
            for clips in (made, true, decoded)
        )
        figures.append(
            Figure(
                name=f"colour of {part}, error of 255",
                value=value,
                true=perfect,
                decoded=after_vae,
                bar=3,
                at_least=False,
            )
        )
    for name, attribute in (
        ("flicker of the background, of 255", "flicker"),
        ("flicker at latent borders, of 255", "border_flicker"),
    ):
        figures.append(
            Figure(
                name=name,
                value=mean(made, attribute),
                true=mean(true, attribute),
                decoded=mean(decoded, attribute),
                bar=1,
                at_least=False,
            )
        )
    for index, behaviour in enumerate(WIDE_BEHAVIOURS):
        numbers = [n for n in range(len(made)) if int(truth.behaviour[n]) == index]
        if not numbers:
            continue
        value, perfect, after_vae = (
            _mean([clips[n].energy / float(decoded_energy[n]) for n in numbers])
            for clips in (made, true, decoded)
        )
        figures.append(
            Figure(
                name=f"head detail, {behaviour}",
                value=value,
                true=perfect,
                decoded=after_vae,
                bar=0.85,
            )
        )
    of_frozen = [
        clip.energy / float(energy) for clip, energy in zip(frozen, decoded_energy, strict=True)
    ]
    figures.append(
        Figure(name="head detail, a frozen portrait", value=_mean(of_frozen), note=FROZEN)
    )
    return figures


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def static_drift(frames: Tensor, static: Tensor, *, frames_of_mean: int) -> float:
    """Mean colour drift of what holds still, last second to first, of 255.

    Args:
        frames: [t, 3, h, w] uint8.
        static: [h, w] bool.
        frames_of_mean: frames in each of the two means.
    """
    first, last = (
        frames[part].float().mean(0)[:, static]
        for part in (slice(None, frames_of_mean), slice(-frames_of_mean, None))
    )
    return (last - first).abs().mean().item()


def changes(frames: Tensor) -> Tensor:
    """Mean change from each frame to the next: [t, 3, h, w] uint8 -> [t - 1]."""
    return torch.stack([(b.float() - a.float()).abs().mean() for a, b in pairwise(frames)])

"""Pictures that this project did not make: drawings from other hands, and photographs.

`pictures/pictures.json` says of each whose it is, under which licence, and where head and mouth
are, as shares of the picture. No training sees them.
"""

# t video frames, h, w rows and columns in pixels, s samples

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKLWan
from PIL import Image
from torch import Tensor

from omniavatar.media.image import Box
from omniavatar.nano.clips import Clips
from omniavatar.nano.figures import Figure
from omniavatar.nano.footage import through_vae
from omniavatar.nano.identity import FROZEN
from omniavatar.nano.probe import gradient_energy
from omniavatar.nano.regions import inside
from omniavatar.nano.train_speech_encoder import correlation

FOLDER = Path(__file__).parent / "pictures"

REST_FRAMES = slice(6, 14)
"""Of a clip that begins with `LEADING_SILENCE` frames of silence: lips are closed by then."""

LEADING_SILENCE = 15


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """A picture with its origin, and where its mouth and its head are."""

    file: str
    mouth: Box
    head: Box
    author: str
    source: str
    licence: str

    @property
    def name(self) -> str:
        """Of the file, without folder and ending."""
        return Path(self.file).stem

    @property
    def jaw(self) -> Box:
        """Mouth, chin and cheeks beside them: what speech moves."""
        left, top, right, bottom = self.mouth
        across, down = right - left, bottom - top
        chin = min(max(self.head[3], bottom), bottom + 2 * down)
        return (
            max(left - across / 2, 0.0),
            max(top - down / 2, 0.0),
            min(right + across / 2, 1.0),
            chin,
        )

    def load(self, size: int) -> Tensor:
        """[3, size, size] uint8."""
        picture = Image.open(FOLDER / self.file).convert("RGB")
        small = picture.resize((size, size), Image.Resampling.LANCZOS)
        return torch.from_numpy(np.array(small)).permute(2, 0, 1)


def load_pictures(kind: str) -> list[Picture]:
    """All pictures of a kind: "drawings" or "photographs"."""
    listed = json.loads((FOLDER / "pictures.json").read_text(encoding="utf-8"))
    pictures = [
        Picture(**{**entry, "mouth": tuple(entry["mouth"]), "head": tuple(entry["head"])})
        for entry in listed
    ]
    return [picture for picture in pictures if picture.file.startswith(f"{kind}/")]


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """What one clip kept of its picture, and what moved.

    Attributes:
        colour: mean error of colours averaged over 8 x 8 pixels, mouth left out, of 255.
        still: everything but the head, dB against the picture.
        detail: gradient energy of the head over that of the picture after the VAE.
        frozen_detail: the same of the picture itself.
        motion_inside: share of all motion that is inside mouth and jaw.
        mouth_motion: how far the mouth goes from its rest, mean over its box, of 255.
        contrast: the same over what the rest of the head does.
        follows: correlation of that motion with the speech's loudness.
        follows_other: with the loudness of other speech.
    """

    colour: float
    still: float
    detail: float
    frozen_detail: float
    motion_inside: float
    mouth_motion: float
    contrast: float
    follows: float
    follows_other: float

    @property
    def moves_its_mouth(self) -> bool:
        """Lips visibly leave their rest, more than the head does, and when somebody speaks."""
        return self.mouth_motion >= 3 and self.contrast >= 1.5 and self.follows >= 0.3


def measure_kept(
    picture: Picture,
    frames: Tensor,
    *,
    portrait: Tensor,
    decoded: Tensor,
    loudness: Tensor,
    other_loudness: Tensor,
) -> Kept:
    """Measure one clip.

    Args:
        frames: [t, 3, h, w] uint8; the first `LEADING_SILENCE` are silent.
        portrait, decoded: [3, h, w] uint8, the picture and the picture after the VAE.
        loudness, other_loudness: [t].
    """
    size = frames.shape[-1]
    mouth, head, jaw = (
        inside(torch.tensor(box) * size, height=size, width=size)
        for box in (picture.mouth, picture.head, picture.jaw)
    )
    shown, reference = frames.float(), portrait.float()
    rest = shown[REST_FRAMES].mean(0)
    away = (shown - rest).abs().mean(1)  # [t, h, w]
    spoken = slice(LEADING_SILENCE, None)
    lips = away[:, mouth].mean(1)
    energy = shown.diff(dim=0).abs().mean((0, 1))  # [h, w]
    outside_head = (shown - reference).square().mean(1)[:, ~head]

    def head_energy(clip: Tensor) -> float:
        return gradient_energy(clip[None], _pixels(picture.head, size, len(clip))).mean().item()

    decoded_energy = head_energy(decoded[None])
    return Kept(
        colour=_colour_error(shown, reference, mouth),
        still=10 * float((255**2 / outside_head.mean().clamp_min(1e-9)).log10()),
        detail=head_energy(frames) / decoded_energy,
        frozen_detail=head_energy(portrait[None]) / decoded_energy,
        motion_inside=(energy[jaw].sum() / energy.sum().clamp_min(1e-9)).item(),
        mouth_motion=lips[spoken].mean().item(),
        contrast=(lips[spoken].mean() / away[spoken][:, head & ~jaw].mean().clamp_min(1e-3)).item(),
        follows=correlation(lips[spoken], loudness[spoken]).item(),
        follows_other=correlation(lips[spoken], other_loudness[spoken]).item(),
    )


def _pixels(box: Box, size: int, frames: int) -> Tensor:
    """[1, frames, 4]."""
    return (torch.tensor(box) * size).expand(1, frames, 4)


def _colour_error(shown: Tensor, reference: Tensor, mouth: Tensor) -> float:
    """Colours as seen from afar: thin lines that blur do not count."""
    found, wanted = (F.avg_pool2d(part, 8) for part in (shown, reference[None]))
    where = F.max_pool2d(mouth[None, None].float(), 8)[0, 0] == 0
    return (found - wanted).abs().mean((0, 1))[where].mean().item()


def after_vae(vae: AutoencoderKLWan, portrait: Tensor) -> Tensor:
    """[3, h, w] uint8 -> the same."""
    return through_vae(vae, portrait[None, None])[0, 0]


def vae_ceiling(picture: Picture, portrait: Tensor, decoded: Tensor) -> tuple[float, float]:
    """Colour error and dB outside the head of the picture after the VAE."""
    size = portrait.shape[-1]
    mouth, head = (
        inside(torch.tensor(box) * size, height=size, width=size)
        for box in (picture.mouth, picture.head)
    )
    error = (decoded.float() - portrait.float()).square().mean(0)[~head].mean()
    colour = _colour_error(decoded.float()[None], portrait.float(), mouth)
    return colour, 10 * float((255**2 / error.clamp_min(1e-9)).log10())


def true_motion_inside(truth: Clips) -> float:
    """Share of motion inside mouth and jaw of drawn clips: the ceiling of `motion_inside`."""
    shares = []
    size = truth.frames.shape[-1]
    for number, clip in enumerate(truth.frames):
        mouth, head = (
            box[number, 0].float() / size for box in (truth.regions.mouth, truth.regions.head)
        )
        jaw = Picture(
            file="", mouth=_as_box(mouth), head=_as_box(head), author="", source="", licence=""
        ).jaw
        energy = clip.float().diff(dim=0).abs().mean((0, 1))
        where = inside(torch.tensor(jaw) * size, height=size, width=size)
        shares.append((energy[where].sum() / energy.sum().clamp_min(1e-9)).item())
    return sum(shares) / len(shares)


def _as_box(edges: Tensor) -> Box:
    left, top, right, bottom = edges.tolist()
    return left, top, right, bottom


def drawing_figures(
    pictures: Sequence[Picture], kept: Sequence[Kept], ceilings: Sequence[tuple[float, float]]
) -> list[Figure]:
    """Bars for drawings: colours, and that each moves the mouth that it has."""
    figures = [
        Figure(
            name="drawings: colour error, of 255",
            value=_mean([one.colour for one in kept]),
            decoded=_mean([colour for colour, _ in ceilings]),
            bar=5,
            at_least=False,
        ),
        Figure(
            name="drawings: worst colour error",
            value=max(one.colour for one in kept),
            decoded=max(colour for colour, _ in ceilings),
            bar=5,
            at_least=False,
            note=max(zip(kept, pictures, strict=True), key=lambda pair: pair[0].colour)[1].name,
        ),
    ]
    idle = [p.name for p, one in zip(pictures, kept, strict=True) if not one.moves_its_mouth]
    figures.append(
        Figure(
            name="drawings that move their mouth",
            value=float(len(kept) - len(idle)),
            bar=float(len(kept)),
            note=f"not: {', '.join(idle)}" if idle else None,
        )
    )
    figures += _follow_figures("drawings", kept)
    return figures


def photograph_figures(
    kept: Sequence[Kept], ceilings: Sequence[tuple[float, float]], *, true_inside: float
) -> list[Figure]:
    """Bars for photographs."""
    return [
        Figure(
            name="photographs: all but the head, dB",
            value=_mean([one.still for one in kept]),
            decoded=_mean([still for _, still in ceilings]),
            bar=28,
        ),
        Figure(
            name="photographs: head detail",
            value=_mean([one.detail for one in kept]),
            bar=0.8,
        ),
        Figure(
            name="photographs: head detail, frozen",
            value=_mean([one.frozen_detail for one in kept]),
            note=FROZEN,
        ),
        Figure(
            name="photographs: motion in mouth and jaw",
            value=_mean([one.motion_inside for one in kept]),
            true=true_inside,
            bar=0.6,
        ),
        *_follow_figures("photographs", kept, bar=0.4),
    ]


def _follow_figures(kind: str, kept: Sequence[Kept], bar: float | None = None) -> list[Figure]:
    return [
        Figure(
            name=f"{kind}: mouth follows loudness",
            value=_mean([one.follows for one in kept]),
            bar=bar,
        ),
        Figure(
            name=f"{kind}: other speech's loudness",
            value=_mean([one.follows_other for one in kept]),
            bar=None if bar is None else 0.15,
            at_least=False,
        ),
    ]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)

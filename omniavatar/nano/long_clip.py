"""Half a minute in one go: drift of colours, loss of detail, and seams where chunks join."""

# t video frames, h, w rows and columns in pixels

from dataclasses import dataclass
from itertools import pairwise

import torch
from diffusers import AutoencoderKLWan
from torch import Tensor

from omniavatar.nano.figures import Figure
from omniavatar.nano.footage import through_vae
from omniavatar.nano.identity import changes, static_drift
from omniavatar.nano.probe import gradient_energy
from omniavatar.nano.speech import ROWS_PER_SECOND


@dataclass(frozen=True, slots=True, kw_only=True)
class Endurance:
    """Of one long clip.

    Attributes:
        drift: mean colour change of what holds still, last second to first, of 255.
        detail: gradient energy of the head in the last chunk over the first's.
        seam, worst_seam: change at the joins over the median change: mean and largest.
    """

    drift: float
    detail: float
    seam: float
    worst_seam: float


def measure_endurance(
    frames: Tensor, *, static: Tensor, head: Tensor, joins: list[int]
) -> Endurance:
    """Measure one clip.

    Args:
        frames: [t, 3, h, w] uint8.
        static: [h, w] bool, pixels that never move in the true clip.
        head: [4] box of the head, in pixels.
        joins: numbers of the first frames of all chunks but the first.
    """
    steps = changes(frames)
    seams = [(steps[join - 1] / steps.median()).item() for join in joins]
    energy = torch.cat(
        [gradient_energy(part[None], head.expand(1, len(part), 4))[0] for part in frames.split(100)]
    )
    return Endurance(
        drift=static_drift(frames, static, frames_of_mean=ROWS_PER_SECOND),
        detail=(energy[joins[-1] :].mean() / energy[: joins[0]].mean()).item(),
        seam=sum(seams) / len(seams),
        worst_seam=max(seams),
    )


def chunks_through_vae(
    vae: AutoencoderKLWan, frames: Tensor, *, chunk: int, overlap: int
) -> Tensor:
    """Encode and decode as the pipeline does, chunk after chunk: [t, 3, h, w] uint8.

    Frames beyond the last whole latent of the last chunk are left out.
    """
    starts = list(range(0, len(frames) - overlap, chunk - overlap))
    parts = []
    for start, following in pairwise([*starts, len(frames)]):
        window = frames[start : min(start + chunk, len(frames))]
        whole = window[: (len(window) - 1) // 4 * 4 + 1]
        again = through_vae(vae, whole[None])[0]
        parts.append(again[overlap if start else 0 :])
        assert following > start
    return torch.cat(parts)


def long_figures(
    made: list[Endurance], true: list[Endurance], decoded: list[Endurance]
) -> list[Figure]:
    """Means over clips; of the worst seam the largest."""

    def mean(clips: list[Endurance], name: str) -> float:
        return sum(getattr(clip, name) for clip in clips) / len(clips)

    bars = (
        ("30 s: drift of background, of 255", "drift", 2.0, False),
        ("30 s: head detail, last chunk / first", "detail", 0.9, True),
        ("30 s: seam score at joins", "seam", 1.5, False),
    )
    figures = [
        Figure(
            name=name,
            value=mean(made, attribute),
            true=mean(true, attribute),
            decoded=mean(decoded, attribute),
            bar=bar,
            at_least=at_least,
        )
        for name, attribute, bar, at_least in bars
    ]
    figures.append(
        Figure(
            name="30 s: worst seam",
            value=max(clip.worst_seam for clip in made),
            true=max(clip.worst_seam for clip in true),
            decoded=max(clip.worst_seam for clip in decoded),
        )
    )
    return figures

"""How well mouths follow speech: agreement, delay, spread, and silence."""

# n clips, t video frames, s samples

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from omniavatar.nano.clips import SAMPLES_PER_ROW
from omniavatar.nano.face_view import face_view
from omniavatar.nano.figures import Figure
from omniavatar.nano.presenters import Presenters
from omniavatar.nano.reader import READINGS, Reader
from omniavatar.nano.train_speech_encoder import correlation

MOST_LAG = 5
CLOSED = 0.1
"""A mouth that is open by less than a tenth of the widest counts as closed."""

SETTLING_FRAMES = 4
"""Frames at the start of a silence in which lips may still be closing: smoothing of the truth."""

_BARS = {"opening": 0.93, "width": 0.75, "rounding": 0.75}


def read_mouths(reader: Reader, frames: Tensor, presenters: Presenters) -> Tensor:
    """[n, t, 3, h, w] uint8 of these presenters -> [n, t, 3] opening, width and rounding."""
    return reader.read(face_view(frames, presenters))


def envelope(samples: Tensor) -> Tensor:
    """Loudness of every video frame: [n, t * 640] -> [n, t], smoothed over three frames."""
    rows = samples.unflatten(-1, (-1, SAMPLES_PER_ROW))
    loud = rows.square().mean(-1).sqrt()
    window = torch.tensor([0.25, 0.5, 0.25], device=samples.device)[None, None]
    return F.conv1d(F.pad(loud[:, None], (1, 1), mode="replicate"), window)[:, 0]


def best_lag(read: Tensor, wanted: Tensor) -> int:
    """Frames by which `read` [n, t] comes after `wanted`, where they agree best."""

    def agreement(lag: int) -> float:
        later, earlier = (read, wanted) if lag >= 0 else (wanted, read)
        shift = abs(lag)
        return correlation(later[:, shift:], earlier[:, : earlier.shape[1] - shift]).mean().item()

    return max(range(-MOST_LAG, MOST_LAG + 1), key=agreement)


def _agreement_of_others(read: Tensor, wanted: Tensor) -> float:
    """Mean correlation of each clip's opening [n, t] with that wanted of every other clip."""
    turned = [correlation(read, wanted.roll(by, 0)) for by in range(1, len(wanted))]
    return torch.stack(turned).mean().item()


def mouth_figures(
    wanted: Tensor, *, made: Tensor, true: Tensor | None, decoded: Tensor | None, speech: str
) -> list[Figure]:
    """Compare readings with the truth.

    Args:
        wanted: [n, t, 3].
        made, true, decoded: readings of generated clips, true drawings, and those after the VAE.
        speech: whose it is, for the names.
    """

    def figure(name: str, measure: Callable[[Tensor], float], bar: float, **more: Any) -> Figure:
        after = None if decoded is None else measure(decoded)
        return Figure(
            name=f"{speech}: {name}",
            value=measure(made),
            true=None if true is None else measure(true),
            decoded=after,
            bar=bar,
            **more,
        )

    def agreement(index: int) -> Callable[[Tensor], float]:
        return lambda read: correlation(read[..., index], wanted[..., index]).mean().item()

    opening = wanted[..., 0]
    figures = [
        figure(f"mouth {name}", agreement(index), _BARS[name])
        for index, name in enumerate(READINGS)
    ]
    figures.append(
        figure("delay, frames", lambda read: float(best_lag(read[..., 0], opening)), -1, upper=1)
    )
    if len(wanted) > 1:
        figures.append(
            figure(
                "other clip's speech",
                lambda read: _agreement_of_others(read[..., 0], opening),
                0.1,
                at_least=False,
            )
        )
    figures.append(
        figure(
            "spread of opening / true",
            lambda read: (read[..., 0].std() / opening.std()).item(),
            0.85,
            upper=1.15,
        )
    )
    return figures


def closed_share(opening: Tensor, is_silent: Tensor) -> float:
    """Share of frames of silence in which the mouth is closed.

    Args:
        opening: [n, t].
        is_silent: [n, t] bool; the first frames of each silence are left out.
    """
    settled = is_silent.clone()
    for shift in range(1, SETTLING_FRAMES + 1):
        settled[:, shift:] &= is_silent[:, :-shift]
        settled[:, :shift] = False
    return (opening[settled] < CLOSED).float().mean().item()

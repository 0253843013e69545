"""Does a clip do what its prompt asks? A classifier that has seen true clips alone decides.

It learns what the observer reads off drawn clips, and is then shown what it reads off others.
"""

# n clips, t video frames, k numbers that describe a clip

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from omniavatar.nano.figures import Figure
from omniavatar.nano.prompts import WIDE_BEHAVIOURS
from omniavatar.nano.speech import ROWS_PER_SECOND

ASKED = (
    "still", "nodding", "looking around", "blinking often", "smiling", "serious", "sad",
    "waving",
)  # fmt: skip
"""What a prompt should be able to ask for, besides plain talking."""

_BAR = 85.0
_FILE = "judge.safetensors"

DESCRIBED = 32
"""Numbers that `describe` gives."""


def describe(tracks: Tensor) -> Tensor:
    """Numbers that tell behaviours apart: [n, t, 7] of `OBSERVATIONS` -> [n, `DESCRIBED`]."""
    x, y, closed, gaze, smile, sad, wave = tracks.unbind(-1)
    quick_y = y - _smooth(y, ROWS_PER_SECOND)
    quick_closed = closed - _smooth(closed, 2 * ROWS_PER_SECOND)
    quicker_closed = closed - _smooth(closed, ROWS_PER_SECOND // 2)
    # Of some people it is read that their eyes are half closed: what counts is how often.
    usual, widest = _part(closed, 0.5), _part(closed, 0.98)
    blinking = (closed - usual[:, None]) / (widest - usual + 0.1)[:, None]
    middle = blinking[:, 1:-1]
    is_peak = (middle > 0.5) & (middle >= blinking[:, :-2]) & (middle > blinking[:, 2:])
    late_smile = smile[:, ROWS_PER_SECOND:]
    return torch.stack(
        (
            x.std(1),
            y.std(1),
            quick_y.std(1),
            x.diff(dim=1).abs().mean(1),
            y.diff(dim=1).abs().mean(1),
            y.diff(dim=1).std(1),
            _part(quick_y.abs(), 0.9),
            (closed > 0.5).float().mean(1),
            closed.mean(1),
            usual,
            quick_closed.clamp_min(0).mean(1),
            quick_closed.std(1),
            (quick_closed.diff(dim=1).abs() > 0.25).float().mean(1),
            quicker_closed.std(1),
            _part(closed, 0.95) - usual,
            _part(closed, 0.8) - usual,
            (blinking > 0.5).float().mean(1),
            is_peak.float().mean(1),
            gaze.std(1),
            (gaze - _smooth(gaze, ROWS_PER_SECOND)).std(1),
            _part(gaze, 0.9) - _part(gaze, 0.1),
            late_smile.mean(1),
            _part(late_smile, 0.5),
            _part(smile, 0.25),
            _part(smile, 0.75),
            smile.std(1),
            sad[:, ROWS_PER_SECOND:].mean(1),
            _part(sad, 0.75),
            sad.std(1),
            wave[:, ROWS_PER_SECOND:].mean(1),
            _part(wave, 0.9),
            wave.std(1),
        ),
        dim=1,
    )


def _part(track: Tensor, share: float) -> Tensor:
    """[n, t] -> [n], what such a share of the moments lies below."""
    return track.quantile(share, dim=1)


def _smooth(track: Tensor, frames: int) -> Tensor:
    """[n, t], the mean of about so many frames around each."""
    half = frames // 2
    padded = F.pad(track[:, None], (half, half), mode="replicate")
    return F.avg_pool1d(padded, 2 * half + 1, stride=1)[:, 0]


class Judge(nn.Module):
    """Tells behaviours apart by `describe`."""

    mean: Tensor
    std: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.network = nn.Sequential(
            nn.Dropout(0.2),
            nn.Linear(DESCRIBED, 48),
            nn.SiLU(),
            nn.Dropout(0.2),
            nn.Linear(48, len(WIDE_BEHAVIOURS)),
        )
        # Of the clips that it learned from.
        self.register_buffer("mean", torch.zeros(DESCRIBED))
        self.register_buffer("std", torch.ones(DESCRIBED))

    def forward(self, described: Tensor) -> Tensor:
        """[n, k] -> scores [n, behaviours]."""
        return self.network((described - self.mean) / self.std)

    @torch.no_grad()
    def judge(self, tracks: Tensor) -> Tensor:
        """[n, t, 7] -> [n] number of the behaviour."""
        return self(describe(tracks)).argmax(1)


def save_judge(judge: Judge, folder: Path) -> None:
    """Write `judge.safetensors`, beside the observer whose readings it knows."""
    save_file(judge.state_dict(), folder / _FILE)


def load_judge(folder: Path) -> Judge:
    """Read `judge.safetensors` of this folder.

    Raises:
        FileNotFoundError: it has not been trained for the observer there.
    """
    path = folder / _FILE
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing. Run `python -m omniavatar.nano judge` first.")
    judge = Judge()
    judge.load_state_dict(load_file(path))
    return judge.eval().requires_grad_(False)


def behaviour_figures(
    asked: Tensor, *, made: Tensor, true: Tensor, decoded: Tensor
) -> list[Figure]:
    """Share of clips that are seen to do what was asked, in per cent.

    Args:
        asked, made, true, decoded: [n] numbers of behaviours.
    """
    figures = []
    for name in ("plain", *ASKED):
        number = WIDE_BEHAVIOURS.index(name)
        chosen = asked == number
        if not chosen.any():
            note = "no clip asks for it: only the wide look has it, or there are too few clips"
            figures.append(Figure(name=f"prompt, {name}, %", value=None, bar=_BAR, note=note))
            continue
        shares = [
            100 * (seen[chosen] == number).float().mean().item() for seen in (made, true, decoded)
        ]
        figures.append(
            Figure(
                name=f"prompt, {name}, %",
                value=shares[0],
                true=shares[1],
                decoded=shares[2],
                bar=_BAR,
                note=_instead(made[chosen].tolist(), number),
            )
        )
    whole = [100 * (seen == asked).float().mean().item() for seen in (made, true, decoded)]
    figures.append(
        Figure(name="prompt, all, %", value=whole[0], true=whole[1], decoded=whole[2], bar=_BAR)
    )
    return figures


def _instead(seen: Sequence[int], number: int) -> str | None:
    """What the clips that do not do what was asked do instead."""
    others = [WIDE_BEHAVIOURS[found] for found in seen if found != number]
    if not others:
        return None
    counts = ", ".join(f"{others.count(name)} {name}" for name in dict.fromkeys(others))
    return f"of {len(seen)}: seen as {counts}"

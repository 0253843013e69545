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

DESCRIBED = 15
"""Numbers that `describe` gives."""

_BAR = 85.0
_FILE = "judge.safetensors"


def describe(tracks: Tensor) -> Tensor:
    """Numbers that tell behaviours apart: [n, t, 7] of `OBSERVATIONS` -> [n, k]."""
    x, y, closed, gaze, smile, sad, wave = tracks.unbind(-1)
    quick_y = y - _smooth(y, ROWS_PER_SECOND)
    quick_closed = closed - _smooth(closed, 2 * ROWS_PER_SECOND)
    late_smile = smile[:, ROWS_PER_SECOND:]
    return torch.stack(
        (
            x.std(1),
            y.std(1),
            quick_y.std(1),
            x.diff(dim=1).abs().mean(1),
            y.diff(dim=1).abs().mean(1),
            (closed > 0.5).float().mean(1),
            closed.mean(1),
            quick_closed.clamp_min(0).mean(1),
            (quick_closed.diff(dim=1).abs() > 0.25).float().mean(1),
            gaze.std(1),
            (gaze - _smooth(gaze, ROWS_PER_SECOND)).std(1),
            late_smile.mean(1),
            late_smile.median(1).values,
            sad[:, ROWS_PER_SECOND:].mean(1),
            wave[:, ROWS_PER_SECOND:].mean(1),
        ),
        dim=1,
    )


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
            nn.Linear(DESCRIBED, 48), nn.SiLU(), nn.Linear(48, len(WIDE_BEHAVIOURS))
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

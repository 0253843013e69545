"""Does a clip do what its prompt asks? A classifier that has seen true motion alone decides.

It learns on the poses of drawn clips, with as much noise as the observer's readings have, and is
then shown readings of pictures.
"""

# n clips, t video frames, k numbers that describe a clip

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from omniavatar.nano.clips import sample_poses
from omniavatar.nano.figures import Figure
from omniavatar.nano.observer import observations_of
from omniavatar.nano.presenters import Look
from omniavatar.nano.prompts import WIDE_BEHAVIOURS
from omniavatar.nano.speech import ROWS_PER_SECOND, SpeechBank

ASKED = (
    "still", "nodding", "looking around", "blinking often", "smiling", "serious", "sad",
    "waving",
)  # fmt: skip
"""What a prompt should be able to ask for, besides plain talking."""

_BAR = 85.0
_TRAINING_CLIPS = 2800
_STEPS = 500


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


@dataclass(frozen=True, slots=True)
class Judge:
    """Tells behaviours apart by `describe`."""

    network: nn.Module
    mean: Tensor
    std: Tensor

    @torch.no_grad()
    def judge(self, tracks: Tensor) -> Tensor:
        """[n, t, 7] -> [n] number of the behaviour."""
        return self.network((describe(tracks) - self.mean) / self.std).argmax(1)


@torch.inference_mode(mode=False)
@torch.enable_grad()
def train_judge(
    bank: SpeechBank, *, frames: int, noise: Tensor, look: Look = "drawn", seed: int = 71
) -> Judge:
    """Learn on poses with noise of the observer's size.

    Args:
        bank: any speech; only what the mouth does to the head matters.
        frames: length of the clips that will be judged.
        noise: [3, 7] the observer's `noise`.
        look: of the presenters; the wide one has more behaviours.
    """
    generator = torch.Generator().manual_seed(seed)
    pose, behaviour = sample_poses(
        bank, count=_TRAINING_CLIPS, frames=frames, generator=generator, look=look
    )
    at_portrait = pose.map(lambda track: track[:, :1])
    tracks = observations_of(pose.map(lambda track: track[:, 1:]), at_portrait)
    numbers = describe(tracks + _errors(tracks.shape, noise, generator))
    mean, std = numbers.mean(0), numbers.std(0) + 1e-4
    torch.manual_seed(seed)
    network = nn.Sequential(
        nn.Linear(numbers.shape[1], 48), nn.SiLU(), nn.Linear(48, len(WIDE_BEHAVIOURS))
    )
    optimiser = torch.optim.AdamW(network.parameters(), lr=1e-2, weight_decay=0.01)
    inputs = (numbers - mean) / std
    for _ in range(_STEPS):
        loss = F.cross_entropy(network(inputs), behaviour)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return Judge(network.eval(), mean, std)


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

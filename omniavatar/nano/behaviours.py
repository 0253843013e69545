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
from omniavatar.nano.observer import OBSERVATIONS, observations_of
from omniavatar.nano.prompts import BEHAVIOURS
from omniavatar.nano.speech import ROWS_PER_SECOND, SpeechBank

ASKED = (
    "still", "nodding", "looking around", "blinking often", "smiling", "serious", "sad",
    "waving a hand",
)  # fmt: skip
"""What a prompt should be able to ask for, besides plain talking."""

_BAR = 85.0
_TRAINING_CLIPS = 2800
_STEPS = 500


def describe(tracks: Tensor) -> Tensor:
    """Numbers that tell behaviours apart: [n, t, 5] of `OBSERVATIONS` -> [n, k]."""
    x, y, closed, gaze, smile = tracks.unbind(-1)
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
        """[n, t, 5] -> [n] number of the behaviour."""
        return self.network((describe(tracks) - self.mean) / self.std).argmax(1)


def train_judge(bank: SpeechBank, *, frames: int, noise: Tensor, seed: int = 71) -> Judge:
    """Learn on poses with noise of the observer's size.

    Args:
        bank: any speech; only what the mouth does to the head matters.
        frames: length of the clips that will be judged.
        noise: [5] standard deviation of the observer's errors.
    """
    generator = torch.Generator().manual_seed(seed)
    pose, behaviour = sample_poses(bank, count=_TRAINING_CLIPS, frames=frames, generator=generator)
    at_portrait = pose.map(lambda track: track[:, :1])
    tracks = observations_of(pose.map(lambda track: track[:, 1:]), at_portrait)
    # Errors of a reader come as a bias that a presenter keeps, and as a jitter of each frame.
    shape = (len(tracks), 1, len(OBSERVATIONS))
    bias = torch.randn(shape, generator=generator)
    jitter = torch.randn(tracks.shape, generator=generator)
    gain = 1 + 0.25 * torch.randn(shape, generator=generator).clamp(-2, 2)
    numbers = describe(tracks * gain + noise * (0.7 * bias + 0.5 * jitter))
    mean, std = numbers.mean(0), numbers.std(0) + 1e-4
    torch.manual_seed(seed)
    network = nn.Sequential(
        nn.Linear(numbers.shape[1], 48), nn.SiLU(), nn.Linear(48, len(BEHAVIOURS))
    )
    optimiser = torch.optim.AdamW(network.parameters(), lr=1e-2, weight_decay=0.01)
    with torch.enable_grad(), torch.inference_mode(False):
        inputs = ((numbers - mean) / std).clone()
        for _ in range(_STEPS):
            loss = F.cross_entropy(network(inputs), behaviour)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    return Judge(network.eval(), mean, std)


def behaviour_figures(
    asked: Tensor, *, made: Tensor, true: Tensor, decoded: Tensor
) -> list[Figure]:
    """Share of clips that are seen to do what was asked, in per cent.

    Args:
        asked, made, true, decoded: [n] numbers of behaviours.
    """
    figures = []
    for name in ("plain", *ASKED):
        if name not in BEHAVIOURS:
            note = "no such behaviour is drawn or taught yet"
            figures.append(Figure(name=f"prompt, {name}, %", value=None, bar=_BAR, note=note))
            continue
        number = BEHAVIOURS.index(name)
        chosen = asked == number
        if not chosen.any():
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
    others = [BEHAVIOURS[found] for found in seen if found != number]
    if not others:
        return None
    counts = ", ".join(f"{others.count(name)} {name}" for name in dict.fromkeys(others))
    return f"of {len(seen)}: seen as {counts}"

"""A small network that reads off a face what a prompt can ask for: head, eyes, gaze and smile.

It compares each frame with the portrait, as a person would who tells a nod from a head that was
drawn low. Like the reader of mouths it never sees a prompt, so it judges what is to be seen.
"""

# n clips, t frames, b pictures, s side of what is seen

import math
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from omniavatar.nano.canvas import PITCH_SHIFT, YAW_SHIFT, Pose

OBSERVATIONS = ("face_x", "face_y", "eyes_closed", "gaze", "smile", "sad", "wave")
"""Shift of the face since the portrait in tenths of half a head width, eyes 0 open to 1 closed,
gaze -1..1 since the portrait, smile -1..1, sad 0..1, and how far a hand is raised, 0..1."""

_ONLY_WIDE = 2
"""The last so many observations, which only a wide observer makes."""

MIRRORED = (-1.0, 1.0, 1.0, -1.0, 1.0, 1.0, 1.0)
"""Factors that make observations those of the mirrored picture."""

SIDE = 80
"""A head, and the whole picture, are seen at this size, in pixels: eyelids are small."""

_STAGES = ((24, 2), (32, 2), (32, 1), (48, 2), (48, 1))
"""Channels and stride of each convolution."""


class Observer(nn.Module):
    """Portrait and frame to `OBSERVATIONS`. 0.2 M parameters.

    A wide one sees the whole picture besides the head, and reads sadness and hands; one that is
    not is for the look of presenters that has neither, and says 0 for both.

    `noise` [3, 7] tells its errors on people that it was not trained on, as standard deviations:
    what it keeps through a clip, what comes and goes, and what changes from frame to frame.
    """

    def __init__(self, *, wide: bool = False, side: int = SIDE) -> None:
        super().__init__()
        self.wide, self.side = wide, side
        layers: list[nn.Module] = []
        before = 12 if wide else 6
        for channels, stride in _STAGES:
            layers += [
                nn.Conv2d(before, channels, 3, stride=stride, padding=1),
                nn.GroupNorm(8, channels),
                nn.SiLU(),
            ]
            before = channels
        self.features = nn.Sequential(*layers, nn.Flatten())
        width = before * (side // 8) ** 2
        results = len(OBSERVATIONS) if wide else len(OBSERVATIONS) - _ONLY_WIDE
        self.head = nn.Sequential(nn.Linear(width, 96), nn.SiLU(), nn.Linear(96, results))
        self.noise: Tensor
        self.register_buffer("noise", torch.zeros(3, len(OBSERVATIONS)))

    def forward(self, pairs: Tensor) -> Tensor:
        """Portrait and frame as `see` gives them, [b, 12, s, s] -> [b, 7]."""
        if self.wide:
            return self.head(self.features(pairs))
        heads = torch.cat([pairs[:, :3], pairs[:, 6:9]], dim=1)
        return F.pad(self.head(self.features(heads)), (0, _ONLY_WIDE))

    @torch.no_grad()
    def observe(self, frames: Tensor, portraits: Tensor, heads: Tensor) -> Tensor:
        """Read clips.

        Args:
            frames: [n, t, 3, h, w] uint8.
            portraits: [n, 3, h, w] uint8.
            heads: [n, 4] box of the head in the portrait, in pixels.

        Returns:
            [n, t, 7].
        """
        tracks = []
        for clip, portrait, head in zip(frames, portraits, heads, strict=True):
            pairs = pair_up(clip, portrait, head, side=self.side)
            tracks.append(torch.cat([self(part) for part in pairs.split(128)]))
        return torch.stack(tracks)


def see(pictures: Tensor, head: Tensor, *, side: int) -> Tensor:
    """The same box of each picture, and all of it: [b, 3, h, w] uint8 -> [b, 6, s, s]."""
    left, top, right, bottom = head.tolist()
    whole = pictures.float() / 127.5 - 1
    views = [
        F.interpolate(view, size=(side, side), mode="bilinear", antialias=True)
        for view in (whole[..., top:bottom, left:right], whole)
    ]
    return torch.cat(views, dim=1)


def pair_up(clip: Tensor, portrait: Tensor, head: Tensor, *, side: int) -> Tensor:
    """The portrait beside each frame, as an `Observer` takes them.

    Args:
        clip: [t, 3, h, w] in 0..255.
        portrait: [3, h, w].
        head: [4] box in pixels.

    Returns:
        [t, 12, s, s].
    """
    views = see(torch.cat([portrait[None], clip]), head, side=side)
    return torch.cat([views[:1].expand(len(clip), -1, -1, -1), views[1:]], dim=1)


def observations_of(pose: Pose, at_portrait: Pose) -> Tensor:
    """What an `Observer` should say of these poses.

    Args:
        pose: tracks of [n, t].
        at_portrait: the same of [n, 1].

    Returns:
        [n, t, 7].
    """

    def shift(of: Pose) -> tuple[Tensor, Tensor]:
        return of.head_x + YAW_SHIFT * of.yaw, of.head_y + PITCH_SHIFT * of.pitch

    x, y = shift(pose)
    x0, y0 = shift(at_portrait)
    seen = ((x - x0) * 10, (y - y0) * 10, pose.eyes_closed, pose.gaze_x - at_portrait.gaze_x)
    return torch.stack((*seen, pose.smile, pose.sad, pose.wave), -1)


def save_observer(observer: Observer, folder: Path) -> None:
    """Write `model.safetensors` in half precision."""
    folder.mkdir(parents=True, exist_ok=True)
    state = {name: tensor.half().contiguous() for name, tensor in observer.state_dict().items()}
    save_file(state, folder / "model.safetensors")


def load_observer(folder: Path) -> Observer:
    """Read `model.safetensors` of this folder."""
    state = load_file(folder / "model.safetensors")
    wide = state["features.0.weight"].shape[1] == 12
    cells = state["head.0.weight"].shape[1] // _STAGES[-1][0]
    observer = Observer(wide=wide, side=8 * math.isqrt(cells))
    observer.load_state_dict({name: tensor.float() for name, tensor in state.items()})
    return observer.eval().requires_grad_(False)

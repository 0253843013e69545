"""A small network that reads off a face what a prompt can ask for: head, eyes, gaze and smile.

It compares each frame with the portrait, as a person would who tells a nod from a head that was
drawn low. Like the reader of mouths it never sees a prompt, so it judges what is to be seen.
"""

# n clips, t frames, b pictures

from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from omniavatar.nano.canvas import PITCH_SHIFT, YAW_SHIFT, Pose

OBSERVATIONS = ("face_x", "face_y", "eyes_closed", "gaze", "smile")
"""Shift of the face since the portrait in tenths of half a head width, eyes 0 open to 1 closed,
gaze -1..1 since the portrait, smile -1..1."""

SIDE = 48
"""A head is seen at this size, in pixels."""

_STAGES = ((24, 2), (32, 2), (32, 1), (48, 2), (48, 1))
"""Channels and stride of each convolution."""


class Observer(nn.Module):
    """Portrait and frame, both cut to the head, to `OBSERVATIONS`. 0.2 M parameters.

    `noise` [5] is the standard deviation of its errors on people that it was not trained on.
    """

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        before = 6
        for channels, stride in _STAGES:
            layers += [
                nn.Conv2d(before, channels, 3, stride=stride, padding=1),
                nn.GroupNorm(8, channels),
                nn.SiLU(),
            ]
            before = channels
        self.features = nn.Sequential(*layers, nn.Flatten())
        width = before * (SIDE // 8) ** 2
        self.head = nn.Sequential(nn.Linear(width, 96), nn.SiLU(), nn.Linear(96, len(OBSERVATIONS)))
        self.noise: Tensor
        self.register_buffer("noise", torch.zeros(len(OBSERVATIONS)))

    def forward(self, pairs: Tensor) -> Tensor:
        """[b, 6, SIDE, SIDE] in -1..1 -> [b, 5]."""
        return self.head(self.features(pairs))

    @torch.no_grad()
    def observe(self, frames: Tensor, portraits: Tensor, heads: Tensor) -> Tensor:
        """Read clips.

        Args:
            frames: [n, t, 3, h, w] uint8.
            portraits: [n, 3, h, w] uint8.
            heads: [n, 4] box of the head in the portrait, in pixels.

        Returns:
            [n, t, 5].
        """
        tracks = []
        for clip, portrait, head in zip(frames, portraits, heads, strict=True):
            pictures = cut_head(torch.cat([portrait[None], clip]), head)
            pairs = torch.cat([pictures[:1].expand(len(clip), -1, -1, -1), pictures[1:]], dim=1)
            tracks.append(torch.cat([self(part) for part in pairs.split(128)]))
        return torch.stack(tracks)


def cut_head(pictures: Tensor, head: Tensor) -> Tensor:
    """The same box of each picture: [b, 3, h, w] uint8 -> [b, 3, SIDE, SIDE] in -1..1."""
    left, top, right, bottom = head.tolist()
    cut = pictures[..., top:bottom, left:right].float() / 127.5 - 1
    return F.interpolate(cut, size=(SIDE, SIDE), mode="bilinear", antialias=True)


def observations_of(pose: Pose, at_portrait: Pose) -> Tensor:
    """What an `Observer` should say of these poses.

    Args:
        pose: tracks of [n, t].
        at_portrait: the same of [n, 1].

    Returns:
        [n, t, 5].
    """

    def shift(of: Pose) -> tuple[Tensor, Tensor]:
        return of.head_x + YAW_SHIFT * of.yaw, of.head_y + PITCH_SHIFT * of.pitch

    x, y = shift(pose)
    x0, y0 = shift(at_portrait)
    seen = ((x - x0) * 10, (y - y0) * 10, pose.eyes_closed, pose.gaze_x - at_portrait.gaze_x)
    return torch.stack((*seen, pose.smile), -1)


def save_observer(observer: Observer, folder: Path) -> None:
    """Write `model.safetensors` in half precision."""
    folder.mkdir(parents=True, exist_ok=True)
    state = {name: tensor.half().contiguous() for name, tensor in observer.state_dict().items()}
    save_file(state, folder / "model.safetensors")


def load_observer(folder: Path) -> Observer:
    """Read `model.safetensors` of this folder."""
    observer = Observer()
    state = load_file(folder / "model.safetensors")
    observer.load_state_dict({name: tensor.float() for name, tensor in state.items()})
    return observer.eval().requires_grad_(False)

"""A small network that reads what the mouth does off a picture: evaluation's measuring rod.

It never sees speech, so what it reads from a generated frame is what a person would see there.
"""

# n frames

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

READINGS = ("opening", "width", "rounding")
SIDE = 192
"""Of the pictures that are read, in pixels."""

_STAGES = ((32, 2), (64, 2), (64, 1), (96, 2), (96, 1), (128, 2), (128, 1))
"""Channels and stride of each convolution."""


class Reader(nn.Module):
    """Pictures of `SIDE` x `SIDE` pixels to opening, width and rounding, each about 0..1."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        before = 3
        for channels, stride in _STAGES:
            layers += [
                nn.Conv2d(before, channels, 3, stride=stride, padding=1),
                nn.GroupNorm(8, channels),
                nn.SiLU(),
            ]
            before = channels
        self.features = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(8), nn.Flatten())
        self.head = nn.Sequential(
            nn.Linear(64 * before, 128), nn.SiLU(), nn.Linear(128, len(READINGS))
        )

    def forward(self, frames: Tensor) -> Tensor:
        """[n, 3, SIDE, SIDE] in -1..1 -> [n, 3]."""
        return self.head(self.features(frames))

    @torch.no_grad()
    def read(self, frames: Tensor) -> Tensor:
        """[..., 3, SIDE, SIDE] uint8 -> [..., 3], some frames at a time."""
        flat = frames.flatten(0, -4)
        found = [self(part.float() / 127.5 - 1) for part in flat.split(128)]
        return torch.cat(found).unflatten(0, frames.shape[:-3])


def load_reader(folder: Path) -> Reader:
    """Read `model.safetensors` of this folder."""
    reader = Reader()
    state = load_file(folder / "model.safetensors")
    reader.load_state_dict({name: tensor.float() for name, tensor in state.items()})
    return reader.eval().requires_grad_(False)

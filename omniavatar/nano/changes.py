"""The low-rank changes of the bundled transformer as a file: diffusers' names, eight bits a number.

They lie beside the transformer and not in it, as the published adapters do: what is trained again
is a quarter of a megabyte, and not sixteen.
"""

# r rank, i, o numbers that a layer takes and gives

import math
from collections.abc import Mapping
from pathlib import Path

import torch
from diffusers.loaders.lora_base import LORA_WEIGHT_NAME_SAFE
from safetensors.torch import save_file
from torch import Tensor

from omniavatar.weights.files import CHANGES_FOLDER
from omniavatar.weights.lora_files import read_lora
from omniavatar.weights.presets import LoraChoice

_LARGEST = 240.0
"""To which the largest number of a matrix is scaled; the format reaches 448."""


def changes_file(weights: Path) -> Path:
    """Where a checkpoint in the layout of diffusers keeps its own low-rank changes."""
    return weights / CHANGES_FOLDER / LORA_WEIGHT_NAME_SAFE


def write_changes(matrices: Mapping[str, tuple[Tensor, Tensor]], weights: Path) -> None:
    """Write low-rank changes.

    Args:
        matrices: down [r, i] and up [o, r] by the name of the changed layer; a change is their
            product.
    """
    tensors = {}
    for layer, (down, up) in matrices.items():
        scale = 1.0
        for name, matrix in (("lora_A", down), ("lora_B", up)):
            largest = max(matrix.abs().max().item(), 1e-12)
            scale *= largest / _LARGEST
            small = (matrix.float() * (_LARGEST / largest)).to(torch.float8_e4m3fn)
            tensors[f"transformer.{layer}.{name}.weight"] = small.contiguous()
        tensors[f"transformer.{layer}.alpha"] = torch.tensor(scale * len(down))
    file = changes_file(weights)
    file.parent.mkdir(exist_ok=True)
    save_file(tensors, file, {"format": "pt"})


def read_changes(weights: Path) -> dict[str, tuple[Tensor, Tensor]]:
    """What `write_changes` wrote, in float32; empty where there is nothing."""
    file = changes_file(weights)
    if not file.exists():
        return {}
    return {
        layer: (
            change.down.float() * math.sqrt(change.scale),
            change.up.float() * math.sqrt(change.scale),
        )
        for layer, change in read_lora(LoraChoice(file)).changes.items()
    }

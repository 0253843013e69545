"""The low-rank changes of the bundled transformer as a file: diffusers' names, eight bits a number.

They lie beside the transformer and not in it, as the published adapters do: what is trained again
is a quarter of a megabyte, and not sixteen. What is trained further lies in a file of its own,
beside the first; the changes of all are added.
"""

# r rank, i, o numbers that a layer takes and gives

import math
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from omniavatar.weights.files import CHANGES_FOLDER
from omniavatar.weights.lora_files import read_lora
from omniavatar.weights.presets import LoraChoice

_KIND, _LARGEST = torch.float8_e5m2, 2.0**14
"""How numbers are kept, and to which the largest of a matrix is scaled; the format reaches four
times that. Of its bits more are alike than of e4m3's, so that what git keeps is a sixth smaller."""


FIRST, FURTHER, PROMPTS = "first", "further", "prompts"
"""Names of the changes: lips of the bare transformer, lips that were trained over those, and how
prompts are read, which was trained over both."""

Matrices = Mapping[str, tuple[Tensor, Tensor]]
"""Down [r, i] and up [o, r] by the name of the changed layer; a change is their product."""


def changes_file(weights: Path, name: str = FIRST) -> Path:
    """Where a checkpoint in the layout of diffusers keeps low-rank changes of its own."""
    return weights / CHANGES_FOLDER / f"{name}.safetensors"


def write_changes(matrices: Matrices, weights: Path, name: str = FIRST) -> None:
    """Write low-rank changes."""
    tensors = {}
    for layer, (down, up) in matrices.items():
        scale = 1.0
        for part, matrix in (("lora_A", down), ("lora_B", up)):
            largest = max(matrix.abs().max().item(), 1e-12)
            scale *= largest / _LARGEST
            small = (matrix.float() * (_LARGEST / largest)).to(_KIND)
            tensors[f"transformer.{layer}.{part}.weight"] = small.contiguous()
        tensors[f"transformer.{layer}.alpha"] = torch.tensor(scale * len(down))
    file = changes_file(weights, name)
    file.parent.mkdir(exist_ok=True)
    save_file(tensors, file, {"format": "pt"})


def drop_layer(weights: Path, layer: str, name: str = FIRST) -> None:
    """Take the change of one layer out of the file, and the file away if it holds no other."""
    matrices = read_changes(weights, name)
    if matrices.pop(layer, None) is None:
        return
    if matrices:
        write_changes(matrices, weights, name)
    else:
        changes_file(weights, name).unlink()


def read_changes(weights: Path, name: str = FIRST) -> dict[str, tuple[Tensor, Tensor]]:
    """What `write_changes` wrote, in float32; empty where there is nothing."""
    file = changes_file(weights, name)
    if not file.exists():
        return {}
    return {
        layer: (
            change.down.float() * math.sqrt(change.scale),
            change.up.float() * math.sqrt(change.scale),
        )
        for layer, change in read_lora(LoraChoice(file)).changes.items()
    }

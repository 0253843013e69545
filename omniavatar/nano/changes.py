"""The low-rank changes of the bundled transformer as a file: diffusers' names, eight bits a number.

They lie beside the transformer and not in it, as the published adapters do: what is trained again
is a quarter of a megabyte, and not sixteen.
"""

# r rank, i, o numbers that a layer takes and gives

from collections.abc import Mapping
from pathlib import Path

import torch
from diffusers.loaders.lora_base import LORA_WEIGHT_NAME_SAFE
from safetensors.torch import load_file, save_file
from torch import Tensor

from omniavatar.weights.files import CHANGES_FOLDER

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
    tensors = load_file(file) if file.exists() else {}
    found = {}
    for name in tensors:
        layer, alpha, _ = name.removeprefix("transformer.").partition(".alpha")
        if alpha:
            down, up = (tensors[f"transformer.{layer}.lora_{side}.weight"].float() for side in "AB")
            share = (tensors[name].item() / len(down)) ** 0.5
            found[layer] = (down * share, up * share)
    return found

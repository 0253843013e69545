"""The OmniAvatar adapter: low-rank changes of a Wan transformer's layers, and tensors of its own.

    weight = base + alpha / rank * up @ down

The changes are merged into the base weights, in float32 and rounded once, or kept beside them as
peft layers through diffusers, at the price of two more matrix products a layer. Tensors of its own
(patch embedding, audio modules) replace or join those of the base.

Source: LoRA, arXiv 2106.09685; Omni-Avatar/OmniAvatar, Apache-2.0, for the names in the file.
"""

import logging
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from omniavatar.errors import WeightsError
from omniavatar.models.transformer import OmniAvatarTransformer3DModel
from omniavatar.weights.convert import Shapes, transformer_key

# r rank, o output channels, i input channels

logger = logging.getLogger(__name__)

LAYERS: Mapping[str, str] = {
    "self_attn.q": "attn1.to_q",
    "self_attn.k": "attn1.to_k",
    "self_attn.v": "attn1.to_v",
    "self_attn.o": "attn1.to_out.0",
    "cross_attn.q": "attn2.to_q",
    "cross_attn.k": "attn2.to_k",
    "cross_attn.v": "attn2.to_v",
    "cross_attn.o": "attn2.to_out.0",
    "ffn.0": "ffn.net.0.proj",
    "ffn.2": "ffn.net.2",
}
"""Layers of each block that an adapter may change: published names -> diffusers' names."""

CONFIG_VALUES = ("lora_rank", "lora_alpha", "lora_target_modules")

_MATRIX = re.compile(r"(?P<layer>.+)\.lora_(?P<side>[AB])(\.default)?\.weight")
_PREFIX = re.compile(r"^(base_model\.model\.)+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """The low-rank change of one layer's weight.

    Attributes:
        down: [r, i], or [r, i, ...] of a convolution.
        up: [o, r], or [o, r, 1, ...].
        scale: how many times the change counts.
    """

    down: Tensor
    up: Tensor
    scale: float

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the weight that it changes."""
        return (self.up.shape[0], *self.down.shape[1:])

    def add_to(self, weight: Tensor, *, strength: float = 1.0) -> Tensor:
        """The changed weight, in float32."""
        down, up = (
            side.to(weight.device, torch.float32).flatten(1) for side in (self.down, self.up)
        )
        scale = self.scale * strength
        if weight.ndim == 2:
            return torch.addmm(weight.float(), up, down, alpha=scale)
        return add_to_first(weight, (up @ down).mul_(scale).unflatten(1, self.shape[1:]))


def add_to_first(weight: Tensor, difference: Tensor) -> Tensor:
    """`weight` changed in float32, in as many of its input channels as `difference` has.

    The patch embedding's first channels are those of a plain Wan transformer.
    """
    changed = weight.to(torch.float32, copy=True)
    place = changed[:, : difference.shape[1]] if difference.ndim > 1 else changed
    place += difference.to(weight.device, torch.float32)
    return changed


@dataclass(frozen=True, slots=True, kw_only=True)
class Adapter:
    """One adapter file, by diffusers' names.

    Attributes:
        rank, alpha: a change counts `alpha / rank` times.
        targets: which layers of each block are changed: ends of published names, as in peft.
        changes: by the changed layer, without ".weight".
        tensors: those that replace or join the base's.
    """

    rank: int
    alpha: float
    targets: tuple[str, ...]
    changes: Mapping[str, Change]
    tensors: Mapping[str, Tensor]

    @property
    def scale(self) -> float:
        return self.alpha / self.rank

    def check(self, base: Shapes) -> None:
        """Hold the adapter to the layers of a base transformer, given by diffusers' names.

        Raises:
            WeightsError: a layer that the adapter targets has no change, or a change has no layer
                or another shape; the message names them.
        """
        layers = {
            f"{block}.{layer}"
            for name in base
            if (block := ".".join(name.split(".")[:2])).startswith("blocks.")
            for target in self.targets
            for layer in _layers_of(target)
        }
        faults = [f"no change of {name}" for name in sorted(layers - self.changes.keys())]
        faults += [
            f"a change of {name}, which its config does not target"
            for name in sorted(self.changes.keys() - layers)
        ]
        faults += [
            f"a change {change.shape} of {name}, which is {tuple(base[f'{name}.weight'])}"
            for name, change in self.changes.items()
            if name in layers and tuple(base.get(f"{name}.weight", ())) != change.shape
        ]
        if faults:
            raise WeightsError(f"The adapter does not fit its base: it has {shorten(faults)}.")

    def apply(self, name: str, weight: Tensor) -> Tensor:
        """The tensor `name` with its change merged in, in float32; others as they are."""
        change = self.changes.get(name.removesuffix(".weight"))
        return weight if change is None else change.add_to(weight)

    def attach(self, transformer: OmniAvatarTransformer3DModel, *, dtype: torch.dtype) -> None:
        """Put the changes beside the base weights of a transformer, as its adapter "omniavatar"."""
        matrices = {}
        for layer, change in self.changes.items():
            weight = transformer.get_submodule(layer).weight
            assert isinstance(weight, Tensor)
            for side, matrix in (("A", change.down), ("B", change.up)):
                matrices[f"{layer}.lora_{side}.weight"] = matrix.to(weight.device, dtype)
        transformer.load_lora_adapter(
            matrices,
            prefix=None,
            adapter_name="omniavatar",
            metadata={
                "r": self.rank,
                "lora_alpha": self.alpha,
                "target_modules": sorted(self.changes),
                "lora_dropout": 0.0,
                "bias": "none",
            },
        )
        transformer.requires_grad_(False).eval()


def read_adapter(tensors: Mapping[str, Tensor], config: Mapping[str, Any]) -> Adapter:
    """Sort the tensors of an adapter file.

    Args:
        tensors: by the names in the file: with or without peft's "base_model.model." in front and
            ".default" inside.
        config: the adapter's config.json, with lora_rank, lora_alpha and lora_target_modules.

    Raises:
        WeightsError: the config lacks a value, or a matrix lacks its partner or has another rank.
    """
    rank, alpha, targets = _read_config(config)
    whole: dict[str, Tensor] = {}
    sides: dict[str, dict[str, Tensor]] = {}
    for published in tensors:
        tensor = tensors[published]
        match = _MATRIX.fullmatch(_PREFIX.sub("", published))
        if match is None:
            whole[transformer_key(_PREFIX.sub("", published))] = tensor
            continue
        layer = transformer_key(f"{match['layer']}.weight").removesuffix(".weight")
        if tensor.ndim != 2 or tensor.shape["AB".index(match["side"])] != rank:
            raise WeightsError(
                f"The adapter's {published} is {tuple(tensor.shape)}, but its config gives the "
                f"rank {rank}. Use the config.json that belongs to it."
            )
        sides.setdefault(layer, {})[match["side"]] = tensor
    lonely = sorted(layer for layer, pair in sides.items() if len(pair) == 1)
    if lonely:
        raise WeightsError(f"The adapter has only one of two matrices for {shorten(lonely)}.")
    return Adapter(
        rank=rank,
        alpha=alpha,
        targets=targets,
        changes={
            layer: Change(down=pair["A"], up=pair["B"], scale=alpha / rank)
            for layer, pair in sides.items()
        },
        tensors=whole,
    )


def shorten(faults: list[str], *, shown: int = 4) -> str:
    """The first few of a list, and how many more there are."""
    more = f" and {len(faults) - shown} more" if len(faults) > shown else ""
    return ", ".join(faults[:shown]) + more


def _read_config(config: Mapping[str, Any]) -> tuple[int, float, tuple[str, ...]]:
    missing = [name for name in CONFIG_VALUES if name not in config]
    if missing:
        raise WeightsError(f"The adapter's config.json lacks {', '.join(missing)}. Fetch it again.")
    rank, alpha, targets = (config[name] for name in CONFIG_VALUES)
    listed = targets.split(",") if isinstance(targets, str) else targets
    names = tuple(filter(None, (str(name).strip() for name in listed or ())))
    if (
        not _is_number(rank)
        or rank != int(rank)
        or rank < 1
        or not _is_number(alpha)
        or not all(map(_layers_of, names))
    ):
        raise WeightsError(
            f"The adapter's config.json has the rank {rank!r}, the alpha {alpha!r} and the targets "
            f"{', '.join(names)}. Rank and alpha are numbers, and targets can be q, k, v and o, "
            "also with self_attn. or cross_attn. before, ffn.0 and ffn.2."
        )
    return int(rank), float(alpha), names


def _is_number(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return math.isfinite(value)


def _layers_of(target: str) -> tuple[str, ...]:
    """The layers of a block that a target stands for: those that it is the end of the name of."""
    return tuple(layer for name, layer in LAYERS.items() if f".{name}".endswith(f".{target}"))

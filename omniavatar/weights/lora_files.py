"""Further LoRAs for Wan2.1 text-to-video, in the formats that are common.

    diffusers, peft     transformer.blocks.0.attn1.to_q.lora_A.weight
    original            diffusion_model.blocks.0.self_attn.q.lora_A.weight, or lora_down
    ComfyUI, kohya      lora_unet_blocks_0_self_attn_q.lora_down.weight, with .alpha

Beside low-rank changes, distilled LoRAs have whole differences: `.diff` of a weight, `.diff_b` of a
bias, `.diff_m` of a modulation. diffusers' own converters know these three formats too, but leave
out differences of norms, and want every layer of a block; so names are read here.

    weight = base + strength * (alpha / rank * up @ down + difference)

Sources of the formats, both Apache-2.0: diffusers' lora_conversion_utils.py, ModelTC/LightX2V's
lora_loader.py.
"""

import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers.loaders.lora_base import LORA_ADAPTER_METADATA_KEY
from safetensors import safe_open
from torch import Tensor

from omniavatar.errors import WeightsError
from omniavatar.models.transformer import OmniAvatarTransformer3DModel
from omniavatar.weights.checkpoint import Checkpoint
from omniavatar.weights.convert import Rules, Shapes, transformer_key
from omniavatar.weights.lora import Change, add_to_first, shorten
from omniavatar.weights.presets import LoraChoice

FOLDER_FILES = ("pytorch_lora_weights.safetensors", "adapter_model.safetensors")
"""What diffusers and peft call the file in a folder that they write."""

_PREFIX = re.compile(
    r"^(?:base_model\.model\.|diffusion_model\.|pipe\.|dit\.|transformer\.|model\.|module\.|unet\.)+"
)
_FLAT_PREFIX = re.compile(r"^lora_(?:unet|transformer)_+")

_FLAT_RULES: Rules = (
    (r"^blocks_(\d+)", r"blocks.\1"),
    (r"^(blocks\.\d+)_", r"\1."),
    (r"((?:^|\.)(?:self_attn|cross_attn|attn[12]|ffn|head|condition_embedder))_", r"\1."),
    (r"((?:^|\.)(?:time_embedd|text_embedd|time_project)(?:ing|er|ion))_", r"\1."),
    (r"\.to_out_0$", ".to_out.0"),
    (r"\.net_(\d)", r".net.\1"),
    (r"\.net\.(\d)_proj$", r".net.\1.proj"),
)
"""Names in which each "." became "_", back to names."""

_PARTS = (
    ("bias of up", re.compile(r"\.lora_(?:B|up)(?:\.\w+)?\.bias$")),
    ("down", re.compile(r"\.lora_(?:A|down)(?:\.\w+)?$|\.lora(?:_linear_layer)?\.down$")),
    ("up", re.compile(r"\.lora_(?:B|up)(?:\.\w+)?$|\.lora(?:_linear_layer)?\.up$")),
    ("alpha", re.compile(r"\.alpha$")),
    ("weight", re.compile(r"\.diff$")),
    ("bias", re.compile(r"\.diff_b$")),
    ("modulation", re.compile(r"\.diff_m$")),
)
"""What a tensor is, by the end of its name, after ".weight" is taken off."""

_OF_IMAGES = re.compile(
    r"(?:^|[._])(?:[kv]_img|norm_k_img|img_emb|add_[kv]_proj|norm_added_k|image_embedder)(?:[._]|$)"
)
"""Layers that only the image-to-video models of Wan2.1 have."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lora:
    """One LoRA file, by diffusers' names.

    Attributes:
        name: of the file.
        strength: how many times all of it counts.
        changes: low-rank ones, by the changed layer, without ".weight".
        differences: whole ones, by the changed tensor.
    """

    name: str
    strength: float
    changes: Mapping[str, Change]
    differences: Mapping[str, Tensor]

    def check(self, base: Shapes) -> None:
        """Hold the LoRA to the tensors of a transformer, given by diffusers' names.

        Raises:
            WeightsError: it changes what the transformer lacks, or what has another shape there;
                the message names it.
        """
        shapes = {f"{layer}.weight": change.shape for layer, change in self.changes.items()}
        shapes |= {name: tuple(tensor.shape) for name, tensor in self.differences.items()}
        if any(map(_OF_IMAGES.search, shapes)):
            raise WeightsError(
                f"{self.name} is a LoRA for an image-to-video model of Wan2.1. Use one for "
                "text-to-video, over which OmniAvatar was trained."
            )
        for name, shape in shapes.items():
            if name in base and not _fits(name, shape, tuple(base[name])):
                raise WeightsError(
                    f"{self.name} is a LoRA for another base: it changes {name} as {shape}, which "
                    f"is {tuple(base[name])} here. Use one for the same size of Wan2.1."
                )
        blocks = 1 + max(map(_block, base), default=-1)
        deepest = max(map(_block, shapes), default=-1)
        if blocks <= deepest:
            raise WeightsError(
                f"{self.name} is a LoRA for another base: it changes block {deepest}, and here are "
                f"blocks 0 to {blocks - 1}. Use one for the same size of Wan2.1."
            )
        unknown = [name for name in shapes if name not in base]
        if unknown:
            raise WeightsError(
                f"{self.name} changes what this transformer lacks: {shorten(unknown)}. Use a LoRA "
                "for Wan2.1 text-to-video."
            )

    def apply(self, name: str, weight: Tensor, *, low_rank: bool = True) -> Tensor:
        """The tensor `name` with its changes merged in, in float32; others as they are.

        Args:
            low_rank: False leaves out the changes that `attach` keeps beside.
        """
        change = self.changes.get(name.removesuffix(".weight"))
        if change is not None and (low_rank or weight.ndim != 2):
            weight = change.add_to(weight, strength=self.strength)
        if name in self.differences:
            difference = self.differences[name].to(weight.device, torch.float32)
            weight = add_to_first(weight, difference * self.strength)
        return weight

    def attach(
        self, transformer: OmniAvatarTransformer3DModel, *, adapter_name: str, dtype: torch.dtype
    ) -> bool:
        """Put the low-rank changes of linear layers beside the weights, through diffusers.

        Returns:
            Whether there are any.
        """
        matrices = {}
        for layer, change in self.changes.items():
            weight = transformer.get_submodule(layer).weight
            assert isinstance(weight, Tensor)
            if weight.ndim == 2:
                place = weight.device, dtype
                up = change.up.float() * change.scale
                matrices[f"{layer}.lora_A.weight"] = change.down.to(*place)
                matrices[f"{layer}.lora_B.weight"] = up.to(*place)
        if matrices:
            transformer.load_lora_adapter(matrices, prefix=None, adapter_name=adapter_name)
        return bool(matrices)


def read_lora(choice: LoraChoice) -> Lora:
    """Read a LoRA file in any of the formats.

    Raises:
        WeightsError: the file is missing or damaged, a matrix lacks its partner, or a tensor is not
            in a format that is known; the message names it.
    """
    file = _find_file(Path(choice.path))
    parts: dict[tuple[str, str], Tensor] = {}
    unknown = []
    with Checkpoint(file) as tensors:
        for name in tensors:
            found = _read_name(name)
            if found is None:
                unknown.append(name)
            elif found in parts:
                raise WeightsError(f"{file} has the {found[1]} of {found[0]} twice.")
            else:
                parts[found] = tensors[name]
                if not parts[found].is_floating_point() and found[1] != "alpha":
                    raise WeightsError(
                        f"{file} has {name} in {parts[found].dtype}, a quantised form that is not "
                        "read. Use the LoRA in float16 or bfloat16."
                    )
    if unknown:
        raise WeightsError(
            f"{file} has tensors of no format that is known: {shorten(unknown)}. Use a plain LoRA "
            "(lora_A and lora_B, or lora_down and lora_up), not a LoKr, a LoHa or a DoRA."
        )
    alpha_of = _read_alphas(file)
    changes: dict[str, Change] = {}
    differences: dict[str, Tensor] = {}
    for (layer, part), tensor in parts.items():
        key = transformer_key(f"{layer}.weight")
        if part == "down":
            changes[key.removesuffix(".weight")] = _pair(file, parts, layer, alpha_of)
        elif part in ("up", "alpha") and (layer, "down") not in parts:
            raise WeightsError(f"{file} has the {part} of {layer} without its down matrix.")
        elif part == "bias of up":
            scale = _pair(file, parts, layer, alpha_of).scale
            differences[key.removesuffix("weight") + "bias"] = tensor.float() * scale
        elif part == "bias":
            differences[key.removesuffix("weight") + "bias"] = tensor
        elif part == "weight" and not layer.endswith(("modulation", "scale_shift_table")):
            differences[key] = tensor
        elif part in ("weight", "modulation"):
            parameter = f"{layer}.modulation" if part == "modulation" else layer
            differences[transformer_key(parameter)] = tensor
    if not changes and not differences:
        raise WeightsError(f"{file} is empty.")
    return Lora(
        name=file.name,
        strength=float(choice.strength),
        changes=changes,
        differences=differences,
    )


def _find_file(path: Path) -> Path:
    if not path.is_dir():
        return path
    for name in FOLDER_FILES:
        if (path / name).is_file():
            return path / name
    raise WeightsError(f"{path} has none of {', '.join(FOLDER_FILES)}. Give the file of a LoRA.")


def _read_name(name: str) -> tuple[str, str] | None:
    """The layer in its published or diffusers' name, and which part of its change this is."""
    bare = name.removesuffix(".weight")
    for part, pattern in _PARTS:
        if match := pattern.search(bare):
            layer = bare[: match.start()]
            if _FLAT_PREFIX.match(layer):
                layer = _FLAT_PREFIX.sub("", layer)
                for flat, dotted in _FLAT_RULES:
                    layer = re.sub(flat, dotted, layer)
            return _PREFIX.sub("", layer), part
    return None


def _pair(
    file: Path,
    parts: Mapping[tuple[str, str], Tensor],
    layer: str,
    alpha_of: Callable[[str, int], float],
) -> Change:
    down, up = parts.get((layer, "down")), parts.get((layer, "up"))
    if down is None or up is None:
        raise WeightsError(f"{file} has only one of two matrices for {layer}.")
    rank = down.shape[0] if down.ndim else 0
    is_pair = rank > 0 and down.ndim >= 2 and up.ndim >= 2 and up.shape[1] == rank
    if not is_pair or math.prod(up.shape[2:]) != 1:
        raise WeightsError(
            f"{file} has matrices for {layer} that do not multiply: {tuple(up.shape)} and "
            f"{tuple(down.shape)}."
        )
    alpha = parts.get((layer, "alpha"))
    if alpha is not None and alpha.numel() != 1:
        raise WeightsError(f"{file} has {alpha.numel()} numbers for the alpha of {layer}.")
    scale = alpha_of(layer, rank) if alpha is None else float(alpha.item()) / rank
    return Change(down=down, up=up, scale=scale)


def _read_alphas(file: Path) -> Callable[[str, int], float]:
    """Scale of a layer by its name and rank, where no tensor tells its alpha.

    diffusers writes peft's configuration into the file, peft beside it; without one it is 1.
    """
    config = _read_peft_config(file)
    if "lora_alpha" not in config:
        return lambda _layer, _rank: 1.0
    patterns: dict[str, float] = config.get("alpha_pattern") or {}

    def scale(layer: str, rank: int) -> float:
        own = (a for key, a in patterns.items() if re.match(rf"(?:.*\.)?(?:{key})$", layer))
        alpha = float(next(own, config["lora_alpha"]))
        return alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)

    return scale


def _read_peft_config(file: Path) -> dict[str, Any]:
    beside = file.with_name("adapter_config.json")
    try:
        if file.name == "adapter_model.safetensors" and beside.is_file():
            return dict(json.loads(beside.read_text()))
        if file.suffix != ".safetensors":
            return {}
        with safe_open(file, framework="pt") as content:
            metadata = content.metadata() or {}
        config = json.loads(metadata.get(LORA_ADAPTER_METADATA_KEY, "{}"))
        return {name.removeprefix("transformer."): value for name, value in config.items()}
    except (ValueError, TypeError, AttributeError) as error:
        raise WeightsError(f"{file} has a damaged configuration. Fetch it again.") from error


def _fits(name: str, change: tuple[int, ...], base: tuple[int, ...]) -> bool:
    if name == "patch_embedding.weight" and len(change) == len(base):
        return change[1] <= base[1] and (change[0], *change[2:]) == (base[0], *base[2:])
    return change == base


def _block(name: str) -> int:
    match = re.match(r"blocks\.(\d+)\.", name)
    return int(match[1]) if match else -1

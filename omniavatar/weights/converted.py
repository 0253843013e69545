"""A copy of a checkpoint in the layout of diffusers, with everything merged and rounded.

A start from it reads only what it keeps. It is written one file at a time, beside its place, and
put there when it is whole.
"""

import json
import os
import shutil
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from huggingface_hub import split_torch_state_dict_into_shards
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from omniavatar.errors import WeightsError
from omniavatar.weights.build import Blueprint
from omniavatar.weights.catalog import ModelSpec
from omniavatar.weights.files import describe_bytes, find_folder
from omniavatar.weights.load import open_blueprints
from omniavatar.weights.presets import LoraChoice
from omniavatar.weights.record import Record, read_record, settle_spec

Precision = Literal["bf16", "fp8"]

SHARD_BYTES = 5_000_000_000
CPU = torch.device("cpu")


@dataclass(frozen=True, slots=True, kw_only=True)
class ConvertProgress:
    """How far a conversion is.

    Attributes:
        file: that was just written, from the copy's folder.
        done_bytes, total_bytes: of all files.
    """

    file: str
    done_bytes: int
    total_bytes: int


def convert(
    spec: ModelSpec,
    destination: Path | str,
    *,
    folder: Path | str | None = None,
    precision: Precision = "bf16",
    loras: Sequence[LoraChoice] = (),
    shard_bytes: int = SHARD_BYTES,
    report: Callable[[ConvertProgress], None] | None = None,
) -> Path:
    """Write a checkpoint, its adapter and further LoRAs as one set of merged weights.

    Transformer and text encoder are rounded once, from float32 to bfloat16, apart from the layers
    that stay in float32; VAE and speech encoder, which are small, stay in float32 whole. Memory
    holds one file at a time.

    Args:
        destination: the folder to make; it must not be there yet, or be empty.
        folder: where the checkpoint is; None is what `weights.files.find_folder` finds.
        precision: "fp8" stores the large layers of the transformer in 8 bits.
        loras: merged as well; their preset is remembered.
        shard_bytes: largest size of a file.

    Raises:
        InputError: the presets of the LoRAs do not fit.
        WeightsError: the checkpoint can not be read, or the copy can not be written.
    """
    destination = Path(destination)
    source = find_folder(spec, folder)
    with_preset = settle_spec(spec, folder=source, loras=loras)
    before = read_record(source)
    record = Record(
        model=spec.name,
        precision=precision,
        loras=(
            *(before.loras if before else ()),
            *({"file": Path(lora.path).name, "strength": lora.strength} for lora in loras),
        ),
        preset=with_preset.preset.name if with_preset.preset else None,
    )
    with (
        open_blueprints(
            spec,
            folder=source,
            dtype=torch.bfloat16,
            vae_dtype=torch.float32,
            loras=loras,
            fp8=("transformer",) if precision == "fp8" else (),
        ) as parts,
        _written_whole(destination) as place,
    ):
        if parts.transformer.beside:
            raise WeightsError(
                f"The transformer in {source} is stored in 8 bits: low-rank changes merged into it "
                "are rounded away. Convert from the files in bfloat16, or give the LoRA "
                "when a video is made: then it is kept beside."
            )
        plans = [
            _Plan.of("transformer", parts.transformer, shard_bytes),
            _Plan.of("vae", parts.vae, shard_bytes),
            _Plan.of("text_encoder", parts.text_encoder, shard_bytes),
            _Plan.of("speech_encoder", parts.speech_encoder, shard_bytes),
        ]
        total = sum(plan.size for plan in plans)
        _check_room(place, total)
        done = 0
        for plan in plans:
            for file, size in plan.write(place):
                done += size
                if report is not None:
                    report(ConvertProgress(file=file, done_bytes=done, total_bytes=total))
        parts.tokenizer.save_pretrained(place / "tokenizer")
        record.write(place)
    return destination


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    """The files of one network.

    Attributes:
        files: names of the tensors in each.
        index: where each tensor is; None when there is one file.
    """

    part: str
    blueprint: Blueprint[Any]
    files: dict[str, list[str]]
    index: dict[str, Any] | None
    size: int

    @classmethod
    def of(cls, part: str, blueprint: Blueprint[Any], shard_bytes: int) -> "_Plan":
        shapes = {
            name: torch.empty(tensor.shape, dtype=blueprint.dtype_of(name), device="meta")
            for name, tensor in blueprint.network.state_dict().items()
            if name not in _again(blueprint)
        }
        split = split_torch_state_dict_into_shards(
            shapes,
            filename_pattern=f"{_stem(blueprint)}{{suffix}}.safetensors",
            max_shard_size=shard_bytes,
        )
        size = sum(tensor.nbytes for tensor in shapes.values())
        return cls(
            part=part,
            blueprint=blueprint,
            files=split.filename_to_tensors,
            index={"metadata": {"total_size": size}, "weight_map": split.tensor_to_filename}
            if split.is_sharded
            else None,
            size=size,
        )

    def write(self, place: Path) -> Iterator[tuple[str, int]]:
        """Write the network; yields the name and size of each file."""
        folder, network = place / self.part, self.blueprint.network
        folder.mkdir()
        if hasattr(network, "save_config"):
            network.save_config(folder)
        else:
            network.config.architectures = [type(network).__name__]
            network.config.save_pretrained(folder)
        for file, names in self.files.items():
            tensors: dict[str, Tensor] = {
                name: self.blueprint.make(name, CPU).contiguous() for name in names
            }
            save_file(tensors, folder / file, metadata={"format": "pt"})
            # The library lets only the owner read it.
            (folder / file).chmod((folder / "config.json").stat().st_mode)
            yield f"{self.part}/{file}", sum(tensor.nbytes for tensor in tensors.values())
        if self.index is not None:
            file = f"{_stem(self.blueprint)}.safetensors.index.json"
            (folder / file).write_text(json.dumps(self.index, indent=2) + "\n")


def _stem(blueprint: Blueprint[Any]) -> str:
    """What diffusers and transformers call a network's file."""
    return "diffusion_pytorch_model" if hasattr(blueprint.network, "save_config") else "model"


def _again(blueprint: Blueprint[Any]) -> Collection[str]:
    """Second names of tensors, which transformers does not write."""
    return getattr(blueprint.network, "_tied_weights_keys", None) or ()


def _check_room(place: Path, size: int) -> None:
    free = shutil.disk_usage(place).free
    if size > free:
        raise WeightsError(
            f"The converted copy takes {describe_bytes(size)}, but only {describe_bytes(free)} are "
            f"free in {place.parent}. Make room, or name another folder."
        )


@contextmanager
def _written_whole(destination: Path) -> Iterator[Path]:
    """A folder beside `destination` that takes its place when all went well, or is removed."""
    if destination.exists() and (not destination.is_dir() or any(destination.iterdir())):
        raise WeightsError(f"{destination} is there already. Name a folder that is not.")
    place = destination.with_name(f".{destination.name}.{os.getpid()}.partial")
    try:
        place.mkdir(parents=True)
        yield place
        if destination.exists():
            destination.rmdir()
        place.rename(destination)
    except (OSError, SafetensorError) as error:
        raise WeightsError(
            f"The converted copy can not be written to {destination}: {error}."
        ) from error
    finally:
        shutil.rmtree(place, ignore_errors=True)

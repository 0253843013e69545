"""A catalogue entry and a folder to networks, ready to run.

A folder is in the published layout (`Wan2.1-T2V-14B/`, `OmniAvatar-14B/`, `wav2vec2-base-960h/`,
with the files that the hub has), holds the files of the first two directly, or is in the layout of
diffusers (`transformer/`, `vae/`, `text_encoder/`, `tokenizer/`, `speech_encoder/`). Parts of each
mix: every part is looked for by itself.
"""

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from omniavatar.errors import WeightsError
from omniavatar.models import Models
from omniavatar.models.transformer import OmniAvatarTransformer3DModel
from omniavatar.weights.build import (
    build_speech_encoder,
    build_text_encoder,
    build_transformer,
    build_vae,
    is_complete,
)
from omniavatar.weights.catalog import ModelSpec, Published
from omniavatar.weights.checkpoint import Checkpoint, find_shards
from omniavatar.weights.lora import read_adapter

logger = logging.getLogger(__name__)

Layout = tuple[tuple[str, str], ...]
"""Parts and their places in a folder; a place without a suffix is a safetensors file or several."""

BASE_LAYOUT: Layout = (
    ("transformer", "diffusion_pytorch_model"),
    ("VAE", "Wan2.1_VAE.pth"),
    ("text encoder", "models_t5_umt5-xxl-enc-bf16.pth"),
    ("tokenizer", "google/umt5-xxl/tokenizer_config.json"),
)
ADAPTER_LAYOUT: Layout = (("adapter", "pytorch_model.pt"), ("adapter", "pytorch_model"))
SPEECH_ENCODER_LAYOUT: Layout = (
    ("speech encoder", "model"),
    ("speech encoder", "pytorch_model.bin"),
)
DIFFUSERS_LAYOUT: Layout = (
    ("transformer", "transformer/diffusion_pytorch_model"),
    ("VAE", "vae/diffusion_pytorch_model"),
    ("text encoder", "text_encoder/model"),
    ("tokenizer", "tokenizer/tokenizer_config.json"),
    ("speech encoder", "speech_encoder/model"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Files:
    """The files of each part of a checkpoint; a part's config, if it has one, lies beside them.

    Attributes:
        transformer: the base's, when there is an adapter.
        adapter: none when the transformer is complete without one.
        tokenizer: one of the files in its folder.
    """

    transformer: tuple[Path, ...]
    adapter: tuple[Path, ...]
    vae: tuple[Path, ...]
    text_encoder: tuple[Path, ...]
    tokenizer: tuple[Path, ...]
    speech_encoder: tuple[Path, ...]


def load_models(
    spec: ModelSpec,
    *,
    folder: Path | None = None,
    device: torch.device,
    dtype: torch.dtype,
    merge: bool = True,
) -> Models:
    """Load all networks of a checkpoint onto a device.

    The speech encoder, whose share of the work is small, stays in float32; so do the parts of the
    transformer that diffusers keeps there: norms, modulation, time embedding and rotary tables.

    Args:
        folder: where the files are; None is the source's own.
        dtype: of all other weights, whatever they have on disk.
        merge: merge the adapter's low-rank changes into the weights, or keep them beside.

    Raises:
        WeightsError: a file is missing or damaged, or its tensors are not the network's.
    """
    files = find_files(spec, folder if folder is not None else spec.source.folder)
    logger.info("loading %s from %s", spec.name, files.transformer[0].parent)
    with Checkpoint(*files.vae) as tensors:
        vae = build_vae(tensors, config=_own_config(files.vae), device=device, dtype=dtype)
    with Checkpoint(*files.text_encoder) as tensors:
        text_encoder = build_text_encoder(
            tensors, config=_own_config(files.text_encoder), device=device, dtype=dtype
        )
    with Checkpoint(*files.speech_encoder) as tensors:
        speech_encoder = build_speech_encoder(
            tensors, config=_read_config(files.speech_encoder, required=True), device=device
        )
    return Models(
        transformer=_load_transformer(files, device=device, dtype=dtype, merge=merge),
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=_load_tokenizer(files.tokenizer[0].parent),
        speech_encoder=speech_encoder,
    )


def find_files(spec: ModelSpec, folder: Path) -> Files:
    """Find every part of a checkpoint, before any is loaded.

    Raises:
        WeightsError: a part is missing; the message says where it is expected.
    """
    places = _places(spec, folder)
    found = {
        part: next(filter(None, map(_files_at, options)), ()) for part, options in places.items()
    }
    found.setdefault("adapter", ())
    complete = False
    if found["transformer"]:
        with Checkpoint(*found["transformer"]) as tensors:
            complete = is_complete(tensors)
    for part, options in places.items():
        if not found[part] and not (part == "adapter" and complete):
            raise WeightsError(_missing(spec, part, options[0]))
    return Files(
        transformer=found["transformer"],
        adapter=() if complete else found["adapter"],
        vae=found["VAE"],
        text_encoder=found["text encoder"],
        tokenizer=found["tokenizer"],
        speech_encoder=found["speech encoder"],
    )


def _load_transformer(
    files: Files, *, device: torch.device, dtype: torch.dtype, merge: bool
) -> OmniAvatarTransformer3DModel:
    config = _read_config(files.transformer)
    with Checkpoint(*files.transformer) as base, Checkpoint(*files.adapter) as adapter:
        return build_transformer(
            base,
            read_adapter(adapter, _read_config(files.adapter, required=True)) if adapter else None,
            config=config if "audio_features" in config else None,
            heads=config.get("num_heads", config.get("num_attention_heads")),
            eps=config.get("eps", 1e-6),
            device=device,
            dtype=dtype,
            merge=merge,
        )


def _load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError) as error:
        raise WeightsError(
            f"The tokenizer in {folder} is damaged or incomplete. Fetch it again."
        ) from error
    assert isinstance(tokenizer, PreTrainedTokenizerBase)
    return tokenizer


def _places(spec: ModelSpec, folder: Path) -> dict[str, list[Path]]:
    """Where each part may be: first the place that is named when it is nowhere."""
    source = spec.source
    if isinstance(source, Published):
        base, adapter = folder / source.base.folder, folder / source.adapter.folder
        layouts = [
            (BASE_LAYOUT, (base, folder)),
            (ADAPTER_LAYOUT, (adapter, folder)),
            (SPEECH_ENCODER_LAYOUT, (folder / source.speech_encoder.folder,)),
            (DIFFUSERS_LAYOUT, (folder, base, folder / source.diffusers.folder)),
        ]
    else:
        layouts = [(DIFFUSERS_LAYOUT, (folder,))]
    places: dict[str, list[Path]] = {}
    for layout, roots in layouts:
        for part, place in layout:
            places.setdefault(part, []).extend(root / place for root in roots)
    return places


def _files_at(place: Path) -> tuple[Path, ...]:
    if place.suffix:
        return (place,) if place.is_file() else ()
    return find_shards(place.parent, place.name)


def _missing(spec: ModelSpec, part: str, place: Path) -> str:
    file = place.name if place.suffix else f"{place.name}*.safetensors"
    message = f"The {part} of {spec.name} is missing: there is no {file} in {place.parent}."
    if not isinstance(spec.source, Published):
        return f"{message} Install the package again, or give the folder that it is in."
    owners = {"adapter": spec.source.adapter, "speech encoder": spec.source.speech_encoder}
    repository = owners.get(part, spec.source.base)
    return f"{message} Fetch it from {repository.name} on the Hugging Face hub."


def _own_config(files: tuple[Path, ...]) -> dict[str, Any]:
    """The config of the VAE or the text encoder.

    In the published layout they have none: the config.json beside them is the transformer's.
    """
    return {} if files[0].suffix == ".pth" else _read_config(files, required=True)


def _read_config(files: tuple[Path, ...], *, required: bool = False) -> dict[str, Any]:
    """The config.json beside a part's files; empty when there is none and none is required."""
    file = files[0].with_name("config.json")
    if not file.is_file() and not required:
        return {}
    try:
        content: Mapping[str, Any] = json.loads(file.read_text())
        return dict(content)
    except FileNotFoundError as error:
        raise WeightsError(f"There is no config.json in {file.parent}. Fetch it.") from error
    except (OSError, ValueError, TypeError) as error:
        raise WeightsError(f"{file} is damaged. Fetch it again.") from error

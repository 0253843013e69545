"""A catalogue entry and a folder to networks, ready to run; see `weights.files` for the folder."""

import json
import logging
from collections.abc import Mapping
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
)
from omniavatar.weights.catalog import ModelSpec
from omniavatar.weights.checkpoint import Checkpoint
from omniavatar.weights.files import Files, find_files, find_folder
from omniavatar.weights.lora import read_adapter

logger = logging.getLogger(__name__)


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
        folder: where the files are; None is what `weights.files.find_folder` finds.
        dtype: of all other weights, whatever they have on disk.
        merge: merge the adapter's low-rank changes into the weights, or keep them beside.

    Raises:
        WeightsError: a file is missing or damaged, or its tensors are not the network's.
    """
    files = find_files(spec, find_folder(spec, folder))
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

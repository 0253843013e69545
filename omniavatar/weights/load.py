"""A catalogue entry and a folder to networks, ready to run; see `weights.files` for the folder."""

import json
import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLWan
from transformers import (
    AutoTokenizer,
    PreTrainedTokenizerBase,
    UMT5EncoderModel,
    Wav2Vec2Model,
)

from omniavatar.errors import WeightsError
from omniavatar.models import Models
from omniavatar.models.footprint import Footprint, measure
from omniavatar.models.transformer import OmniAvatarTransformer3DModel
from omniavatar.weights.build import (
    Blueprint,
    plan_speech_encoder,
    plan_text_encoder,
    plan_transformer,
    plan_vae,
)
from omniavatar.weights.catalog import ModelSpec
from omniavatar.weights.checkpoint import Checkpoint
from omniavatar.weights.files import find_files, find_folder, has_config
from omniavatar.weights.lora import read_adapter
from omniavatar.weights.lora_files import read_lora
from omniavatar.weights.presets import LoraChoice

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Blueprints:
    """How each network of a checkpoint is made from its files, which are open meanwhile."""

    transformer: Blueprint[OmniAvatarTransformer3DModel]
    vae: Blueprint[AutoencoderKLWan]
    text_encoder: Blueprint[UMT5EncoderModel]
    speech_encoder: Blueprint[Wav2Vec2Model]
    tokenizer: PreTrainedTokenizerBase


def load_models(
    spec: ModelSpec,
    *,
    folder: Path | None = None,
    device: torch.device,
    dtype: torch.dtype,
    merge: bool = True,
    loras: Sequence[LoraChoice] = (),
    waiting: Collection[str] = (),
    fp8: Collection[str] = (),
) -> Models:
    """Load all networks of a checkpoint onto a device.

    The speech encoder, whose share of the work is small, stays in float32; so do the parts of the
    transformer that diffusers keeps there: norms, modulation, time embedding and rotary tables.

    Args:
        folder: where the files are; None is what `weights.files.find_folder` finds.
        dtype: of all other weights, whatever they have on disk.
        merge: merge low-rank changes into the weights, or keep them beside.
        loras: further LoRAs over the transformer.
        waiting: which of "transformer" and "text_encoder" go to the CPU instead.
        fp8: which of them have their large layers stored in 8 bits; see `weights.storage`.

    Raises:
        WeightsError: a file is missing or damaged, or its tensors are not the network's.
    """
    cpu = torch.device("cpu")
    with open_blueprints(
        spec, folder=folder, dtype=dtype, vae_dtype=dtype, merge=merge, loras=loras, fp8=fp8
    ) as parts:
        return Models(
            vae=parts.vae.build(device),
            text_encoder=parts.text_encoder.build(cpu if "text_encoder" in waiting else device),
            speech_encoder=parts.speech_encoder.build(device),
            transformer=parts.transformer.build(cpu if "transformer" in waiting else device),
            tokenizer=parts.tokenizer,
        )


def measure_files(spec: ModelSpec, folder: Path) -> tuple[Footprint, frozenset[str]]:
    """How large the networks in a folder are, before any weight is read.

    Returns:
        Their sizes, and "transformer" if that has 8 bits in the files.

    Raises:
        WeightsError: as in `load_models`.
    """
    with open_blueprints(
        spec, folder=folder, dtype=torch.float32, vae_dtype=torch.float32
    ) as parts:
        sizes = measure(
            transformer=parts.transformer.network,
            vae=parts.vae.network,
            text_encoder=parts.text_encoder.network,
            speech_encoder=parts.speech_encoder.network,
        )
        return sizes, frozenset({"transformer"} if parts.transformer.small else ())


@contextmanager
def open_blueprints(
    spec: ModelSpec,
    *,
    folder: Path | None = None,
    dtype: torch.dtype,
    vae_dtype: torch.dtype,
    merge: bool = True,
    loras: Sequence[LoraChoice] = (),
    fp8: Collection[str] = (),
) -> Iterator[Blueprints]:
    """Hold all files of a checkpoint to its networks, before any weight is read.

    Args:
        vae_dtype: of the VAE; `dtype` is that of transformer and text encoder.

    The others, and what it raises, are those of `load_models`.
    """
    files = find_files(spec, find_folder(spec, folder))
    logger.info("reading %s from %s", spec.name, files.transformer[0].parent)
    with ExitStack() as stack:
        base, adapter, vae, text_encoder, speech_encoder = (
            stack.enter_context(Checkpoint(*part))
            for part in (
                files.transformer,
                files.adapter,
                files.vae,
                files.text_encoder,
                files.speech_encoder,
            )
        )
        config = _read_config(files.transformer)
        yield Blueprints(
            transformer=plan_transformer(
                base,
                read_adapter(adapter, _read_config(files.adapter, required=True))
                if adapter
                else None,
                loras=[read_lora(choice) for choice in (*map(LoraChoice, files.changes), *loras)],
                config=config if "audio_features" in config else None,
                heads=config.get("num_heads", config.get("num_attention_heads")),
                eps=config.get("eps", 1e-6),
                dtype=dtype,
                merge=merge,
                fp8="transformer" in fp8,
            ),
            vae=plan_vae(vae, config=_own_config(files.vae), dtype=vae_dtype),
            text_encoder=plan_text_encoder(
                text_encoder,
                config=_own_config(files.text_encoder),
                dtype=dtype,
                fp8="text_encoder" in fp8,
            ),
            speech_encoder=plan_speech_encoder(
                speech_encoder, config=_read_config(files.speech_encoder, required=True)
            ),
            tokenizer=_load_tokenizer(files.tokenizer[0].parent),
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
    """The config of the VAE or the text encoder, if it has one."""
    return _read_config(files, required=True) if has_config(files[0]) else {}


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

"""How large a checkpoint's networks are, told from configs: without its weights, and at once."""

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from diffusers import AutoencoderKLWan
from transformers import UMT5Config, UMT5EncoderModel, Wav2Vec2Config, Wav2Vec2Model

from omniavatar.models.footprint import Footprint, measure
from omniavatar.models.transformer import OmniAvatarTransformer3DModel
from omniavatar.weights import published
from omniavatar.weights.build import empty
from omniavatar.weights.catalog import Bundled, ModelSpec


def footprint_of_spec(spec: ModelSpec) -> Footprint:
    """Measure the networks of a catalog entry, which take no memory for it."""
    if isinstance(spec.source, Bundled):
        return _footprint_of_folder(spec.source.folder)
    return _footprint_of_published(spec.name)


@cache
def _footprint_of_folder(folder: Path) -> Footprint:
    return _footprint(
        *(
            json.loads((folder / part / "config.json").read_text())
            for part in ("transformer", "vae", "text_encoder", "speech_encoder")
        )
    )


@cache
def _footprint_of_published(name: str) -> Footprint:
    return _footprint(published.TRANSFORMERS[name], {}, published.TEXT_ENCODER, {})


def _footprint(
    transformer: Mapping[str, Any],
    vae: Mapping[str, Any],
    text_encoder: Mapping[str, Any],
    speech_encoder: Mapping[str, Any],
) -> Footprint:
    text = empty(lambda: UMT5EncoderModel(UMT5Config(**text_encoder)))
    text.tie_weights()
    return measure(
        transformer=empty(lambda: OmniAvatarTransformer3DModel.from_config(dict(transformer))),
        vae=empty(lambda: AutoencoderKLWan.from_config(dict(vae))),
        text_encoder=text,
        speech_encoder=empty(lambda: Wav2Vec2Model(Wav2Vec2Config(**speech_encoder))),
    )

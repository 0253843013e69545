"""Networks of full size from a seed: speed and memory do not depend on what weights say.

They do depend on zeros, with which a card runs cooler and so quicker: every weight is drawn, gates
and norms included, scaled so that numbers keep their size from layer to layer.
"""

import json
from collections.abc import Mapping
from typing import Any

import torch
from diffusers import AutoencoderKLWan
from torch import Tensor, nn
from transformers import (
    AutoTokenizer,
    UMT5Config,
    UMT5EncoderModel,
    Wav2Vec2Config,
    Wav2Vec2Model,
)

from omniavatar.flops import transformer_config
from omniavatar.models import Models
from omniavatar.models.transformer import OmniAvatarTransformer3DModel
from omniavatar.weights import published
from omniavatar.weights.build import empty
from omniavatar.weights.catalog import CATALOG, Bundled, ModelSpec


def random_models(
    spec: ModelSpec, *, device: torch.device, dtype: torch.dtype, seed: int = 0
) -> Models:
    """All networks of a catalog entry, of its sizes, with random weights made on the device.

    The tokenizer is the bundled model's, since text makes no difference either.
    """
    text, speech = _config(spec, "text_encoder"), _config(spec, "speech_encoder")
    vae = empty(lambda: AutoencoderKLWan.from_config(dict(_config(spec, "vae"))))
    text_encoder = empty(lambda: UMT5EncoderModel(UMT5Config(**text)))
    speech_encoder = empty(lambda: Wav2Vec2Model(Wav2Vec2Config(**speech)))
    _draw(vae, seed=seed + 1, device=device, dtype=dtype)
    _draw(text_encoder, seed=seed + 2, device=device, dtype=dtype)
    text_encoder.tie_weights()
    _draw(speech_encoder, seed=seed + 3, device=device, dtype=torch.float32)
    bundled = CATALOG["nano"].source
    assert isinstance(bundled, Bundled)
    return Models(
        transformer=random_transformer(spec, device=device, dtype=dtype, seed=seed),
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=AutoTokenizer.from_pretrained(
            bundled.folder / "tokenizer", local_files_only=True
        ),
        speech_encoder=speech_encoder,
    )


def random_transformer(
    spec: ModelSpec, *, device: torch.device, dtype: torch.dtype, seed: int = 0
) -> OmniAvatarTransformer3DModel:
    """The transformer alone, with the precisions that loading gives it."""
    config = dict(transformer_config(spec))
    network = empty(lambda: OmniAvatarTransformer3DModel.from_config(config))
    precise = tuple(OmniAvatarTransformer3DModel._keep_in_fp32_modules)
    _draw(network, seed=seed, device=device, dtype=dtype, precise=precise)
    return network


def _config(spec: ModelSpec, part: str) -> Mapping[str, Any]:
    if isinstance(spec.source, Bundled):
        content: Mapping[str, Any] = json.loads(
            (spec.source.folder / part / "config.json").read_text()
        )
        return content
    return published.TEXT_ENCODER if part == "text_encoder" else {}


def _draw(
    network: nn.Module,
    *,
    seed: int,
    device: torch.device,
    dtype: torch.dtype,
    precise: tuple[str, ...] = (),
) -> None:
    generator = torch.Generator(device).manual_seed(seed)
    state = {}
    for name, weight in network.state_dict().items():
        mean, deviation = _scale(name, weight)
        values = torch.empty(weight.shape, device=device)
        values.normal_(mean, deviation, generator=generator)
        is_precise = not set(precise).isdisjoint(name.split("."))
        state[name] = values if is_precise else values.to(dtype)
    network.load_state_dict(state, strict=True, assign=True)
    network.to(device)  # the tables, which no checkpoint holds
    network.requires_grad_(False).eval()


def _scale(name: str, tensor: Tensor) -> tuple[float, float]:
    """Mean and deviation of a weight: norms around one, biases small, the rest by their inputs."""
    if tensor.dim() >= 2 and not name.endswith(("gamma", "original0")):
        is_table = name.endswith(("shared.weight", "embed_tokens.weight"))
        return 0.0, 1.0 if is_table else (tensor[0].numel()) ** -0.5
    return (0.0, 0.02) if name.endswith("bias") else (1.0, 0.1)

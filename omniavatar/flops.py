"""How much arithmetic a video takes: closed forms, so that no network has to run to know.

A multiplication and the addition after it count as two operations, as everywhere.
"""

# n tokens, l text tokens, d model width, f hidden width of the feed-forward layers

import json
from collections.abc import Mapping
from math import prod
from typing import Any

from omniavatar.weights.catalog import Bundled, ModelSpec
from omniavatar.weights.published import TRANSFORMERS

_SHARED = {"in_channels": 33, "out_channels": 16, "text_dim": 4096, "freq_dim": 256}
"""Sizes that all published transformers share; see `models.transformer`."""


def transformer_flops(model: ModelSpec | Mapping[str, Any], *, tokens: int) -> float:
    """Operations of the matrix products and attentions of one forward of the transformer.

    A denoising step takes one forward for each branch of its guidance. The audio modules run once
    a chunk and are not in it (their share is below a thousandth), nor is element-wise work.

    Args:
        model: an entry of the catalog, or the config of a transformer.
        tokens: of one chunk, over all its frames.

    Source: the sum that torch's FLOP counter gives for the same forward, to the last digit.
    """
    spec = model if isinstance(model, ModelSpec) else None
    config = transformer_config(spec) if spec is not None else model
    assert isinstance(config, Mapping)
    n = tokens
    length = spec.text_tokens if spec is not None else 512
    d = config["num_attention_heads"] * config["attention_head_dim"]
    f = config["ffn_dim"]
    patch = prod(config["patch_size"])
    linear = 12 * n * d**2 + 4 * n * d * f + 4 * length * d**2
    attention = 4 * n**2 * d + 4 * n * length * d
    embeddings = (
        2 * n * config["in_channels"] * patch * d
        + 2 * n * config["out_channels"] * patch * d
        + 2 * (config["freq_dim"] * d + d**2 + 6 * d**2)
        + 2 * length * (config["text_dim"] * d + d**2)
    )
    return float(config["num_layers"] * (linear + attention) + embeddings)


def transformer_config(spec: ModelSpec) -> Mapping[str, Any]:
    """The config of a catalog entry's transformer, without its files where it is published."""
    if isinstance(spec.source, Bundled):
        file = spec.source.folder / "transformer" / "config.json"
        content: Mapping[str, Any] = json.loads(file.read_text())
        return content
    return {
        "attention_head_dim": 128,
        "patch_size": (1, 2, 2),
        **_SHARED,
        **TRANSFORMERS[spec.name],
    }


def chunk_tokens(*, latent_frames: int, height: int, width: int) -> int:
    """Tokens of a chunk whose pictures have `height` x `width` pixels: one for 16 x 16 of them."""
    return latent_frames * (height // 16) * (width // 16)

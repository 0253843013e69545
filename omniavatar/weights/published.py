"""Sizes of the published networks, for work without their files: estimates, FLOPs, measuring.

What runs is built from the files' own configs. Each entry holds what differs from the defaults of
its class, which are those of the 14B model and of Wan2.1's VAE.

Sources: the config.json files of Wan-AI/Wan2.1-T2V-1.3B and -14B, Apache-2.0; google/umt5-xxl,
Apache-2.0; facebook/wav2vec2-base-960h, Apache-2.0.
"""

from collections.abc import Mapping
from types import MappingProxyType

TRANSFORMERS: Mapping[str, Mapping[str, int]] = MappingProxyType(
    {
        "1.3B": {"num_attention_heads": 12, "ffn_dim": 8960, "num_layers": 30},
        "14B": {"num_attention_heads": 40, "ffn_dim": 13824, "num_layers": 40},
    }
)
"""Arguments of `OmniAvatarTransformer3DModel`, by the catalog's names."""

TEXT_ENCODER: Mapping[str, int | bool | str] = MappingProxyType(
    {
        "vocab_size": 256384,
        "d_model": 4096,
        "d_kv": 64,
        "d_ff": 10240,
        "num_layers": 24,
        "num_heads": 64,
        "feed_forward_proj": "gated-gelu",
        "tie_word_embeddings": False,
    }
)
"""Arguments of transformers' `UMT5Config`."""

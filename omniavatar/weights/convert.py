"""Published key names to the names of diffusers and transformers, and shapes to configurations.

A name that is already the library's passes unchanged, so a checkpoint in either naming is read by
the same code. Names that no rule knows pass unchanged too: a strict comparison with the network
(`omniavatar.weights.load`) is what finds them.

Sources: Wan-Video/Wan2.1 (Apache-2.0) for the published names of transformer, VAE and text encoder;
facebook/wav2vec2-base-960h for those of the speech encoder.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from math import prod
from typing import Any

from diffusers.loaders.single_file_utils import convert_wan_vae_to_diffusers

from omniavatar.errors import WeightsError

Shapes = Mapping[str, Sequence[int]]
Rules = tuple[tuple[str, str], ...]

PUBLISHED_HEAD_WIDTH = 128
"""Width of an attention head in each published Wan2.1 transformer."""

TRANSFORMER_RULES: Rules = (
    (r"^(model\.)?(diffusion_model\.)?", ""),
    (r"^time_embedding\.0\.", "condition_embedder.time_embedder.linear_1."),
    (r"^time_embedding\.2\.", "condition_embedder.time_embedder.linear_2."),
    (r"^time_projection\.1\.", "condition_embedder.time_proj."),
    (r"^text_embedding\.0\.", "condition_embedder.text_embedder.linear_1."),
    (r"^text_embedding\.2\.", "condition_embedder.text_embedder.linear_2."),
    (r"^head\.modulation$", "scale_shift_table"),
    (r"^head\.head\.", "proj_out."),
    (r"^(blocks\.\d+)\.modulation$", r"\1.scale_shift_table"),
    (r"^(blocks\.\d+)\.self_attn\.", r"\1.attn1."),
    (r"^(blocks\.\d+)\.cross_attn\.", r"\1.attn2."),
    (r"^(blocks\.\d+\.attn[12])\.([qkv])\.", r"\1.to_\2."),
    (r"^(blocks\.\d+\.attn[12])\.o\.", r"\1.to_out.0."),
    (r"^(blocks\.\d+)\.ffn\.0\.", r"\1.ffn.net.0.proj."),
    (r"^(blocks\.\d+)\.ffn\.2\.", r"\1.ffn.net.2."),
    # Wan numbers the norms in the order of writing, diffusers in the order of use; the one before
    # cross attention is the only one with weights.
    (r"^(blocks\.\d+)\.norm3\.", r"\1.norm2."),
)

TEXT_ENCODER_RULES: Rules = (
    (r"^token_embedding\.", "shared."),
    (r"^norm\.", "encoder.final_layer_norm."),
    (r"^blocks\.(\d+)\.", r"encoder.block.\1.layer."),
    (r"\.layer\.norm1\.", ".layer.0.layer_norm."),
    (r"\.layer\.attn\.", ".layer.0.SelfAttention."),
    (r"\.layer\.pos_embedding\.embedding\.", ".layer.0.SelfAttention.relative_attention_bias."),
    (r"\.layer\.norm2\.", ".layer.1.layer_norm."),
    (r"\.layer\.ffn\.gate\.0\.", ".layer.1.DenseReluDense.wi_0."),
    (r"\.layer\.ffn\.fc1\.", ".layer.1.DenseReluDense.wi_1."),
    (r"\.layer\.ffn\.fc2\.", ".layer.1.DenseReluDense.wo."),
)

SPEECH_ENCODER_RULES: Rules = (
    (r"^wav2vec2\.", ""),
    (r"\.conv\.weight_g$", ".conv.parametrizations.weight.original0"),
    (r"\.conv\.weight_v$", ".conv.parametrizations.weight.original1"),
)

SPEECH_ENCODER_UNUSED = re.compile(r"^(lm_head\..*|(wav2vec2\.)?masked_spec_embed)$")
"""The letters' head of the recogniser, and an embedding that only its training used."""


def transformer_key(name: str) -> str:
    """Name of a Wan transformer's tensor, or of a LoRA matrix beside it, in diffusers."""
    return _rename(name, TRANSFORMER_RULES)


def text_encoder_key(name: str) -> str:
    """Name of an umT5 encoder's tensor in transformers."""
    return _rename(name, TEXT_ENCODER_RULES)


def speech_encoder_key(name: str) -> str | None:
    """Name of a wav2vec2 tensor in transformers' `Wav2Vec2Model`; None for what it leaves out."""
    if SPEECH_ENCODER_UNUSED.match(name):
        return None
    return _rename(name, SPEECH_ENCODER_RULES)


def vae_keys(names: Iterable[str]) -> dict[str, str]:
    """Names of a Wan VAE's tensors -> names in diffusers, by diffusers' own conversion."""
    names = list(names)
    if any(name.startswith("encoder.down_blocks.") for name in names):
        return {name: name for name in names}
    bare = {name.removeprefix("model."): name for name in names}
    converted = convert_wan_vae_to_diffusers({name: name for name in bare})
    return {bare[published]: name for name, published in converted.items()}


def transformer_config(
    shapes: Shapes, *, heads: int | None = None, eps: float = 1e-6
) -> dict[str, Any]:
    """Configuration of `OmniAvatarTransformer3DModel` from the shapes of its tensors.

    Args:
        shapes: by diffusers' names, the audio modules and the widened patch embedding included.
        heads: number of attention heads, which shapes do not tell; None is one per 128 channels,
            as in each published model.

    Raises:
        WeightsError: a tensor that tells a width is missing.
    """
    patch = _shape(shapes, "patch_embedding.weight", 5)
    width = patch[0]
    heads = heads or width // PUBLISHED_HEAD_WIDTH
    if heads < 1 or width % heads:
        raise WeightsError(
            f"The transformer is {width} wide, which does not split into {heads} attention heads. "
            "Put the config.json with num_heads beside its weights."
        )
    audio = _shape(shapes, "audio_proj.proj.weight", 2)
    return {
        "patch_size": tuple(patch[2:]),
        "num_attention_heads": heads,
        "attention_head_dim": width // heads,
        "in_channels": patch[1],
        "out_channels": _shape(shapes, "proj_out.weight", 2)[0] // prod(patch[2:]),
        "text_dim": _shape(shapes, "condition_embedder.text_embedder.linear_1.weight", 2)[1],
        "freq_dim": _shape(shapes, "condition_embedder.time_embedder.linear_1.weight", 2)[1],
        "ffn_dim": _shape(shapes, "blocks.0.ffn.net.0.proj.weight", 2)[0],
        "num_layers": _count(shapes, r"blocks\.(\d+)\."),
        "eps": eps,
        "audio_features": audio[1] // 4,
        "audio_hidden": audio[0],
    }


def vae_config(shapes: Shapes) -> dict[str, Any]:
    """Configuration of `AutoencoderKLWan` from the shapes of its tensors, by diffusers' names.

    What shapes do not tell is Wan2.1's, the mean and deviation of the latents included.

    Raises:
        WeightsError: a tensor that tells a width is missing.
    """
    return {
        "base_dim": _shape(shapes, "encoder.conv_in.weight", 5)[0],
        "z_dim": _shape(shapes, "post_quant_conv.weight", 5)[0],
    }


def text_encoder_config(shapes: Shapes) -> dict[str, Any]:
    """Configuration of `UMT5EncoderModel` from the shapes of its tensors, by its own names.

    Raises:
        WeightsError: a tensor that tells a width is missing.
    """
    vocabulary, width = _shape(shapes, "shared.weight", 2)
    attention = "encoder.block.0.layer.0.SelfAttention"
    buckets, heads = _shape(shapes, f"{attention}.relative_attention_bias.weight", 2)
    return {
        "vocab_size": vocabulary,
        "d_model": width,
        "d_kv": _shape(shapes, f"{attention}.q.weight", 2)[0] // heads,
        "d_ff": _shape(shapes, "encoder.block.0.layer.1.DenseReluDense.wi_0.weight", 2)[0],
        "num_layers": _count(shapes, r"encoder\.block\.(\d+)\."),
        "num_heads": heads,
        "relative_attention_num_buckets": buckets,
        "relative_attention_max_distance": 128,
        "feed_forward_proj": "gated-gelu",
        "layer_norm_epsilon": 1e-6,
        "dropout_rate": 0.0,
    }


def _rename(name: str, rules: Rules) -> str:
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    return name


def _shape(shapes: Shapes, name: str, dimensions: int) -> tuple[int, ...]:
    shape = tuple(shapes.get(name, ()))
    if len(shape) != dimensions:
        found = f"has the shape {shape}" if name in shapes else "is missing"
        raise WeightsError(
            f"The tensor {name} {found}; the file is not the checkpoint that its name says, or not "
            "all of it."
        )
    return shape


def _count(shapes: Shapes, pattern: str) -> int:
    numbers = {int(match[1]) for name in shapes if (match := re.match(pattern, name))}
    return max(numbers, default=-1) + 1

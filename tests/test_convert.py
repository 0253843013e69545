import pytest

from omniavatar.errors import WeightsError
from omniavatar.weights.convert import (
    speech_encoder_key,
    text_encoder_key,
    transformer_config,
    transformer_key,
    vae_keys,
)


@pytest.mark.parametrize(
    ("published", "ours"),
    [
        ("time_embedding.2.bias", "condition_embedder.time_embedder.linear_2.bias"),
        ("text_embedding.0.weight", "condition_embedder.text_embedder.linear_1.weight"),
        ("time_projection.1.weight", "condition_embedder.time_proj.weight"),
        ("head.modulation", "scale_shift_table"),
        ("head.head.bias", "proj_out.bias"),
        ("blocks.7.modulation", "blocks.7.scale_shift_table"),
        ("blocks.7.self_attn.q.weight", "blocks.7.attn1.to_q.weight"),
        ("blocks.7.cross_attn.o.bias", "blocks.7.attn2.to_out.0.bias"),
        ("blocks.7.cross_attn.norm_k.weight", "blocks.7.attn2.norm_k.weight"),
        ("blocks.7.norm3.weight", "blocks.7.norm2.weight"),
        ("blocks.7.ffn.0.weight", "blocks.7.ffn.net.0.proj.weight"),
        ("blocks.7.ffn.2.weight", "blocks.7.ffn.net.2.weight"),
        ("model.diffusion_model.blocks.0.ffn.2.bias", "blocks.0.ffn.net.2.bias"),
        ("diffusion_model.blocks.0.ffn.2.bias", "blocks.0.ffn.net.2.bias"),
        ("model.blocks.0.ffn.2.bias", "blocks.0.ffn.net.2.bias"),
        ("blocks.7.self_attn.q.lora_A.weight", "blocks.7.attn1.to_q.lora_A.weight"),
        ("patch_embedding.weight", "patch_embedding.weight"),
        ("audio_proj.proj.weight", "audio_proj.proj.weight"),
        ("audio_cond_projs.3.bias", "audio_cond_projs.3.bias"),
    ],
)
def test_transformer_key(published, ours):
    assert transformer_key(published) == ours
    assert transformer_key(ours) == ours


@pytest.mark.parametrize(
    ("published", "ours"),
    [
        ("token_embedding.weight", "shared.weight"),
        ("norm.weight", "encoder.final_layer_norm.weight"),
        ("blocks.11.attn.o.weight", "encoder.block.11.layer.0.SelfAttention.o.weight"),
        ("blocks.0.ffn.gate.0.weight", "encoder.block.0.layer.1.DenseReluDense.wi_0.weight"),
        (
            "blocks.0.pos_embedding.embedding.weight",
            "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight",
        ),
    ],
)
def test_text_encoder_key(published, ours):
    assert text_encoder_key(published) == ours
    assert text_encoder_key(ours) == ours


def test_both_spellings_of_a_normed_weight_are_one():
    convolution = "encoder.pos_conv_embed.conv"
    for old, new in (("weight_g", "original0"), ("weight_v", "original1")):
        wanted = f"{convolution}.parametrizations.weight.{new}"
        assert speech_encoder_key(f"wav2vec2.{convolution}.{old}") == wanted
        assert speech_encoder_key(f"wav2vec2.{wanted}") == wanted
        assert speech_encoder_key(wanted) == wanted


@pytest.mark.parametrize("name", ["lm_head.weight", "lm_head.bias", "wav2vec2.masked_spec_embed"])
def test_what_the_speech_encoder_leaves_out_is_left_out_by_name(name):
    assert speech_encoder_key(name) is None


def test_vae_keys_of_either_naming_are_read():
    published = ["encoder.conv1.weight", "conv2.bias", "decoder.head.0.gamma"]
    ours = ["encoder.conv_in.weight", "post_quant_conv.bias", "decoder.norm_out.gamma"]
    assert vae_keys(published) == dict(zip(published, ours, strict=True))
    prefixed = [f"model.{name}" for name in published]
    assert vae_keys(prefixed) == dict(zip(prefixed, ours, strict=True))
    library = [*ours, "encoder.down_blocks.0.norm1.gamma"]
    assert vae_keys(library) == {name: name for name in library}


def test_widths_that_do_not_split_into_heads_are_refused():
    shapes = {"patch_embedding.weight": (100, 33, 1, 2, 2)}
    with pytest.raises(WeightsError, match="100 wide"):
        transformer_config(shapes)


def test_missing_tensor_that_tells_a_width_is_named():
    with pytest.raises(WeightsError, match=r"patch_embedding\.weight is missing"):
        transformer_config({})

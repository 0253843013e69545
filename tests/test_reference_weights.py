"""Published key tables and the adapter against the public OmniAvatar implementation, 1536bf3."""

import gzip
import json

import pytest
import torch
from reference_models import (
    build_lora_transformer,
    build_vae,
    read_json,
    read_lora_adapter,
    read_tensors,
)
from transformers import Wav2Vec2Config

from omniavatar.weights import build
from omniavatar.weights.convert import transformer_key
from omniavatar.weights.files import is_complete
from omniavatar.weights.lora import read_adapter

TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def key_lists(reference_dir):
    with gzip.open(reference_dir / "key_lists.json.gz") as file:
        return json.load(file)


def on_meta(*tables):
    return {
        name: torch.empty(shape, device="meta") for table in tables for name, shape in table.items()
    }


def transformer_names(key_lists):
    names = [name for name in key_lists["tables"] if name.startswith("dit_")]
    assert names
    return names


def shapes_of(network):
    return {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}


def test_published_transformer_and_adapter_fill_the_network_exactly(key_lists):
    for name in transformer_names(key_lists):
        table, info = key_lists["tables"][name], key_lists["info"][name]
        adapter = read_adapter(
            on_meta(table["adapter_lora"], table["adapter_plain"]),
            {
                "lora_rank": info["lora_rank"],
                "lora_alpha": info["lora_rank"] / 2,
                "lora_target_modules": "q,k,v,o,ffn.0,ffn.2",
            },
        )
        network = build.build_transformer(
            on_meta(table["base_file"]), adapter, device="meta", dtype=torch.bfloat16
        )
        full = {
            transformer_key(key): tuple(shape)
            for key, shape in table["full_model_with_audio"].items()
        }
        assert shapes_of(network) == full
        assert 2 * len(adapter.changes) == len(table["adapter_lora"])
        assert len(adapter.tensors) == len(table["adapter_plain"])
        assert len(network.audio_cond_projs) == info["audio_cond_projs"]
        config, wanted = network.config, info["config"]
        assert config.num_attention_heads == wanted["num_heads"]
        assert config.num_layers == wanted["num_layers"]
        assert config.ffn_dim == wanted["ffn_dim"]
        assert config.in_channels == wanted["in_dim"]
        assert config.audio_features == wanted["audio_input_dim"]


def test_adapter_without_its_patch_bias_takes_the_one_of_the_base(key_lists):
    for name in transformer_names(key_lists):
        table, info = key_lists["tables"][name], key_lists["info"][name]
        plain = {k: v for k, v in table["adapter_plain"].items() if k != "patch_embedding.bias"}
        adapter = read_adapter(
            on_meta(table["adapter_lora"], plain),
            {
                "lora_rank": info["lora_rank"],
                "lora_alpha": 64.0,
                "lora_target_modules": "q,k,v,o,ffn.0,ffn.2",
            },
        )
        network = build.build_transformer(on_meta(table["base_file"]), adapter, device="meta")
        assert len(shapes_of(network)) == len(table["full_model_with_audio"])


def test_complete_published_transformer_needs_no_adapter(key_lists):
    for name in transformer_names(key_lists):
        table = on_meta(key_lists["tables"][name]["full_model_with_audio"])
        assert is_complete(table)
        network = build.build_transformer(table, device="meta")
        assert len(shapes_of(network)) == len(table)


def test_published_vae_fills_the_network_exactly(key_lists):
    table = key_lists["tables"]["vae"]
    network = build.build_vae(on_meta(table), device="meta")
    assert len(shapes_of(network)) == len(table)
    assert sum(p.numel() for p in network.parameters()) == key_lists["info"]["vae"]["parameters"]


def test_published_text_encoder_fills_the_network_exactly(key_lists):
    table, info = key_lists["tables"]["text_encoder"], key_lists["info"]["text_encoder"]
    network = build.build_text_encoder(on_meta(table), device="meta", dtype=torch.bfloat16)
    assert sum(p.numel() for p in network.parameters()) == info["parameters"]
    assert network.config.num_heads == info["config"]["num_heads"]
    assert network.config.d_ff == info["config"]["dim_ffn"]


@pytest.mark.parametrize("with_head", [False, True])
def test_published_speech_encoder_fills_the_network_exactly(key_lists, with_head):
    table = dict(key_lists["tables"]["wav2vec2_base"])
    count = len(table)
    if with_head:
        table |= {"lm_head.weight": [32, 768], "lm_head.bias": [32]}
        table |= {"wav2vec2.masked_spec_embed": [768]}
    config = Wav2Vec2Config().to_dict()
    network = build.build_speech_encoder(on_meta(table), config=config, device="meta")
    assert len(shapes_of(network)) == count


def test_merged_weights_equal_the_reference(reference_dir):
    network = build_lora_transformer(reference_dir).state_dict()
    merged = {
        name.removeprefix("merged/"): value
        for name, value in read_tensors(reference_dir, "wan_dit_lora.cases").items()
        if name.startswith("merged/")
    }
    assert merged
    for published, value in merged.items():
        assert relative_error(network[transformer_key(published)], value) <= TOLERANCE


def test_adapter_replaces_the_tensors_that_it_has(reference_dir):
    adapter = read_lora_adapter(reference_dir)
    assert adapter.tensors
    network = build_lora_transformer(reference_dir).state_dict()
    for name, tensor in adapter.tensors.items():
        assert torch.equal(network[name], tensor)


@pytest.mark.parametrize("merge", [True, False], ids=["merged", "beside"])
@torch.inference_mode()
def test_transformer_with_its_adapter_equals_the_reference(reference_dir, merge):
    network = build_lora_transformer(reference_dir, merge=merge)
    values = read_tensors(reference_dir, "wan_dit_lora.cases")
    cases = read_json(reference_dir, "wan_dit_lora")["cases"]
    assert cases
    for case in (entry["case"] for entry in cases):
        velocity = network(
            hidden_states=torch.cat([values[f"{case}/x"], values[f"{case}/y"]], dim=1),
            timestep=values[f"{case}/timestep"],
            encoder_hidden_states=values[f"{case}/context"],
            audio_conditioning=network.encode_audio(values[f"{case}/audio_emb"]),
        ).sample
        assert relative_error(velocity, values[f"{case}/out"]) <= TOLERANCE


def test_latent_statistics_equal_the_reference(reference_dir):
    values = read_tensors(reference_dir, "wan_vae.cases")
    config = build_vae(reference_dir).config
    assert relative_error(torch.tensor(config.latents_mean), values["scale/mean"]) <= 1e-6
    assert relative_error(torch.tensor(config.latents_std), values["scale/std"]) <= 1e-6


def relative_error(value, reference):
    assert value.shape == reference.shape
    return ((value - reference).abs().max() / reference.abs().max()).item()

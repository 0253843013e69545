import re

import pytest
import torch
from reference_models import adapter_config, read_json, read_tensors

from omniavatar.errors import WeightsError
from omniavatar.weights.build import build_transformer
from omniavatar.weights.lora import read_adapter

QUERY = "blocks.0.self_attn.q"


@pytest.fixture(scope="module")
def base(reference_dir):
    return read_tensors(reference_dir, "wan_dit_lora.base")


@pytest.fixture(scope="module")
def tensors(reference_dir):
    return read_tensors(reference_dir, "wan_dit_lora.adapter")


@pytest.fixture(scope="module")
def config(reference_dir):
    return adapter_config(reference_dir)


@pytest.fixture(scope="module")
def heads(reference_dir):
    return read_json(reference_dir, "wan_dit_lora")["config"]["num_heads"]


@torch.no_grad()
def run(network):
    """A batch of two through the network."""
    torch.manual_seed(3)
    config = network.config
    return network(
        hidden_states=torch.randn(2, config.in_channels, 2, 4, 4),
        timestep=torch.tensor([900.0, 20.0]),
        encoder_hidden_states=torch.randn(2, 5, config.text_dim),
        audio_conditioning=network.encode_audio(torch.randn(2, 5, config.audio_features)),
    ).sample


def matrices(tensors, layer):
    return [tensors[f"{layer}.lora_{side}.default.weight"] for side in "AB"]


def test_merged_and_kept_beside_give_the_same(base, tensors, config, heads):
    adapter = read_adapter(tensors, config)
    expected = run(build_transformer(base, adapter, heads=heads))
    beside = build_transformer(base, adapter, heads=heads, merge=False)
    assert beside.active_adapters() == ["omniavatar"]
    torch.testing.assert_close(
        run(beside), expected, rtol=0, atol=1e-5 * float(expected.abs().max())
    )
    beside.disable_lora()
    assert (run(beside) - expected).abs().max() > 0.01 * expected.abs().max()


@pytest.mark.parametrize("merge", [True, False])
def test_nothing_of_a_loaded_network_trains(base, tensors, config, heads, merge):
    network = build_transformer(base, read_adapter(tensors, config), heads=heads, merge=merge)
    assert not network.training
    assert not any(parameter.requires_grad for parameter in network.parameters())


@pytest.mark.parametrize(
    "spell",
    [
        lambda name: name.replace(".default.", "."),
        lambda name: f"base_model.model.{name}",
        lambda name: f"base_model.model.{name}".replace(".default.", "."),
    ],
    ids=["without default", "peft prefix", "peft prefix without default"],
)
def test_each_spelling_of_the_adapter_is_the_same(base, tensors, config, heads, spell):
    spelt = {spell(name): tensor for name, tensor in tensors.items()}
    expected = build_transformer(base, read_adapter(tensors, config), heads=heads).state_dict()
    found = build_transformer(base, read_adapter(spelt, config), heads=heads).state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def test_change_is_scaled_by_alpha_over_rank(base, tensors, config):
    weight, (down, up) = base[f"{QUERY}.weight"], matrices(tensors, QUERY)
    for alpha in (1.0, 64.0):
        adapter = read_adapter(tensors, {**config, "lora_alpha": alpha})
        changed = adapter.apply("blocks.0.attn1.to_q.weight", weight)
        expected = weight + alpha / config["lora_rank"] * up @ down
        torch.testing.assert_close(changed, expected, rtol=1e-5, atol=1e-5)


def test_merge_rounds_once(base, tensors, config, heads):
    """With base and matrices in bfloat16, only the sum is rounded to it."""
    base = {name: tensor.bfloat16() for name, tensor in base.items()}
    tensors = {name: tensor.bfloat16() for name, tensor in tensors.items()}
    adapter = read_adapter(tensors, config)
    network = build_transformer(base, adapter, heads=heads, dtype=torch.bfloat16)
    down, up = (side.double() for side in matrices(tensors, "blocks.1.ffn.2"))
    exact = base["blocks.1.ffn.2.weight"].double() + adapter.scale * up @ down
    found = network.blocks[1].ffn.net[2].weight
    assert found.dtype == torch.bfloat16
    # A change that was rounded before it is added moves about one weight in ten by a step.
    assert (found == exact.bfloat16()).double().mean() > 0.999


def test_layers_that_diffusers_keeps_in_float32_stay_there(base, tensors, config, heads):
    adapter = read_adapter(tensors, config)
    network = build_transformer(base, adapter, heads=heads, dtype=torch.bfloat16)
    dtypes = {name: tensor.dtype for name, tensor in network.state_dict().items()}
    assert dtypes["blocks.0.norm2.weight"] == torch.float32
    assert dtypes["blocks.0.scale_shift_table"] == torch.float32
    assert dtypes["condition_embedder.time_embedder.linear_1.weight"] == torch.float32
    assert dtypes["blocks.0.attn1.to_q.weight"] == torch.bfloat16
    assert dtypes["audio_proj.proj.weight"] == torch.bfloat16
    assert network.rope.freqs_cos.dtype == torch.float32


def test_change_of_a_layer_that_the_base_lacks_is_named(base, tensors, config, heads):
    more = {
        name.replace("blocks.0.", "blocks.99."): tensor
        for name, tensor in tensors.items()
        if name.startswith(QUERY)
    }
    with pytest.raises(WeightsError, match=r"blocks\.99\.attn1\.to_q"):
        build_transformer(base, read_adapter({**tensors, **more}, config), heads=heads)


def test_missing_change_of_a_target_is_named(base, tensors, config, heads):
    fewer = {k: v for k, v in tensors.items() if not k.startswith("blocks.1.ffn.0.lora")}
    with pytest.raises(WeightsError, match=r"no change of blocks\.1\.ffn\.net\.0\.proj"):
        build_transformer(base, read_adapter(fewer, config), heads=heads)


def test_change_that_is_no_target_is_named(base, tensors, config, heads):
    config = {**config, "lora_target_modules": "q,k,v,o,ffn.0"}
    with pytest.raises(WeightsError, match=r"ffn\.net\.2, which its config does not target"):
        build_transformer(base, read_adapter(tensors, config), heads=heads)


@pytest.mark.parametrize(
    ("targets", "kept"),
    [
        ("q, v", r"_attn\.[qv]\."),
        ("self_attn.q,cross_attn.o", r"self_attn\.q\.|cross_attn\.o\."),
        (["ffn.0"], r"ffn\.0\."),
        ("", r"^nothing"),
    ],
)
def test_targets_are_the_ends_of_names(base, tensors, config, heads, targets, kept):
    own = {name: tensor for name, tensor in tensors.items() if ".lora_" not in name}
    some = {name: tensor for name, tensor in tensors.items() if re.search(kept, name)}
    adapter = read_adapter({**own, **some}, {**config, "lora_target_modules": targets})
    assert len(adapter.changes) == len(some) / 2
    plain = read_adapter(own, {**config, "lora_target_modules": ""})
    network = build_transformer(base, adapter, heads=heads)
    found = network.state_dict()
    for name, weight in build_transformer(base, plain, heads=heads).state_dict().items():
        torch.testing.assert_close(found[name], adapter.apply(name, weight), msg=name)
    expected = run(network)
    beside = run(build_transformer(base, adapter, heads=heads, merge=False))
    torch.testing.assert_close(beside, expected, rtol=0, atol=1e-5 * float(expected.abs().max()))


def test_rank_and_alpha_of_any_size_count(base, tensors, config, heads):
    """Each layer's change with a rank of 1, 2 or 40 is alpha / rank times the product."""
    for rank, alpha in ((1, 1.0), (2.0, 0.3), (40, 64)):
        torch.manual_seed(rank)
        other = {
            k: torch.randn((int(rank), v.shape[1]) if "lora_A" in k else (v.shape[0], int(rank)))
            if ".lora_" in k
            else v
            for k, v in tensors.items()
        }
        adapter = read_adapter(other, {**config, "lora_rank": rank, "lora_alpha": alpha})
        weight = build_transformer(base, adapter, heads=heads).blocks[0].attn1.to_q.weight
        down, up = matrices(other, QUERY)
        expected = base[f"{QUERY}.weight"].double() + alpha / rank * up.double() @ down.double()
        torch.testing.assert_close(weight.double(), expected, rtol=1e-5, atol=1e-5)


def test_lonely_matrix_is_named(tensors, config):
    fewer = {k: v for k, v in tensors.items() if k != f"{QUERY}.lora_B.default.weight"}
    with pytest.raises(WeightsError, match=r"only one of two matrices for blocks\.0\.attn1\.to_q"):
        read_adapter(fewer, config)


def test_rank_of_another_config_is_refused(tensors, config):
    with pytest.raises(WeightsError, match="rank 77"):
        read_adapter(tensors, {**config, "lora_rank": 77})


def test_change_of_another_shape_is_named(base, tensors, config, heads):
    name = f"{QUERY}.lora_B.default.weight"
    other = {**tensors, name: tensors[name][:-1]}
    with pytest.raises(WeightsError, match=r"a change \(\d+, \d+\) of blocks\.0\.attn1\.to_q"):
        build_transformer(base, read_adapter(other, config), heads=heads)


def test_tensor_that_no_network_has_is_named(base, tensors, config, heads):
    more = {**tensors, "vocal_tract.weight": torch.ones(2)}
    with pytest.raises(WeightsError, match=r"not part of it: vocal_tract\.weight"):
        build_transformer(base, read_adapter(more, config), heads=heads)


def test_tensor_of_another_shape_is_named(base, tensors, config, heads):
    name = "audio_cond_projs.0.weight"
    other = {**tensors, name: tensors[name][:, :-1]}
    with pytest.raises(WeightsError, match=rf"of another shape: {name} is "):
        build_transformer(base, read_adapter(other, config), heads=heads)


def test_missing_audio_module_is_named(base, tensors, config, heads):
    fewer = {k: v for k, v in tensors.items() if k != "audio_cond_projs.0.bias"}
    with pytest.raises(WeightsError, match=r"missing: audio_cond_projs\.0\.bias"):
        build_transformer(base, read_adapter(fewer, config), heads=heads)


@pytest.mark.parametrize("gap", ["lora_rank", "lora_alpha", "lora_target_modules"])
def test_config_without_a_value_is_refused(tensors, config, gap):
    config = {name: value for name, value in config.items() if name != gap}
    with pytest.raises(WeightsError, match=gap):
        read_adapter(tensors, config)


@pytest.mark.parametrize(
    "wrong",
    [
        {"lora_target_modules": "q,gate"},
        {"lora_target_modules": "ttn.q"},
        {"lora_rank": 0},
        {"lora_rank": 4.5},
        {"lora_rank": "4"},
        {"lora_rank": True},
        {"lora_alpha": float("nan")},
        {"lora_alpha": None},
    ],
)
def test_values_that_can_not_be_are_refused(tensors, config, wrong):
    with pytest.raises(WeightsError, match="targets can be"):
        read_adapter(tensors, {**config, **wrong})

"""Further LoRAs: the same change in each common format gives the same weights."""

import gzip
import json
import re

import pytest
import torch
from diffusers.loaders.lora_conversion_utils import (
    _convert_musubi_wan_lora_to_diffusers,
    _convert_non_diffusers_wan_lora_to_diffusers,
)
from reference_models import read_json, read_lora_adapter, read_tensors
from safetensors.torch import save_file

from omniavatar import InputError, LoraChoice
from omniavatar.errors import WeightsError
from omniavatar.weights import build
from omniavatar.weights.convert import transformer_key
from omniavatar.weights.lora_files import read_lora

RANK, ALPHA = 4, 2.0
LAYERS = (
    "self_attn.q",
    "self_attn.k",
    "self_attn.v",
    "self_attn.o",
    "cross_attn.q",
    "cross_attn.k",
    "cross_attn.v",
    "cross_attn.o",
    "ffn.0",
    "ffn.2",
)


@pytest.fixture(scope="module")
def base(reference_dir):
    return read_tensors(reference_dir, "wan_dit_lora.base")


@pytest.fixture(scope="module")
def make(base, reference_dir):
    """Build the transformer with its adapter and further LoRAs."""
    config = read_json(reference_dir, "wan_dit_lora")["config"]

    def make(*choices, **options):
        return build.build_transformer(
            base,
            read_lora_adapter(reference_dir),
            loras=[read_lora(choice) for choice in choices],
            heads=config["num_heads"],
            eps=config["eps"],
            **options,
        )

    return make


@pytest.fixture(scope="module")
def matrices(base):
    """Down and up of each layer of each block, by published names."""
    torch.manual_seed(11)
    blocks = {int(match[1]) for name in base if (match := re.match(r"blocks\.(\d+)\.", name))}
    found = {}
    for layer in (f"blocks.{block}.{layer}" for block in blocks for layer in LAYERS):
        outputs, inputs = base[f"{layer}.weight"].shape
        found[layer] = 0.3 * torch.randn(RANK, inputs), 0.3 * torch.randn(outputs, RANK)
    return found


def original(matrices, *, sides=("lora_A", "lora_B"), prefix="diffusion_model."):
    tensors = {}
    for layer, pair in matrices.items():
        for side, matrix in zip(sides, pair, strict=True):
            tensors[f"{prefix}{layer}.{side}.weight"] = matrix
    return tensors


def with_alpha(tensors, matrices, name):
    alpha = torch.tensor(ALPHA)
    return {**tensors, **{name(layer): alpha.clone() for layer in matrices}}


def kohya(matrices):
    flat = {layer.replace(".", "_"): pair for layer, pair in matrices.items()}
    tensors = original(flat, sides=("lora_down", "lora_up"), prefix="lora_unet_")
    return with_alpha(tensors, flat, lambda layer: f"lora_unet_{layer}.alpha")


def comfy(matrices):
    tensors = original(matrices, sides=("lora_down", "lora_up"))
    return with_alpha(tensors, matrices, lambda layer: f"diffusion_model.{layer}.alpha")


def scaled(matrices):
    """The same change where nothing tells an alpha."""
    return {layer: (down, up * (ALPHA / RANK)) for layer, (down, up) in matrices.items()}


def diffusers(matrices, *, prefix="transformer.", sides=("lora_A", "lora_B")):
    renamed = {
        transformer_key(f"{layer}.weight").removesuffix(".weight"): pair
        for layer, pair in matrices.items()
    }
    return original(renamed, prefix=prefix, sides=sides)


def with_adapter_name(tensors):
    return {name.replace(".weight", ".default.weight"): t for name, t in tensors.items()}


METADATA = {
    "lora_adapter_metadata": json.dumps({"transformer.r": RANK, "transformer.lora_alpha": ALPHA})
}
FORMATS = {
    "diffusers": (lambda m: diffusers(scaled(m)), None),
    "diffusers with metadata": (diffusers, METADATA),
    "diffusers, up and down": (
        lambda m: diffusers(scaled(m), sides=("lora.down", "lora.up")),
        None,
    ),
    "peft": (lambda m: with_adapter_name(diffusers(scaled(m), prefix="base_model.model.")), None),
    "original": (lambda m: original(scaled(m)), None),
    "original without prefix": (lambda m: with_adapter_name(original(scaled(m), prefix="")), None),
    "original with alpha": (comfy, None),
    "kohya": (kohya, None),
    "kohya, two lines": (
        lambda m: {name.replace("unet_", "unet__"): t for name, t in kohya(m).items()},
        None,
    ),
    "DiffSynth": (lambda m: with_adapter_name(original(scaled(m), prefix="pipe.dit.")), None),
    "unwrapped trainer": (lambda m: original(scaled(m), prefix="module.dit."), None),
}


def write(tensors, file, metadata=None):
    # safetensors holds no two names for one memory.
    save_file({name: tensor.clone() for name, tensor in tensors.items()}, file, metadata)
    return file


@pytest.fixture(scope="module")
def expected(make, matrices):
    """Merged by hand over the transformer without further LoRAs."""
    state = {name: tensor.clone() for name, tensor in make().state_dict().items()}
    for layer, (down, up) in matrices.items():
        state[transformer_key(f"{layer}.weight")] += ALPHA / RANK * up @ down
    return state


def assert_close(network, expected):
    found = network.state_dict()
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-5, atol=1e-5, msg=name)


@pytest.mark.parametrize("name", FORMATS)
def test_each_format_gives_the_same_weights(name, make, matrices, expected, tmp_path):
    spell, metadata = FORMATS[name]
    file = write(spell(matrices), tmp_path / "style.safetensors", metadata)
    assert_close(make(LoraChoice(file)), expected)


def test_file_of_torch_and_folder_of_peft_are_read(make, matrices, expected, tmp_path):
    for content in (comfy(matrices), {"state_dict": comfy(matrices)}):
        torch.save(content, tmp_path / "style.pt")
        assert_close(make(LoraChoice(tmp_path / "style.pt")), expected)
    folder = tmp_path / "peft"
    folder.mkdir()
    tensors = diffusers(matrices, prefix="base_model.model.")
    write(tensors, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps({"r": RANK, "lora_alpha": ALPHA}))
    assert_close(make(LoraChoice(folder)), expected)


@pytest.mark.parametrize(
    ("spell", "convert"),
    [
        (comfy, _convert_non_diffusers_wan_lora_to_diffusers),
        (original, _convert_non_diffusers_wan_lora_to_diffusers),
        (kohya, _convert_musubi_wan_lora_to_diffusers),
    ],
    ids=["comfy", "original", "kohya"],
)
def test_names_and_scales_are_those_of_diffusers_own_converters(spell, convert, matrices, tmp_path):
    tensors = spell(matrices)
    ours = read_lora(LoraChoice(write(tensors, tmp_path / "style.safetensors"))).changes
    theirs = convert({name: tensor.clone() for name, tensor in tensors.items()})
    assert {f"transformer.{layer}.lora_A.weight" for layer in ours} == {
        name for name in theirs if "lora_A" in name
    }
    for layer, change in ours.items():
        down, up = (theirs[f"transformer.{layer}.lora_{side}.weight"] for side in "AB")
        torch.testing.assert_close(change.scale * change.up @ change.down, up @ down)


@pytest.mark.parametrize("strength", [0.0, 0.5, -1.0])
def test_strength_scales_the_change(strength, make, matrices, expected, tmp_path):
    file = write(comfy(matrices), tmp_path / "style.safetensors")
    plain = make().state_dict()
    wanted = {
        name: torch.lerp(plain[name].double(), tensor.double(), strength).float()
        for name, tensor in expected.items()
    }
    assert_close(make(LoraChoice(file, strength)), wanted)


def test_several_loras_add_up(make, matrices, expected, tmp_path):
    file = write(comfy(matrices), tmp_path / "style.safetensors")
    assert_close(make(LoraChoice(file, 0.25), LoraChoice(file, 0.75)), expected)


def differences(base):
    """What distilled LoRAs have beside low-rank changes, by published names and ours."""
    torch.manual_seed(12)
    named = {
        "blocks.0.self_attn.q.diff_b": "blocks.0.attn1.to_q.bias",
        "blocks.0.self_attn.norm_q.diff": "blocks.0.attn1.norm_q.weight",
        "blocks.1.norm3.diff": "blocks.1.norm2.weight",
        "blocks.1.norm3.diff_b": "blocks.1.norm2.bias",
        "blocks.1.diff_m": "blocks.1.scale_shift_table",
        "head.modulation.diff": "scale_shift_table",
        "head.head.diff": "proj_out.weight",
        "head.head.diff_b": "proj_out.bias",
        "time_projection.1.diff_b": "condition_embedder.time_proj.bias",
        "text_embedding.0.diff_b": "condition_embedder.text_embedder.linear_1.bias",
    }
    ours = {transformer_key(name): tensor for name, tensor in base.items()}
    return {name: (key, torch.randn(ours[key].shape)) for name, key in named.items()}


@pytest.mark.parametrize("merge", [True, False], ids=["merged", "beside"])
@pytest.mark.parametrize("flat", [False, True], ids=["original", "kohya"])
def test_whole_differences_are_added(merge, flat, make, base, tmp_path):
    found = differences(base)
    tensors = {}
    for name, (_, tensor) in found.items():
        layer, part = name.rsplit(".", 1)
        flattened = f"lora_unet_{layer.replace('.', '_')}.{part}"
        tensors[flattened if flat else f"diffusion_model.{name}"] = tensor
    file = write(tensors, tmp_path / "distilled.safetensors")
    plain = make(merge=merge).state_dict()
    changed = make(LoraChoice(file, 0.5), merge=merge).state_dict()
    wanted = dict(found.values())
    for name, tensor in changed.items():
        key = name.replace(".base_layer.", ".")
        expected = plain[name] + 0.5 * wanted[key] if key in wanted else plain[name]
        torch.testing.assert_close(tensor, expected, msg=name)


def test_bias_of_a_peft_layer_counts_as_its_matrices(make, matrices, tmp_path):
    layer = "blocks.0.attn1.to_q"
    bias = torch.ones_like(make().state_dict()[f"{layer}.bias"])
    tensors = {**diffusers(matrices), f"transformer.{layer}.lora_B.bias": bias}
    file = write(tensors, tmp_path / "style.safetensors", METADATA)
    found = make(LoraChoice(file)).state_dict()[f"{layer}.bias"]
    torch.testing.assert_close(found, make().state_dict()[f"{layer}.bias"] + ALPHA / RANK * bias)


def test_change_of_the_patch_embedding_is_one_of_the_noisy_channels(make, base, tmp_path):
    """The base's has 16 channels; the adapter's has the portrait's and a mask after them."""
    torch.manual_seed(13)
    outputs, channels, *patch = base["patch_embedding.weight"].shape
    down, up = torch.randn(RANK, channels, *patch), torch.randn(outputs, RANK, 1, 1, 1)
    name = "diffusion_model.patch_embedding"
    tensors = {f"{name}.lora_down.weight": down, f"{name}.lora_up.weight": up}
    file = write(tensors, tmp_path / "style.safetensors")
    plain = make().patch_embedding.weight
    for merge in (True, False):
        found = make(LoraChoice(file), merge=merge).patch_embedding.weight
        change = torch.einsum("orabc,rifhw->oifhw", up, down)
        torch.testing.assert_close(found[:, :channels], plain[:, :channels] + change)
        assert torch.equal(found[:, channels:], plain[:, channels:])


@torch.no_grad()
def run(network):
    torch.manual_seed(3)
    config = network.config
    return network(
        hidden_states=torch.randn(1, config.in_channels, 2, 4, 4),
        timestep=torch.tensor([900.0]),
        encoder_hidden_states=torch.randn(1, 5, config.text_dim),
        audio_conditioning=network.encode_audio(torch.randn(1, 5, config.audio_features)),
    ).sample


def test_kept_beside_gives_what_merged_gives(make, matrices, tmp_path):
    first = write(comfy(matrices), tmp_path / "first.safetensors")
    some = {layer: pair for layer, pair in matrices.items() if "ffn" in layer}
    second = write(diffusers(some), tmp_path / "second.safetensors")
    choices = LoraChoice(first, 0.5), LoraChoice(second, 0.8)
    expected = run(make(*choices))
    beside = make(*choices, merge=False)
    assert beside.active_adapters() == ["omniavatar", "lora_1", "lora_2"]
    assert not any(parameter.requires_grad for parameter in beside.parameters())
    torch.testing.assert_close(
        run(beside), expected, rtol=0, atol=1e-4 * float(expected.abs().max())
    )
    beside.set_adapters(["omniavatar"])
    assert (run(beside) - expected).abs().max() > 0.01 * expected.abs().max()


def test_adapter_and_lora_are_rounded_once(make, matrices, tmp_path):
    file = write(comfy(matrices), tmp_path / "style.safetensors")
    exact = make(LoraChoice(file)).state_dict()
    rounded = make(LoraChoice(file), dtype=torch.bfloat16).state_dict()
    for name, tensor in rounded.items():
        assert torch.equal(tensor, exact[name].to(tensor.dtype))


IMAGE = {"diffusion_model.blocks.0.cross_attn.k_img.lora_A.weight": torch.ones(4, 8)}
IMAGE |= {"diffusion_model.blocks.0.cross_attn.k_img.lora_B.weight": torch.ones(8, 4)}


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        (IMAGE, "image-to-video model of Wan2.1. Use one for text-to-video"),
        (
            original({"blocks.0.self_attn.q": (torch.ones(4, 5120), torch.ones(5120, 4))}),
            r"another base: it changes blocks\.0\.attn1\.to_q\.weight as \(5120, 5120\)",
        ),
        (
            original({"blocks.39.self_attn.q": (torch.ones(4, 8), torch.ones(8, 4))}),
            r"another base: it changes block 39, and here are blocks 0 to \d",
        ),
        (
            {"text_encoder.layer.lora_A.weight": torch.ones(2, 2)}
            | {"text_encoder.layer.lora_B.weight": torch.ones(2, 2)},
            r"this transformer lacks: text_encoder\.layer\.weight",
        ),
        ({"blocks.0.self_attn.q.dora_scale": torch.ones(2)}, r"known: blocks.*dora_scale.*a DoRA"),
        ({"blocks.0.self_attn.q.lokr_w1": torch.ones(2)}, r"known: blocks\.0\.self_attn\.q\.lokr"),
        ({"blocks.0.self_attn.q.lora_A.weight": torch.ones(2, 2)}, "only one of two matrices"),
        ({"blocks.0.self_attn.q.lora_B.weight": torch.ones(2, 2)}, "without its down matrix"),
        ({"blocks.0.self_attn.q.alpha": torch.ones(())}, "without its down matrix"),
        (
            {"blocks.0.self_attn.q.lora_A.weight": torch.ones(2, 2)}
            | {"blocks.0.self_attn.q.lora_down.weight": torch.ones(2, 2)},
            "the down of blocks.0.self_attn.q twice",
        ),
        (
            original({"blocks.0.self_attn.q": (torch.ones(4, 8), torch.ones(8, 3))}),
            r"do not multiply: \(8, 3\) and \(4, 8\)",
        ),
        (
            original({"blocks.0.self_attn.q": (torch.ones(0, 8), torch.ones(8, 0))}),
            "do not multiply",
        ),
        (
            original({"blocks.0.self_attn.q": (torch.ones(2, 8), torch.ones(8, 2))})
            | {"diffusion_model.blocks.0.self_attn.q.alpha": torch.ones(2)},
            "2 numbers for the alpha of blocks.0.self_attn.q",
        ),
        (
            original({"blocks.0.self_attn.q": (torch.full((2, 8), torch.nan), torch.ones(8, 2))}),
            "is damaged: .*lora_A.weight has numbers that are not finite",
        ),
        (
            original({"blocks.0.self_attn.q": (torch.ones(2, 8).to(torch.int8), torch.ones(8, 2))}),
            "a quantised form",
        ),
        ({}, "is empty"),
    ],
)
def test_what_does_not_fit_is_named_with_the_file(tensors, message, make, tmp_path):
    file = write(tensors, tmp_path / "style.safetensors")
    with pytest.raises(WeightsError, match=message) as caught:
        make(LoraChoice(file))
    assert "style.safetensors" in str(caught.value)


def test_missing_and_damaged_files_are_named(tmp_path):
    with pytest.raises(WeightsError, match=r"style\.safetensors is missing"):
        read_lora(LoraChoice(tmp_path / "style.safetensors"))
    (tmp_path / "style.safetensors").write_bytes(b"12345")
    with pytest.raises(WeightsError, match=r"style\.safetensors is damaged"):
        read_lora(LoraChoice(tmp_path / "style.safetensors"))
    with pytest.raises(WeightsError, match=r"Give the file of a LoRA"):
        read_lora(LoraChoice(tmp_path))


def test_choice_is_checked_at_once():
    with pytest.raises(InputError, match="lightx2v"):
        LoraChoice("style.safetensors", preset="turbo")
    with pytest.raises(InputError, match="strength"):
        LoraChoice("style.safetensors", float("nan"))


@pytest.fixture(scope="module")
def key_lists(reference_dir):
    with gzip.open(reference_dir / "key_lists.json.gz") as file:
        return json.load(file)["tables"]


def plan_of_full_size(key_lists, name, *choices):
    """The transformer of a published checkpoint, of which no weight is read."""
    table = key_lists[name]["full_model_with_audio"]
    tensors = {key: torch.empty(shape, device="meta") for key, shape in table.items()}
    return build.plan_transformer(tensors, loras=[read_lora(choice) for choice in choices])


@pytest.fixture(scope="module")
def full_lora(key_lists, tmp_path_factory):
    """Write a LoRA of rank 1 for each layer of a published checkpoint."""

    def write_full(name, spell):
        shapes = key_lists[name]["full_model_with_audio"]
        layers = [key.removesuffix(".weight") for key in shapes if _LAYER.search(key)]
        pairs = {}
        for layer in layers:
            outputs, inputs = shapes[f"{layer}.weight"]
            half = {"dtype": torch.bfloat16}
            pairs[layer] = torch.ones(1, inputs, **half), torch.ones(outputs, 1, **half)
        return len(layers), write(
            spell(pairs), tmp_path_factory.mktemp("full") / "full.safetensors"
        )

    return write_full


_LAYER = re.compile(r"blocks\..*(self_attn|cross_attn)\.[qkvo]\.weight|blocks\..*ffn\.[02]\.weight")


@pytest.mark.parametrize("spell", [comfy, kohya, diffusers], ids=["comfy", "kohya", "diffusers"])
def test_lora_of_full_size_fits_its_checkpoint_and_no_other(spell, key_lists, full_lora):
    names = [name for name in key_lists if name.startswith("dit_")]
    assert len(names) == 2
    for name, other in (names, names[::-1]):
        count, file = full_lora(name, spell)
        plan_of_full_size(key_lists, name, LoraChoice(file))
        assert len(read_lora(LoraChoice(file)).changes) == count
        with pytest.raises(WeightsError, match=r"another base: it changes blocks\.\d+\."):
            plan_of_full_size(key_lists, other, LoraChoice(file))

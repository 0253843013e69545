"""Checkpoints as the hub has them, at tiny widths, written to disk and loaded by name."""

import dataclasses
import re
import shutil
import subprocess
import sys

import pytest
import torch
from checkpoint_files import (
    reference_networks,
    write_adapter,
    write_base,
    write_converted,
    write_diffusers_base,
    write_flat,
    write_published,
)
from hub_server import Hub
from reference_models import build_lora_transformer, read_tensors
from safetensors.torch import save_file

from omniavatar import AvatarPipeline
from omniavatar.errors import WeightsError
from omniavatar.weights.catalog import CATALOG, Bundled
from omniavatar.weights.files import (
    PLACE_VARIABLE,
    find_damage,
    find_faults,
    find_files,
    find_folder,
)
from omniavatar.weights.load import load_models

NAME = "14B"
CPU = torch.device("cpu")
NETWORKS = ("transformer", "vae", "text_encoder", "speech_encoder")


def load(folder, *, spec=CATALOG[NAME], dtype=torch.float32, **more):
    return load_models(spec, folder=folder, device=CPU, dtype=dtype, **more)


def assert_same(models, references, *, tolerance=0.0):
    for name, network in reference_networks(references).items():
        found = getattr(models, name).state_dict()
        expected = network.state_dict()
        assert found.keys() == expected.keys()
        for key, tensor in expected.items():
            assert found[key].dtype == torch.float32
            torch.testing.assert_close(found[key], tensor, rtol=tolerance, atol=tolerance)


@pytest.fixture(scope="module")
def published(reference_dir, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pretrained_models")
    write_published(reference_dir, folder)
    return folder


@pytest.fixture
def copy(published, tmp_path):
    """The published layout as links, in which a test may take files away."""
    for file in published.rglob("*"):
        place = tmp_path / file.relative_to(published)
        if file.is_dir():
            place.mkdir(parents=True, exist_ok=True)
        else:
            place.parent.mkdir(parents=True, exist_ok=True)
            place.symlink_to(file)
    return tmp_path


def test_published_layout_is_loaded(published, reference_dir):
    assert_same(load(published), reference_dir)


@pytest.mark.parametrize("write", [write_flat, write_diffusers_base, write_converted])
def test_other_layouts_are_loaded(write, tmp_path, reference_dir):
    write(reference_dir, tmp_path)
    assert_same(load(tmp_path), reference_dir)


def test_checkpoint_is_loaded_by_name(published):
    pipeline = AvatarPipeline.from_pretrained(NAME, folder=published, device="cpu")
    assert pipeline.spec is CATALOG[NAME]
    assert pipeline.models.transformer.dtype == torch.float32


def test_checkpoint_is_downloaded_on_first_use(published, tmp_path, reference_dir):
    """The whole way: the hub's files, a folder that is not there yet, networks in memory."""
    write_base(reference_dir, tmp_path / "Wan2.1-T2V-14B", parts=6)
    for name in ("special_tokens_map.json", "spiece.model"):
        (tmp_path / "Wan2.1-T2V-14B" / "google" / "umt5-xxl" / name).write_text("{}")
    for name in ("OmniAvatar-14B", "wav2vec2-base-960h"):
        shutil.copytree(published / name, tmp_path / name)
    files = {
        f"{owner}/{folder}": {
            str(file.relative_to(tmp_path / folder)): file.read_bytes()
            for file in (tmp_path / folder).rglob("*")
            if file.is_file()
        }
        for owner, folder in (
            ("Wan-AI", "Wan2.1-T2V-14B"),
            ("OmniAvatar", "OmniAvatar-14B"),
            ("facebook", "wav2vec2-base-960h"),
        )
    }
    code = (
        "from omniavatar import AvatarPipeline; told = []; "
        "pipeline = AvatarPipeline.from_pretrained('14B', device='cpu', report=told.append); "
        "print(type(pipeline.models.transformer).__name__, told[0].done_bytes, told[0].folder, "
        "told[-1].done_bytes == told[-1].total_bytes)"
    )
    home = tmp_path / "home"
    home.mkdir()
    with Hub(files) as hub:
        done = subprocess.run(
            [sys.executable, "-c", code],
            env=hub.environment(home),
            cwd=home,
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    place = home / ".cache" / "omniavatar" / "models"
    assert done.stdout == f"OmniAvatarTransformer3DModel 0 {place} True\n"
    assert_same(load(place), reference_dir)


def test_bundled_layout_is_read_from_half_precision(tmp_path, reference_dir):
    write_converted(reference_dir, tmp_path, half=True)
    spec = dataclasses.replace(CATALOG["nano"], source=Bundled(path=str(tmp_path)))
    assert_same(load(None, spec=spec), reference_dir, tolerance=1e-3)


def test_tokenizer_is_the_one_of_the_folder(published):
    tokenizer = load(published).tokenizer
    assert tokenizer(["t3 t1"])["input_ids"] == [[3, 1]]


def test_every_tensor_is_in_its_place_and_precision(published):
    models = load(published, dtype=torch.bfloat16)
    for name in NETWORKS:
        network = getattr(models, name)
        assert not network.training
        for tensor in (*network.parameters(), *network.buffers()):
            assert tensor.device == CPU
            assert not tensor.requires_grad
    assert models.transformer.blocks[0].attn1.to_q.weight.dtype == torch.bfloat16
    assert models.transformer.rope.freqs_cos.dtype == torch.float32
    assert {p.dtype for p in models.vae.parameters()} == {torch.bfloat16}
    assert {p.dtype for p in models.text_encoder.parameters()} == {torch.bfloat16}
    assert {p.dtype for p in models.speech_encoder.parameters()} == {torch.float32}


def test_rotary_tables_are_those_of_a_network_built_in_memory(published):
    found = load(published).transformer
    plain = type(found).from_config(found.config)
    assert torch.equal(found.rope.freqs_cos, plain.rope.freqs_cos)
    assert torch.equal(found.rope.freqs_sin, plain.rope.freqs_sin)


def test_words_are_embedded_once(published):
    text_encoder = load(published).text_encoder
    shared = text_encoder.get_input_embeddings().weight
    assert text_encoder.encoder.embed_tokens.weight.data_ptr() == shared.data_ptr()


def test_adapter_can_be_kept_beside(published):
    transformer = load(published, merge=False).transformer
    assert transformer.active_adapters() == ["omniavatar"]


def test_saved_networks_are_read_by_the_libraries_themselves(tmp_path, reference_dir):
    """What is loaded here can be saved and loaded again without this package's loader."""
    transformer = build_lora_transformer(reference_dir)
    transformer.save_pretrained(tmp_path)
    again = type(transformer).from_pretrained(tmp_path)
    for key, tensor in transformer.state_dict().items():
        assert torch.equal(again.state_dict()[key], tensor)


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("Wan2.1-T2V-14B/Wan2.1_VAE.pth", r"VAE of 14B.*Wan2\.1_VAE\.pth in .*Wan2\.1-T2V-14B"),
        ("Wan2.1-T2V-14B/models_t5_umt5-xxl-enc-bf16.pth", "text encoder of 14B"),
        ("Wan2.1-T2V-14B/google/umt5-xxl/tokenizer_config.json", "tokenizer of 14B"),
        (
            "OmniAvatar-14B/pytorch_model.pt",
            r"adapter of 14B.*pytorch_model\.pt in .*OmniAvatar-14B",
        ),
        ("OmniAvatar-14B/config.json", r"no config\.json in .*OmniAvatar-14B"),
        ("wav2vec2-base-960h/model.safetensors", r"speech encoder of 14B.*wav2vec2-base-960h"),
        ("wav2vec2-base-960h/config.json", r"no config\.json in .*wav2vec2-base-960h"),
        (
            "Wan2.1-T2V-14B/diffusion_pytorch_model-00002-of-00003.safetensors",
            r"diffusion_pytorch_model-00002-of-00003\.safetensors",
        ),
    ],
)
def test_missing_file_is_named_with_its_place(copy, file, message):
    (copy / file).unlink()
    with pytest.raises(WeightsError, match=message):
        load(copy)


def test_empty_folder_says_what_is_expected_where(tmp_path):
    with pytest.raises(
        WeightsError, match=r"transformer of 14B is missing.*omniavatar download 14B --to"
    ):
        find_files(CATALOG["14B"], tmp_path)
    with pytest.raises(WeightsError, match="transformer of nano is missing"):
        find_files(CATALOG["nano"], tmp_path)


def test_damaged_file_is_named(copy):
    file = copy / "Wan2.1-T2V-14B" / "Wan2.1_VAE.pth"
    content = file.read_bytes()
    file.unlink()
    file.write_bytes(content[: len(content) // 2])
    with pytest.raises(WeightsError, match=r"Wan2\.1_VAE\.pth is damaged or incomplete"):
        load(copy)


def test_vae_of_the_published_names_may_be_safetensors(copy, reference_dir):
    base = copy / "Wan2.1-T2V-14B"
    (base / "Wan2.1_VAE.pth").unlink()
    save_file(read_tensors(reference_dir, "wan_vae.weights"), base / "Wan2.1_VAE.safetensors")
    assert_same(load(copy), reference_dir)


@pytest.fixture
def without_transformer(copy):
    for file in (copy / "Wan2.1-T2V-14B").glob("diffusion_pytorch_model*"):
        file.unlink()
    return copy


@pytest.mark.parametrize(
    ("place", "prefix"), [("", "diffusion_model."), ("Wan2.1-T2V-14B", "model.diffusion_model.")]
)
def test_transformer_under_another_name_is_read_once_it_is_where_the_message_says(
    without_transformer, reference_dir, place, prefix
):
    tensors = read_tensors(reference_dir, "wan_dit_lora.base")
    file = without_transformer / place / "wan2.1_t2v_14B_bf16.safetensors"
    save_file({f"{prefix}{name}": tensor for name, tensor in tensors.items()}, file)
    with pytest.raises(WeightsError, match=rf"If {file} is that of Wan2\.1-T2V-14B") as caught:
        load(without_transformer)
    file.rename(re.search(r"move it to (\S+\.safetensors);", str(caught.value))[1])
    assert_same(load(without_transformer), reference_dir)


@pytest.mark.parametrize("name", ["wan2.1-Q4_K_M.gguf", "diffusion_pytorch_model.safetensors"])
def test_gguf_transformer_is_named_and_not_called_damaged(without_transformer, name):
    file = without_transformer / "Wan2.1-T2V-14B" / name
    file.write_bytes(b"GGUF" + bytes(100))
    sentence = f"{file} is a GGUF file, which is not read."
    with pytest.raises(WeightsError, match=re.escape(sentence)):
        load(without_transformer)
    assert sentence in find_damage(CATALOG[NAME], without_transformer)[0]


def test_other_files_are_no_transformer(without_transformer, reference_dir):
    file = without_transformer / "Wan2.1-T2V-14B" / "Wan2.1_VAE.safetensors"
    save_file(read_tensors(reference_dir, "wan_vae.weights"), file)
    (file.parent / "cut.safetensors").write_bytes(b"12345")
    faults = find_faults(CATALOG[NAME], without_transformer)
    assert list(faults) == ["transformer"]
    assert faults["transformer"].endswith(f"*.safetensors in {file.parent}.")
    assert not find_damage(CATALOG[NAME], without_transformer)


def test_damaged_config_is_named(copy):
    file = copy / "OmniAvatar-14B" / "config.json"
    file.unlink()
    file.write_text("{")
    with pytest.raises(WeightsError, match=r"OmniAvatar-14B.config\.json is damaged"):
        load(copy)


def test_tensors_that_do_not_fit_are_named_by_kind(copy, reference_dir):
    tensors = read_tensors(reference_dir, "wan_vae.weights")
    tensors["decoder.head.2.bias"] = tensors["decoder.head.2.bias"][:-1].clone()
    tensors["decoder.extra"] = torch.ones(1)
    del tensors["conv1.bias"]
    file = copy / "Wan2.1-T2V-14B" / "Wan2.1_VAE.pth"
    file.unlink()
    torch.save(tensors, file)
    with pytest.raises(WeightsError) as caught:
        load(copy)
    message = str(caught.value)
    assert "missing: quant_conv.bias" in message
    assert "not part of it: decoder.extra" in message
    assert "of another shape: decoder.conv_out.bias is (2,) and not (3,)" in message


def test_folder_may_be_the_one_that_holds_the_published_layout(
    reference_dir, tmp_path, monkeypatch
):
    spec, inner = CATALOG["14B"], tmp_path / "pretrained_models"
    monkeypatch.chdir(tmp_path.parent)
    monkeypatch.delenv(PLACE_VARIABLE, raising=False)
    assert find_folder(spec, tmp_path) == tmp_path
    write_published(reference_dir, inner)
    assert find_folder(spec, tmp_path) == find_folder(spec, inner) == inner
    monkeypatch.setenv(PLACE_VARIABLE, str(tmp_path))
    assert find_folder(spec) == inner
    monkeypatch.setenv("HOME", str(tmp_path))
    assert find_folder(spec, "~/pretrained_models") == inner
    write_adapter(reference_dir, tmp_path / "OmniAvatar-14B")  # begun here: it goes on here
    assert find_folder(spec) == tmp_path

"""A converted copy gives what its checkpoint gives, alone; it is whole, or not there."""

import json
import shutil

import pytest
import torch
from checkpoint_files import write_published
from safetensors.torch import save_file

from omniavatar import CATALOG, AvatarPipeline, InputError, LoraChoice, convert, settle_spec
from omniavatar.errors import WeightsError
from omniavatar.memory import TRANSFORMER
from omniavatar.models.transformer import OmniAvatarTransformer3DModel
from omniavatar.serving.cli import main
from omniavatar.weights.load import load_models
from omniavatar.weights.storage import FP8, is_stored_as_fp8, store_as_fp8

SPEC = CATALOG["14B"]
NETWORKS = ("transformer", "vae", "text_encoder", "speech_encoder")
SHARD = 100_000


def load(folder, *, spec=SPEC, dtype=torch.bfloat16, **more):
    return load_models(spec, folder=folder, device=torch.device("cpu"), dtype=dtype, **more)


@pytest.fixture(scope="module")
def published(reference_dir, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pretrained_models")
    write_published(reference_dir, folder)
    return folder


@pytest.fixture(scope="module")
def lora(published):
    """A distilled LoRA of one layer."""
    weight = load(published).transformer.blocks[0].attn1.to_q.weight
    torch.manual_seed(5)
    name = "diffusion_model.blocks.0.self_attn.q"
    tensors = {f"{name}.lora_A.weight": torch.randn(2, weight.shape[1])}
    tensors |= {f"{name}.lora_B.weight": torch.randn(weight.shape[0], 2)}
    save_file(tensors, published / "distilled_lightx2v.safetensors")
    return LoraChoice(published / "distilled_lightx2v.safetensors", 0.5, preset="lightx2v")


@torch.no_grad()
def run(transformer):
    torch.manual_seed(3)
    config, dtype = transformer.config, transformer.dtype
    return transformer(
        hidden_states=torch.randn(1, config.in_channels, 2, 4, 4).to(dtype),
        timestep=torch.tensor([900.0]),
        encoder_hidden_states=torch.randn(1, 5, config.text_dim).to(dtype),
        audio_conditioning=transformer.encode_audio(torch.randn(1, 5, config.audio_features)),
    ).sample


def assert_equal(found, expected):
    for part in NETWORKS:
        have, want = getattr(found, part).state_dict(), getattr(expected, part).state_dict()
        assert have.keys() == want.keys()
        for name, tensor in want.items():
            assert have[name].dtype == tensor.dtype, name
            assert torch.equal(have[name].float(), tensor.float()), name
    assert found.tokenizer(["t3 t1"])["input_ids"] == expected.tokenizer(["t3 t1"])["input_ids"]
    assert torch.equal(run(found.transformer), run(expected.transformer))


def test_copy_gives_what_the_checkpoint_gives(published, tmp_path):
    copy = convert(SPEC, tmp_path / "copy", folder=published, shard_bytes=SHARD)
    assert_equal(load(copy), load(published))


def test_copy_alone_is_enough(reference_dir, tmp_path):
    source = tmp_path / "pretrained_models"
    write_published(reference_dir, source)
    copy = convert(SPEC, tmp_path / "copy", folder=source)
    expected = run(load(source).transformer)
    shutil.rmtree(source)
    pipeline = AvatarPipeline.from_pretrained(
        "14B", folder=copy, device="cpu", dtype=torch.bfloat16
    )
    assert torch.equal(run(pipeline.models.transformer), expected)


def test_layers_in_8_bits_are_rounded_once_and_kept_so(published, lora, tmp_path):
    copy = convert(SPEC, tmp_path / "copy", folder=published, precision="fp8", loras=[lora])
    found = load(copy)
    assert_equal(found, load(published, loras=[lora], fp8=("transformer",)))
    small = found.transformer.state_dict()
    exact = load(published, loras=[lora], dtype=torch.float32).transformer.state_dict()
    assert small["blocks.0.attn1.to_q.weight"].dtype == FP8
    for name, tensor in exact.items():
        assert torch.equal(small[name].float(), tensor.to(small[name].dtype).float()), name


def test_only_large_layers_of_blocks_are_small(published):
    network = load(published, fp8=("transformer",)).transformer
    small = {name for name, tensor in network.state_dict().items() if tensor.dtype == FP8}
    assert small
    for name in small:
        assert name.startswith("blocks.")
        assert ".attn" in name or ".ffn." in name
        assert "norm" not in name
    weights = {name for name in network.state_dict() if ".to_" in name or ".ffn." in name}
    assert weights == small


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_weights_in_8_bits_move_the_output_a_little(dtype):
    """On the bundled model, whose weights are trained: bounds of twice what was measured."""
    nano = CATALOG["nano"]
    networks = load(None, spec=nano, dtype=dtype)
    before = run(networks.transformer).float()
    store_as_fp8(networks.transformer, compute_dtype=dtype)
    assert is_stored_as_fp8(networks.transformer)
    after = run(networks.transformer).float()
    assert networks.transformer.dtype == dtype
    error = ((after - before).norm() / before.norm()).item()
    assert 0.001 < error < 0.1
    store_as_fp8(networks.transformer, compute_dtype=dtype)
    assert torch.equal(run(networks.transformer).float(), after)


def test_low_rank_changes_beside_weights_in_8_bits_stay_exact(published, lora):
    """Only the weights that they are beside are rounded."""
    beside = load(published, loras=[lora], merge=False, fp8=("transformer",)).transformer
    exact = run(load(published, loras=[lora], merge=False).transformer).float()
    layer = beside.blocks[0].attn1.to_q
    assert layer.base_layer.weight.dtype == FP8
    assert {matrix.weight.dtype for matrix in layer.lora_A.values()} == {torch.bfloat16}
    assert 0 < (run(beside).float() - exact).norm() < 0.2 * exact.norm()


def test_a_small_change_of_weights_that_have_8_bits_in_the_file_is_not_rounded_away(
    published, lora, tmp_path
):
    """One of 1 % of the weights, which is less than half a step of them."""
    tiny = LoraChoice(lora.path, strength_of(published, lora, share=0.01))
    copy = convert(SPEC, tmp_path / "copy", folder=published, precision="fp8")
    changed = load(copy, loras=[tiny]).transformer
    assert changed.blocks[0].attn1.to_q.base_layer.weight.dtype == FP8
    assert changed.blocks[0].attn1.to_k.weight.dtype == FP8
    told = run(changed).float() - run(load(copy).transformer).float()
    exact = [load(published, dtype=torch.float32, loras=each) for each in ([tiny], [])]
    wanted = run(exact[0].transformer) - run(exact[1].transformer)
    assert (told * wanted).sum() > 0.5 * (wanted**2).sum()

    with pytest.raises(WeightsError, match="stored in 8 bits"):
        convert(SPEC, tmp_path / "again", folder=copy, loras=[tiny])
    assert not (tmp_path / "again").exists()


def strength_of(published, lora, *, share):
    """The strength at which a LoRA changes its layer by a share of its weights."""
    before, after = (
        load(published, dtype=torch.float32, loras=each).transformer.blocks[0].attn1.to_q.weight
        for each in ([], [lora])
    )
    return (share * lora.strength * before.norm() / (after - before).norm()).item()


def test_pipeline_knows_what_has_8_bits_in_the_files(published, tmp_path):
    copy = convert(SPEC, tmp_path / "copy", folder=published, precision="fp8")
    pipeline = AvatarPipeline.from_pretrained("14B", folder=copy, device="cpu")
    assert pipeline.placement.fp8 == {TRANSFORMER}
    assert "transformer in fp8" in pipeline.arrangement


def test_pipeline_keeps_changes_beside_on_request(published, lora):
    pipeline = AvatarPipeline.from_pretrained(
        "14B", folder=published, device="cpu", loras=[lora], merge=False
    )
    assert pipeline.models.transformer.active_adapters() == ["omniavatar", "lora_1"]


def test_text_encoder_runs_in_8_bits(published):
    small = load(published, fp8=("text_encoder",)).text_encoder
    exact = load(published).text_encoder
    assert small.shared.weight.dtype == torch.bfloat16
    assert small.encoder.block[0].layer[0].SelfAttention.q.weight.dtype == FP8
    ids = torch.tensor([[1, 2, 3]])
    with torch.no_grad():
        found, wanted = (encoder(ids).last_hidden_state.float() for encoder in (small, exact))
    assert 0 < (found - wanted).norm() < 0.3 * wanted.norm()


def test_library_reads_the_copy_by_itself(published, tmp_path):
    copy = convert(SPEC, tmp_path / "copy", folder=published, shard_bytes=SHARD)
    assert (copy / "transformer" / "diffusion_pytorch_model.safetensors.index.json").is_file()
    again = OmniAvatarTransformer3DModel.from_pretrained(copy / "transformer")
    for name, tensor in load(copy).transformer.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor)


def test_preset_of_a_lora_is_remembered(published, lora, tmp_path):
    copy = convert(SPEC, tmp_path / "copy", folder=published, loras=[lora])
    record = json.loads((copy / "omniavatar.json").read_text())
    assert record["loras"] == [{"file": "distilled_lightx2v.safetensors", "strength": 0.5}]
    spec = settle_spec(SPEC, folder=copy)
    assert (spec.steps, spec.guidance, spec.preset.name) == (4, 1.0, "lightx2v")
    pipeline = AvatarPipeline.from_pretrained("14B", folder=copy, device="cpu")
    assert pipeline.spec == spec
    again = convert(SPEC, tmp_path / "again", folder=copy, precision="fp8")
    assert json.loads((again / "omniavatar.json").read_text()) == {**record, "precision": "fp8"}


def test_preset_of_a_chosen_lora_is_the_pipelines(published, lora):
    pipeline = AvatarPipeline.from_pretrained("14B", folder=published, device="cpu", loras=[lora])
    assert pipeline.spec == SPEC.with_preset(pipeline.spec.preset)
    plain = load(published, dtype=torch.float32).transformer.blocks[0].attn1.to_q.weight
    assert not torch.equal(pipeline.models.transformer.blocks[0].attn1.to_q.weight, plain)


@pytest.mark.parametrize(
    ("model", "presets", "message"),
    [
        ("1.3B", ["lightx2v"], "preset lightx2v is for 14B, and not for 1.3B"),
        ("14B", ["lightx2v", "fusionx"], "fusionx and lightx2v. Use one"),
    ],
)
def test_presets_that_do_not_fit_are_refused(model, presets, message, lora):
    choices = [LoraChoice(lora.path, preset=preset) for preset in presets]
    with pytest.raises(InputError, match=message):
        settle_spec(CATALOG[model], loras=choices)


def test_lora_that_is_not_there_is_named_before_anything_is_read(tmp_path):
    with pytest.raises(WeightsError, match=r"no LoRA at .*style\.safetensors"):
        AvatarPipeline.from_pretrained(
            "14B", folder=tmp_path, loras=[LoraChoice(tmp_path / "style.safetensors")]
        )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "damaged"),
        ('{"model": "1.3B", "precision": "bf16"}', "copy of 1.3B, and not of 14B"),
        ('{"model": "14B", "precision": "bf16", "preset": "turbo"}', "preset turbo"),
    ],
)
def test_copy_that_is_not_what_is_asked_for_is_refused(content, message, tmp_path):
    (tmp_path / "omniavatar.json").write_text(content)
    with pytest.raises(WeightsError, match=message):
        settle_spec(SPEC, folder=tmp_path)


def test_folder_with_something_in_it_is_left_alone(published, tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(WeightsError, match="is there already"):
        convert(SPEC, tmp_path, folder=published)
    assert [file.name for file in tmp_path.iterdir()] == ["mine.txt"]


def test_conversion_that_breaks_off_leaves_nothing(published, tmp_path):
    def stop(progress):
        assert 0 < progress.done_bytes < progress.total_bytes
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert(SPEC, tmp_path / "copy", folder=published, report=stop)
    assert list(tmp_path.iterdir()) == []


def test_too_little_room_is_told_before_anything_is_written(published, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _place: usage._replace(free=1000))
    with pytest.raises(WeightsError, match=r"copy takes .*, but only 1.* free"):
        convert(SPEC, tmp_path / "copy", folder=published)
    assert list(tmp_path.iterdir()) == []


def test_command_converts_and_tells_how_far_it_is(tmp_path, capsys):
    folder = tmp_path / "copy"
    assert main(["convert", "nano", "--to", str(folder), "--precision", "fp8"]) == 0
    captured = capsys.readouterr()
    assert captured.out.strip() == str(folder)
    assert captured.err.splitlines()[-1].startswith("100%")
    assert is_stored_as_fp8(load(folder, spec=CATALOG["nano"]).transformer)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--preset", "lightx2v"], "Name its file with --lora"),
        (["--lora", "style.safetensors:0.5"], "no LoRA at style.safetensors"),
        (["--lora", "style.safetensors"], "no LoRA at style.safetensors"),
        (["--lora", "disk:style"], "no LoRA at disk:style"),
    ],
)
def test_options_that_name_no_lora_are_told(options, message, tmp_path, capsys):
    assert main(["convert", "14B", "--to", str(tmp_path / "copy"), *options]) == 2
    assert message in capsys.readouterr().err


def test_distilled_lora_without_its_preset_is_told(published, lora, tmp_path, capsys):
    arguments = ["convert", "14B", "--weights", str(published), "--lora", f"{lora.path}:0.5"]
    assert main([*arguments, "--to", str(tmp_path / "plain")]) == 0
    assert "add --preset lightx2v" in capsys.readouterr().err
    assert main([*arguments, "--to", str(tmp_path / "preset"), "--preset", "lightx2v"]) == 0
    assert "add --preset" not in capsys.readouterr().err
    assert settle_spec(SPEC, folder=tmp_path / "preset").steps == 4

"""LoRAs that the environment of an app or a worker names."""

import pytest

from omniavatar import CATALOG, InputError, LoraChoice, OmniAvatarError, suggest_preset
from omniavatar.serving.loras import from_environment, spec_of


def test_environment_names_files_strengths_and_a_preset():
    environment = {
        "OMNIAVATAR_LORAS": "/loras/fast.safetensors:0.8, /loras/style.safetensors",
        "OMNIAVATAR_PRESET": "lightx2v",
    }
    assert from_environment("14B", environment) == (
        LoraChoice("/loras/fast.safetensors", 0.8, preset="lightx2v"),
        LoraChoice("/loras/style.safetensors"),
    )
    assert from_environment("1.3B", environment) == ()
    assert from_environment("nano", environment) == ()
    assert from_environment("14B", {}) == ()


def test_app_shows_the_preset_of_its_environment(tmp_path):
    file = tmp_path / "fast.safetensors"
    file.touch()
    environment = {"OMNIAVATAR_LORAS": str(file), "OMNIAVATAR_PRESET": "lightx2v"}
    assert spec_of("14B", environment).steps == 4
    assert spec_of("1.3B", environment) is CATALOG["1.3B"]
    assert spec_of("nano", environment) is CATALOG["nano"]


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"OMNIAVATAR_PRESET": "lightx2v"}, "Name its file with OMNIAVATAR_LORAS"),
        ({"OMNIAVATAR_PRESET": "turbo", "OMNIAVATAR_LORAS": "a"}, "'turbo'. Use one of"),
        ({"OMNIAVATAR_LORAS": "/nowhere/a.safetensors:2"}, r"no LoRA at /nowhere/a\.safetensors"),
    ],
)
def test_environment_that_can_not_be_followed_is_told(environment, message):
    with pytest.raises(OmniAvatarError, match=message):
        spec_of("14B", environment)


@pytest.mark.parametrize(
    ("file", "model", "preset"),
    [
        ("wan2.1_t2v_14b_lora_rank64_lightx2v_4step.safetensors", "14B", "lightx2v"),
        ("Wan21_T2V_14B_lightx2v_cfg_step_distill_lora_rank32.safetensors", "14B", "lightx2v"),
        ("Wan2.1_T2V_14B_FusionX_LoRA.safetensors", "14B", "fusionx"),
        ("Wan21_CausVid_bidirect2_T2V_1_3B_lora_rank32.safetensors", "1.3B", "causvid-small"),
        ("Wan21_CausVid_14B_T2V_lora_rank32.safetensors", "14B", "causvid"),
        ("watercolour.safetensors", "14B", None),
        ("lightx2v.safetensors", "nano", None),
    ],
)
def test_published_file_names_tell_their_preset(file, model, preset):
    found = suggest_preset(file, model)
    assert (found and found.name) == preset


def test_choice_of_an_unknown_preset_says_which_there_are():
    with pytest.raises(InputError, match="lightx2v, fusionx, causvid"):
        LoraChoice("a.safetensors", preset="none")

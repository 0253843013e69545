"""What a control's reason says is held to what the stages do."""

from dataclasses import fields, replace

import pytest
import torch

from omniavatar import CATALOG, PRESETS, GenerationRequest, settings_without_effect
from omniavatar.stages.guidance import Guidance
from omniavatar.stages.step_cache import plan_skips

LARGE = CATALOG["14B"]
DISTILLED = LARGE.with_preset(PRESETS["lightx2v"])


def without_effect(spec=LARGE, **values):
    return set(settings_without_effect(spec, values))


@pytest.mark.parametrize("spec", [*CATALOG.values(), DISTILLED], ids=lambda spec: spec.title)
def test_each_reason_is_one_sentence_about_a_setting(spec):
    names = {entry.name for entry in fields(GenerationRequest)}
    for values in ({}, {"guidance": 1, "step_cache": 0.1}, {"steps": 1, "step_cache": 0.1}):
        for name, reason in settings_without_effect(spec, values).items():
            assert name in names
            assert reason[0].isupper()
            assert reason.endswith(".")
            assert ". " not in reason


@pytest.mark.parametrize("guidance", [None, 1, 1.0, 1.8, 4.5])
@pytest.mark.parametrize("audio_guidance", [None, 3.0])
def test_negative_prompt_has_an_effect_where_a_forward_reads_it(guidance, audio_guidance):
    branches = Guidance(text=guidance or LARGE.guidance, audio=audio_guidance).branches
    found = without_effect(guidance=guidance, audio_guidance=audio_guidance)
    assert ("negative_prompt" in found) == all(branch.prompt for branch in branches)


def test_audio_guidance_has_none_without_a_push_by_guidance():
    assert "audio_guidance" in without_effect(guidance=1.0)
    assert Guidance(text=1.0, audio=5.0).branches == Guidance(text=1.0).branches
    assert "audio_guidance" not in without_effect(guidance=1.1)


def test_empty_values_are_the_models_own():
    own = replace(LARGE, guidance=1.0)
    for empty in ({}, {"guidance": None}, {"guidance": ""}):
        assert "negative_prompt" in settings_without_effect(own, empty)
        assert "negative_prompt" not in settings_without_effect(LARGE, empty)


def test_names_that_are_no_settings_are_passed_over():
    assert settings_without_effect(LARGE, {"model": "14B"}) == settings_without_effect(LARGE, {})


def test_aspect_of_a_resolution_with_one_size():
    reasons = settings_without_effect(CATALOG["nano"], {"resolution": "small"})
    assert reasons["aspect"] == "All such videos of nano are 128x128 pixels."
    assert "aspect" not in without_effect(CATALOG["nano"])
    assert "aspect" not in without_effect()


def test_resolution_of_a_model_with_one():
    assert "resolution" in without_effect(replace(LARGE, other_resolutions=()))
    assert "resolution" not in without_effect(LARGE)
    assert "resolution" not in without_effect(CATALOG["nano"])


def test_step_cache_of_a_model_without_constants_needs_those_of_14B():
    nano = CATALOG["nano"]
    found = without_effect(nano, steps=4)
    assert "step_cache" in found
    assert "cache_coefficients" not in found
    assert "step_cache" not in without_effect(nano, steps=4, cache_coefficients="14B")


def test_constants_matter_only_where_they_differ_and_are_used():
    assert "cache_coefficients" in without_effect(step_cache=0.1)
    assert "cache_coefficients" in without_effect(CATALOG["1.3B"])
    assert "cache_coefficients" not in without_effect(CATALOG["1.3B"], step_cache=0.1)


@pytest.mark.parametrize("steps", [1, 2, 3, 50])
def test_step_cache_has_an_effect_where_a_step_can_be_skipped(steps):
    still = [torch.ones(1)] * steps
    skips = plan_skips(still, threshold=0.1, coefficients=LARGE.cache_coefficients)
    assert ("step_cache" in without_effect(steps=steps, step_cache=0.1)) != any(skips)


def test_third_pass_needs_a_cache_and_an_audio_guidance_of_its_own():
    assert "cache_third_pass" in without_effect(audio_guidance=3.0)
    assert "cache_third_pass" in without_effect(step_cache=0.1)
    assert "cache_third_pass" in without_effect(step_cache=0.1, audio_guidance=4.5)
    assert "cache_third_pass" not in without_effect(step_cache=0.1, audio_guidance=3.0)


def test_preset_fixes_what_its_distillation_has_built_in():
    built_in = {"guidance", "negative_prompt", "audio_guidance", "step_cache"}
    assert built_in <= without_effect(DISTILLED)
    assert built_in <= without_effect(DISTILLED, guidance=4.5, step_cache=0.1)
    assert "steps" not in without_effect(DISTILLED)
    assert "steps" in without_effect(LARGE.with_preset(PRESETS["causvid"]))
    assert "lightx2v" in settings_without_effect(DISTILLED, {})["negative_prompt"]


def test_preset_gives_the_checkpoint_its_numbers():
    for preset in PRESETS.values():
        assert set(preset.models) <= CATALOG.keys()
        spec = CATALOG[preset.models[0]].with_preset(preset)
        assert (spec.steps, spec.shift, spec.guidance) == (
            preset.steps,
            preset.shift,
            preset.guidance,
        )
        assert preset.timesteps is None or len(preset.timesteps) == preset.steps

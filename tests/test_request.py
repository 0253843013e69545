import dataclasses

import pytest

from omniavatar import GenerationRequest, InputError, setting_of


def make(**settings):
    return GenerationRequest(image="portrait.png", audio="speech.wav", **settings)


@pytest.mark.parametrize(
    ("name", "value", "hint"),
    [
        ("steps", 0, "1 to 100"),
        ("steps", 2.5, "whole number"),
        ("steps", True, "whole number"),
        ("guidance", "strong", "number"),
        ("guidance", float("nan"), "number"),
        ("seed", 2**31, "2147483647"),
        ("aspect", "round", "portrait, square, landscape"),
        ("overlap_frames", 12, "13"),
        ("prompt", 7, "str"),
        ("prompt", "half an emoji: \ud83d", "UTF-8"),
        ("negative_prompt", "a" * 10_001, "up to 10000"),
        ("audio", "", "file"),
    ],
)
def test_a_value_that_does_not_fit_is_refused_by_name_and_with_what_is_accepted(name, value, hint):
    with pytest.raises(InputError, match=hint) as caught:
        GenerationRequest.from_mapping({"image": "a.png", "audio": "b.wav", name: value})
    assert caught.value.field == name


def test_unknown_settings_are_refused():
    with pytest.raises(InputError, match="stepz") as caught:
        GenerationRequest.from_mapping({"image": "a.png", "audio": "b.wav", "stepz": 4})
    assert caught.value.field == "stepz"


def test_a_request_without_speech_says_so():
    with pytest.raises(InputError, match="audio is missing"):
        GenerationRequest.from_mapping({"image": "a.png"})


def test_whole_numbers_that_json_wrote_as_floats_are_accepted():
    assert make(steps=4.0).steps == 4


def test_a_request_survives_json():
    request = make(steps=8, guidance=2.0, prompt="A man nods.", join="published")
    assert GenerationRequest.from_mapping(request.to_mapping()) == request


def test_defaults_fill_only_what_was_left_open():
    request = make(steps=8).with_defaults(steps=50, guidance=4.5, prompt="Someone speaks.")
    assert (request.steps, request.guidance, request.prompt) == (8, 4.5, "Someone speaks.")


def test_every_deliberate_difference_has_a_published_value():
    request = make().as_published()
    for field in dataclasses.fields(GenerationRequest):
        setting = setting_of(field)
        if setting.group == "compatibility":
            assert setting.published is not None
            assert getattr(request, field.name) == setting.published


def test_every_setting_explains_itself():
    for field in dataclasses.fields(GenerationRequest):
        assert len(setting_of(field).help) > 10


def test_published_results_need_the_published_crop():
    request = make(fit="contain", focus_x=0.1).as_published()
    assert (request.fit, request.focus_x, request.focus_y) == ("cover", 0.5, 0.5)

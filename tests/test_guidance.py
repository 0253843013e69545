import torch

from omniavatar.stages.guidance import FULL, NEITHER, SILENT, Guidance


def test_no_push_needs_one_forward_even_with_an_audio_scale():
    guidance = Guidance(text=1.0, audio=3.0)
    assert guidance.branches == (FULL,)
    value = torch.randn(3)
    assert torch.equal(guidance.combine([value]), value)


def test_joint_guidance_pushes_away_from_neither():
    guidance = Guidance(text=4.0)
    assert guidance.branches == (FULL, NEITHER)
    assert guidance.combine([torch.tensor(3.0), torch.tensor(1.0)]) == 9.0


def test_equal_scales_take_the_cheaper_joint_path():
    assert Guidance(text=4.0, audio=4.0).branches == (FULL, NEITHER)


def test_separate_scales_push_along_prompt_and_speech_apart():
    guidance = Guidance(text=2.0, audio=5.0)
    assert guidance.branches == (FULL, NEITHER, SILENT)
    full, neither, silent = torch.tensor(7.0), torch.tensor(1.0), torch.tensor(3.0)
    assert guidance.combine([full, neither, silent]) == 1 + 2 * (3 - 1) + 5 * (7 - 3)

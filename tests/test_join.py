import torch

from omniavatar.stages.join import FADE_FRAMES, fade_join


def test_a_change_of_colour_is_faded_instead_of_jumping():
    shown = torch.full((1, 3, 1, 32, 32), 0.5)
    again = shown + 0.1
    new = again.expand(-1, -1, 20, -1, -1)
    faded = fade_join(new, shown=shown, again=again)
    jumps = torch.cat([shown, faded], dim=2).diff(dim=2).abs().amax(dim=(0, 1, 3, 4))
    assert jumps.max() < 0.1 / FADE_FRAMES
    torch.testing.assert_close(faded[:, :, FADE_FRAMES:], new[:, :, FADE_FRAMES:])


def test_equal_renderings_leave_the_frames_alone():
    frame, new = torch.rand(1, 3, 1, 32, 32), torch.rand(1, 3, 3, 32, 32)
    torch.testing.assert_close(fade_join(new, shown=frame, again=frame), new)


def test_a_small_feature_that_moves_leaves_no_ghost():
    shown, again = torch.full((1, 3, 1, 64, 64), 0.5), torch.full((1, 3, 1, 64, 64), 0.5)
    shown[..., 30:32, 30:32] = 1.0
    faded = fade_join(again, shown=shown, again=again)
    assert (faded - again).abs().max() < 0.04

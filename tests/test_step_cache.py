import torch

from omniavatar.stages.step_cache import plan_skips

IDENTITY = (1.0, 0.0)


def steps_that_move_by(*distances):
    value, values = torch.tensor([1.0]), [torch.tensor([1.0])]
    for distance in distances:
        value = value * (1 + distance)
        values.append(value)
    return values


def test_no_threshold_skips_nothing():
    moves = steps_that_move_by(0.0, 0.0, 0.0)
    assert plan_skips(moves, threshold=0.0, coefficients=IDENTITY) == (False,) * 4


def test_first_and_last_steps_always_run():
    moves = steps_that_move_by(0.0, 0.0, 0.0)
    assert plan_skips(moves, threshold=0.1, coefficients=IDENTITY) == (False, True, True, False)


def test_distances_add_up_until_a_step_runs():
    moves = steps_that_move_by(0.04, 0.04, 0.04, 0.04, 0.04)
    assert plan_skips(moves, threshold=0.1, coefficients=IDENTITY) == (
        False,
        True,
        True,
        False,
        True,
        False,
    )

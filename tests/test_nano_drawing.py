"""Drawn presenters: what moves, what does not, and where the mouth is."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from omniavatar.nano.drawing import Pose, Presenters, regions, render, sample_presenters
from omniavatar.nano.speech import VISEMES

SIZE = 96


def people(count: int, seed: int = 0, device: str = "cpu") -> Presenters:
    return sample_presenters(count, generator=torch.Generator().manual_seed(seed), device=device)


def saying(*mouths: tuple[float, float, float], count: int) -> Pose:
    mouth = torch.tensor(mouths).expand(count, len(mouths), 3)
    return replace(Pose.at_rest(count, len(mouths)), mouth=mouth)


def changed(pictures: Tensor) -> Tensor:
    """[n, t, 3, h, w] -> [n, h, w], which pixels differ from the first frame in any other."""
    return (pictures != pictures[:, :1]).any(2).any(1)


def inside(box: Tensor, height: int, width: int) -> Tensor:
    left, top, right, bottom = box.tolist()
    mask = torch.zeros(height, width, dtype=torch.bool)
    mask[top:bottom, left:right] = True
    return mask


@pytest.mark.parametrize(("height", "width"), [(64, 64), (96, 64), (64, 112)])
def test_pictures_have_the_size_asked_for_in_any_shape(height: int, width: int) -> None:
    pictures = render(people(4), Pose.at_rest(4, 2), height=height, width=width)
    assert pictures.shape == (4, 2, 3, height, width)
    assert pictures.min() >= 0
    assert pictures.max() <= 1
    assert pictures.isfinite().all()


def test_presenters_differ_and_the_same_seed_draws_the_same() -> None:
    pose = Pose.at_rest(12)
    first = render(people(12), pose, height=64, width=64)
    assert torch.equal(first, render(people(12), pose, height=64, width=64))
    for one in range(12):
        for other in range(one):
            assert (first[one] - first[other]).abs().mean() > 0.02


def test_bytes_are_the_rounded_picture() -> None:
    exact = render(people(3), Pose.at_rest(3), height=64, width=64)
    as_bytes = render(people(3), Pose.at_rest(3), height=64, width=64, as_bytes=True)
    assert as_bytes.dtype == torch.uint8
    assert (as_bytes.float() - exact * 255).abs().max() <= 0.5001


def test_a_presenter_is_drawn_alike_alone_and_among_others() -> None:
    many = people(16)
    pose = saying((0.8, 0.4, 0.1), count=16)
    together = render(many, pose, height=64, width=64)
    for row in (3, 11):
        alone = render(many.take([row]), pose.at((slice(0, 1), slice(0, 1))), height=64, width=64)
        torch.testing.assert_close(alone[0], together[row], atol=1e-5, rtol=0)


def test_everything_stays_on_the_device_of_the_presenters() -> None:
    pictures = render(people(40, device="meta"), Pose.at_rest(40), height=64, width=64)
    assert pictures.device.type == "meta"


def test_a_talking_mouth_changes_only_the_mouth_and_the_chin() -> None:
    count = 24
    presenters = people(count)
    pose = saying(*VISEMES.values(), count=count)
    where = regions(presenters, pose, height=SIZE, width=SIZE)
    moved = changed(render(presenters, pose, height=SIZE, width=SIZE))
    for row in range(count):
        head = inside(where.head[row, 0], SIZE, SIZE)
        eyes = inside(where.eyes[row, 0], SIZE, SIZE)
        assert moved[row].any()
        assert not (moved[row] & ~head).any()
        assert not (moved[row] & eyes).any()


def test_the_mouth_box_holds_the_opening_and_is_20_to_30_pixels_wide() -> None:
    presenters = people(24)
    pose = saying(VISEMES["rest"], VISEMES["ae"], count=24)
    where = regions(presenters, pose, height=128, width=128)
    pictures = render(presenters, pose, height=128, width=128)
    # Teeth are the only white that comes with an opening.
    white = (pictures[:, 1] > 0.88).all(1) & ~(pictures[:, 0] > 0.88).all(1)
    for row in range(24):
        box = where.mouth[row, 1]
        assert (white[row] & inside(box, 128, 128)).sum() >= 8
        lips = float(presenters.numbers["mouth_width"][row] * presenters.framing[row][2]) * 128
        assert 18 < lips < 34
        assert box[2] - box[0] >= lips


@pytest.mark.parametrize("opening", [0.2, 0.5, 0.8])
def test_mouth_pixels_open_with_the_track(opening: float) -> None:
    presenters = people(16, seed=4)
    pose = saying((0.0, 0.3, 0.0), (opening, 0.3, 0.0), (opening + 0.2, 0.3, 0.0), count=16)
    pictures = render(presenters, pose, height=SIZE, width=SIZE)
    closed, less, more = pictures.unbind(1)
    grown = ((more - closed).abs().sum((1, 2, 3)) / (less - closed).abs().sum((1, 2, 3))).tolist()
    assert min(grown) > 1.02


def test_shapes_of_the_mouth_can_be_told_apart() -> None:
    presenters = people(12, seed=2)
    shapes = ("p", "s", "ee", "eh", "ah", "oh", "oo")
    pose = saying(*(VISEMES[name] for name in shapes), count=12)
    pictures = render(presenters, pose, height=SIZE, width=SIZE)
    for one in range(len(shapes)):
        for other in range(one):
            difference = (pictures[:, one] - pictures[:, other]).abs().sum((1, 2, 3))
            assert difference.min() > 4, (shapes[one], shapes[other])


@pytest.mark.parametrize("track", ["eyes_closed", "gaze_x", "brow"])
def test_eyes_and_brows_move_inside_the_eye_band(track: str) -> None:
    presenters = people(24)
    still = Pose.at_rest(24, 3)
    pose = replace(still, **{track: torch.tensor([0.0, 0.5, 1.0]).expand(24, 3)})
    where = regions(presenters, pose, height=SIZE, width=SIZE)
    moved = changed(render(presenters, pose, height=SIZE, width=SIZE))
    for row in range(24):
        covered = presenters.traits[row].headwear != "none" or presenters.traits[row].hair == "bob"
        assert moved[row].any() or (track == "brow" and covered)
        assert not (moved[row] & ~inside(where.eyes[row, 0], SIZE, SIZE)).any()


def test_a_moving_head_leaves_the_body_and_the_wall_alone() -> None:
    presenters = people(16)
    still = Pose.at_rest(16, 3)
    sway = torch.tensor([0.0, 0.03, -0.03]).expand(16, 3)
    pose = replace(still, head_x=sway, roll=sway, yaw=sway * 4, pitch=sway * 4)
    moved = changed(render(presenters, pose, height=SIZE, width=SIZE))
    assert not moved[:, :4, :4].any()
    assert not moved[:, -3:, SIZE // 2 - 3 : SIZE // 2 + 3].any()
    assert (~moved).float().mean() > 0.6


def test_only_what_a_shape_can_reach_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    presenters = people(32, seed=6)
    generator = torch.Generator().manual_seed(1)
    pose = Pose.at_rest(32, 2).map(
        lambda track: track + 0.1 * torch.rand(track.shape, generator=generator)
    )
    quick = render(presenters, pose, height=SIZE, width=SIZE)
    monkeypatch.setattr("omniavatar.nano.drawing._reach", lambda _pose: 99.0)
    assert torch.equal(quick, render(presenters, pose, height=SIZE, width=SIZE))

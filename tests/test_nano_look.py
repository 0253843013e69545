"""The wide look: people as a camera sees them, turned heads, any framing, raised hands."""

from dataclasses import replace

import pytest
import torch

from omniavatar.nano.clips import sample_clips
from omniavatar.nano.drawing import Pose, Presenters, regions, render, sample_presenters
from omniavatar.nano.prompts import WIDE_BEHAVIOURS, WIDE_MOODS
from omniavatar.nano.regions import inside
from omniavatar.nano.speech import VISEMES, speech_bank

SIZE = 96


@pytest.fixture(scope="module")
def people() -> Presenters:
    generator = torch.Generator().manual_seed(3)
    return sample_presenters(48, generator=generator, device="cpu", look="wide")


def test_there_are_cartoons_and_photographic_people_small_and_large(people: Presenters) -> None:
    styles = {traits.style for traits in people.traits}
    assert styles == {"flat", "outlined", "shaded", "photographic"}
    sizes = people.numbers["size"]
    assert sizes.min() < 0.30
    assert sizes.max() > 0.55
    photographic = torch.tensor([traits.style == "photographic" for traits in people.traits])
    assert people.numbers["turn"][photographic].abs().max() > 0.3
    # Cartoons of one hand look ahead, those of others also away.
    assert 0.2 < (people.numbers["turn"][~photographic] == 0).float().mean() < 0.8


def test_a_presenter_is_drawn_alike_alone_and_among_others(people: Presenters) -> None:
    mouth = torch.tensor(VISEMES["ah"]).expand(48, 1, 3)
    pose = replace(Pose.at_rest(48), mouth=mouth)
    together = render(people, pose, height=64, width=80)
    for row in (0, 20, 41):
        alone = render(people.take([row]), pose.at((slice(0, 1), slice(0, 1))), height=64, width=80)
        torch.testing.assert_close(alone[0], together[row], atol=2e-3, rtol=0)


def test_photographic_people_have_no_flat_colour_and_their_grain_stands_still(
    people: Presenters,
) -> None:
    pictures = render(people, Pose.at_rest(48, 2), height=SIZE, width=SIZE)
    assert torch.equal(pictures[:, 0], pictures[:, 1])
    flat = (pictures[:, 0].diff(dim=-1).abs().amax(1) < 1e-4).float().mean((1, 2))
    for share, traits in zip(flat.tolist(), people.traits, strict=True):
        if traits.style == "photographic":
            assert share < 0.1
        elif traits.style == "flat" and traits.wall == "plain":
            assert share > 0.3


def test_the_mouth_box_holds_what_speech_moves_also_on_turned_heads(people: Presenters) -> None:
    mouth = torch.tensor([VISEMES["rest"], VISEMES["ah"]]).expand(48, 2, 3)
    pose = replace(Pose.at_rest(48, 2), mouth=mouth)
    pictures = render(people, pose, height=SIZE, width=SIZE)
    change = (pictures[:, 1] - pictures[:, 0]).abs().sum(1)  # [n, h, w]
    boxes = regions(people, pose, height=SIZE, width=SIZE).mouth[:, 1]
    within = (change * inside(boxes, height=SIZE, width=SIZE)).sum((1, 2)) / change.sum((1, 2))
    assert (change.sum((1, 2)) > 0).all()
    assert within.median() > 0.8
    assert within.min() > 0.5  # a jaw that drops moves more than the mouth


def test_only_those_who_wave_have_a_hand(people: Presenters) -> None:
    hands = people.with_waving([True] * 48)
    still = Pose.at_rest(48, 2)
    raised = replace(still, wave=torch.tensor([0.0, 1.0]).expand(48, 2))
    with_hand = render(hands, raised, height=SIZE, width=SIZE)
    without = render(people, raised, height=SIZE, width=SIZE)
    assert torch.equal(without[:, 0], without[:, 1])
    changed = (with_hand[:, 1] - with_hand[:, 0]).abs().amax(1) > 0.05
    assert (changed.float().mean((1, 2)) > 0.005).float().mean() > 0.9
    lowered = (with_hand[:, 0] - without[:, 0]).abs().amax((1, 2, 3))
    assert lowered.max() < 1e-4


def test_clips_name_the_new_behaviours_and_show_them() -> None:
    bank = speech_bank(2, 8.0, seed=1)
    drawn = sample_clips(
        bank,
        count=4,
        frames=25,
        height=64,
        width=80,
        generator=torch.Generator().manual_seed(0),
        device="cpu",
        behaviours=("sad", "waving"),
        look="wide",
    )
    names = [WIDE_BEHAVIOURS[number] for number in drawn.behaviour.tolist()]
    assert names == ["sad", "waving"] * 2
    for row, prompt in enumerate(drawn.prompts):
        if names[row] == "sad":
            assert "sad" in prompt
            assert WIDE_MOODS[drawn.mood[row]] == "sad"
            assert drawn.pose.sad[row].any()
            assert not drawn.pose.wave[row].any()
        else:
            assert "wave" in prompt or "waving" in prompt
            assert drawn.pose.wave[row].any()
            assert drawn.pose.swing[row].std() > 0.05

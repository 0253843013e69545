"""Clips: one seed is one clip, and frames, sound, prompt and boxes belong together."""

import random
from typing import Any

import pytest
import torch

from omniavatar.nano.clips import SAMPLES_PER_ROW, Clips, sample_clips, sample_speech
from omniavatar.nano.drawing import sample_presenters
from omniavatar.nano.prompts import (
    BEHAVIOURS,
    END,
    MOODS,
    PAD,
    UNKNOWN,
    VOCABULARY,
    sentence,
    words_of,
)
from omniavatar.nano.speech import VISEMES, SpeechBank, speech_bank


@pytest.fixture(scope="module")
def bank() -> SpeechBank:
    return speech_bank(3, 8.0, seed=1)


def clips(bank: SpeechBank, seed: int = 0, **changes: Any) -> Clips:
    settings: dict[str, Any] = {"count": 6, "frames": 9, "height": 64, "width": 64}
    generator = torch.Generator().manual_seed(seed)
    return sample_clips(bank, generator=generator, device="cpu", **(settings | changes))


def test_the_same_seed_is_the_same_clip(bank: SpeechBank) -> None:
    first, again, other = clips(bank), clips(bank), clips(bank, seed=1)
    assert torch.equal(first.frames, again.frames)
    assert torch.equal(first.reference, again.reference)
    assert torch.equal(first.waveform, again.waveform)
    assert first.prompts == again.prompts
    assert not torch.equal(first.frames, other.frames)


def test_frame_k_shows_row_k_minus_1_of_the_waveform(bank: SpeechBank) -> None:
    drawn = clips(bank, count=24, continuation_share=0.5)
    rows = drawn.audio_rows()
    assert torch.equal(rows[:, 1:] - rows[:, :-1], torch.ones(24, 8, dtype=torch.int64))
    sound = bank.samples.unfold(1, drawn.waveform.shape[1], SAMPLES_PER_ROW)  # [s, begin, n]
    for clip in range(24):
        stream, begin = (sound == drawn.waveform[clip]).all(2).nonzero()[0].tolist()
        heard = rows[clip] >= 0
        truth = bank.mouth[stream, begin + rows[clip][heard]]
        first = 0 if drawn.is_continuation[clip] else 1
        assert heard.sum() == 9 - first
        torch.testing.assert_close(drawn.mouth[clip, first:], truth)


def test_first_windows_begin_with_the_portrait_and_without_sound(bank: SpeechBank) -> None:
    drawn = clips(bank, count=12, continuation_share=0.0)
    assert not drawn.is_continuation.any()
    assert (drawn.first_row == 0).all()
    assert torch.equal(drawn.reference, drawn.frames[:, 0])


def test_continuation_windows_show_the_portrait_of_another_time(bank: SpeechBank) -> None:
    drawn = clips(bank, count=12, continuation_share=1.0, behaviours=["nodding"])
    assert drawn.is_continuation.all()
    assert (drawn.first_row >= 1).all()
    assert (drawn.first_row <= 25).all()
    assert (drawn.reference != drawn.frames[:, 0]).flatten(1).any(1).all()
    # Same person, same room: what never moves is the same in both.
    assert (drawn.static.float().mean((1, 2)) > 0.5).all()


def test_many_portraits_have_a_closed_mouth(bank: SpeechBank) -> None:
    drawn = clips(bank, count=200, frames=1, height=16, width=16, continuation_share=0.0)
    closed = (drawn.mouth[:, 0] == torch.tensor(VISEMES["rest"])).all(1).float().mean()
    assert 0.35 < closed < 0.75


def test_static_pixels_are_those_that_no_frame_changes(bank: SpeechBank) -> None:
    drawn = clips(bank)
    pictures = torch.cat([drawn.reference[:, None], drawn.frames], 1)
    moving = (pictures.amax(1) != pictures.amin(1)).any(1)
    assert torch.equal(drawn.static, ~moving)
    assert 0.5 < drawn.static.float().mean() < 1
    assert not drawn.static.all(2).all(1).any()


def test_still_presenters_move_least_and_nodding_ones_go_up_and_down(bank: SpeechBank) -> None:
    drawn = clips(
        bank, count=18, frames=51, height=16, width=16, behaviours=["still", "nodding", "plain"]
    )
    height = drawn.pose.head_y.std(1)
    assert [BEHAVIOURS[b] for b in drawn.behaviour[:3].tolist()] == ["still", "nodding", "plain"]
    assert height[1::3].min() > 4 * height[0::3].max()
    assert height[1::3].min() > 1.5 * height[2::3].mean()
    assert drawn.pose.head_y.abs().max() < 0.06
    assert drawn.pose.head_x.abs().max() < 0.04


def test_eyes_close_more_when_blinking_often(bank: SpeechBank) -> None:
    drawn = clips(
        bank, count=24, frames=101, height=16, width=16, behaviours=["blinking often", "plain"]
    )
    closed = (drawn.pose.eyes_closed > 0.5).float().mean(1)
    assert closed[0::2].mean() > 0.15
    assert closed[1::2].mean() < 0.12
    assert drawn.pose.eyes_closed.amax(1)[0::2].min() == 1


def test_moods_show_in_the_smile(bank: SpeechBank) -> None:
    drawn = clips(bank, count=12, frames=30, behaviours=["smiling", "serious", "plain"])
    last = drawn.pose.smile[:, -1]
    assert (last[0::3] > 0.6).all()
    assert (last[1::3] < -0.6).all()
    assert (last[2::3] == 0).all()
    assert [MOODS[m] for m in drawn.mood[:3].tolist()] == ["smiling", "serious", "neutral"]


def test_boxes_are_inside_the_picture_and_the_mouth_is_below_the_eyes(bank: SpeechBank) -> None:
    drawn = clips(bank, height=64, width=96)
    for box in (drawn.regions.mouth, drawn.regions.eyes, drawn.regions.head):
        left, top, right, bottom = box.unbind(-1)
        assert box.shape == (6, 9, 4)
        assert (left >= 0).all()
        assert (top >= 0).all()
        assert (right <= 96).all()
        assert (bottom <= 64).all()
        assert (right > left).all()
        assert (bottom > top).all()
    assert (drawn.regions.mouth[..., 1] > drawn.regions.eyes[..., 1]).all()


def test_a_short_bank_is_refused(bank: SpeechBank) -> None:
    with pytest.raises(ValueError, match="200 rows"):
        clips(bank, frames=190)


def test_speech_windows_are_cut_at_rows(bank: SpeechBank) -> None:
    generator = torch.Generator().manual_seed(0)
    windows = sample_speech(bank, count=5, rows=30, generator=generator, device="cpu")
    assert windows.waveform.shape == (5, 30 * SAMPLES_PER_ROW)
    assert windows.classes.shape == (5, 30)
    sound = bank.samples.unfold(1, 30 * SAMPLES_PER_ROW, SAMPLES_PER_ROW)
    for window in range(5):
        stream, begin = (sound == windows.waveform[window]).all(2).nonzero()[0].tolist()
        assert torch.equal(windows.mouth[window], bank.mouth[stream, begin : begin + 30])


def test_the_vocabulary_knows_every_word_of_every_sentence() -> None:
    generator = torch.Generator().manual_seed(0)
    chance = random.Random(0)
    known = set(VOCABULARY)
    for traits in sample_presenters(600, generator=generator, device="cpu").traits:
        for behaviour in BEHAVIOURS:
            prompt = sentence(traits, behaviour=behaviour, mood=chance.choice(MOODS), chance=chance)
            assert set(words_of(prompt)) <= known, prompt


def test_the_vocabulary_begins_with_its_marks_and_fits_the_text_encoder() -> None:
    assert VOCABULARY[:3] == (PAD, END, UNKNOWN)
    assert len(set(VOCABULARY)) == len(VOCABULARY) <= 256
    assert {"talking", "smiling", "nods", "realistic", "man", "woman"} <= set(VOCABULARY)


def test_a_prompt_names_the_behaviour_and_the_mood() -> None:
    traits = sample_presenters(1, generator=torch.Generator(), device="cpu").traits[0]
    for seed in range(20):
        chance = random.Random(seed)
        prompt = sentence(traits, behaviour="nodding", mood="smiling", chance=chance)
        assert "nod" in prompt
        assert any(word in prompt for word in ("smil", "friendly", "happy"))

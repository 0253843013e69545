"""Speech with known mouths: who speaks, what is said, and when lips close."""

import random
from itertools import pairwise

import numpy as np
import pytest
import torch

from omniavatar.nano.espeak import SAMPLE_RATE, Phoneme, Synthesiser, Voice, speak
from omniavatar.nano.sentences import HELD_OUT_WORDS, TRAINING_WORDS, random_sentence
from omniavatar.nano.speech import (
    HELD_OUT_VOICES,
    TRAINING_VOICES,
    VISEMES,
    SpeechStream,
    mouth_track,
    speech_bank,
    speech_stream,
    visemes_of,
)


@pytest.fixture(scope="module")
def stream() -> SpeechStream:
    return speech_stream(40.0, seed=5)


def loudness(samples: np.ndarray) -> np.ndarray:
    """Root mean square of every row."""
    return np.sqrt((samples.reshape(-1, 640) ** 2).mean(1))


def test_every_voice_speaks() -> None:
    for voice in (*TRAINING_VOICES, *HELD_OUT_VOICES):
        said = speak("Hello.", voice=voice)
        assert np.abs(said.samples).max() > 0.05, voice
        assert len(said.phonemes) >= 4, voice


def test_held_out_voices_and_words_are_never_trained_on() -> None:
    assert not set(TRAINING_VOICES) & set(HELD_OUT_VOICES)
    trained = {voice.variant for voice in TRAINING_VOICES} - {""}
    assert not trained & {voice.variant for voice in HELD_OUT_VOICES}
    assert not TRAINING_WORDS.content_words() & HELD_OUT_WORDS.content_words()


def test_an_unknown_voice_is_refused() -> None:
    with pytest.raises(ValueError, match="en-nowhere"):
        speak("Hello.", voice=Voice("en-nowhere"))


def test_speech_is_as_long_as_its_phonemes_and_slower_words_take_longer() -> None:
    voice = TRAINING_VOICES[0]
    slow = speak("A short sentence.", voice=voice, words_per_minute=125)
    fast = speak("A short sentence.", voice=voice, words_per_minute=215)
    assert len(slow.samples) > 1.2 * len(fast.samples)
    assert slow.phonemes[-1].stop_seconds == pytest.approx(
        len(slow.samples) / SAMPLE_RATE, abs=0.021
    )
    assert all(a.start_seconds <= b.start_seconds for a, b in pairwise(slow.phonemes))


def test_every_phoneme_that_espeak_says_is_known() -> None:
    chance = random.Random(3)
    voices = (*TRAINING_VOICES, *HELD_OUT_VOICES)
    with Synthesiser() as synthesiser:
        for i in range(200):
            text = random_sentence((TRAINING_WORDS, HELD_OUT_WORDS)[i % 2], chance)
            said = synthesiser.speak(text, voice=chance.choice(voices))
            assert {shape for p in said.phonemes for shape in visemes_of(p.name)} <= VISEMES.keys()


def test_diphthongs_go_through_two_shapes() -> None:
    assert visemes_of("'aI") == ("ah", "ih")
    assert visemes_of("oU") == ("oh", "oo")
    assert visemes_of("tS") == ("sh",)


@pytest.mark.parametrize("name", ["p", "b", "m"])
@pytest.mark.parametrize("offset", [0.0, 0.01, 0.02, 0.03])
def test_p_b_and_m_close_the_mouth_between_open_vowels(name: str, offset: float) -> None:
    start = 0.4 + offset
    track, _ = mouth_track(
        (
            Phoneme("'A:", 0.1, start),
            Phoneme(name, start, start + 0.07),
            Phoneme("'A:", start + 0.07, 0.9),
        ),
        rows=25,
    )
    closed = track[8:15, 0].min()
    assert closed < 0.1
    assert track[6, 0] > 0.9
    assert track[17, 0] > 0.9


def test_p_closes_the_lips_in_the_silence_before_its_burst() -> None:
    said = speak("Papa.", voice=Voice("en-us", "m1"), words_per_minute=125)
    burst = [p.start_seconds for p in said.phonemes if p.name == "p"][-1]
    rows = len(said.samples) // 640
    track, _ = mouth_track(said.phonemes, rows)
    at_rest = np.abs(np.arange(rows) / 25 + 0.02 - (burst - 0.02)).argmin()
    hold = said.samples[int((burst - 0.03) * SAMPLE_RATE) : int((burst - 0.01) * SAMPLE_RATE)]
    assert np.abs(hold).max() < 0.02
    assert track[at_rest, 0] < 0.1


def test_mouths_round_for_oo_and_widen_for_ee() -> None:
    oo, _ = mouth_track((Phoneme("'u:", 0.0, 0.6),), rows=15)
    ee, _ = mouth_track((Phoneme("'i:", 0.0, 0.6),), rows=15)
    assert oo[7, 2] > 0.9
    assert ee[7, 2] < 0.1
    assert ee[7, 1] > oo[7, 1] + 0.7


def test_silence_keeps_the_mouth_closed(stream: SpeechStream) -> None:
    silent = loudness(stream.samples) < 1e-5
    # Lips move a little before and after the sound, for 90 ms at most.
    inside = silent.copy()
    for shift in (-3, -2, -1, 1, 2, 3):
        inside &= np.roll(silent, shift)
    assert inside.sum() > 10
    assert stream.mouth[inside, 0].max() < 0.02


def test_the_mouth_follows_the_loudness_without_delay(stream: SpeechStream) -> None:
    loud, opening = loudness(stream.samples), stream.mouth[:, 0]
    correlation = {
        shift: np.corrcoef(np.roll(loud, shift), opening)[0, 1] for shift in range(-3, 4)
    }
    assert max(correlation, key=correlation.__getitem__) == 0
    assert correlation[0] > 0.6


def test_a_stream_has_one_row_for_each_40_ms(stream: SpeechStream) -> None:
    assert stream.samples.shape == (40 * SAMPLE_RATE,)
    assert stream.mouth.shape == (1000, 3)
    assert stream.classes.shape == (1000,)
    assert 0.1 < stream.mouth[:, 0].mean() < 0.4
    assert stream.mouth.min() >= 0
    assert stream.mouth.max() <= 1.01
    assert 0.2 < np.abs(stream.samples).max() < 0.85


def test_the_same_seed_is_the_same_stream() -> None:
    first, again = speech_stream(6.0, seed=9), speech_stream(6.0, seed=9)
    other, held_out = speech_stream(6.0, seed=10), speech_stream(6.0, seed=9, held_out=True)
    np.testing.assert_array_equal(first.samples, again.samples)
    assert not np.array_equal(first.samples, other.samples)
    assert not np.array_equal(first.samples, held_out.samples)


def test_a_bank_does_not_depend_on_the_number_of_processes() -> None:
    alone = speech_bank(3, 4.0, seed=2)
    together = speech_bank(3, 4.0, seed=2, processes=2)
    assert alone.samples.shape == (3, 64000)
    assert torch.equal(alone.samples, together.samples)
    assert torch.equal(alone.mouth, together.mouth)
    assert not torch.equal(alone.samples[0], alone.samples[1])

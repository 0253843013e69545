"""Recordings of people in the bank of speech: their mouths are guessed, or known from a file."""

from pathlib import Path

import numpy as np
import pytest
import torch
from media_files import write_wav
from transformers import Wav2Vec2Model

from omniavatar.errors import InputError
from omniavatar.nano.architecture import weights_folder
from omniavatar.nano.further_speech import LABELS, further_speech, guess_mouths
from omniavatar.nano.mouths import envelope
from omniavatar.nano.speech import VISEMES, SpeechBank, speech_bank
from omniavatar.nano.train_speech_encoder import correlation
from omniavatar.nano.windows import load_speech_encoder

CPU = torch.device("cpu")
REST = torch.tensor(VISEMES["rest"])


@pytest.fixture(scope="module")
def encoder() -> Wav2Vec2Model:
    return load_speech_encoder(weights_folder(), CPU)


@pytest.fixture(scope="module")
def bank() -> SpeechBank:
    return speech_bank(4, 12.0, seed=8)


@pytest.fixture(scope="module")
def other() -> SpeechBank:
    return speech_bank(2, 12.0, seed=9, held_out=True)


def test_guessed_mouths_follow_what_is_said_and_how_loudly(
    encoder: Wav2Vec2Model, bank: SpeechBank, other: SpeechBank
) -> None:
    guessed = guess_mouths(other.samples, bank, encoder)
    assert guessed.shape == other.mouth.shape
    for number, least in enumerate((0.7, 0.7, 0.6)):
        agreement = correlation(guessed[..., number], other.mouth[..., number])
        assert agreement.min() > least
    true, found = (
        correlation(mouth[..., 0], envelope(other.samples)) for mouth in (other.mouth, guessed)
    )
    assert (found > true).all()
    assert found.min() > 0.8
    size = guessed[..., 0].std() / other.mouth[..., 0].std()
    assert 0.6 < size < 1.2


def test_guessed_mouths_rest_in_silence(
    encoder: Wav2Vec2Model, bank: SpeechBank, other: SpeechBank
) -> None:
    samples = other.samples.clone()
    samples[:, 80_000:] = 0.0
    guessed = guess_mouths(samples, bank, encoder)
    assert (guessed[:, 80_000 // 640 + 1 :] == REST).all()
    assert (guessed[:, : 80_000 // 640, 0] > 0.3).any()


def test_a_folder_of_speech_joins_the_bank(
    encoder: Wav2Vec2Model, bank: SpeechBank, other: SpeechBank, tmp_path: Path
) -> None:
    write_wav(tmp_path / "known.wav", other.samples[0].numpy(), 16000)
    write_wav(tmp_path / "short.wav", other.samples[1, :64_000].numpy(), 16000)
    np.savez(
        tmp_path / LABELS,
        names=np.array(["known", "not here"]),
        mouth=other.mouth.numpy(),
        classes=other.classes.numpy().astype(np.uint8),
    )
    joined = bank.joined(further_speech(tmp_path, bank, encoder))
    assert joined.samples.shape == (6, 12 * 16000)
    assert torch.equal(joined.mouth[:4], bank.mouth)
    assert torch.equal(joined.mouth[4], other.mouth[0])
    assert torch.equal(joined.classes[4], other.classes[0])
    assert (joined.samples[4] - other.samples[0]).abs().max() < 1e-3
    assert not joined.samples[5, 64_000:].any()
    assert (joined.mouth[5, 102:] == REST).all()
    assert correlation(joined.mouth[5, :100, 0], other.mouth[1, :100, 0]) > 0.6


def test_what_is_no_speech_for_the_bank_is_told(
    encoder: Wav2Vec2Model, bank: SpeechBank, other: SpeechBank, tmp_path: Path
) -> None:
    with pytest.raises(FileNotFoundError, match=r"holds no \.wav"):
        further_speech(tmp_path, bank, encoder)
    write_wav(tmp_path / "slow.wav", other.samples[0].numpy(), 8000)
    with pytest.raises(InputError, match=r"slow\.wav has 1 channels at 8000 Hz"):
        further_speech(tmp_path, bank, encoder)

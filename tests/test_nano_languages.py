"""Speech for the wide course: other languages, whispers, wider ranges, another synthesiser."""

import hashlib
import random
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from omniavatar.nano.__main__ import main
from omniavatar.nano.banks import read_speech
from omniavatar.nano.course import FIRST, WIDE
from omniavatar.nano.espeak import Synthesiser, Voice
from omniavatar.nano.flite import Flite
from omniavatar.nano.languages import LANGUAGES
from omniavatar.nano.speech import (
    PLAIN,
    VISEMES,
    Manner,
    SpeechStream,
    mouth_track,
    speech_bank,
    speech_stream,
    visemes_of,
)


def loudness(stream: SpeechStream) -> np.ndarray:
    """Root mean square of every row."""
    return np.sqrt((stream.samples.reshape(-1, 640) ** 2).mean(1))


def only(language: str) -> Manner:
    """A manner in which everybody speaks this language."""
    return Manner(languages=(language,), english_share=0.0)


@pytest.fixture
def flite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Flite:
    """A program with the options and the answers of Debian's, which says "ma" to everything.

    It lies in the search path. `asked.txt` beside it has what it was asked.
    """
    program = tmp_path / "bin" / "flite"
    program.parent.mkdir()
    program.write_text(
        f"#!{sys.executable}\n"
        "import pathlib, sys, wave\n"
        "asked = sys.argv[1:]\n"
        "with (pathlib.Path(__file__).parent / 'asked.txt').open('a') as log:\n"
        "    print(*asked, sep=chr(9), file=log)\n"
        "with wave.open(asked[asked.index('-o') + 1], 'wb') as sound:\n"
        "    sound.setnchannels(1)\n"
        "    sound.setsampwidth(2)\n"
        "    sound.setframerate(16000)\n"
        "    sound.writeframes(b'\\x00\\x10\\x00\\xf0' * 8000)\n"
        "print('pau:0.2 m:0.4 aa:0.8 pau:1.0')\n"
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent), prepend=":")
    return Flite(program)


def voices_asked_of(flite: Flite) -> set[str]:
    lines = (flite.program.parent / "asked.txt").read_text().splitlines()
    return {line.split("\t")[line.split("\t").index("-voice") + 1] for line in lines}


@pytest.mark.parametrize("code", LANGUAGES)
def test_every_phoneme_of_the_language_is_known(code: str) -> None:
    language, chance = LANGUAGES[code], random.Random(4)
    met = set()
    with Synthesiser() as synthesiser:
        for number in range(200):
            text = language.sentence(chance, held_out=number % 3 == 0)
            voice = Voice(chance.choice(language.accents))
            said = synthesiser.speak(text, voice=voice, words_per_minute=260)
            assert len(said.phonemes) > 3, text
            met |= {phoneme.name for phoneme in said.phonemes}
    shapes = {shape for name in met for shape in visemes_of(name, language=code)}
    assert shapes <= VISEMES.keys()
    # Lips close, and the mouth opens, rounds and spreads.
    assert {"p", "f", "ee", "oo", "rest"} <= shapes
    assert shapes & {"ae", "ah"}


def test_only_silences_rest_the_mouth() -> None:
    for code, language in LANGUAGES.items():
        words = language.training[:80]
        with Synthesiser() as synthesiser:
            said = synthesiser.speak(" ".join(words), voice=Voice(language.accents[0]))
        for phoneme in said.phonemes:
            if visemes_of(phoneme.name, language=code) == ("rest",):
                begin, end = (round(s * 16000) for s in (phoneme.start_seconds,
                                                         phoneme.stop_seconds))  # fmt: skip
                heard = said.samples[begin + 80 : end - 80]
                assert np.abs(heard).max(initial=0) < 0.1, (code, phoneme)


def test_the_same_letter_is_another_mouth_in_another_language() -> None:
    assert visemes_of("y", language="fr") == ("oo",)  # lune
    assert visemes_of("y", language="pl") == ("ih",)  # syn
    assert visemes_of("'r", language="fr") == ("k",)
    assert visemes_of("r") == ("r",)
    assert visemes_of("B", language="es") == ("f",)
    assert visemes_of("OY", language="de") == ("aw", "oh")
    with pytest.raises(KeyError):
        visemes_of("B")


def test_words_held_out_are_never_trained_on() -> None:
    for language in LANGUAGES.values():
        training, held_out, common = (
            {word.lower() for word in words}
            for words in (language.training, language.held_out, language.common)
        )
        assert not held_out & (training | common)
        assert len(training) == len(language.training) > 250
        assert len(held_out) == len(language.held_out) > 80


def test_sentences_are_of_the_side_asked_for() -> None:
    for language in LANGUAGES.values():
        chance = random.Random(1)
        said = [language.sentence(chance, held_out=held_out) for held_out in (False, True) * 40]
        words = [{word.strip(",.!?") for word in text.split()} for text in said]
        training, held_out = set().union(*words[::2]), set().union(*words[1::2])
        assert training <= {*language.training, *language.common}
        assert held_out <= {*language.held_out, *language.common}
        assert all(2 <= len(text.split()) <= 13 for text in said)


@pytest.mark.parametrize("code", LANGUAGES)
def test_mouths_follow_speech_in_the_language(code: str) -> None:
    stream = speech_stream(16.0, seed=3, manner=only(code))
    loud = loudness(stream)
    by_shift = {
        shift: np.corrcoef(np.roll(loud, shift), stream.mouth[:, 0])[0, 1] for shift in (-3, 0, 3)
    }
    assert max(by_shift, key=by_shift.__getitem__) == 0
    assert by_shift[0] > 0.5
    assert 0.1 < stream.mouth[:, 0].mean() < 0.5


def test_lips_close_for_p_and_m_in_every_language() -> None:
    for code, language in LANGUAGES.items():
        with Synthesiser() as synthesiser:
            said = synthesiser.speak("mama papa", voice=Voice(language.accents[0]))
        track, _ = mouth_track(said.phonemes, len(said.samples) // 640, language=code)
        closed = [
            phoneme.start_seconds
            for phoneme in said.phonemes
            if visemes_of(phoneme.name, language=code) == ("p",)
        ]
        assert len(closed) == 4, code
        for start in closed:
            row = round(start * 25)
            assert track[max(0, row - 2) : row + 3, 0].min() < 0.12, (code, start)


def test_the_first_course_speaks_as_it_always_did() -> None:
    assert FIRST.manner == PLAIN
    for held_out, digest, level in (
        (False, "c9fd849cf4234a04", 0.060924418),
        (True, "8d4b2a9656c5f5a0", 0.038091857),
    ):
        stream = speech_stream(6.0, seed=9, held_out=held_out)
        assert hashlib.sha256(stream.classes.tobytes()).hexdigest().startswith(digest)
        assert np.abs(stream.samples).mean() == pytest.approx(level, rel=1e-5)


def test_the_wide_course_speaks_mostly_english_and_all_other_languages() -> None:
    manner = WIDE.manner
    assert set(manner.languages) == set(LANGUAGES)
    assert manner.english_share == pytest.approx(0.6)
    english = speech_stream(4.0, seed=2, manner=Manner(languages=("pl",), english_share=1.0))
    polish = speech_stream(4.0, seed=2, manner=Manner(languages=("pl",), english_share=0.0))
    assert not np.array_equal(english.classes, polish.classes)


def test_whispers_have_no_voice() -> None:
    def high_share(manner: Manner) -> float:
        shares = []
        for seed in range(3):
            samples = speech_stream(6.0, seed=seed, held_out=True, manner=manner).samples
            shares.append(np.abs(np.diff(samples)).mean() / np.abs(samples).mean())
        return float(np.mean(shares))

    assert high_share(Manner(whispered_share=1.0)) > 1.5 * high_share(PLAIN)


def test_ranges_are_kept() -> None:
    quiet = replace(only("it"), level=(0.03, 0.05), longest_pause_seconds=3.0)
    stream = speech_stream(30.0, seed=6, manner=quiet)
    assert 0.03 <= np.abs(stream.samples).max() <= 0.0501
    silent = np.flatnonzero(np.diff(np.pad(loudness(stream) < 1e-5, 1).astype(int)))
    pauses = (silent[1::2] - silent[::2]) / 25
    assert pauses.max() > 1.0

    def changes(pace: int) -> int:
        manner = replace(only("es"), words_per_minute=(pace, pace), longest_pause_seconds=0.1)
        return int((np.diff(speech_stream(12.0, seed=8, manner=manner).classes) != 0).sum())

    assert changes(260) > 1.3 * changes(110)


def test_the_other_synthesiser_says_a_share_of_the_streams(flite: Flite) -> None:
    always = Manner(flite_share=1.0, longest_pause_seconds=0.1)
    for held_out, voices in ((False, {"kal16", "rms", "slt"}), (True, {"awb"})):
        (flite.program.parent / "asked.txt").unlink(missing_ok=True)
        bank = speech_bank(9, 3.0, seed=4, held_out=held_out, manner=always, flite=flite)
        assert voices_asked_of(flite) == voices
    # "ma" opens the mouth once a second, as the program told.
    opening, classes = bank.mouth[..., 0], bank.classes
    assert opening.max() > 0.5
    assert opening[classes == list(VISEMES).index("p")].median() < 0.05
    some = [
        speech_stream(1.0, seed=seed, manner=Manner(flite_share=0.3), flite=flite)
        for seed in range(30)
    ]
    own = [speech_stream(1.0, seed=seed) for seed in range(30)]
    changed = sum(
        not np.array_equal(one.samples, other.samples) for one, other in zip(some, own, strict=True)
    )
    assert 3 <= changed <= 15
    with pytest.raises(ValueError, match="needs flite"):
        speech_stream(1.0, seed=1, manner=always)


def test_a_bank_in_another_manner_does_not_depend_on_the_number_of_processes() -> None:
    manner = replace(WIDE.manner, flite_share=0.0)
    alone = speech_bank(2, 3.0, seed=2, manner=manner)
    together = speech_bank(2, 3.0, seed=2, processes=2, manner=manner)
    assert torch.equal(alone.samples, together.samples)
    assert not torch.equal(alone.samples, speech_bank(2, 3.0, seed=2).samples)


def test_the_command_speaks_in_the_manner_of_its_course(tmp_path: Path, flite: Flite) -> None:
    arguments = ["--runs", str(tmp_path), "speech", "--streams", "8", "--held-out-streams", "1"]
    assert main([*arguments, "--seconds", "3", "--course", "wide"]) == 0
    made = read_speech(tmp_path, held_out=False)
    assert voices_asked_of(flite) <= {"kal16", "rms", "slt", "awb"}
    wanted = speech_bank(8, 3.0, seed=7, manner=WIDE.manner, flite=flite)
    assert torch.equal(made.classes, wanted.classes)
    assert (made.samples - wanted.samples).abs().max() < 1e-4

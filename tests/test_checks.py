"""What is told about a video before it is made: its size, its parts, and what may go wrong."""

import json
from pathlib import Path

import numpy as np
import pytest
from media_files import write_wav
from PIL import Image

from omniavatar import CATALOG, GenerationRequest, check_picture, check_speech, preflight
from omniavatar.media.image import load_image
from omniavatar.media.speech import load_speech

EXAMPLES = Path(__file__).parents[1] / "examples"
NANO, LARGE = CATALOG["nano"], CATALOG["1.3B"]
RATE = 16000


def request(image="astronaut.jpg", audio="recording.flac", **settings):
    return GenerationRequest(image=EXAMPLES / image, audio=EXAMPLES / audio, **settings)


def only(warnings):
    (warning,) = warnings
    assert warning.endswith(".")
    assert "\n" not in warning
    return warning


def picture(folder, pixels):
    Image.fromarray(np.asarray(pixels, np.uint8)).save(folder / "a.png")
    return folder / "a.png"


def speech(folder, samples):
    return write_wav(folder / "a.wav", samples, RATE)


@pytest.fixture(scope="module")
def photograph():
    return load_image(EXAMPLES / "astronaut.jpg")


@pytest.fixture(scope="module")
def voice():
    return load_speech(EXAMPLES / "recording.flac").samples


def test_size_parts_and_length_are_those_of_the_video():
    told = preflight(request(audio="speech-3.flac"), LARGE)
    assert (told.picture.width, told.picture.height) in {(w, h) for h, w in LARGE.sizes}
    assert told.picture.framing.shape == (told.picture.height, told.picture.width, 3)
    assert told.speech.video_seconds == pytest.approx(told.speech.speech_seconds, abs=0.05)
    assert told.chunks == len(told.cuts_seconds) + 1 > 1
    assert all(0 < cut < told.speech.speech_seconds for cut in told.cuts_seconds)
    assert told.warnings == ()
    json.dumps(told.to_mapping())


def test_part_of_the_recording_and_silence_count():
    whole = preflight(request(audio="speech-3.flac"), NANO)
    part = preflight(
        request(audio="speech-3.flac", audio_start=2, audio_seconds=3, silence_seconds=1), NANO
    )
    assert part.speech.speech_seconds == 3
    assert part.speech.video_seconds == 4
    assert np.abs(part.speech.samples - whole.speech.samples[2 * RATE : 5 * RATE]).max() < 0.05
    assert all(2 <= cut < 5 for cut in part.cuts_seconds)


def test_framing_keeps_the_face_in_the_middle_unless_told_otherwise():
    told = preflight(request(aspect="portrait"), LARGE).picture
    left, _, right, _ = told.crop
    (face,) = told.faces
    assert (left + right) / 2 == pytest.approx(face.centre[0], abs=0.01)
    assert told.focus[0] == pytest.approx(face.centre[0], abs=0.01)
    other = check_picture(EXAMPLES / "astronaut.jpg", LARGE, aspect="portrait", focus=(1.0, None))
    assert other.crop[2] == 1
    assert "cuts off" in only(other.warnings)
    whole = check_picture(EXAMPLES / "astronaut.jpg", LARGE, aspect="portrait", fit="contain")
    assert whole.crop == (0, 0, 1, 1)


def test_used_focus_is_what_makes_the_same_crop_again():
    first = preflight(request(aspect="portrait"), LARGE).picture
    again = preflight(request(aspect="portrait", focus_x=first.focus[0]), LARGE).picture
    assert first.crop == again.crop


def test_bundled_model_is_not_for_photographs():
    assert "photograph" in only(check_picture(EXAMPLES / "astronaut.jpg", NANO).warnings)
    assert check_picture(EXAMPLES / "presenter-1.png", NANO).warnings == ()


def test_no_face_is_no_fault_of_a_drawing():
    path = EXAMPLES / "presenter-3.png"  # in which none is found
    assert "fine for a drawn character" in only(check_picture(path, NANO).warnings)
    assert "looks at the camera" in only(check_picture(path, LARGE).warnings)


def test_several_faces_and_small_ones_are_told(tmp_path, photograph):
    pair = np.concatenate([photograph[:300], photograph[:300, ::-1]], axis=1)
    assert "2 faces" in " ".join(check_picture(picture(tmp_path, pair), LARGE).warnings)
    wide = np.full((1400, 1400, 3), 128)
    wide[400:912, 400:912] = photograph
    assert "small" in only(check_picture(picture(tmp_path, wide), LARGE).warnings)


def test_picture_of_few_pixels_is_told(tmp_path, photograph):
    warnings = check_picture(picture(tmp_path, photograph[::3, ::3]), LARGE).warnings
    assert "171 × 171 pixels" in only(warnings)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda voice: voice * 0, "silent"),
        (lambda voice: voice * 0.005, "very quiet"),
        (lambda voice: np.clip(voice * 8, -1, 1), "distorted"),
        (
            lambda voice: np.concatenate([np.zeros(3 * RATE), voice]),
            "the first 3.1 seconds are silent",
        ),
        (lambda voice: np.concatenate([voice, np.zeros(3 * RATE)]), "the last 3."),
        (lambda voice: voice[5000:10000], "Only 0.31 seconds"),
        (lambda voice: np.tile(voice, 25), "minutes long"),
    ],
)
def test_what_is_wrong_with_a_recording_is_told(tmp_path, voice, change, told):
    assert told in only(check_speech(speech(tmp_path, change(voice)), NANO).warnings)


def test_sound_without_pauses_is_told(tmp_path):
    times = np.arange(6 * RATE) / RATE
    chords = sum(np.sin(2 * np.pi * pitch * times) for pitch in (220, 277, 330)) / 6
    noise = np.random.default_rng(0).normal(0, 0.1, 6 * RATE)
    for sound in (chords, noise):
        assert "music" in only(check_speech(speech(tmp_path, sound), NANO).warnings)


@pytest.mark.parametrize(
    "name", ["speech-1.wav", "speech-2.mp3", "speech-3.flac", "recording.flac"]
)
def test_plain_speech_is_not_complained_about(name):
    assert check_speech(EXAMPLES / name, NANO).warnings == ()


def test_advice_about_silence_leaves_it_out(tmp_path, voice):
    path = speech(tmp_path, np.concatenate([np.zeros(3 * RATE), voice, np.zeros(4 * RATE)]))
    words = only(check_speech(path, NANO).warnings).rstrip(".").split()
    part = {name: float(words[words.index(name) + 1]) for name in ("audio_start", "audio_seconds")}
    assert check_speech(path, NANO, **part).warnings == ()
    assert check_speech(path, NANO, **part).speech_seconds == pytest.approx(
        len(voice) / RATE, abs=0.7
    )

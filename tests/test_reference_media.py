"""Pictures and sound against values of the public OmniAvatar implementation, commit 1536bf3.

Cases are taken from the JSON beside the numbers, so that another set is tested by the same code.
"""

import json
import re

import numpy as np
from media_files import ffmpeg
from safetensors.numpy import load_file

from omniavatar.media.image import fit_image
from omniavatar.media.speech import load_speech, normalise


def read(folder, name, numbers):
    facts = json.loads((folder / f"{name}.json").read_text())
    assert facts["cases"]
    return facts, load_file(folder / facts["files"][numbers].split()[0])


def test_reference_pictures_are_resized_alike(reference_dir):
    facts, tensors = read(reference_dir, "preprocess", "data")
    tolerance = facts["tolerance"]["absolute"]
    for case in facts["cases"]:
        name = case["case"]
        image = tensors[f"{name}/image_u8"]
        assert list(image.shape[:2]) == case["image_hw"]
        fitted = fit_image(image, *case["target"])
        assert np.abs(fitted - tensors[f"{name}/resized"][0]).max() <= tolerance, name
        assert np.abs(fitted * 2 - 1 - tensors[f"{name}/normalised"][0]).max() <= tolerance, name


def test_reference_picture_of_real_size_is_resized_alike(reference_dir):
    facts, tensors = read(reference_dir, "preprocess", "data")
    real = facts["real"]
    times = int(re.search(r"repeated (\d+)x", real["input"])[1])
    name, every = re.search(r"(real/resized_every(\d+))", real["output"]).groups()
    rows, columns = real["image_hw"]
    image = tensors["real/image_u8_small"].repeat(times, 0).repeat(times, 1)[:rows, :columns]
    fitted = fit_image(image, *real["target"])[:, :: int(every), :: int(every)]
    assert np.abs(fitted - tensors[name]).max() <= facts["tolerance"]["absolute"]


def test_reference_speech_is_normalised_alike(reference_dir):
    facts, tensors = read(reference_dir, "wav2vec", "cases")
    for case in facts["cases"]:
        name = case["case"]
        speech = tensors[f"{name}/audio_16k"]
        assert len(speech) == case["samples"]
        expected = tensors[f"{name}/normalised"]
        assert np.abs(normalise(speech) - expected).max() <= 1e-5 * np.abs(expected).max(), name


def test_reference_sound_is_resampled_alike(reference_dir, tmp_path):
    facts, tensors = read(reference_dir, "wav2vec", "cases")
    pattern = r"resample/(in|out)_(\d+)_(mono|stereo)"
    found = [match for name in facts["tensors"] if (match := re.fullmatch(pattern, name))]
    ((source, rate),) = [(m[0], m[2]) for m in found if m[1] == "in"]
    results = [(m[0], int(m[2])) for m in found if m[1] == "out"]
    assert results
    sound = np.atleast_2d(tensors[source])  # [c, n]
    raw = ["-f", "f32le", "-ar", rate, "-ac", len(sound), "-i", "-"]
    wav = tmp_path / "a.wav"
    ffmpeg(*raw, "-c:a", "pcm_f32le", wav, stdin=sound.T.astype("<f4").tobytes())
    for name, wanted in results:
        heard = load_speech(wav, sample_rate=wanted).samples
        assert heard.shape == tensors[name].shape
        assert np.abs(heard - tensors[name]).max() <= 1e-6, name

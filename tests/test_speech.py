import os
import re
import subprocess
import sys
import tracemalloc

import librosa
import numpy as np
import pytest
from media_files import clicks, ffmpeg, ffmpeg_children, find_clicks, write_wav

from omniavatar.errors import InputError
from omniavatar.media import speech
from omniavatar.media.speech import load_speech, normalise, probe_speech

CODECS = {
    "wav": [],
    "mp3": [],
    "m4a": [],
    "aac": [],
    "ogg": ["-c:a", "libvorbis"],
    "opus": [],
    "flac": [],
    "webm": [],
    "mov": [],
    "aiff": [],
    "wma": [],
    "amr": ["-ar", "8000"],
}


def voice(seconds, rate, channels=1, seed=0):
    """Noise that comes and goes, below 3 kHz, [n, c]."""
    rng = np.random.default_rng(seed)
    n = round(seconds * rate)
    noise = rng.standard_normal((n, channels))
    kernel = np.hanning(max(rate // 3000, 3))
    noise = np.stack([np.convolve(c, kernel / kernel.sum(), "same") for c in noise.T], 1)
    return 0.2 * noise * np.sin(np.pi * np.arange(n) / rate * 2)[:, None] ** 2


def refusal(path):
    """The sentence with which a file is refused, by both ways to read it."""
    messages = set()
    for read in (load_speech, probe_speech):
        with pytest.raises(InputError) as caught:
            read(path)
        assert caught.value.field == "audio"
        messages.add(str(caught.value))
    (message,) = messages
    assert re.search(r"\.$", message)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("name", CODECS)
def test_common_formats_are_heard_whole_and_in_time(tmp_path, name):
    wav = write_wav(tmp_path / "in.wav", clicks(2, [0.5, 1.5]), 48000)
    ffmpeg("-i", wav, *CODECS[name], tmp_path / f"a.{name}")
    heard = load_speech(tmp_path / f"a.{name}")
    assert heard.samples.dtype == np.float32
    assert heard.samples.flags.writeable
    assert heard.sample_rate == 16000
    assert heard.duration_seconds == pytest.approx(2, abs=0.06)
    assert len(heard.samples) == pytest.approx(heard.duration_seconds * 16000, abs=1)
    # Raw AAC, AC-3 and AMR have no place to note the encoder's delay; everything else has.
    tolerance = 0.05 if name in ("aac", "amr", "wma") else 0.002
    times = find_clicks(heard.samples, 16000, 2)
    assert times == pytest.approx([0.5, 1.5], abs=tolerance)


@pytest.mark.parametrize("rate", [8000, 11025, 16000, 22050, 24000, 32000, 44100, 48000, 96000])
@pytest.mark.parametrize("channels", [1, 2, 6])
def test_samples_equal_what_librosa_loads(tmp_path, rate, channels):
    wav = write_wav(tmp_path / "a.wav", voice(0.7, rate, channels), rate)
    expected, _ = librosa.load(wav, sr=16000)
    heard = load_speech(wav)
    assert np.array_equal(heard.samples, expected)
    assert heard.duration_seconds == pytest.approx(0.7, abs=1 / rate)


def test_block_size_does_not_change_a_sample(tmp_path, monkeypatch):
    wav = write_wav(tmp_path / "a.wav", voice(1, 44100, 2), 44100)
    whole = load_speech(wav).samples
    monkeypatch.setattr(speech, "_BLOCK_SAMPLES", 1000)
    assert np.array_equal(load_speech(wav).samples, whole)


def test_rate_of_the_result_can_be_chosen(tmp_path):
    wav = write_wav(tmp_path / "a.wav", voice(0.5, 16000), 16000)
    heard = load_speech(wav, sample_rate=24000)
    assert (heard.sample_rate, len(heard.samples)) == (24000, 12000)


def test_sound_of_a_video_is_taken(tmp_path):
    wav = write_wav(tmp_path / "a.wav", voice(1, 16000), 16000)
    ffmpeg(
        *("-f", "lavfi", "-i", "testsrc=d=1:s=64x64", "-i", wav),
        *("-c:a", "flac", "-strict", "-2", tmp_path / "a.mp4"),
    )
    heard = load_speech(tmp_path / "a.mp4").samples
    assert np.array_equal(heard, load_speech(wav).samples)


def test_first_of_several_tracks_and_no_cover_picture_is_taken(tmp_path):
    first = write_wav(tmp_path / "1.wav", voice(1, 16000), 16000)
    second = write_wav(tmp_path / "2.wav", voice(1, 16000, seed=1), 16000)
    maps = ["-map", "2:v", "-map", "0:a", "-map", "1:a"]
    picture = ["-f", "lavfi", "-i", "testsrc=d=1:s=64x64"]
    ffmpeg("-i", first, "-i", second, *picture, *maps, "-c:a", "flac", tmp_path / "a.mkv")
    heard = load_speech(tmp_path / "a.mkv").samples
    assert np.array_equal(heard, load_speech(first).samples)


def test_silence_is_allowed(tmp_path):
    wav = write_wav(tmp_path / "a.wav", np.zeros(16000), 16000)
    heard = load_speech(wav)
    assert (heard.samples == 0).all()
    assert (normalise(heard.samples) == 0).all()


def test_single_sample_is_a_recording(tmp_path):
    wav = write_wav(tmp_path / "a.wav", [0.5], 16000)
    assert load_speech(wav).samples.tolist() == [pytest.approx(0.5, abs=1e-4)]


@pytest.mark.parametrize(
    ("name", "rate", "channels"),
    [("a.wav", 44100, 2), ("a.mp3", 22050, 1), ("a.flac", 96000, 6), ("a.m4a", 48000, 2)],
)
def test_probe_tells_rate_channels_and_duration(tmp_path, name, rate, channels):
    wav = write_wav(tmp_path / "in.wav", voice(2.5, rate, channels), rate)
    ffmpeg("-i", wav, tmp_path / name)
    found = probe_speech(tmp_path / name)
    assert (found.sample_rate, found.channels) == (rate, channels)
    assert found.duration_seconds == pytest.approx(2.5, abs=0.06)


def test_probe_knows_no_duration_where_the_header_has_none(tmp_path):
    wav = write_wav(tmp_path / "in.wav", voice(1, 48000), 48000)
    streamed = ffmpeg("-i", wav, "-f", "webm", "-")  # as a browser records: never rewound
    (tmp_path / "a.webm").write_bytes(streamed)
    assert probe_speech(tmp_path / "a.webm").duration_seconds is None
    assert load_speech(tmp_path / "a.webm").duration_seconds == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "is empty"),
        (b"hello", "WAV, MP3"),
        (bytes(100_000), "WAV, MP3"),
        (np.random.default_rng(0).bytes(100_000), "WAV, MP3"),
        (b"RIFF\xff\xff\xff\xffWAVEfmt ", "WAV, MP3"),
        (b"ffconcat version 1.0\nfile secret.wav\n", "WAV, MP3"),
        (b"#EXTM3U\n#EXT-X-TARGETDURATION:3\n#EXTINF:3,\nsecret.aac\n", "WAV, MP3"),
    ],
)
@pytest.mark.parametrize("name", ["a.wav", "a.mp3", "a.m3u8"])
def test_what_is_no_recording_is_refused(tmp_path, name, data, words):
    secret = write_wav(tmp_path / "secret.wav", voice(1, 16000), 16000)
    ffmpeg("-i", secret, tmp_path / "secret.aac")
    (tmp_path / name).write_bytes(data)
    assert words in refusal(tmp_path / name)


def test_missing_and_special_files_are_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe.wav")
    assert "no recording" in refusal(tmp_path / "missing.wav")
    assert "not a file" in refusal(tmp_path)
    assert "not a file" in refusal(tmp_path / "pipe.wav")


def test_recording_without_its_index_is_refused(tmp_path):
    wav = write_wav(tmp_path / "in.wav", voice(1, 16000), 16000)
    ffmpeg("-i", wav, tmp_path / "a.m4a")
    data = (tmp_path / "a.m4a").read_bytes()
    (tmp_path / "a.m4a").write_bytes(data[: len(data) // 2])
    assert "damaged" in refusal(tmp_path / "a.m4a")


def test_no_sound_is_refused(tmp_path):
    ffmpeg("-f", "lavfi", "-i", "testsrc=d=1:s=64x64", tmp_path / "silent.mp4")
    write_wav(tmp_path / "empty.wav", [], 16000)
    assert "holds no sound" in refusal(tmp_path / "silent.mp4")
    assert "holds no sound" in refusal(tmp_path / "empty.wav")


def test_samples_that_are_no_numbers_are_refused(tmp_path):
    samples = np.full(16000, np.nan, "<f4").tobytes()
    raw = ["-f", "f32le", "-ar", "16000", "-ac", "1", "-i", "-"]
    ffmpeg(*raw, "-c:a", "pcm_f32le", tmp_path / "a.wav", stdin=samples)
    with pytest.raises(InputError, match="not numbers"):
        load_speech(tmp_path / "a.wav")


@pytest.mark.parametrize("channels", [1, 2])
def test_samples_far_beyond_full_scale_are_refused(tmp_path, channels):
    # The second channel is the first upside down: their mean is silence.
    samples = 1e8 * voice(0.1, 16000, 1) * np.array([1, -1])[:channels]
    ffmpeg(
        *("-f", "f32le", "-ar", "16000", "-ac", str(channels), "-i", "-"),
        *("-c:a", "pcm_f32le", tmp_path / "a.wav"),
        stdin=samples.astype("<f4").tobytes(),
    )
    with pytest.raises(InputError, match="far too loud"):
        load_speech(tmp_path / "a.wav")


def test_more_channels_than_a_common_layout_has_are_refused(tmp_path):
    write_wav(tmp_path / "a.wav", voice(0.1, 16000, 9), 16000)
    assert "9 channels" in refusal(tmp_path / "a.wav")


def test_too_long_a_recording_is_refused(tmp_path, monkeypatch):
    wav = write_wav(tmp_path / "a.wav", voice(1, 16000), 16000)
    monkeypatch.setattr(speech, "MAX_SECONDS", 0.9)
    assert "is longer than" in refusal(wav)


@pytest.mark.parametrize(
    "name",
    ["-i.wav", "a b'\"$(touch x);.wav", "stimme ü 声.wav", "concat:a|b.wav", "%d.wav", "a\nb.wav"],
)
def test_any_file_name_works(tmp_path, monkeypatch, name):
    write_wav(tmp_path / name, voice(0.1, 16000), 16000)
    monkeypatch.chdir(tmp_path)
    assert len(load_speech(name).samples) == 1600
    assert len(load_speech(tmp_path / name).samples) == 1600


@pytest.mark.parametrize(
    "name", ["concat:a.wav|b.wav", "http://example.com/a.wav", "data:audio/wav;base64,AA", "pipe:"]
)
def test_address_is_only_ever_a_file_name(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    write_wav("a.wav", voice(0.1, 16000), 16000)
    write_wav("b.wav", voice(0.1, 16000), 16000)
    assert "no recording" in refusal(name)


def test_hour_needs_no_more_memory_than_its_samples_before_and_after_resampling(tmp_path):
    ffmpeg("-f", "lavfi", "-i", "anullsrc=r=8000:cl=mono", "-t", 3600, tmp_path / "a.flac")
    tracemalloc.start()
    try:
        heard = load_speech(tmp_path / "a.flac")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(heard.samples) == 3600 * 16000
    before = 3600 * 8000 * 4
    assert peak < 1.5 * (before + heard.samples.nbytes)


def test_no_process_is_left_behind(tmp_path, monkeypatch):
    wav = write_wav(tmp_path / "a.wav", voice(1, 16000), 16000)
    load_speech(wav)
    probe_speech(wav)
    monkeypatch.setattr(speech, "MAX_SECONDS", 0.1)
    refusal(wav)
    assert not ffmpeg_children()


def test_normalised_speech_has_mean_zero_and_variance_one():
    samples = normalise((voice(1, 16000)[:, 0] + 0.3).astype(np.float32))
    assert samples.dtype == np.float32
    assert abs(samples.mean()) < 1e-5
    assert samples.var() == pytest.approx(1, abs=1e-3)


def test_import_stays_light():
    code = "import sys, omniavatar.media.speech; print({'librosa', 'torch'} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout.strip() == "set()", result.stderr


@pytest.mark.parametrize("name", ["a.wav", "a.m4a", "a.mp3"])
def test_part_of_a_recording_is_read_in_place(tmp_path, name):
    wav = write_wav(tmp_path / "in.wav", clicks(6, [1.5, 3.5, 5.5]), 48000)
    ffmpeg("-i", wav, tmp_path / name)
    part = load_speech(tmp_path / name, start_seconds=3.0, seconds=2.0)
    assert part.duration_seconds == pytest.approx(2, abs=0.01)
    assert len(part.samples) == pytest.approx(2 * 16000, abs=160)
    assert find_clicks(part.samples, 16000, 1) == pytest.approx([0.5], abs=0.003)
    rest = load_speech(tmp_path / name, start_seconds=5.0)
    assert find_clicks(rest.samples, 16000, 1) == pytest.approx([0.5], abs=0.003)
    assert load_speech(tmp_path / name, start_seconds=5.0, seconds=60).samples.shape == (
        rest.samples.shape
    )


def test_part_is_exactly_the_samples_of_the_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(speech, "_BLOCK_SAMPLES", 1000)
    wav = write_wav(tmp_path / "a.wav", voice(2, 16000), 16000)
    whole = load_speech(wav).samples
    part = load_speech(wav, start_seconds=0.55, seconds=0.7).samples
    assert np.array_equal(part, whole[8800:20000])


def test_part_that_begins_behind_the_end_is_refused(tmp_path):
    wav = write_wav(tmp_path / "a.wav", voice(1, 16000), 16000)
    with pytest.raises(InputError, match=r"lasts 1\.0 s") as caught:
        load_speech(wav, start_seconds=4)
    assert caught.value.field == "audio_start"


def test_part_of_a_recording_that_is_too_long_is_accepted(tmp_path, monkeypatch):
    wav = write_wav(tmp_path / "a.wav", voice(1, 16000), 16000)
    monkeypatch.setattr(speech, "MAX_SECONDS", 0.5)
    assert len(load_speech(wav, start_seconds=0.2, seconds=0.4).samples) == 6400

import os
import resource
import signal
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from media_files import (
    boxes,
    clicks,
    decode_frames,
    decode_sound,
    describe,
    ffmpeg,
    ffmpeg_children,
    find_clicks,
    track_seconds,
    write_wav,
)

from omniavatar.errors import InputError, OutputError
from omniavatar.media.speech import load_speech
from omniavatar.media.video import Mp4Writer, kept_pieces, read_settings, recover_video

FPS = 25


def frames_of(count, height=64, width=96):
    """Grey frames that grow lighter by a step each, [n, h, w, 3]."""
    levels = (np.arange(count) * 5 % 200 + 20).astype(np.uint8)
    return np.ascontiguousarray(
        np.broadcast_to(levels[:, None, None, None], (count, height, width, 3))
    )


def make(path, audio=None, *, count=50, settings=None, **options):
    frames = frames_of(count)
    _, height, width, _ = frames.shape
    with Mp4Writer(
        path, width=width, height=height, fps=FPS, audio=audio, settings=settings or {}, **options
    ) as writer:
        for start in range(0, count, 20):
            writer.write(frames[start : start + 20])
        writer.finish()
    return path


@pytest.fixture
def speech(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    return write_wav(folder / "speech.wav", clicks(2, [0.5, 1.9]), 48000)


@pytest.fixture
def out(tmp_path):
    folder = tmp_path / "out"
    folder.mkdir()
    return folder


def test_every_frame_arrives_in_order_with_its_brightness(out, speech):
    decoded = decode_frames(make(out / "a.mp4", speech), 64, 96)
    assert decoded.shape == (50, 64, 96, 3)
    assert np.abs(decoded.astype(int) - frames_of(50)).max() <= 4


def test_colours_survive_the_way_through_the_file(out):
    colours = [
        (255, 0, 0),
        (0, 255, 0),
        (0, 0, 255),
        (224, 172, 105),
        (30, 60, 90),
        (255, 255, 255),
    ]
    frame = np.concatenate([np.full((64, 16, 3), c, np.uint8) for c in colours], axis=1)
    with Mp4Writer(out / "a.mp4", width=96, height=64, fps=FPS, audio=None, settings={}) as writer:
        writer.write(np.stack([frame] * 5))
        writer.finish()
    decoded = decode_frames(out / "a.mp4", 64, 96)[2].astype(int)
    for i, colour in enumerate(colours):
        assert np.abs(decoded[20:40, i * 16 + 6 : i * 16 + 10].mean((0, 1)) - colour).max() <= 4


def test_browsers_can_play_it_from_the_first_byte(out, speech):
    path = make(out / "a.mp4", speech)
    kinds = [name for name, _ in boxes(path.read_bytes())]
    assert kinds.index("moov") < kinds.index("mdat")
    assert "moof" not in kinds
    said = describe(path)
    assert "h264 (High)" in said
    assert "yuv420p(tv, bt709, progressive)" in said
    assert "96x64" in said
    assert "25 fps" in said
    assert "aac (LC)" in said
    assert "48000 Hz" in said


@pytest.mark.parametrize("seconds", [0.02, 0.5, 1.0, 2.013, 7.77])
@pytest.mark.parametrize("silence", [0.0, 0.3])
@pytest.mark.parametrize("rate", [16000, 44100])
def test_video_and_sound_end_together(out, seconds, silence, rate):
    wav = write_wav(out / "in.wav", clicks(seconds, [0.0], rate), rate)
    count = int(np.ceil((seconds + silence) * FPS - 1e-9))
    path = make(out / "a.mp4", wav, count=count, silence_seconds=silence)
    tracks = track_seconds(path)
    assert tracks["vide"] == pytest.approx(count / FPS, abs=0.001)
    assert abs(tracks["vide"] - tracks["soun"]) <= 1 / FPS
    assert abs(tracks["soun"] - (seconds + silence)) <= 1 / FPS
    assert len(decode_frames(path, 64, 96)) == count
    assert len(decode_sound(path)) / 48000 >= seconds + silence - 0.001


@pytest.mark.parametrize("rate", [8000, 16000, 22050, 44100, 48000, 96000])
@pytest.mark.parametrize("channels", [1, 2, 6])
def test_sound_is_not_shifted(out, rate, channels):
    sound = clicks(2, [0.5, 1.9], rate) if rate > 8000 else slow_clicks(rate)
    wav = write_wav(out / "in.wav", np.stack([sound] * channels, axis=1) * 0.4, rate)
    heard = decode_sound(make(out / "a.mp4", wav))
    if rate > 8000:
        assert find_clicks(heard, 48000, 2) == pytest.approx([0.5, 1.9], abs=0.001)
    else:
        assert np.argmax(np.abs(heard)) / 48000 == pytest.approx(1.0, abs=0.001)


def slow_clicks(rate):
    """One bump of 4 ms at second 1, for rates that can not hold a click."""
    times = np.arange(2 * rate) / rate
    return np.exp(-(((times - 1) / 0.002) ** 2))


@pytest.mark.parametrize("name", ["a.mp3", "a.m4a", "a.opus", "a.flac", "a.webm"])
def test_sound_is_where_the_model_heard_it(out, speech, name):
    ffmpeg("-i", speech, out / name)
    heard = find_clicks(load_speech(out / name).samples, 16000, 2)
    played = find_clicks(decode_sound(make(out / "a.mp4", out / name)), 48000, 2)
    assert played == pytest.approx(heard, abs=0.001)


def test_late_track_of_a_video_plays_as_the_model_heard_it(out, speech):
    late = out / "late.mkv"
    picture = ["-f", "lavfi", "-i", "testsrc=d=3:s=64x64"]
    ffmpeg(*picture, "-itsoffset", "0.7", "-i", speech, "-c:a", "flac", late)
    heard = find_clicks(load_speech(late).samples, 16000, 2)
    played = find_clicks(decode_sound(make(out / "a.mp4", late)), 48000, 2)
    assert heard == pytest.approx([0.5, 1.9], abs=0.002)
    assert played == pytest.approx(heard, abs=0.001)


def test_silence_in_front_delays_all_channels(out):
    sound = clicks(1, [0.25])
    wav = write_wav(out / "in.wav", np.stack([sound, sound], axis=1), 48000)
    path = make(out / "a.mp4", wav, count=38, silence_seconds=0.5)
    data = ffmpeg("-i", path, "-f", "f32le", "-ar", 48000, "-")
    for channel in np.frombuffer(data, np.float32).reshape(-1, 2).T:
        assert find_clicks(channel, 48000, 1) == pytest.approx([0.75], abs=0.001)


def test_stereo_stays_stereo_and_surround_becomes_it(out):
    for channels, expected in ((1, "mono"), (2, "stereo"), (6, "stereo"), (8, "stereo")):
        wav = write_wav(out / "in.wav", np.zeros((9600, channels)), 48000)
        assert f"48000 Hz, {expected}" in describe(make(out / "a.mp4", wav, count=5))


def test_video_without_sound_has_no_track_for_it(out):
    assert track_seconds(make(out / "a.mp4", None)) == {"vide": 2.0}


HARD_SETTINGS = {
    "prompt": "She said \"hi\"; it's 100 % = #1 \\ two\nlines\r\ttab 'quotes' {braces} ünï 声 😀",
    "lone": "\udce4",
    "nothing": None,
    "numbers": [1, 2.5, -3e-9],
    "versions": {"omniavatar": "0.1.0"},
    "=;#\\\n": "key",
}


@pytest.mark.parametrize("settings", [{}, {"seed": 7}, HARD_SETTINGS, {"prompt": "long " * 60_000}])
def test_settings_come_back(out, speech, settings):
    path = make(out / "a.mp4", speech, count=5, settings=settings)
    assert read_settings(path) == settings
    assert read_settings(str(path)) == settings


def test_nothing_of_the_recording_s_own_tags_is_passed_on(out, speech):
    ffmpeg("-i", speech, "-metadata", "title=Secret", "-metadata", "artist=Me", out / "a.mp3")
    path = make(out / "a.mp4", out / "a.mp3", settings={"seed": 1})
    assert "Secret" not in describe(path)
    assert read_settings(path) == {"seed": 1}


def test_videos_made_elsewhere_hold_no_settings(out):
    picture = ["-f", "lavfi", "-i", "testsrc=d=1:s=64x64"]
    ffmpeg(*picture, out / "plain.mp4")
    ffmpeg(*picture, "-metadata", "comment=nice", out / "comment.mp4")
    ffmpeg(*picture, "-metadata", "comment=[1]", out / "list.mp4")
    ffmpeg(*picture, out / "a.mkv")
    whole = make(out / "a.mp4", settings={"seed": 1}).read_bytes()
    (out / "cut.mp4").write_bytes(whole[:200])
    (out / "empty.mp4").touch()
    (out / "noise.mp4").write_bytes(np.random.default_rng(0).bytes(1000))
    for path in out.iterdir():
        if path.name != "a.mp4":
            with pytest.raises(InputError, match="holds no settings"):
                read_settings(path)
    with pytest.raises(InputError, match="no video"):
        read_settings(out / "missing.mp4")
    with pytest.raises(InputError, match="no video"):
        read_settings(out)


def test_memory_does_not_grow_with_the_video(out, speech):
    height, width, chunk = 360, 640, frames_of(20, 360, 640)

    def encoder_bytes():
        (number,) = ffmpeg_children()
        status = Path(f"/proc/{number}/status").read_text()
        return 1024 * int(status.split("VmRSS:")[1].split()[0])

    tracemalloc.start()
    try:
        with Mp4Writer(
            out / "a.mp4", width=width, height=height, fps=FPS, audio=speech, settings={}
        ) as writer:
            for _ in range(5):
                writer.write(chunk)
            early = encoder_bytes()
            tracemalloc.reset_peak()
            before, _ = tracemalloc.get_traced_memory()
            for _ in range(25):
                writer.write(chunk)
            assert tracemalloc.get_traced_memory()[1] - before < chunk.nbytes
            assert encoder_bytes() - early < 2 * chunk.nbytes  # of 25 that came since
            writer.finish()
    finally:
        tracemalloc.stop()


def stream(path, audio, chunks, *, after=20):
    """A job as the pipeline has it: chunks of frames, written as they are made."""
    with Mp4Writer(path, width=96, height=64, fps=FPS, audio=audio, settings={"seed": 3}) as writer:
        yield writer
        for _ in range(chunks):
            writer.write(frames_of(after))
            yield writer
        writer.finish()


def assert_nothing_else(folder, *names):
    assert sorted(path.name for path in folder.iterdir()) == sorted(names)
    assert not ffmpeg_children()


def test_closed_generator_leaves_the_finished_chunks(out, speech):
    job = stream(out / "a.mp4", speech, 3)
    next(job), next(job)
    job.close()
    assert_nothing_else(out, "a.mp4")
    assert len(decode_frames(out / "a.mp4", 64, 96)) == 20
    assert track_seconds(out / "a.mp4") == pytest.approx({"vide": 0.8, "soun": 0.8}, abs=0.03)
    assert find_clicks(decode_sound(out / "a.mp4"), 48000, 1) == pytest.approx([0.5], abs=0.001)
    assert read_settings(out / "a.mp4") == {"seed": 3}


def test_closed_before_the_first_chunk_leaves_nothing(out, speech):
    job = stream(out / "a.mp4", speech, 3)
    next(job)
    job.close()
    assert_nothing_else(out)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_any_exception_leaves_the_finished_chunks_and_goes_on(out, speech, error):
    job = stream(out / "a.mp4", speech, 3)
    next(job), next(job), next(job)
    with pytest.raises(error):
        job.throw(error())
    assert_nothing_else(out, "a.mp4")
    assert len(decode_frames(out / "a.mp4", 64, 96)) == 40


def test_block_that_ends_without_finish_finishes(out, speech):
    with Mp4Writer(
        out / "a.mp4", width=96, height=64, fps=FPS, audio=speech, settings={}
    ) as writer:
        writer.write(frames_of(50))
    assert_nothing_else(out, "a.mp4")
    assert track_seconds(out / "a.mp4")["vide"] == 2.0


def test_failure_before_the_first_frame_keeps_the_file_that_was_there(out, speech):
    (out / "a.mp4").write_bytes(b"old")
    job = stream(out / "a.mp4", speech, 3)
    next(job)
    assert (out / "a.mp4").read_bytes() == b"old"
    job.close()
    assert (out / "a.mp4").read_bytes() == b"old"
    make(out / "a.mp4", speech)
    assert_nothing_else(out, "a.mp4")
    assert len(decode_frames(out / "a.mp4", 64, 96)) == 50


def test_ctrl_c_in_a_terminal_leaves_the_finished_part(out, speech):
    script = """
import sys, time
import numpy as np
from omniavatar.media.video import Mp4Writer
with Mp4Writer(sys.argv[1], width=96, height=64, fps=25, audio=sys.argv[2], settings={}) as writer:
    writer.write(np.zeros((30, 64, 96, 3), np.uint8))
    print("written", flush=True)
    time.sleep(60)
"""
    job = subprocess.Popen(
        [sys.executable, "-c", script, out / "a.mp4", speech],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    with job:
        assert job.stdout.readline() == b"written\n"
        os.killpg(job.pid, signal.SIGINT)  # to the whole group, as a terminal sends it
        assert b"KeyboardInterrupt" in job.stderr.read()
    assert_nothing_else(out, "a.mp4")
    assert len(decode_frames(out / "a.mp4", 64, 96)) == 30


def test_places_that_can_not_be_written_are_refused_on_entry(out, speech):
    def refusal(path, audio=speech):
        writer = Mp4Writer(path, width=96, height=64, fps=FPS, audio=audio, settings={})
        with pytest.raises(OutputError) as caught, writer:
            pass
        assert str(caught.value).endswith(".")
        assert "\n" not in str(caught.value)
        return str(caught.value)

    (out / "folder.mp4").mkdir()
    assert "is a folder" in refusal(out / "folder.mp4")
    assert "does not exist" in refusal(out / "missing" / "a.mp4")
    assert "does not exist" in refusal(speech / "a.mp4")
    assert "does not end in .mp4" in refusal(out / "a.avi")
    assert "Nothing can be written" in refusal(Path("/proc/a.mp4"))
    own = out / "own.mp4"
    make(own, speech)
    assert "is the recording itself" in refusal(own, own)
    assert_nothing_else(out, "folder.mp4", "own.mp4")


def test_full_disk_is_an_output_error_and_leaves_nothing(out, speech):
    chunk = np.random.default_rng(0).integers(0, 256, (25, 256, 256, 3), np.uint8)

    def write():
        with Mp4Writer(
            out / "a.mp4", width=256, height=256, fps=FPS, audio=speech, settings={}
        ) as writer:
            for _ in range(10):
                writer.write(chunk)
            writer.finish()

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, limits[1]))
    try:
        with pytest.raises(OutputError, match="could not be written"):
            write()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert_nothing_else(out)


def test_recording_that_vanished_costs_the_sound_and_not_the_video(out, speech):
    job = stream(out / "a.mp4", speech, 1)
    next(job), next(job)
    speech.unlink()
    with pytest.raises(OutputError, match="without sound"):
        next(job)
    assert_nothing_else(out, "a.mp4")
    assert len(decode_frames(out / "a.mp4", 64, 96)) == 20
    assert read_settings(out / "a.mp4") == {"seed": 3}


@pytest.mark.parametrize(
    "name", ["-y", "a b'\"$(touch x);", "vidéo ü 動画", "concat:a|b", "%03d", "a\nb", "x" * 250]
)
def test_any_file_name_works(out, name, monkeypatch):
    monkeypatch.chdir(out)
    (out / "in").mkdir()
    wav = write_wav(Path("in") / f"{name[:240]}.wav", clicks(0.4, [0.1]), 48000)
    make(Path(f"{name}.mp4"), wav, count=10, settings={"name": name})
    assert_nothing_else(out, "in", f"{name}.mp4")
    assert read_settings(f"{name}.mp4") == {"name": name}
    assert find_clicks(decode_sound(out / f"{name}.mp4"), 48000, 1) == pytest.approx(
        [0.1], abs=0.001
    )


def test_settings_that_json_can_not_hold_fail_at_once(out):
    with pytest.raises(TypeError):
        Mp4Writer(out / "a.mp4", width=96, height=64, fps=FPS, audio=None, settings={"a": object()})


def write_pieces(path, audio, pieces, lengths, **options):
    """A job that is stopped by its caller after each piece."""
    frames = frames_of(sum(lengths))
    with Mp4Writer(
        path,
        width=96,
        height=64,
        fps=FPS,
        audio=audio,
        settings={"seed": 3},
        pieces=pieces,
        **options,
    ) as writer:
        for start, length in zip(np.cumsum([0, *lengths]), lengths, strict=False):
            writer.write(frames[start : start + length])
            writer.cut()
            yield writer
        writer.finish()


@pytest.mark.parametrize("lengths", [[20, 20, 10], [1, 2, 40, 7], [50]])
def test_a_video_of_pieces_is_the_same_as_one_written_at_once(out, speech, lengths):
    list(write_pieces(out / "a.mp4", speech, None, lengths))
    assert_nothing_else(out, "a.mp4")
    decoded = decode_frames(out / "a.mp4", 64, 96)
    assert np.abs(decoded.astype(int) - frames_of(50)).max() <= 4
    times = ffmpeg("-i", out / "a.mp4", "-an", "-c", "copy", "-f", "framemd5", "-").decode()
    shown = sorted(int(line.split(",")[2]) for line in times.splitlines() if line[0] == "0")
    assert np.allclose(np.diff(shown), shown[1] - shown[0])
    assert track_seconds(out / "a.mp4") == pytest.approx({"vide": 2.0, "soun": 2.0}, abs=0.001)
    assert find_clicks(decode_sound(out / "a.mp4"), 48000, 2) == pytest.approx(
        [0.5, 1.9], abs=0.001
    )


def test_each_kept_piece_plays_at_once_with_its_part_of_the_sound(out, speech):
    job = write_pieces(out / "a.mp4", speech, out / "kept", [20, 30])
    next(job)
    (first,) = kept_pieces(out / "kept")
    assert track_seconds(first) == pytest.approx({"vide": 0.8, "soun": 0.8}, abs=0.03)
    assert find_clicks(decode_sound(first), 48000, 1) == pytest.approx([0.5], abs=0.001)
    next(job)
    second = kept_pieces(out / "kept")[1]
    assert len(decode_frames(second, 64, 96)) == 30
    assert find_clicks(decode_sound(second), 48000, 1) == pytest.approx([1.1], abs=0.001)
    kinds = [name for name, _ in boxes(second.read_bytes())]
    assert kinds.index("moov") < kinds.index("mdat")
    job.close()


def test_kept_pieces_of_a_killed_process_become_a_video(out, speech):
    script = """
import os, signal, sys
from pathlib import Path
import numpy as np
from omniavatar.media.video import Mp4Writer
out = Path(sys.argv[1])
with Mp4Writer(
    out / "a.mp4", width=96, height=64, fps=25, audio=sys.argv[2], settings={"seed": 3},
    silence_seconds=0.2, pieces=out / "kept",
) as writer:
    for count in (20, 15):
        writer.write(np.full((count, 64, 96, 3), 90, np.uint8))
        writer.cut()
    writer.write(np.zeros((4, 64, 96, 3), np.uint8))
    os.kill(os.getpid(), signal.SIGKILL)
"""
    killed = subprocess.run([sys.executable, "-c", script, out, speech], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert not (out / "a.mp4").exists()
    assert recover_video(out / "kept", out / "a.mp4") == 35
    decoded = decode_frames(out / "a.mp4", 64, 96)
    assert decoded.shape[0] == 35
    assert np.abs(decoded.astype(int) - 90).max() <= 4
    assert find_clicks(decode_sound(out / "a.mp4"), 48000, 1) == pytest.approx([0.7], abs=0.001)
    assert read_settings(out / "a.mp4") == {"seed": 3}


def test_nothing_is_recovered_where_no_piece_was_finished(out, speech):
    job = stream(out / "a.mp4", speech, 1)
    next(job)
    job.close()
    assert recover_video(out, out / "b.mp4") == 0
    assert not (out / "b.mp4").exists()


def test_a_part_of_the_recording_is_heard_from_its_beginning(out, speech):
    part = {"audio_start": 0.4, "audio_seconds": 1.0, "silence_seconds": 0.2}
    path = make(out / "a.mp4", speech, count=45, **part)
    sound = decode_sound(path)
    assert find_clicks(sound, 48000, 1) == pytest.approx([0.3], abs=0.001)
    assert np.abs(sound[round(1.25 * 48000) :]).max() < 0.01  # what follows the part is not heard


def test_pieces_work_in_any_folder(out, speech):
    folder = out / "it's a\nfolder"
    folder.mkdir()
    list(write_pieces(folder / "a.mp4", speech, folder / "kept", [10, 10]))
    assert len(decode_frames(folder / "a.mp4", 64, 96)) == 20

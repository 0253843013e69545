"""The command line, as a shell meets it."""

import json
import os
import pty
import signal
import subprocess
import sys
import time
from dataclasses import fields
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace

import pytest
from app_process import ROOT, write_portrait, write_voice
from media_files import clicks, describe, ffmpeg, find_clicks, write_wav
from PIL import Image
from warm_process import WarmProcess

from omniavatar import CATALOG, GenerationRequest, load_speech, setting_of
from omniavatar.serving import cli

COMMAND = [sys.executable, "-m", "omniavatar"]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli")
    write_portrait(folder / "face.png")
    write_voice(folder / "voice.wav", 1.0)
    write_voice(folder / "long.wav", 30.0)
    (folder / "notes.txt").write_text("neither seen nor heard")
    return folder


def run(*words, folder, check=0):
    """Run a command in a process of its own."""
    with TemporaryDirectory() as told:
        process = start(*words, folder=folder, told=Path(told))
        code = process.wait()
        output, errors = (Path(told, name).read_text() for name in ("output", "errors"))
    assert code == check, errors
    return SimpleNamespace(stdout=output, stderr=errors)


def start(*words, folder, told):
    """Start a command whose output and errors become files in a folder."""
    return WarmProcess(
        ["-m", "omniavatar", *map(str, words)],
        cwd=folder,
        environment=ENVIRONMENT,
        output=told / "output",
        errors=told / "errors",
    )


def count_frames(path, side=192):
    """Every frame of a square video, decoded."""
    frame = side * side * 3
    data = ffmpeg("-i", path, "-f", "rawvideo", "-pix_fmt", "rgb24", "-")
    assert len(data) % frame == 0
    return len(data) // frame


# ---- what it says of itself


def test_reader_that_has_gone_gets_no_traceback(tmp_path):
    """As `| head` does when it has enough."""
    video = tmp_path / "with-settings.mp4"
    picture = ("-f", "lavfi", "-i", "color=s=64x64:d=0.2")
    ffmpeg(*picture, "-metadata", 'comment={"prompt": "A woman smiles."}', video)
    assert "A woman smiles." in run("inspect", video, folder=tmp_path).stdout
    reading, writing = os.pipe()
    os.close(reading)
    command = [*COMMAND, "inspect", str(video)]
    with os.fdopen(writing, "wb") as output:
        done = subprocess.run(
            command, env=ENVIRONMENT, stdout=output, stderr=subprocess.PIPE, check=False
        )
    assert done.stderr == b""
    assert done.returncode == 141


def test_help_names_every_command_and_loads_no_torch():
    script = (
        "import sys\nfrom omniavatar.serving.cli import main\n"
        "try: main(['--help'])\nfinally: print('torch' in sys.modules, 'gradio' in sys.modules)"
    )
    result = subprocess.run(
        [sys.executable, "-c", script], env=ENVIRONMENT, capture_output=True, text=True, check=True
    )
    assert result.stdout.endswith("False False\n")
    for command in cli.COMMANDS:
        assert command.name in result.stdout
        assert command.help in result.stdout


def test_every_setting_is_an_option_with_its_help(capsys):
    with pytest.raises(SystemExit, match="0"):
        cli.main(["generate", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    for entry in fields(GenerationRequest):
        setting = setting_of(entry)
        option = entry.name.replace("_", "-")
        assert (entry.name.upper() if setting.group == "input" else f"--{option}") in text
        assert setting.help in text


def test_models_lists_the_catalog(capsys):
    assert cli.main(["models"]) == 0
    text = capsys.readouterr().out
    for name, spec in CATALOG.items():
        assert name in text
        assert spec.description in text


# ---- what cannot be done


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("", "COMMAND"),
        ("sing", "sing"),
        ("generate", "image"),
        ("generate face.png", "audio"),
        ("generate face.png voice.wav --louder", "--louder"),
        ("generate face.png voice.wav --step 3", "--step"),
        ("generate face.png voice.wav --steps many", "many"),
        ("generate face.png voice.wav --steps 0", "1 to 100"),
        ("generate face.png voice.wav --steps 2.5", "2.5"),
        ("generate face.png voice.wav --guidance nan", "nan"),
        ("generate face.png voice.wav --aspect round", "landscape"),
        ("generate face.png voice.wav --overlap-frames 12", "13"),
        ("generate face.png voice.wav --model huge", "1.3B"),
        ("generate absent.png voice.wav", "absent.png"),
        ("generate notes.txt voice.wav", "notes.txt"),
        ("generate face.png absent.wav", "absent.wav"),
        ("generate face.png notes.txt", "notes.txt"),
        ("generate face.png face.png", "face.png"),
        ("check face.png", "audio"),
        ("check notes.txt voice.wav", "notes.txt"),
        ("check face.png voice.wav --audio-start 90", "audio_start"),
        ("check face.png voice.wav --framing absent/a.png", "absent"),
        ("captions voice.wav", "--text"),
        ("captions absent.wav --text hello", "absent.wav"),
        ("captions voice.wav --text hello --srt a.srt", "--srt"),
        ("captions voice.wav --srt notes.txt --output a.srt", "SRT"),
        ("captions voice.wav --srt notes.txt", "--burn OUT.mp4 or --output FILE.srt"),
        ("captions voice.wav --text hello --burn out.mp4", "voice.wav"),
        ("captions voice.wav --text hello --output voice.wav", "does not end in .srt"),
        ("captions voice.wav --text hello --burn a.mp4 --output a.mp4", "does not end in .srt"),
        ("captions voice.wav --text hello --burn a.mp4 --output absent/a.srt", "absent"),
        ("check face.png voice.wav --step-cache 0.2", "not calibrated for nano"),
        ("generate --request huge.json", "model is 'huge'"),
        ("generate --request absent.json", "absent.json"),
        ("generate --request notes.txt", "notes.txt"),
        ("generate --request list.json", "list.json"),
        ("generate --request unknown.json", "loudness"),
        ("generate face.png voice.wav --resolution small --aspect landscape", "nano"),
        ("generate face.png voice.wav --output absent/out.mp4", "absent"),
        ("generate face.png voice.wav --weights absent", "absent"),
        ("generate face.png voice.wav --model 14B", "14B"),
        ("inspect absent.mp4", "absent.mp4"),
        ("inspect notes.txt", "notes.txt"),
        ("bench --json absent/a.json", "absent"),
        ("bench --json .", "folder"),
        ("bench --table absent", "absent"),
        ("bench --table notes.txt", "notes.txt"),
        ("bench --table .", "list.json is not a report"),
        ("bench --table kept", "has no 'comparison'"),
        ("bench --seconds -1", "'-1' is not a number above 0"),
        ("bench --seconds nan", "'nan' is not a number above 0"),
        ("bench --random-weights nano --steps 0", "'0' is not a whole number from 1"),
        ("bench --random-weights nano --tokens 10000000000", "nano needs"),
        ("bench --random-weights nano --tokens -5", "'-5' is not a whole number from 1"),
        ("remote face.png voice.wav --endpoint runpod:a --output .", "folder"),
        ("remote face.png voice.wav --endpoint runpod:a --output voice.wav", "end in .mp4"),
        ("remote face.png voice.wav --endpoint runpod:a --timeout nan", "not a number above 0"),
        ("remote face.png voice.wav --endpoint runpod:a --output absent/a.mp4", "absent"),
        ("acceptance --seconds 5 -1", "-1.0. Use a number from 0.1 to 7200"),
        ("acceptance --seconds nan", "nan"),
        ("acceptance --endpoint foo", "endpoint is 'foo'"),
        ("acceptance --image absent.png", "absent.png"),
    ],
)
def test_what_cannot_be_done_is_one_sentence_and_status_2(words, told, folder, monkeypatch, capsys):
    (folder / "list.json").write_text("[]")
    (folder / "unknown.json").write_text('{"image": "face.png", "loudness": 3}')
    (folder / "huge.json").write_text('{"model": "huge"}')
    (folder / "kept").mkdir(exist_ok=True)
    (folder / "kept" / "old.json").write_text('{"kind": "chunk"}')
    monkeypatch.chdir(folder)
    assert cli.main(words.split()) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("omniavatar: ")
    assert shown.err.count("\n") == 1
    assert told in shown.err
    assert not list(folder.glob("*.mp4"))


# ---- what is told beforehand


def test_check_tells_size_length_and_warnings_and_makes_nothing(folder):
    before = set(folder.iterdir())
    told = run("check", "face.png", "voice.wav", "--audio-seconds", 0.4, folder=folder).stdout
    assert "192 x 192 pixels" in told
    assert "0.4 seconds of video, made in one part" in told
    assert "note: Only 0.40 seconds" in told
    assert set(folder.iterdir()) == before
    framing = folder / "framing.png"
    told = run("check", "face.png", "voice.wav", "--json", "--framing", framing, folder=folder)
    assert json.loads(told.stdout)["video_seconds"] == 1
    assert Image.open(framing).size == (192, 192)
    framing.unlink()


# ---- what is made


def test_captions_are_written_beside_and_into_a_video(folder, tmp_path):
    video = tmp_path / "talk.mp4"
    picture = ("-f", "lavfi", "-i", "color=s=128x128:d=1", "-i", folder / "voice.wav")
    ffmpeg(*picture, "-pix_fmt", "yuv420p", video)
    made = run("captions", video, "--text", "Hello there.", "--burn", "shown.mp4", folder=tmp_path)
    assert made.stdout.splitlines() == [str(tmp_path / "talk.srt"), "shown.mp4"]
    assert "Hello there." in (tmp_path / "talk.srt").read_text()
    assert count_frames(tmp_path / "shown.mp4", side=128) == 25

    again = run("captions", video, "--text", "Not again.", folder=tmp_path, check=2)
    assert "is there already" in again.stderr
    assert "Hello there." in (tmp_path / "talk.srt").read_text()


def test_part_of_a_recording_is_what_is_heard_and_short_ones_are_warned_of(folder):
    write_wav(folder / "clicks.wav", clicks(2, [0.3, 1.2, 1.7]), 48000)
    part = ("--audio-start", 1, "--audio-seconds", 0.4, "--steps", 1, "--output", "part.mp4")
    told = run("generate", "face.png", "clicks.wav", *part, folder=folder).stderr
    assert "Only 0.40 seconds" in told
    assert count_frames(folder / "part.mp4") == 10
    heard = load_speech(folder / "part.mp4")
    assert find_clicks(heard.samples, 16000, 1) == pytest.approx([0.2], abs=0.005)
    assert heard.duration_seconds == pytest.approx(0.4, abs=0.05)
    for name in ("part.mp4", "clicks.wav"):
        (folder / name).unlink()


def test_request_file_and_options_make_one_video(folder):
    requests = folder / "requests"
    requests.mkdir()
    write_portrait(requests / "beside.png")
    (requests / "talk.json").write_text(
        json.dumps({"image": "beside.png", "audio": "../voice.wav", "seed": 5, "steps": 2})
    )
    made = run("generate", "--request", "requests/talk.json", "--steps", 1, folder=folder)
    assert made.stdout == "avatar.mp4\n"
    assert "Part 1 of 1 is ready" in made.stderr
    assert count_frames(folder / "avatar.mp4") == 25
    assert "h264" in describe(folder / "avatar.mp4")

    settings = json.loads(run("inspect", "avatar.mp4", folder=folder).stdout)
    assert (settings["seed"], settings["steps"]) == (5, 1)
    assert (settings["image"], settings["audio"]) == ("beside.png", "voice.wav")
    (folder / "avatar.mp4").unlink()


def test_settings_of_a_video_ask_for_it_again(folder, monkeypatch, capsys):
    asked = {"prompt": "Sie lächelt. 你好", "resolution": "small", "steps": 1, "seed": 3}
    words = [f"--{name}={value}" for name, value in asked.items()]
    run("generate", "face.png", "voice.wav", *words, "--output", "first.mp4", folder=folder)
    plain = {**ENVIRONMENT, "PYTHONIOENCODING": "ascii"}
    inspect = [sys.executable, "-m", "omniavatar", "inspect", "first.mp4"]
    told = subprocess.run(inspect, cwd=folder, env=plain, check=True, capture_output=True).stdout
    assert json.loads(told).items() >= asked.items()
    (folder / "again.json").write_bytes(b"\xef\xbb\xbf" + told)  # as an editor of Windows saves it
    run("generate", "--request", "again.json", "--output", "again.mp4", folder=folder)
    assert json.loads(run("inspect", "again.mp4", folder=folder).stdout) == json.loads(told)
    monkeypatch.chdir(folder)
    (folder / "again.json").write_text(
        json.dumps({"image": "face.png", "audio": "voice.wav", "model": "1.3B"})
    )
    for words, side in (([], 720), (["--model", "nano"], 192)):
        assert cli.main(["check", "--request", "again.json", "--json", *words]) == 0
        found = json.loads(capsys.readouterr().out)
        assert max(found["height"], found["width"]) == side
    for name in ("first.mp4", "again.mp4", "again.json"):
        (folder / name).unlink()


def test_terminal_shows_a_bar_and_the_time_left(folder):
    terminal, their_end = pty.openpty()
    process = subprocess.Popen(
        [*COMMAND, "generate", "face.png", "voice.wav", "--output", "seen.mp4"],
        cwd=folder,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=their_end,
    )
    os.close(their_end)
    shown = b""
    while True:
        try:
            shown += os.read(terminal, 4096)
        except OSError:  # how Linux says that the other end is closed
            break
    assert process.wait() == 0
    lines = shown.decode().split("\r")
    assert any("#" in line and "%" in line and "left" in line for line in lines)
    assert any("step 1 of 2" in line for line in lines)
    (folder / "seen.mp4").unlink()


@pytest.mark.parametrize(("after", "parts"), [("Reading", 0), ("Part 1 of 10 is ready", 1)])
def test_ctrl_c_keeps_the_finished_parts(folder, tmp_path, after, parts):
    output, errors = folder / "stopped.mp4", tmp_path / "errors"
    words = ("generate", "face.png", "long.wav", "--steps", "2", "--output", output)
    process = start(*words, folder=folder, told=tmp_path)
    while process.poll() is None and not (errors.exists() and after in errors.read_text()):
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to all of its processes
    assert process.wait() == 130
    err = errors.read_text()
    assert (tmp_path / "output").read_text() == ""
    assert "Traceback" not in err
    assert output.exists() == bool(parts)
    if parts:
        assert f"{output}" in err
        assert 76 <= count_frames(output) < 750
        output.unlink()
    assert not list(folder.glob("*.mp4*"))

"""The API of the page, called by `gradio_client` from another process than the app's."""

import json
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import httpx
import pytest
from app_process import wait_for_step
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError, ValidationError
from media_files import describe, ffmpeg

from omniavatar import CATALOG, GenerationRequest, read_settings
from omniavatar.serving import snippets


@pytest.fixture
def client(app):
    return Client(app.url, verbose=False)


def files(folder, image="face.png", audio="voice.wav"):
    return {"image": handle_file(folder / image), "audio": handle_file(folder / audio)}


def test_every_setting_is_a_parameter_and_only_the_files_must_be_given(client):
    api = client.view_api(return_format="dict", print_info=False)["named_endpoints"]
    assert list(api) == [
        "/generate", "/preflight", "/estimate", "/batch", "/captions", "/submit", "/job",
        "/cancel", "/models",
    ]  # fmt: skip
    parameters = {each["parameter_name"]: each for each in api["/generate"]["parameters"]}
    assert list(parameters) == [
        *(entry.name for entry in fields(GenerationRequest)), "model", "memory",
    ]  # fmt: skip
    needed = [name for name, each in parameters.items() if not each["parameter_has_default"]]
    assert needed == ["image", "audio"]
    types = {name: each["python_type"]["type"] for name, each in parameters.items()}
    assert types["image"] == types["audio"] == "filepath"
    assert (types["steps"], types["guidance"], types["prompt"]) == ("int", "float", "str")
    assert "'portrait'" in types["aspect"]
    assert [each["label"] for each in api["/generate"]["returns"]] == ["Video", "Settings"]


def test_generate_gives_a_video_and_the_settings_that_made_it(client, folder):
    job = client.submit(**files(folder), seed=7, api_name="/generate")
    told = wait_for_step(job)
    assert 0 < told.progress < 1
    assert "Part 1 of 1, step" in told.desc
    assert "left" in told.desc
    video, settings = job.result()
    spec = CATALOG["nano"]
    assert (settings["seed"], settings["model"]) == (7, "nano")
    assert (settings["steps"], settings["guidance"]) == (spec.steps, spec.guidance)
    assert settings["image"] == "face.png"
    assert "h264" in describe(video)
    frames = ffmpeg("-i", video, "-f", "rawvideo", "-pix_fmt", "gray", "-")
    assert len(frames) == 25 * 192 * 192


@pytest.fixture(scope="class")
def running(app, folder):
    client = Client(app.url, verbose=False)
    job = client.submit(**files(folder, audio="long.wav"), steps=100, api_name="/generate")
    wait_for_step(job)
    yield job
    job.cancel()


class TestWhileAJobRuns:
    @pytest.mark.parametrize(
        ("changes", "told"),
        [
            ({"image": "bad.png"}, "bad.png"),
            ({"audio": "bad.wav"}, "bad.wav"),
            ({"image": "voice.wav"}, "voice.wav"),
            ({"steps": 0}, "1 to 100"),
            ({"steps": "many"}, "1 to 100"),
            ({"seed": None}, "seed"),
            ({"aspect": "round"}, "landscape"),
            ({"model": "huge"}, "1.3B"),
            ({"memory": "7GB"}, "8GB"),
        ],
    )
    def test_bad_requests_are_refused_at_once(self, running, client, folder, changes, told):
        given = {**files(folder), **changes}
        for name in changes.keys() & {"image", "audio"}:
            given[name] = handle_file(folder / changes[name])
        with pytest.raises(ValidationError, match=told) as refusal:
            client.predict(**given, api_name="/generate")
        assert "Traceback" not in str(refusal.value)
        assert not running.done()


def test_absent_model_is_one_sentence(client, folder):
    with pytest.raises(AppError, match="14B") as fault:
        client.predict(**files(folder), model="14B", api_name="/generate")
    assert "\n" not in str(fault.value)
    assert "/" not in str(fault.value), "no folder of the server's"


@pytest.mark.timeout(120)
def test_cancelling_frees_the_device(client, folder):
    """The job that is cancelled would take longer than the time limit of this test."""
    long = client.submit(**files(folder, audio="long.wav"), steps=100, api_name="/generate")
    wait_for_step(long)
    assert long.cancel()
    video, _ = client.predict(**files(folder), steps=1, api_name="/generate")
    assert Path(video).stat().st_size


def test_only_uploaded_files_are_read(app, folder):
    """A program that names a file of the server's instead of sending one gets nothing."""
    data = {"path": str(folder / "face.png"), "meta": {"_type": "gradio.FileData"}}
    api = httpx.get(f"{app.url}gradio_api/info").json()["named_endpoints"]["/generate"]
    values = [each.get("parameter_default") for each in api["parameters"]]
    values[:2] = [data, data]
    begun = httpx.post(f"{app.url}gradio_api/call/generate", json={"data": values})
    if begun.is_success:
        url = f"{app.url}gradio_api/call/generate/{begun.json()['event_id']}"
        assert "event: complete" not in httpx.get(url, timeout=60).text


@pytest.mark.parametrize("language", ["python", "shell"])
def test_a_call_copied_from_the_page_makes_the_video(app, folder, language):
    settings = snippets.call_settings("nano", {"steps": 1, "seed": 5, "prompt": 'It\'s "$5" `now`'})
    write = snippets.python_call if language == "python" else snippets.curl_call
    command = [sys.executable, "-c"] if language == "python" else ["bash", "-c"]
    text = write(app.url, "face.png", "voice.wav", settings)
    called = subprocess.run([*command, text], cwd=folder, capture_output=True, text=True)
    assert called.returncode == 0, called.stderr
    if language == "python":
        made = read_settings(called.stdout.strip().splitlines()[-1])
    else:
        told = [line for line in called.stdout.splitlines() if line.startswith("data: ")]
        made = json.loads(told[-1].removeprefix("data: "))[1]
    assert {name: made[name] for name in settings} == settings

"""Jobs on a device that is lent: asked for, worked on in another process, and given back."""

import re
from pathlib import Path

import pytest
from app_process import running_app, wait_for_step, write_portrait, write_voice
from gradio_client import Client, handle_file


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("zero")
    write_portrait(folder / "face.png")
    write_voice(folder / "voice.wav", 1.0)
    write_voice(folder / "long.wav", 120.0)
    return folder


@pytest.fixture(scope="module")
def app(folder):
    with running_app(folder, script=Path(__file__).with_name("zero_gpu_app.py")) as app:
        yield app
        assert "Traceback" not in app.log


def start(app, folder, audio, **settings):
    return Client(app.url, verbose=False).submit(
        image=handle_file(folder / "face.png"),
        audio=handle_file(folder / audio),
        api_name="/generate",
        **settings,
    )


def test_longer_jobs_ask_for_more_and_a_cancelled_one_gives_the_device_back(app, folder):
    long = start(app, folder, "long.wav", steps=100)
    assert "left" in wait_for_step(long).desc
    long.cancel()
    video, settings = start(app, folder, "voice.wav", steps=1).result()
    assert Path(video).stat().st_size
    assert settings["steps"] == 1

    more, less = map(int, re.findall(r"durationSeconds=(\d+)", app.log))
    assert more > less
    assert app.log.count("/release?allowToken=token&fail=false") == 2


def test_models_are_loaded_before_the_page_and_work_in_processes_of_their_own(app, folder):
    for _ in range(2):
        start(app, folder, "voice.wav", steps=1).result()
    (own,) = re.findall(r"APP is (\d+)", app.log)
    assert re.findall(r"LOADED (\S+) in (\d+)", app.log) == [("nano", own)]
    assert app.log.index("LOADED nano") < app.log.index("Running on")
    workers = re.findall(r"WORKS in (\d+) with (\d+) prompts", app.log)
    assert len({worker for worker, _ in workers} | {own}) == len(workers) + 1
    assert {prompts for _, prompts in workers} == {"0"}, "nothing comes back from a process"

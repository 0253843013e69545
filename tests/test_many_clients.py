"""One server and many programs at once: everyone gets their own video, and a kill loses little."""

import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
import pytest
from app_process import running_app, wait_for_step
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError, ValidationError
from gradio_client.utils import Status
from media_files import decode_frames, decode_sound, write_wav
from PIL import Image

from omniavatar import kept_pieces, read_settings
from omniavatar.serving.jobs import ENDED
from omniavatar.serving.store import Store

# Chunks of 17 frames in one forward each, which two cores make in well under a second.
QUICK = {
    "resolution": "small",
    "steps": 1,
    "guidance": 1,
    "max_tokens": 300,
    "overlap_frames": 1,
}
GOOD, CANCELLED = range(12), range(12, 16)
BAD = {
    16: {"image": "bad.png"},
    17: {"audio": "bad.wav"},
    18: {"steps": 1000},
    19: {"model": "huge"},
}
SECONDS_TO_END = 120


def pitch(number):
    return 300 + 60 * number


def colour(number):
    return tuple(60 + 40 * (number // 4**axis % 4) for axis in range(3))


@pytest.fixture(scope="module")
def app(folder):
    with running_app(folder) as app:
        yield app


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A picture of its own colour and a recording of its own pitch and length for each client."""
    folder = tmp_path_factory.mktemp("many")
    for number in range(20):
        seconds = 120.0 if number in CANCELLED else 0.2 + 0.04 * (number % 6)
        times = np.arange(round(seconds * 16000)) / 16000
        tone = 0.3 * np.sin(2 * np.pi * pitch(number) * times)
        write_wav(folder / f"{number}.wav", tone, 16000)
        Image.new("RGB", (128, 128), colour(number)).save(folder / f"{number}.png")
    (folder / "bad.png").write_text("no picture")
    (folder / "bad.wav").write_text("no sound")
    return folder


def submit(app, folder, number):
    changes = dict(BAD.get(number, {}))
    image, audio = changes.pop("image", f"{number}.png"), changes.pop("audio", f"{number}.wav")
    return Client(app.url, verbose=False, httpx_kwargs={"timeout": 120}).submit(
        image=handle_file(folder / image),
        audio=handle_file(folder / audio),
        seed=1000 + number,
        api_name="/generate",
        **{**QUICK, **changes},
    )


def act(app, folder, number):
    """What one client does, and what it has in the end: a video, or the error that it was told."""
    job = submit(app, folder, number)
    if number in CANCELLED:
        while job.status().code == Status.STARTING:  # the client forgets to pass a cancel on
            time.sleep(0.05)
        time.sleep(number - CANCELLED[0])  # some wait in the queue, some are at work
        job.cancel()
        return None
    try:
        return job.result(timeout=300)[0]
    except (AppError, ValidationError) as error:
        return error


def ended_jobs(data):
    """All jobs on disk, once each has ended."""
    store = Store(data)
    end = time.monotonic() + SECONDS_TO_END
    while time.monotonic() < end:
        jobs = list(store.load_all())
        if all(status.state in ENDED for _, status in jobs):
            return jobs
        time.sleep(0.2)
    raise AssertionError(f"still there: {[status.state for _, status in jobs]}")


def test_twenty_clients_at_once_each_get_what_they_asked_for(app, folder):
    with ThreadPoolExecutor(20) as threads:
        results = list(threads.map(lambda number: act(app, folder, number), range(20)))
    jobs = ended_jobs(folder / "data")
    assert "Traceback" not in app.log

    for number in BAD:
        assert isinstance(results[number], AppError | ValidationError), results[number]
        assert "Traceback" not in str(results[number])
    for number in GOOD:
        video = results[number]
        assert read_settings(video)["seed"] == 1000 + number
        frames = decode_frames(video, 128, 128)
        seconds = 0.2 + 0.04 * (number % 6)
        assert abs(len(frames) - seconds * 25) <= 1
        assert np.abs(frames.mean((0, 1, 2)) - colour(number)).max() < 16
        sound = decode_sound(video)
        spectrum = np.abs(np.fft.rfft(sound * np.hanning(len(sound)), 48000))
        assert abs(int(spectrum.argmax()) - pitch(number)) < 20

    states = {asked.settings["seed"] - 1000: status.state for asked, status in jobs}
    assert len(states) == len(jobs)
    assert {number for number, state in states.items() if state == "finished"} == set(GOOD)
    assert all(states.get(number, "stopped") == "stopped" for number in CANCELLED)


def test_a_killed_server_finds_its_jobs_and_their_finished_parts_again(app, folder):
    """Ends the server of this module while it makes the third part of a video."""
    store = Store(folder / "data")
    before = {asked.id for asked, _ in store.load_all()}
    wait_for_step(submit(app, folder, CANCELLED[0]))
    after = {asked.id for asked, _ in store.load_all()}
    (job,) = after - before
    end = time.monotonic() + SECONDS_TO_END
    while time.monotonic() < end and len(kept_pieces(store.pieces(job))) < 2:
        time.sleep(0.05)
    os.kill(app.process.pid, signal.SIGKILL)
    app.process.wait()
    asked, status = store.load(job)
    assert status.state == "running"
    assert status.chunks_done >= 1

    with running_app(folder) as again:
        assert {asked.id for asked, _ in store.load_all()} == after
        interrupted = store.load(job)[1]
        assert (interrupted.state, interrupted.chunks_done) == ("interrupted", status.chunks_done)
        video = store.video(job)
        frames = decode_frames(video, 128, 128)
        assert len(frames) >= 16 * status.chunks_done - 8  # but for those that were to fade
        sound = decode_sound(video)
        assert abs(len(sound) / 48000 - len(frames) / 25) < 0.05
        assert read_settings(video)["seed"] == 1000 + CANCELLED[0]

        served = httpx.get(f"{again.url}gradio_api/file={video}")
        assert served.content == video.read_bytes()
        private = store.inputs(asked)[1], folder / "data" / "jobs" / asked.id / "request.json"
        for path in private:
            assert path.is_file()
            assert httpx.get(f"{again.url}gradio_api/file={path}").status_code in (403, 404)
        for path in (store.served, video.parent):
            assert httpx.get(f"{again.url}gradio_api/file={path}").status_code in (403, 404)
        assert "Traceback" not in again.log

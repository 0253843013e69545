import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from media_files import decode_frames, write_wav

from omniavatar import InputError, OutputError
from omniavatar.media.video import Mp4Writer
from omniavatar.serving.store import Status, Store, StoreSettings, data_folder

HOUR = 3600


@pytest.fixture
def inputs(tmp_path):
    (tmp_path / "face.png").write_bytes(b"picture")
    return tmp_path / "face.png", write_wav(tmp_path / "voice.wav", np.zeros(16000), 16000)


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "data")


def create(store, inputs, visitor="me", **more):
    image, audio = inputs
    return store.create(
        visitor=visitor,
        model="nano",
        settings={"seed": 3, "prompt": "ünï"},
        image=image,
        audio=audio,
        options={"draft": True},
        consent={"agreed": True},
        **more,
    )


def finish(store, job, status, *, hours_ago=0.0, size=1000):
    store.video(job).write_bytes(bytes(size))
    ended = status.ended or time.time() - hours_ago * HOUR
    store.save(job, replace(status, state="finished", ended=ended))


def test_a_job_is_read_back_as_it_was_written(store, inputs):
    asked, status = create(store, inputs)
    assert Store(store.folder).load(asked.id) == (asked, status)
    changed = replace(status, state="failed", error="No.", notices=("a", "b"), used={"seed": 3})
    store.save(asked.id, changed)
    assert Store(store.folder).load(asked.id) == (asked, changed)
    copies = store.inputs(asked)
    for path in inputs:
        path.unlink()
    assert copies[0].read_bytes() == b"picture"
    assert [path.name for path in copies] == ["face.png", "voice.wav"]


def test_the_visitors_token_is_nowhere_on_disk(store, inputs):
    create(store, inputs, visitor="secret-token")
    for path in store.folder.rglob("*"):
        assert not path.is_file() or b"secret-token" not in path.read_bytes()


def test_what_is_served_holds_neither_inputs_nor_settings(store, inputs):
    asked, _ = create(store, inputs)
    names = {path.name for path in store.served.rglob("*")}
    assert names == {asked.id}


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../jobs", "a/b", "x" * 32, "0" * 31, "0" * 32, "0" * 32 + "/.."]
)
def test_other_names_than_ids_open_nothing(store, name):
    assert store.load(name) is None
    assert store.load_batch(name) is None


DAMAGED = [
    "",
    "{",
    "[]",
    "{}",
    '{"state": 1, "more": 2}',
    '{"state": "", "server": "", "notices": 1}',
]


@pytest.mark.parametrize("content", DAMAGED)
def test_a_damaged_job_is_left_out_and_goes_when_it_is_old(store, inputs, content):
    good, _ = create(store, inputs)
    bad, status = create(store, inputs)
    finish(store, bad.id, status)
    folder = store.folder / "jobs" / bad.id
    (folder / "status.json").write_text(content)
    assert [asked.id for asked, _ in store.load_all()] == [good.id]
    store.recover()
    for place in (folder, store.files(bad.id)):
        os.utime(place, times=2 * (time.time() - 2 * HOUR,))
    assert store.expire(StoreSettings(keep_hours=3)) == []
    assert store.expire(StoreSettings(keep_hours=1), busy=[bad.id]) == []
    assert store.video(bad.id).exists()
    assert store.expire(StoreSettings(keep_hours=1)) == [bad.id]
    assert not store.video(bad.id).exists()


def test_only_folders_that_nothing_was_asked_of_are_strays(store, inputs):
    asked, status = create(store, inputs)
    finish(store, asked.id, status)
    places = {"stray": store.new_id(), "busy": store.new_id(), "young": store.new_id()}
    for name in places.values():
        store.files(name).mkdir()
    for name in (asked.id, places["stray"], places["busy"]):
        os.utime(store.files(name), times=2 * (time.time() - 2 * HOUR,))
    store.expire(StoreSettings(), busy=[places["busy"]])
    left = {path.name for path in store.served.iterdir()}
    assert left == {asked.id, places["busy"], places["young"]}


def test_too_old_jobs_go_and_running_ones_never(store, inputs):
    settings = StoreSettings(keep_hours=2)
    old, young, running = (create(store, inputs) for _ in range(3))
    finish(store, old[0].id, old[1], hours_ago=3)
    finish(store, young[0].id, young[1], hours_ago=1)
    store.save(running[0].id, replace(running[1], state="running", started=0.0))
    assert store.expire(settings) == [old[0].id]
    assert store.load(old[0].id) is None
    assert not store.files(old[0].id).exists()
    assert {asked.id for asked, _ in store.load_all()} == {young[0].id, running[0].id}


def test_the_oldest_go_until_the_rest_is_small_enough(store, inputs):
    jobs = [create(store, inputs) for _ in range(3)]
    for age, (asked, status) in enumerate(reversed(jobs)):
        finish(store, asked.id, status, hours_ago=age, size=400_000)
    gone = store.expire(StoreSettings(keep_gigabytes=1e-3), busy=[jobs[0][0].id])
    assert gone == []
    gone = store.expire(StoreSettings(keep_gigabytes=0.9e-3))
    assert gone == [jobs[0][0].id]


def test_parts_and_previews_of_a_video_are_dropped_once_nobody_looks_at_them(store, inputs):
    asked, status = create(store, inputs)
    preview = store.files(asked.id) / "preview-00000-0001.jpg"
    preview.touch()
    store.pieces(asked.id).mkdir()
    (store.pieces(asked.id) / "piece-00001.mp4").touch()
    finish(store, asked.id, status)
    store.expire(StoreSettings())
    assert store.pieces(asked.id).exists()
    assert preview.exists()
    finish(store, asked.id, status, hours_ago=1)
    store.expire(StoreSettings())
    assert not store.pieces(asked.id).exists()
    assert not preview.exists()
    assert store.video(asked.id).exists()


def test_a_batch_stays_while_its_jobs_run(store, inputs):
    asked, status = create(store, inputs)
    batch = store.new_id()
    store.save_batch(batch, {"rows": [{"job": asked.id}]})
    os.utime(store.folder / "batches" / f"{batch}.json", (0, 0))
    assert store.expire(StoreSettings(), busy=[asked.id]) == []
    assert store.load_batch(batch) == {"rows": [{"job": asked.id}]}
    finish(store, asked.id, status)
    assert store.expire(StoreSettings()) == [batch]
    assert store.load_batch(batch) is None


@pytest.mark.parametrize("content", ["{}", '{"rows": 1}', '{"rows": ["a"]}', "[]"])
def test_a_batch_without_rows_is_none_and_goes_when_it_is_old(store, content):
    path = store.folder / "batches" / f"{store.new_id()}.json"
    path.write_text(content)
    assert store.load_batch(path.stem) is None
    assert store.expire(StoreSettings()) == []
    os.utime(path, (0, 0))
    assert store.expire(StoreSettings()) == [path.stem]


def test_jobs_of_a_server_that_was_killed_keep_their_finished_parts(store, inputs):
    """Another process takes two jobs, finishes two parts of one and is killed."""
    script = """
import os, signal, sys
from dataclasses import replace
from pathlib import Path
import numpy as np
from omniavatar.media.video import Mp4Writer
from omniavatar.serving.store import Store
store = Store(Path(sys.argv[1]))
image, audio = map(Path, sys.argv[2:])
more = dict(visitor="me", model="nano", settings={}, options={}, consent=None)
waits, _ = store.create(image=image, audio=audio, **more)
runs, status = store.create(image=image, audio=audio, **more)
store.save(runs.id, replace(status, state="running", started=1.0))
print(waits.id, runs.id, flush=True)
with Mp4Writer(
    store.video(runs.id), width=96, height=64, fps=25, audio=audio, settings={},
    pieces=store.pieces(runs.id),
) as writer:
    for _ in range(2):
        writer.write(np.full((10, 64, 96, 3), 90, np.uint8))
        writer.cut()
    print("working", flush=True)
    sys.stdin.read(1)
    os.kill(os.getpid(), signal.SIGKILL)
"""
    process = subprocess.Popen(
        [sys.executable, "-c", script, store.folder, *inputs],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        waits, runs = process.stdout.readline().split()
        assert process.stdout.readline() == "working\n"
        store.recover()  # the other server lives: its jobs are left to it
        assert store.load(runs)[1].state == "running"
        process.stdin.write("x")
        process.stdin.flush()
        assert process.wait() == -signal.SIGKILL
    store.recover()
    assert {store.load(job)[1].state for job in (waits, runs)} == {"interrupted"}
    assert len(decode_frames(store.video(runs), 64, 96)) == 20
    assert not store.video(waits).exists()
    assert not list(store.files(runs).glob(".*"))


def test_a_video_that_can_not_be_rescued_is_no_fault(store, inputs):
    asked, _ = create(store, inputs)
    store.pieces(asked.id).mkdir()
    (store.pieces(asked.id) / "frames-00001-10.mp4").write_bytes(b"no video")
    assert not store.rescue_video(asked.id)
    with Mp4Writer(
        store.video(asked.id), width=96, height=64, fps=25, audio=None, settings={}
    ) as writer:
        writer.write(np.zeros((3, 64, 96, 3), np.uint8))
    assert store.rescue_video(asked.id)


def test_settings_come_from_the_environment():
    read = StoreSettings.from_environment
    assert read({"OMNIAVATAR_KEEP_HOURS": " "}) == StoreSettings()
    settings = read(
        {"OMNIAVATAR_DATA": "/x", "OMNIAVATAR_KEEP_GB": "0.5", "OMNIAVATAR_WAITING_JOBS": "3"}
    )
    assert (settings.data, settings.keep_gigabytes, settings.waiting) == (Path("/x"), 0.5, 3)
    for text in ("many", "0", "-1", "nan", "inf", "1e99"):
        with pytest.raises(InputError, match="OMNIAVATAR_QUEUE") as fault:
            read({"OMNIAVATAR_QUEUE": text})
        assert fault.value.field == "OMNIAVATAR_QUEUE"


def test_jobs_are_kept_where_the_user_s_data_is(tmp_path):
    assert data_folder(StoreSettings(data=tmp_path), {}) == tmp_path
    asked = data_folder(StoreSettings(), {"XDG_DATA_HOME": str(tmp_path)})
    assert asked == tmp_path / "omniavatar" or sys.platform != "linux"
    assert data_folder(StoreSettings(), {}).is_relative_to(Path.home())


def test_a_place_that_can_not_be_written_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="OMNIAVATAR_DATA"):
        Store(tmp_path / "file")


def test_a_status_is_never_seen_in_part(store, inputs):
    asked, status = create(store, inputs)
    path = store.folder / "jobs" / asked.id / "status.json"
    with path.open() as before:
        store.save(asked.id, replace(status, error="x" * 10_000))
        assert json.load(before)["error"] is None  # the old file, whole
    assert isinstance(store.load(asked.id)[1], Status)

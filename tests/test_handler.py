"""The worker as RunPod runs it: its own SDK in a process, jobs from an API, answers to it."""

import asyncio
import base64
import io
import itertools
import json
import os
import re
import socket
import tempfile
import time
import tracemalloc
from pathlib import Path
from types import SimpleNamespace

import httpx
import imageio.v3 as iio
import pytest
import torch
from app_process import ROOT, write_portrait, write_voice
from job_api import WORKER, encode, job_api, running_worker, worker_environment
from media_files import ffmpeg
from moto.server import ThreadedMotoServer
from warm_process import WarmProcess

from omniavatar import AvatarPipeline, OutputError
from omniavatar.serving import handler
from omniavatar.serving.handler import Worker
from omniavatar.serving.settings import WorkerSettings

QUICK = {
    "resolution": "small",
    "steps": 1,
    "guidance": 1,
    "max_tokens": 256,
    "overlap_frames": 1,
}
A_BUCKET = {
    "BUCKET_ENDPOINT_URL": "http://127.0.0.1:1",
    "BUCKET_NAME": "videos",
    "BUCKET_ACCESS_KEY_ID": "key",
    "BUCKET_SECRET_ACCESS_KEY": "secret",
}
COMES_WITH_AN_ANSWER = {
    *("video", "duration_seconds", "frames", "fps", "width", "height", "seed"),
    *("settings", "timings", "worker"),
}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    return SimpleNamespace(
        image=encode(write_portrait(folder / "portrait.png")),
        audio=encode(write_voice(folder / "voice.wav", 0.4)),
        long=encode(write_voice(folder / "long.wav", 30.0)),
        broken=base64.b64encode(b"neither seen nor heard").decode(),
    )


@pytest.fixture(scope="module")
def platform(tmp_path_factory):
    folder = tmp_path_factory.mktemp("worker")
    # What a killed worker leaves behind, for which the SDK would wait for ever.
    (folder / ".runpod_jobs.pkl").write_bytes(b"\x80\x04N.")
    with (
        job_api() as api,
        running_worker(api, folder, OMNIAVATAR_MAX_FILE_MB="2") as process,
    ):
        yield SimpleNamespace(api=api, process=process, folder=folder)


def count_frames(video):
    return len(iio.imread(io.BytesIO(base64.b64decode(video)), extension=".mp4", plugin="FFMPEG"))


def resident_bytes(process):
    status = Path(f"/proc/{process.pid}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+) kB", status)[1]) * 1024


def test_twenty_jobs_are_all_answered_rightly_and_memory_stays_flat(platform, files):
    api = platform.api
    good = {"image": files.image, "audio": files.audio, **QUICK}
    huge = "A" * 4_000_000
    expected = {
        "unknown": ({**good, "loudness": 3}, "invalid_input", "loudness"),
        "steps": ({**good, "steps": 1000}, "invalid_input", "steps"),
        "overlap": ({**good, "overlap_frames": 12}, "invalid_input", "overlap_frames"),
        "model": ({**good, "model": "14B"}, "invalid_input", "model"),
        "letters": ({**good, "image": "%%%"}, "invalid_input", "image"),
        "picture": ({**good, "image": files.broken}, "invalid_input", "image"),
        "sound": ({**good, "audio": files.broken}, "invalid_input", "audio"),
        "missing": ({"image": files.image}, "invalid_input", "audio"),
        "inside": (
            {**good, "audio": "http://127.0.0.1:9/voice.wav"},
            "download_failed",
            "audio",
        ),
        "huge-1": ({**good, "image": huge}, "too_large", "image"),
        "huge-2": ({**good, "audio": f"data:audio/wav;base64,{huge}"}, "too_large", "audio"),
    }
    stopped = ["stopped-1", "stopped-2"]
    order = [
        *("good-1", "unknown", "good-2", "stopped-1", "steps", "overlap", "huge-1", "good-3"),
        *("model", "letters", "good-4", "picture", "sound", "stopped-2", "good-5", "missing"),
        *("inside", "huge-2", "good-6", "good-7"),
    ]
    assert len(order) == 20
    for name in order:
        if name in stopped:
            api.put(name, image=files.image, audio=files.long, guidance=1)
        else:
            api.put(name, **expected.get(name, (good,))[0])

    memory = {}
    for name in order:
        if name in stopped:
            api.wait(lambda name=name: len(api.progress[name]) > 2)
            api.stop(name)
            following = order[order.index(name) + 1]
            api.wait(lambda following=following: following in api.taken)
            assert api.progress[name][-1][1]["percent"] < 100
            continue
        result = api.answer(name)
        if name in expected:
            _, code, field = expected[name]
            assert (result["output"]["code"], result["output"]["field"]) == (code, field), result
            assert field in result["error"]
            assert len(result["error"]) < 500
        else:
            assert "error" not in result
            output = result["output"]
            assert output.keys() == COMES_WITH_AN_ANSWER
            assert count_frames(output["video"]) == output["frames"] == 10
            assert output["settings"]["steps"] == 1
            memory[name] = resident_bytes(platform.process)
    assert api.taken == order
    assert not [name for name in stopped if api.results[name]]
    # Both long jobs have run by good-5; from one to the other the heap may keep a chunk's work.
    assert memory["good-7"] - memory["good-5"] < 50_000_000, memory
    assert memory["good-5"] - memory["good-3"] < 150_000_000, memory
    assert platform.process.poll() is None
    assert not list((platform.folder / "temporary").glob("omniavatar-*"))


def nested(depth):
    value = []
    for _ in range(depth):
        value = [value]
    return value


def test_hostile_jobs_are_each_answered_with_a_sentence(platform, files):
    """What the SDK can not send would be a job without an answer."""
    api = platform.api
    good = {"image": files.image, "audio": files.audio, **QUICK}
    half = "\ud83d"  # of an emoji, which JSON can hold and UTF-8 can not
    hostile = {
        "half-prompt": ({**good, "prompt": f"hello {half}"}, "prompt"),
        "half-name": ({**good, half: 1}, "?"),
        "half-model": ({**good, "model": half}, "model"),
        "half-image": ({**good, "image": half}, "image"),
        "half-address": ({**good, "image": f"http://{half}.example/"}, "image"),
        "long-name": ({**good, "x" * 1_000_000: 1}, "x" * 57 + "..."),
        "long-model": ({**good, "model": ["nano"] * 100_000}, "model"),
        "long-prompt": ({**good, "prompt": "word " * 500_000}, "prompt"),
        "long-address": ({**good, "audio": "http://" + "a" * 1_000_000}, "audio"),
        "deep-steps": ({**good, "steps": nested(900)}, "steps"),
        "deep-image": ({**good, "image": nested(900)}, "image"),
        "not-a-number": ({**good, "guidance": float("nan")}, "guidance"),
        "large-number": ({**good, "seed": 10**4000}, "seed"),
        "truth": ({**good, "steps": True}, "steps"),
        "object": ({**good, "audio": {"url": "https://example.com/a.mp3"}}, "audio"),
        "space": ({**good, "image": "AA " * 600_000}, "image"),
        "twice": ({**good, "image": "data:image/png;base64,data:image/png;base64,AAAA"}, "image"),
        "no-comma": ({**good, "image": "data:image/png;base64"}, "image"),
        "swapped": ({**good, "image": files.audio, "audio": files.image}, "image"),
        "late": ({**good, "audio_start": 5}, "audio_start"),
    }
    for name, (job, _) in hostile.items():
        api.put(name, **job)
    api.put("after", **good, prompt="\u202e <extra_id_0></s> \0 = ; # \\ \n \U0001f600")
    for name, (_, field) in hostile.items():
        result = api.answer(name)
        told = (result["output"]["code"] in ("invalid_input", "too_large", "download_failed"),)
        assert (*told, result["output"]["field"]) == (True, field), (name, result)
        assert len(result["error"]) < 500, name
        assert "\n" not in result["error"], name
    assert api.answer("after")["output"]["frames"] == 10
    assert not list((platform.folder / "temporary").glob("omniavatar-*"))


def test_faults_of_ours_are_told_apart_and_a_full_gpu_stops_the_worker(files, tmp_path):
    words = [str(ROOT / "tests" / "failing_worker.py")]
    job = {"image": files.image, "audio": files.audio, **QUICK}
    with job_api() as api, running_worker(api, tmp_path, words=words):
        api.put("fault", **job)
        result = api.answer("fault")
        assert json.loads(result["error"])["error_message"] == "cosmic ray"
        assert "output" not in result
        assert "stopPod" not in result
        api.put("full", **job)
        result = api.answer("full")
        assert result["output"]["code"] == "out_of_memory"
        assert "too small for nano" in result["error"]
        assert result["stopPod"] is True
    assert not list((tmp_path / "temporary").glob("omniavatar-*"))


def test_half_a_minute_of_speech_is_one_job_with_progress_in_order(platform, files):
    api = platform.api
    settings = {"steps": 1, "guidance": 1, "overlap_frames": 1, "resolution": "small"}
    api.put("half-minute", image=files.image, audio=files.long, **settings)
    output = api.answer("half-minute")["output"]
    assert abs(output["duration_seconds"] - 30.0) <= 1 / output["fps"]
    assert count_frames(output["video"]) == output["frames"]
    told = [progress for _, progress in api.progress["half-minute"]]
    percents = [progress["percent"] for progress in told]
    assert percents == sorted(percents)
    assert percents[-1] == 100
    ready = [progress["chunk"] for progress in told if progress["phase"].endswith("is ready")]
    # Signs of life say the last thing again.
    assert list(dict.fromkeys(ready)) == list(range(1, told[-2]["chunks"] + 1))
    assert any(progress.get("remaining_seconds") for progress in told)
    assert not list((platform.folder / "temporary").glob("omniavatar-*"))


def test_one_job_from_the_command_line(files, tmp_path):
    job = {"input": {"image": files.image, "audio": files.audio, **QUICK}}
    (tmp_path / "test_input.json").write_text(json.dumps(job))
    environment = worker_environment(tmp_path)
    log = tmp_path / "log"
    done = WarmProcess(WORKER, cwd=tmp_path, environment=environment, output=log)
    assert done.wait() == 0, log.read_text()
    assert "completed successfully" in log.read_text()
    bad = [*WORKER, "--test_input", '{"input": {"image": "x"}}']
    refused = WarmProcess(bad, cwd=tmp_path, environment=environment, output=log)
    assert refused.wait() == 1
    assert "audio is missing" in log.read_text()


def test_local_api_server_answers(files, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = ["--rp_api_host", "127.0.0.1", "--rp_api_port", str(port)]
    process = WarmProcess(
        [*WORKER, "--rp_serve_api", *address],
        cwd=tmp_path,
        environment=worker_environment(tmp_path),
        output=tmp_path / "log",
    )
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
            _wait_for(client, process)
            job = {"image": files.image, "audio": files.audio, **QUICK}
            done = client.post("/runsync", json={"input": job}).json()
            assert done["status"] == "COMPLETED"
            assert count_frames(done["output"]["video"]) == 10
            bad = client.post("/runsync", json={"input": {**job, "steps": 0}}).json()
            assert bad["status"] == "FAILED"
            assert "1 to 100" in bad["error"]
    finally:
        process.terminate()
        process.wait(timeout=30)


def _wait_for(client, process):
    for _ in range(1800):
        assert process.poll() is None
        try:
            client.get("/")
        except httpx.TransportError:
            time.sleep(0.1)
        else:
            return
    raise AssertionError("the local API did not start")


# ---- in this process


@pytest.fixture(scope="module")
def pipeline():
    return AvatarPipeline.from_pretrained(
        "nano", folder=WorkerSettings.from_environment(os.environ).weights, device="cpu"
    )


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def work(worker, files, identifier="job", **more):
    job = {"image": files.image, "audio": files.audio, **QUICK, **more}
    return asyncio.run(worker.handle({"id": identifier, "input": job}))


@pytest.mark.parametrize("bad", [None, [], "text"])
def test_input_that_is_no_object_is_refused(pipeline, bad):
    answer = asyncio.run(Worker(WorkerSettings(), pipeline).handle({"id": "job", "input": bad}))
    assert answer["code"] == "invalid_input"
    assert "JSON object" in answer["error"]


def test_settings_are_checked_before_files_are_fetched(pipeline, files):
    answer = work(
        Worker(WorkerSettings(), pipeline), files, image="http://unknown.invalid/", seed=-1
    )
    assert answer["field"] == "seed"


def test_limits_of_length_and_steps_are_told(pipeline, files):
    worker = Worker(WorkerSettings(max_video_seconds=5, max_steps=8), pipeline)
    assert work(worker, files, audio=files.long)["code"] == "too_large"
    assert work(worker, files, audio=files.long)["field"] == "audio"
    assert work(worker, files, steps=9)["field"] == "steps"


def test_the_same_request_id_is_answered_without_work(pipeline, files):
    worker = Worker(WorkerSettings(), pipeline)
    first = work(worker, files, request_id="one")
    again = work(worker, files, request_id="one", identifier="other")
    assert again == first
    assert work(worker, files, request_id="two")["timings"] != first["timings"]
    assert work(worker, files, request_id="../three")["field"] == "request_id"


def test_request_id_of_another_request_gives_nobody_its_video(pipeline, files):
    worker = Worker(WorkerSettings(), pipeline)
    first = work(worker, files, request_id="one")
    other = work(worker, files, request_id="one", seed=first["seed"] + 1)
    assert (other["code"], other["field"]) == ("invalid_input", "request_id")
    assert "another request" in other["error"]
    assert work(worker, files, request_id="one") == first


def test_hours_of_silence_in_a_small_file_take_no_memory(pipeline, files, tmp_path):
    ffmpeg(*("-f", "lavfi", "-i", "anullsrc=r=16000:cl=mono"), "-t", "2000", tmp_path / "a.flac")
    worker = Worker(WorkerSettings(max_video_seconds=5), pipeline)
    audio = encode(tmp_path / "a.flac")
    tracemalloc.start()
    try:
        answer = work(worker, files, audio=audio)
        assert tracemalloc.get_traced_memory()[1] < 50_000_000  # all of it: 128 MB
    finally:
        tracemalloc.stop()
    assert (answer["code"], answer["field"]) == ("too_large", "audio")
    assert "more than 5 seconds" in answer["error"]
    part = {"audio": audio, "audio_start": 1000, "audio_seconds": 0.4}
    assert work(worker, files, **part)["frames"] == 10


def test_cancelled_download_does_not_keep_the_worker(pipeline, files, temporary):
    async def cancel(address):
        worker = Worker(WorkerSettings(private_addresses=True, download_seconds=3000), pipeline)
        job = {"image": address, "audio": files.audio, **QUICK}
        task = asyncio.create_task(worker.handle({"id": "job", "input": job}))
        await asyncio.sleep(1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not list(temporary.glob("omniavatar-*"))
        good = {"image": files.image, "audio": files.audio, **QUICK}
        return await worker.handle({"id": "next", "input": good})

    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes a connection and says nothing
        port = silent.getsockname()[1]
        answer = asyncio.run(cancel(f"http://127.0.0.1:{port}/portrait.png"))
    assert answer["frames"] == 10


def test_progress_that_is_lost_stops_no_other(pipeline, files):
    told = []

    async def send(_job, progress):
        told.append(progress)
        if len(told) == 1:
            raise OSError("connection reset")

    assert work(Worker(WorkerSettings(), pipeline, send=send), files)["frames"] == 10
    assert told[-1]["percent"] == 100


def test_files_are_gone_after_a_failed_job_and_the_fault_is_raised(
    pipeline, files, temporary, monkeypatch
):
    def fail(*_arguments, **_options):
        assert len(list(temporary.glob("omniavatar-*/*"))) >= 2
        raise RuntimeError("cosmic ray")

    monkeypatch.setattr("omniavatar.stages.render.decode_latents", fail)
    with pytest.raises(RuntimeError, match="cosmic ray"):
        work(Worker(WorkerSettings(), pipeline), files)
    assert not list(temporary.iterdir())


def full_memory(network, calls):
    """Let a network's forward fail at some of its calls, as on a GPU that is full."""
    count = itertools.count(1)

    def fail(*_arguments):
        if next(count) in calls:
            raise torch.OutOfMemoryError("CUDA out of memory")

    return network.register_forward_pre_hook(fail)


def test_full_gpu_gets_another_arrangement_which_stays(files):
    own = AvatarPipeline.from_pretrained("nano", device="cpu")
    told = []

    async def send(_job, progress):
        told.append(progress["phase"])

    full_memory(own.models.transformer, {1})
    worker = Worker(WorkerSettings(), own, send=send)
    answer = work(worker, files)
    assert answer["frames"] == 10
    (notice,) = answer["worker"]["notices"]
    assert "memory ran out" in notice
    assert answer["worker"]["arrangement"] in notice
    assert any("emory ran out" in phase for phase in told)
    second = work(worker, files)
    assert not second["worker"]["notices"]
    assert second["worker"]["arrangement"] == answer["worker"]["arrangement"]


def test_too_small_a_gpu_asks_for_another_worker(files):
    own = AvatarPipeline.from_pretrained("nano", device="cpu")
    full_memory(own.models.transformer, range(1, 100))
    answer = work(Worker(WorkerSettings(), own), files)
    assert (answer["code"], answer["refresh_worker"]) == ("out_of_memory", True)
    assert "too small for nano" in answer["error"]


def test_quiet_work_gives_signs_of_life_in_order(pipeline, files):
    told = []

    async def send(_job, progress):
        told.append((time.monotonic(), progress))

    def slow(*_arguments):
        time.sleep(4)

    hook = pipeline.models.transformer.register_forward_pre_hook(slow)
    try:
        work(Worker(WorkerSettings(), pipeline, send=send), files, max_tokens=1088, steps=2)
    finally:
        hook.remove()
    assert len(told) >= 4
    elapsed = [progress["elapsed_seconds"] for _, progress in told]
    assert elapsed == sorted(elapsed)
    left = [progress["remaining_seconds"] for _, progress in told if progress.get("step") == 1]
    assert left[1] < left[0], "the time that is left passes"


# ---- the bucket


@pytest.fixture(scope="module")
def bucket_settings():
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    httpx.put(f"http://{host}:{port}/videos").raise_for_status()
    yield {
        "bucket_endpoint": f"http://{host}:{port}",
        "bucket_name": "videos",
        "bucket_key": "key",
        "bucket_secret": "secret",
        "max_result_megabytes": 0.001,
    }
    server.stop()


def test_large_video_goes_to_the_bucket(pipeline, files, bucket_settings):
    from omniavatar.serving.storage import Bucket

    settings = WorkerSettings(**bucket_settings)
    worker = Worker(settings, pipeline, bucket=Bucket(settings))
    answer = work(worker, files, identifier="job-7")
    assert "video" not in answer
    assert "/videos/job-7.mp4" in answer["video_url"]
    loaded = httpx.get(answer["video_url"])
    assert loaded.headers["content-type"] == "video/mp4"
    assert count_frames(base64.b64encode(loaded.content)) == 10


def test_bucket_is_sent_what_all_kinds_of_storage_take(bucket_settings, tmp_path):
    from omniavatar.serving.storage import PROBE, Bucket

    (tmp_path / "video.mp4").write_bytes(b"video")
    bucket = Bucket(WorkerSettings(**bucket_settings))
    bucket.upload(tmp_path / "video.mp4", "plain.mp4")
    for name in (PROBE, "plain.mp4"):
        stored = bucket._client.head_object(Bucket="videos", Key=name, ChecksumMode="ENABLED")
        assert not [key for key in stored if key.startswith("Checksum")]


@pytest.mark.parametrize(
    ("endpoint", "region"),
    [
        ("https://s3.eu-west-1.amazonaws.com", "eu-west-1"),
        ("https://s3.amazonaws.com/", "us-east-1"),
        ("https://s3.us-west-004.backblazeb2.com", "us-west-004"),
        ("https://s3api-eur-is-1.runpod.io/", "eur-is-1"),
        ("https://account.r2.cloudflarestorage.com", "auto"),
        ("http://localhost:9000", "auto"),
    ],
)
def test_region_is_that_of_the_address(endpoint, region):
    from omniavatar.serving.storage import region_of

    assert region_of(endpoint) == region


def test_large_video_without_a_bucket_says_what_to_configure(pipeline, files):
    answer = work(Worker(WorkerSettings(max_result_megabytes=0.001), pipeline), files)
    assert answer["code"] == "too_large"
    assert "BUCKET_ENDPOINT_URL" in answer["error"]


def test_absent_bucket_is_told_at_the_start(bucket_settings):
    from omniavatar.serving.storage import Bucket

    with pytest.raises(OutputError, match="BUCKET_NAME"):
        Bucket(WorkerSettings(**{**bucket_settings, "bucket_name": "absent"}))


@pytest.mark.parametrize(
    ("variables", "told"),
    [
        ({"OMNIAVATAR_MODEL": "13B"}, "OMNIAVATAR_MODEL"),
        ({"OMNIAVATAR_WEIGHTS": "/absent"}, "OMNIAVATAR_WEIGHTS"),
        ({"OMNIAVATAR_MODEL": "14B", "OMNIAVATAR_WEIGHTS": ""}, "14B"),
        ({"OMNIAVATAR_MAX_FILE_MB": "many"}, "OMNIAVATAR_MAX_FILE_MB"),
        ({"BUCKET_NAME": "videos"}, "BUCKET_ENDPOINT_URL"),
        ({"OMNIAVATAR_DEVICE": "tpu"}, "tpu"),
        ({"OMNIAVATAR_MEMORY": "7GB"}, "OMNIAVATAR_MEMORY"),
        ({"OMNIAVATAR_READY_FILE": "/absent/ready"}, "/absent/ready"),
        ({"BUCKET_LINK_SECONDS": "700000"}, "BUCKET_LINK_SECONDS"),
        ({**A_BUCKET, "BUCKET_NAME": "two words"}, "Check BUCKET_NAME"),
        ({**A_BUCKET, "BUCKET_ENDPOINT_URL": "storage"}, "BUCKET_ENDPOINT_URL"),
    ],
)
def test_broken_set_up_stops_the_worker_with_one_sentence(
    variables, told, tmp_path, monkeypatch, capfd
):
    monkeypatch.chdir(tmp_path)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert handler.main() == 1
    sentence = capfd.readouterr().err.strip().splitlines()[-1]
    assert sentence.startswith("omniavatar: the worker can not start: ")
    assert told in sentence

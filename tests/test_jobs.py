import itertools
import json
from dataclasses import replace
from pathlib import Path

import pytest
from app_process import write_portrait, write_voice
from media_files import decode_frames, describe
from PIL import Image

from omniavatar import DownloadProgress, GenerationRequest, InputError, read_settings
from omniavatar.serving.jobs import UNKNOWN_FAULT, Jobs
from omniavatar.serving.pipelines import Pipelines
from omniavatar.serving.store import Store, StoreSettings

# Chunks of 17 frames in one forward each, which two cores make in well under a second.
QUICK = {
    "resolution": "small",
    "steps": 1,
    "guidance": 1.0,
    "max_tokens": 300,
    "overlap_frames": 1,
}


class BrokenPipelines(Pipelines):
    """A set-up that fails in a way that nobody foresaw."""

    def get(self, model, **_more):
        raise RuntimeError(f"{model} fell over in /secret/place")


class DistantPipelines(Pipelines):
    """As if the model's files had to be downloaded first."""

    def __init__(self, updates):
        super().__init__()
        self.updates = updates

    def get(self, model, *, report=None, **more):
        for done in self.updates if report else ():
            report(
                DownloadProgress(
                    model=model,
                    folder=Path("/models"),
                    file="model.safetensors",
                    done_bytes=done * 10**9,
                    total_bytes=18 * 10**9,
                    bytes_per_second=5e7,
                    remaining_seconds=60.0,
                )
            )
        return super().get(model, **more)


@pytest.fixture(scope="module")
def values(tmp_path_factory):
    """A form as Gradio hands it over, whose files are uploads."""
    folder = tmp_path_factory.mktemp("jobs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(folder))
        yield {
            "image": {"path": str(write_portrait(folder / "face.png"))},
            "audio": {"path": str(write_voice(folder / "voice.wav", 0.2))},
            **QUICK,
        }


@pytest.fixture(scope="module")
def pipelines():
    return Pipelines()


@pytest.fixture(scope="module")
def jobs(pipelines, tmp_path_factory):
    return Jobs(pipelines, StoreSettings(data=tmp_path_factory.mktemp("data")))


@pytest.fixture(scope="module")
def endless(tmp_path_factory):
    """A request that takes minutes, in parts of well under a second."""
    folder = tmp_path_factory.mktemp("endless")
    return GenerationRequest(
        image=write_portrait(folder / "face.png"),
        audio=write_voice(folder / "long.wav", 60.0),
        **QUICK,
    )


@pytest.mark.parametrize("name", ["image", "audio"])
@pytest.mark.parametrize("upload", [None, {}, {"path": None, "url": "data:"}, "face.png"])
def test_a_file_that_was_not_uploaded_is_asked_for(jobs, values, name, upload):
    with pytest.raises(InputError, match="upload") as fault:
        jobs.submit("nano", {**values, name: upload}, visitor="me")
    assert fault.value.field == name


def wait(jobs, job_id):
    """All that a job tells."""
    return list(jobs.follow(job_id))


def test_a_fault_of_ours_is_logged_and_not_shown(tmp_path, values, caplog):
    broken = Jobs(BrokenPipelines(), StoreSettings(data=tmp_path))
    last = wait(broken, broken.submit("nano", values, visitor="me"))[-1]
    assert (last.state, last.error) == ("failed", UNKNOWN_FAULT)
    assert "/secret/place" in caplog.text


def test_jobs_that_wait_are_carried_out_whatever_a_sweep_finds(
    pipelines, tmp_path, values, caplog, monkeypatch
):
    def fail(*_args, **_more):
        raise TypeError("what is on disk is not what was expected")

    monkeypatch.setattr("omniavatar.serving.jobs.SECONDS_BETWEEN_SWEEPS", 0.0)
    monkeypatch.setattr(Store, "expire", fail)
    jobs = Jobs(pipelines, StoreSettings(data=tmp_path))
    for _ in range(2):
        assert wait(jobs, jobs.submit("nano", values, visitor="me"))[-1].state == "finished"
    assert "old jobs could not be deleted" in caplog.text


def test_a_fault_says_nothing_of_where_the_server_keeps_things(jobs, values):
    job_id = jobs.submit("nano", {**values, "steps": 20}, visitor="me")
    for view in jobs.follow(job_id):
        if view.step == 1:
            view.audio.unlink(missing_ok=True)
    assert view.error.startswith("video.mp4 was written without sound, because voice.wav can no")


def test_a_job_tells_how_far_the_download_of_its_model_is(tmp_path, values):
    jobs = Jobs(DistantPipelines([2]), StoreSettings(data=tmp_path))
    views = wait(jobs, jobs.submit("nano", values, visitor="me"))
    assert "Downloading nano: 2.0 GB of 18.0 GB, 50 MB/s, about 1:00 left" in {
        view.phase for view in views
    }
    assert views[-1].state == "finished"


def test_a_job_that_is_stopped_ends_the_download_of_its_model(tmp_path, values):
    jobs = Jobs(DistantPipelines(itertools.repeat(2)), StoreSettings(data=tmp_path))
    job_id = jobs.submit("nano", values, visitor="me")
    for view in jobs.follow(job_id):
        if view.phase.startswith("Downloading"):
            jobs.cancel(job_id)
    assert jobs.view(job_id).state == "stopped"


def test_a_job_tells_how_far_it_is_and_leaves_a_video_with_what_was_asked(jobs, values):
    consent = {"agreed": True, "at": "2026-01-01T10:00:00Z"}
    job_id = jobs.submit(
        "nano", {**values, "seed": 7}, visitor="me", options={"from": "page"}, consent=consent
    )
    views = wait(jobs, job_id)
    assert {view.state for view in views} <= {"queued", "running", "finished"}
    assert any(view.chunks == 1 and view.step == 1 for view in views)
    fractions = [view.fraction for view in views]
    assert fractions == sorted(fractions)
    last = views[-1]
    assert (last.state, last.fraction, last.seed, last.error) == ("finished", 1.0, 7, None)
    assert (last.options, last.consent) == ({"from": "page"}, consent)
    assert last.settings["steps"] == 1
    stored = read_settings(last.video)
    assert (stored["seed"], stored["consent"]) == (7, consent)
    assert stored == json.loads(json.dumps(dict(last.used)))
    assert Image.open(last.poster).size == (128, 128)
    assert jobs.view(job_id) == last


def test_a_closed_follower_leaves_its_job_alone_unless_it_owns_it(jobs, values):
    ids = [jobs.submit("nano", {**values, "steps": 20}, visitor=name) for name in ("a", "b")]
    watching, owning = jobs.follow(ids[0]), jobs.follow(ids[1], cancel_on_close=True)
    for follower in (watching, owning):
        next(follower)
        follower.close()
    assert wait(jobs, ids[1])[-1].state == "stopped"
    assert not jobs.view(ids[0]).ended
    jobs.cancel(ids[0], wait=True)
    assert jobs.view(ids[0]).state == "stopped"


def test_a_job_whose_owner_was_lost_without_a_word_ends(jobs, endless, monkeypatch):
    monkeypatch.setattr("omniavatar.serving.jobs.SECONDS_UNTIL_ABANDONED", 2.0)
    job_id = jobs.submit("nano", endless, visitor="me")
    lost = jobs.follow(job_id, cancel_on_close=True)
    next(lost)  # and never asked again, nor closed
    assert wait(jobs, job_id)[-1].state == "stopped"
    attended = jobs.submit("nano", endless, visitor="me")
    for view in jobs.follow(attended, cancel_on_close=True):
        if view.elapsed_seconds > 2.5:
            break
    assert view.state == "running"
    assert wait(jobs, attended)[-1].state == "stopped"


def test_cancelling_one_that_waits_leaves_the_one_that_runs(jobs, values):
    first, second, third = (jobs.submit("nano", values, visitor="me") for _ in range(3))
    jobs.cancel(second)
    assert jobs.view(second).state == "stopped"
    assert wait(jobs, first)[-1].state == "finished"
    assert wait(jobs, third)[-1].state == "finished"
    assert jobs.view(second).video is None


def test_previews_can_still_be_loaded_when_the_video_is_finished(jobs, values):
    views = wait(jobs, jobs.submit("nano", values, visitor="me"))
    seen = [view.preview for view in views if view.preview is not None]
    assert seen
    assert views[-1].state == "finished"
    assert all(path.exists() for path in seen)


def until_part(jobs, job_id):
    """The first view of a job that has a finished part."""
    return next(view for view in jobs.follow(job_id) if view.segments or view.ended)


def test_a_job_that_is_stopped_keeps_what_is_finished(jobs, endless):
    job_id = jobs.submit("nano", endless, visitor="me")
    view = until_part(jobs, job_id)
    assert view.state == "running"
    assert view.preview.exists()
    assert describe(view.segments[0]).count("Stream") >= 2  # the picture and its sound
    jobs.cancel(job_id, wait=True)
    last = jobs.view(job_id)
    assert (last.state, last.error, last.preview) == ("stopped", None, None)
    assert len(decode_frames(last.video, 128, 128)) >= 8
    assert last.poster.exists()
    assert last.phase == "Stopped"


def test_a_server_that_ends_keeps_what_is_finished_and_the_history(pipelines, endless, tmp_path):
    settings = StoreSettings(data=tmp_path)
    jobs = Jobs(pipelines, settings)
    running, waiting = (jobs.submit("nano", endless, visitor="me") for _ in range(2))
    until_part(jobs, running)
    place = jobs.view(waiting)
    assert place.position == 1
    assert place.wait_seconds > 0
    jobs.close()
    again = Jobs(pipelines, settings)
    newest, oldest = again.history("me")
    assert (newest.id, newest.state, newest.video) == (waiting, "interrupted", None)
    assert (oldest.id, oldest.state) == (running, "interrupted")
    assert len(decode_frames(oldest.video, 128, 128)) >= 8
    assert dict(oldest.settings) == dict(again.view(running).settings)
    assert oldest.image.read_bytes() == endless.image.read_bytes()
    assert again.history("they") == []
    again.remove(running, visitor="they")
    assert again.view(running) is not None
    again.remove(running, visitor="me")
    assert again.view(running) is None
    assert not oldest.video.exists()
    assert [view.id for view in again.history("me")] == [waiting]


def test_one_visitor_and_all_together_may_have_only_so_many_jobs_waiting(
    pipelines, endless, tmp_path
):
    jobs = Jobs(pipelines, StoreSettings(data=tmp_path, waiting=2, waiting_together=3))
    first = jobs.submit("nano", endless, visitor="a")
    until_part(jobs, first)
    for _ in range(2):
        jobs.submit("nano", endless, visitor="a")
    with pytest.raises(InputError, match="2 videos in the queue"):
        jobs.submit("nano", endless, visitor="a")
    jobs.submit("nano", endless, visitor="b")
    with pytest.raises(InputError, match="Too many videos"):
        jobs.submit("nano", endless, visitor="c")
    jobs.close()


def test_what_can_not_be_made_is_refused_before_it_waits(jobs, endless):
    before = len(jobs.history("me"))
    for changes, model, told in (
        ({"resolution": "small", "aspect": "portrait"}, "nano", "aspect"),
        ({"max_tokens": 20}, "nano", "max_tokens"),
        ({"image": endless.audio}, "nano", "image"),
        ({}, "huge", "model"),
    ):
        with pytest.raises(InputError) as fault:
            jobs.submit(model, replace(endless, **changes), visitor="me")
        assert fault.value.field == told
    with pytest.raises(InputError, match="memory"):
        jobs.submit("nano", endless, visitor="me", memory="a lot")
    assert len(jobs.history("me")) == before

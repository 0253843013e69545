import itertools
import json
from pathlib import Path

import pytest
from app_process import write_portrait, write_voice
from PIL import Image

from omniavatar import DownloadProgress, read_settings
from omniavatar.serving.jobs import UNKNOWN_FAULT, Jobs
from omniavatar.serving.pipelines import Pipelines
from omniavatar.serving.store import StoreSettings


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
    """A form as Gradio hands it over."""
    folder = tmp_path_factory.mktemp("jobs")
    return {
        "image": {"path": str(write_portrait(folder / "face.png"))},
        "audio": {"path": str(write_voice(folder / "voice.wav", 0.2))},
        "steps": 1,
    }


@pytest.fixture(scope="module")
def jobs(tmp_path_factory):
    return Jobs(Pipelines(), StoreSettings(data=tmp_path_factory.mktemp("data")))


@pytest.mark.parametrize("name", ["image", "audio"])
@pytest.mark.parametrize("upload", [None, {}, {"path": None, "url": "data:"}, "face.png"])
def test_a_file_that_was_not_uploaded_is_asked_for(jobs, values, name, upload):
    fault = jobs.check({**values, name: upload})
    assert fault.field == name
    assert "upload" in str(fault)


def test_a_good_form_has_no_fault(jobs, values):
    assert jobs.check(values) is None


def wait(jobs, job_id):
    """All that a job tells."""
    return list(jobs.follow(job_id))


def test_a_fault_of_ours_is_logged_and_not_shown(tmp_path, values, caplog):
    broken = Jobs(BrokenPipelines(), StoreSettings(data=tmp_path))
    last = wait(broken, broken.submit("nano", values, visitor="me"))[-1]
    assert (last.state, last.error) == ("failed", UNKNOWN_FAULT)
    assert "/secret/place" in caplog.text


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
    jobs.cancel(ids[0], wait=True)
    assert jobs.view(ids[0]).state == "stopped"


def test_cancelling_one_that_waits_leaves_the_one_that_runs(jobs, values):
    first, second, third = (jobs.submit("nano", values, visitor="me") for _ in range(3))
    jobs.cancel(second)
    assert jobs.view(second).state == "stopped"
    assert wait(jobs, first)[-1].state == "finished"
    assert wait(jobs, third)[-1].state == "finished"
    assert jobs.view(second).video is None

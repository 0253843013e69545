import gradio as gr
import pytest
from app_process import write_portrait, write_voice

from omniavatar import Finished
from omniavatar.serving.jobs import UNKNOWN_FAULT, Jobs, Stopped
from omniavatar.serving.pipelines import Pipelines


class BrokenPipelines(Pipelines):
    """A set-up that fails in a way that nobody foresaw."""

    def get(self, model):
        raise RuntimeError(f"{model} fell over in /secret/place")


@pytest.fixture(scope="module")
def values(tmp_path_factory):
    """A form as Gradio hands it over."""
    folder = tmp_path_factory.mktemp("jobs")
    return {
        "image": {"path": str(write_portrait(folder / "face.png"))},
        "audio": {"path": str(write_voice(folder / "voice.wav", 1.0))},
        "steps": 1,
    }


@pytest.fixture(scope="module")
def jobs():
    return Jobs(Pipelines())


@pytest.mark.parametrize("name", ["image", "audio"])
@pytest.mark.parametrize("upload", [None, {}, {"path": None, "url": "data:"}, "face.png"])
def test_a_file_that_was_not_uploaded_is_asked_for(jobs, values, name, upload):
    fault = jobs.check({**values, name: upload})
    assert fault.field == name
    assert "upload" in str(fault)


def test_a_good_form_has_no_fault(jobs, values):
    assert jobs.check(values) is None


def test_a_fault_of_ours_is_logged_and_not_shown(values, caplog):
    with pytest.raises(gr.Error) as told:
        list(Jobs(BrokenPipelines()).events("nano", values))
    assert told.value.message == UNKNOWN_FAULT
    assert "/secret/place" in caplog.text


def test_the_video_is_there_until_the_job_has_ended(jobs, values):
    events = jobs.events("nano", values)
    finished = next(event for event in events if isinstance(event, Finished))
    assert finished.path.stat().st_size
    assert next(events, None) is None
    assert not finished.path.parent.exists()


def test_stop_ends_the_visitors_own_job_only(jobs, values):
    mine, theirs = (jobs.events("nano", values, visitor=name) for name in ("me", "they"))
    for job in (mine, theirs):
        next(job)
    jobs._visits["me"].stop.set()
    *_, last = mine
    assert last == Stopped(None)
    *_, last = theirs
    assert isinstance(last, Finished)
    assert not jobs._visits

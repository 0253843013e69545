"""The checklist of a release: what it finds, and what it writes."""

import json
import shutil

import pytest
from app_process import ROOT, write_portrait, write_voice

from omniavatar.serving import acceptance, cli, remote

ROWS = [
    "cold: 1 s",
    "warm: 1 s",
    "guidance 1",
    "guidance 3",
    "guidance 6",
    "refused: broken picture",
    "refused: broken recording",
    "refused: empty recording",
    "refused: steps out of range",
    "refused: overlap that splits a latent",
    "2 requests at once",
    "GPU memory",
]


def test_this_machine_passes_and_the_report_says_so(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = "acceptance --seconds 1 --steps 1 --price 0.36 --report out/list --guide guide.md"
    (tmp_path / "out").mkdir()
    guide = tmp_path / "guide.md"
    guide.write_text("# Guide\n\n<!-- acceptance -->\nof last year\n<!-- end -->\n\nThe rest.\n")
    assert cli.main(words.split()) == 0
    table = (tmp_path / "out" / "list.md").read_text()
    found = json.loads((tmp_path / "out" / "list.json").read_text())
    assert capsys.readouterr().out == table
    assert guide.read_text() == (
        f"# Guide\n\n<!-- acceptance -->\n{table}<!-- end -->\n\nThe rest.\n"
    )
    assert [check["name"] for check in found["checks"]] == ROWS
    assert found["passed"]
    assert all(f"| {name} |" in table for name in ROWS)
    cold = found["checks"][0]
    assert "1.00 s of video and 1.00 s of sound" in cold["measured"]
    assert cold["measured"].endswith(f"{cold['seconds'] * 0.36 / 3600:.4f} $")


@pytest.fixture
def one_video_for_all(tmp_path, monkeypatch):
    """Endpoints that take everything and always give the same video, of another length.

    The settings that the one elsewhere was sent are the fixture's value.
    """
    from omniavatar import AvatarPipeline, GenerationRequest

    request = GenerationRequest(
        image=write_portrait(tmp_path / "portrait.png"),
        audio=write_voice(tmp_path / "voice.wav", 0.4),
        resolution="small",
        steps=1,
        guidance=1.0,
        max_tokens=256,
        overlap_frames=1,
    )
    video = AvatarPipeline.from_pretrained("nano").generate(request, tmp_path / "same.mp4").path

    asked = []

    def local(*_arguments):
        return lambda _request, _unchecked, output: {"path": shutil.copy(video, output)}

    def elsewhere(order, _address, _end):
        asked.append(order.values)
        shutil.copy(video, order.output)
        yield order.told("Making it")
        return {}

    monkeypatch.setattr(acceptance, "_local", local)
    monkeypatch.setattr(remote, "_sender", lambda endpoint: (elsewhere, endpoint))
    return asked


@pytest.mark.parametrize("endpoint", ["local", "runpod:elsewhere"])
def test_endpoint_that_does_nothing_right_is_not_accepted(
    endpoint, one_video_for_all, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    guide = tmp_path / "guide.md"
    guide.write_text("<!-- acceptance -->\nof last year\n<!-- end -->\n")
    words = ["--endpoint", endpoint, "--seconds", "1", "--guide", "guide.md"]
    assert cli.main(["acceptance", *words]) == 2
    assert "of last year" in guide.read_text()
    assert "not accepted: cold: 1 s, warm: 1 s, guidance 3" in capsys.readouterr().err
    found = json.loads((tmp_path / "acceptance.json").read_text())
    failed = {check["name"] for check in found["checks"] if check["passed"] is False}
    assert failed == {*ROWS[:2], *ROWS[3:10], "2 requests at once"}
    if endpoint != "local":
        wrong = [(each.get("steps"), each.get("overlap_frames")) for each in one_video_for_all]
        assert (1000, None) in wrong
        assert (None, 12) in wrong


def test_endpoint_that_is_down_has_refused_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RUNPOD_API_KEY", "key")
    monkeypatch.setenv("RUNPOD_API_URL", "http://127.0.0.1:1")
    monkeypatch.setattr(remote, "WAITS_SECONDS", ())
    assert cli.main(["acceptance", "--seconds", "1", "--endpoint", "runpod:down"]) == 2
    capsys.readouterr()
    found = json.loads((tmp_path / "acceptance.json").read_text())
    assert not any(check["passed"] for check in found["checks"])


@pytest.mark.parametrize("text", ["# Guide", "<!-- acceptance --> and no end", None])
def test_place_that_is_not_there_is_told_before_the_work(text, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    if text is not None:
        (tmp_path / "guide.md").write_text(text)
    assert cli.main(["acceptance", "--guide", "guide.md"]) == 2
    assert "guide.md" in capsys.readouterr().err
    assert cli.main(["acceptance", "--report", "absent/list"]) == 2
    assert "absent" in capsys.readouterr().err
    assert not (tmp_path / "acceptance.md").exists()


def test_guide_shows_a_checklist_that_was_passed():
    guide = (ROOT / "deploy" / "runpod" / "README.md").read_text()
    shown = guide.split("<!-- acceptance -->")[1].split("<!-- end -->")[0]
    assert "| warm: 60 s | passed |" in shown
    assert "failed" not in shown

"""The further endpoints of the API, called by `gradio_client` in a process of its own."""

import time
import zipfile
from dataclasses import fields
from pathlib import Path

import pytest
from app_process import running_app, write_portrait, write_voice
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from media_files import describe
from PIL import Image

from omniavatar import CATALOG, GenerationRequest, setting_of

QUICK = {"steps": 1, "guidance": 1}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("api")
    write_portrait(folder / "face.png")
    write_voice(folder / "voice.wav", 1.0)
    write_voice(folder / "long.wav", 60.0)
    return folder


@pytest.fixture(scope="module")
def client(folder):
    with running_app(folder) as app:
        yield Client(app.url, verbose=False)
        assert "Traceback" not in app.log


@pytest.fixture(scope="module")
def files(folder):
    return {"image": handle_file(folder / "face.png"), "audio": handle_file(folder / "voice.wav")}


def test_page_about_the_api_explains_every_setting_with_its_range(client):
    api = client.view_api(return_format="dict", print_info=False)["named_endpoints"]
    for endpoint in ("/generate", "/preflight", "/estimate", "/submit", "/batch"):
        told = {each["parameter_name"]: each for each in api[endpoint]["parameters"]}
        for entry in fields(GenerationRequest):
            setting = setting_of(entry)
            if endpoint == "/batch" and setting.group == "input":
                continue
            label = told[entry.name]["label"]
            assert setting.help in label
            assert setting.maximum is None or f"{setting.maximum:.12g}" in label
        assert "model" in told


def test_preflight_tells_what_the_video_would_be(client, files):
    report, framing = client.predict(**files, audio_seconds=0.4, api_name="/preflight")
    assert (report["width"], report["height"], report["chunks"]) == (192, 192, 1)
    assert report["video_seconds"] == pytest.approx(0.4)
    assert report["estimated_seconds"] > 0
    assert any("0.40 seconds" in warning for warning in report["warnings"])
    assert Image.open(framing).size == (192, 192)


def test_estimate_grows_with_the_steps_and_the_models(client, files):
    def seconds(**settings):
        return client.predict(**files, **settings, api_name="/estimate")["seconds"]

    assert 0 < seconds(steps=2) < seconds(steps=40) < seconds(steps=40, model="1.3B")


def test_models_lists_the_catalog_with_ranges_and_reasons(client):
    listed = {each["name"]: each for each in client.predict(api_name="/models")}
    assert list(listed) == list(CATALOG)
    settings = listed["nano"]["settings"]
    assert set(settings) == {entry.name for entry in fields(GenerationRequest)}
    assert settings["steps"]["default"] == CATALOG["nano"].steps
    assert (settings["steps"]["minimum"], settings["steps"]["maximum"]) == (1, 100)
    assert "nano" in settings["step_cache"]["without_effect"]
    assert "contain" in settings["fit"]["choices"]


def test_job_is_made_without_anybody_waiting(client, files):
    job = client.predict(**files, **QUICK, seed=9, api_name="/submit")
    told, video = client.predict(job=job, api_name="/job")
    while told["state"] in ("queued", "running"):
        time.sleep(0.1)
        told, video = client.predict(job=job, api_name="/job")
    assert (told["state"], told["settings"]["seed"]) == ("finished", 9)
    assert "h264" in describe(video)


def test_job_can_be_cancelled_by_its_id_alone(client, files, folder):
    long = files | {"audio": handle_file(folder / "long.wav")}
    job = client.predict(**long, steps=100, api_name="/submit")
    client.predict(job=job, api_name="/cancel")
    while (told := client.predict(job=job, api_name="/job")[0])["state"] in ("queued", "running"):
        time.sleep(0.1)
    assert told["state"] == "stopped"
    with pytest.raises(AppError, match="no such job"):
        client.predict(job="0" * 32, api_name="/job")


def test_batch_gives_a_zip_and_a_bad_row_stops_no_other(client, folder):
    (folder / "rows.csv").write_text(
        "image,audio,seed\nface.png,voice.wav,3\nface.png,none.wav,4\n"
    )
    uploads = [handle_file(folder / name) for name in ("rows.csv", "face.png", "voice.wav")]
    rows, archive = client.predict(files=uploads, **QUICK, api_name="/batch")
    assert [row["state"] for row in rows] == ["finished", "failed"]
    assert "none.wav" in rows[1]["told"]
    names = zipfile.ZipFile(archive).namelist()
    assert sorted(Path(name).suffix for name in names) == [".csv", ".mp4"]


def test_captions_come_with_times_as_srt_and_in_the_picture(client, files):
    video, _ = client.predict(**files, **QUICK, api_name="/generate")
    told, srt, shown = client.predict(
        video=handle_file(video), text="Hello there.", burn=True, api_name="/captions"
    )
    assert [each["text"] for each in told] == ["Hello there."]
    assert 0 <= told[0]["start"] < told[0]["stop"] <= 1.01
    assert "-->" in Path(srt).read_text()
    assert "h264" in describe(shown["video"] if isinstance(shown, dict) else shown)
    with pytest.raises(AppError, match="no text"):
        client.predict(video=handle_file(video), text=" ", api_name="/captions")

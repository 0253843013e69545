"""The form in a real browser, before anything is made: what it shows, refuses and switches off."""

import zipfile

import gradio as gr
import numpy as np
import pytest
from app_process import write_voice
from media_files import write_wav
from page_driver import MADE, visiting
from PIL import Image
from playwright.sync_api import expect

from omniavatar import load_speech
from omniavatar.serving import ui
from omniavatar.serving.drawings import BARS
from omniavatar.serving.jobs import Jobs
from omniavatar.serving.pipelines import Pipelines
from omniavatar.serving.store import Store, StoreSettings


@pytest.fixture
def visit(browser, app):
    with visiting(browser, app.url) as visit:
        yield visit
        # What Gradio says of a recording that is none, and nothing else.
        assert not [each for each in visit.errors if "Waveform load error" not in each]


def test_what_is_missing_or_can_not_be_used_is_told_at_once_and_the_page_goes_on(visit, folder):
    page = visit.page
    visit.press("Generate")
    expect(page.locator("#fault")).to_contain_text("agreed")
    visit.agree()
    visit.press("Generate")
    expect(page.locator("#fault")).to_contain_text("There is no picture yet")
    page.set_input_files("#image input[type=file]", folder / "bad.png")
    expect(page.locator("#framing")).to_contain_text("bad.png is not a picture")
    page.set_input_files("#audio input[type=file]", folder / "bad.wav")
    expect(page.locator("#voice")).to_contain_text("bad.wav")
    visit.press("Generate")
    expect(page.locator("#fault")).to_contain_text("bad.png")
    expect(page.locator("#generate")).to_be_enabled()


def test_camera_and_microphone_are_used_like_uploads(visit):
    page = visit.page
    page.locator("#image").get_by_label("Capture from camera").click()
    page.get_by_text("Click to Access Webcam").click()
    page.wait_for_function("document.querySelector('#image video')?.readyState >= 2")
    page.locator("#image").get_by_label("capture photo").click()
    expect(page.locator("#framing img")).to_be_visible()
    page.locator("#audio").get_by_label("Record audio").click()
    page.locator("#audio").get_by_role("button", name="Record", exact=True).click()
    page.wait_for_timeout(1500)  # of speech
    page.locator("#audio").get_by_role("button", name="Stop").first.click()
    expect(page.locator("#voice")).to_contain_text("seconds of video")
    expect(page.locator("#estimate")).to_contain_text("Takes")


def test_the_framing_follows_a_click_and_the_fit(visit, folder, tmp_path):
    page = visit.page
    Image.open(folder / "face.png").resize((600, 200)).save(tmp_path / "wide.png")
    page.set_input_files("#image input[type=file]", tmp_path / "wide.png")
    crop = page.locator("#framing .crop")
    expect(crop).to_be_visible()
    picture = page.locator("#framing .picture").bounding_box()
    before = crop.bounding_box()
    assert before["width"] == pytest.approx(picture["width"] * (256 / 192) / 3, abs=2)
    page.mouse.click(picture["x"] + 5, picture["y"] + 20)
    page.wait_for_function("parseFloat(document.querySelector('#framing .crop').style.left) === 0")
    expect(page.locator("#own_focus input")).to_be_checked()
    expect(page.locator("#focus_x input[type=number]")).to_be_visible()
    page.get_by_label("Whole picture").check()
    expect(crop).to_be_hidden()
    expect(page.locator("#focus_x")).to_contain_text("nothing is cut")
    page.set_input_files("#image input[type=file]", folder / "face.png")
    expect(page.locator("#own_focus")).to_contain_text("nothing to move")
    expect(page.locator("#own_focus input")).to_be_disabled()


def test_the_voice_is_cut_and_warned_about(visit, folder, tmp_path):
    page = visit.page
    visit.upload(folder / "face.png", write_voice(tmp_path / "ten.wav", 10.0))
    expect(page.locator("#voice")).to_contain_text("10.0 seconds of video, made in 4 parts")
    expect(page.locator("#voice line")).to_have_count(3)
    page.locator("#audio_start input").fill("2")
    page.locator("#audio_seconds input").fill("1")
    page.locator("#audio_seconds input").press("Tab")
    expect(page.locator("#voice")).to_contain_text("1.0 seconds of video, made in one part")
    # waited for one by one: the drawing may be put in anew between two counts
    expect(page.locator("#voice .used")).to_have_count(BARS // 10)
    expect(page.locator("#voice .rest")).to_have_count(BARS - BARS // 10)
    page.locator("#audio_seconds input").fill("0.3")
    page.locator("#audio_seconds input").press("Tab")
    expect(page.locator("#voice-panel .block.warnings")).to_contain_text("over at once")
    page.locator("#audio_start input").fill("20")
    page.locator("#audio_start input").press("Tab")
    expect(page.locator("#voice")).to_contain_text("lasts 10.0 s")


def test_advice_names_the_controls_as_the_page_does(visit, folder, tmp_path):
    page = visit.page
    voice = load_speech(folder / "voice.wav").samples
    late = write_wav(tmp_path / "late.wav", np.concatenate([np.zeros(3 * 16000), voice]), 16000)
    page.set_input_files("#audio input[type=file]", late)
    expect(page.locator("#voice-panel .block.warnings")).to_contain_text("use “Start at second” 2.")
    page.locator("#audio").get_by_label("Clear").click()
    expect(page.locator("#voice-panel:visible")).to_have_count(0)


def test_settings_follow_the_model_and_those_without_effect_say_why(visit):
    page = visit.page
    visit.unfold("Advanced settings")
    steps = page.locator("#steps input[type=number]")
    expect(steps).to_have_value("2")
    prompt = page.locator("#prompt textarea")
    prompt.fill("A man nods slowly.")
    expect(page.locator("#step_cache input").first).to_be_disabled()
    expect(page.locator("#step_cache")).to_contain_text("not calibrated for nano")
    page.get_by_label("OmniAvatar 14B").check()
    expect(steps).to_have_value("50")
    expect(prompt).to_have_value("A man nods slowly.")
    expect(page.locator("#step_cache input").first).to_be_enabled()
    guidance = page.locator("#guidance input[type=number]")
    guidance.fill("1")
    guidance.press("Tab")
    expect(page.locator("#negative_prompt textarea")).to_be_disabled()
    expect(page.locator("#negative_prompt")).to_contain_text("nothing to keep away from")
    page.locator("#dice").click()
    expect(page.locator("#new_seed input")).not_to_be_checked()


def test_an_absent_model_is_one_sentence(visit, folder):
    visit.upload(folder / "face.png", folder / "voice.wav")
    visit.unfold("Advanced settings")
    visit.page.get_by_label("OmniAvatar 14B").check()
    expect(visit.page.locator("#estimate")).to_contain_text("downloaded first: 71.9 GB")
    visit.agree()
    visit.press("Generate")
    visit.expect_status("14B")
    expect(visit.page.locator("#generate")).to_be_enabled()


def test_link_to_a_video_that_is_gone_says_so(browser, app):
    with visiting(browser, f"{app.url}?video={'0' * 32}") as visit:
        visit.expect_status("not here any more")


def test_an_example_fills_the_form(visit):
    page = visit.page
    page.get_by_role("button", name="Example presenter 1").click()
    expect(page.locator("#framing img")).to_be_visible()
    expect(page.locator("#voice svg")).to_be_visible()
    expect(page.locator("#prompt textarea")).not_to_have_value("")


def test_a_table_with_a_bad_row_gives_a_zip_of_the_good_ones(visit, folder, tmp_path):
    page = visit.page
    table = tmp_path / "table.csv"
    table.write_text("image,audio,steps\nface.png,voice.wav,1\nnobody.png,voice.wav,1\n")
    page.get_by_role("tab", name="Many at once").click()
    page.set_input_files(
        "#batch-files input[type=file]", [table, folder / "face.png", folder / "voice.wav"]
    )
    expect(page.locator("#batch-files")).to_contain_text("table")
    visit.press("Make all")
    expect(page.locator("#batch-status")).to_contain_text("Tick first")
    page.get_by_label("Everybody in these pictures").check()
    assert not visit.serious_faults()
    visit.press("Make all")
    expect(page.locator("#batch-status")).to_contain_text("1 of 2 videos", timeout=MADE)
    expect(page.locator("#batch-rows")).to_contain_text("nobody.png")
    with page.expect_download() as download:
        page.locator("#batch-zip").click(timeout=MADE)
    assert download.value.suggested_filename.endswith(".zip")
    expect(page.locator("#history img")).to_have_count(1)

    page.reload()
    page.locator("#history button").first.click()
    page.once("dialog", lambda question: question.accept())
    visit.press("Delete")
    expect(page.locator("#history img")).to_have_count(0)
    page.get_by_role("tab", name="Many at once").click()
    expect(page.locator("#batch-rows")).to_contain_text("Row 1: its video was deleted.")
    with page.expect_download() as download:
        page.locator("#batch-zip").click(timeout=MADE)
    assert zipfile.ZipFile(download.value.path()).namelist() == ["results.csv"]


def test_who_has_the_link_to_a_draft_can_not_finish_stop_or_delete_it(folder, tmp_path):
    draft = {
        "model": "nano",
        "settings": {"seed": 3},
        "image": folder / "face.png",
        "audio": folder / "voice.wav",
        "options": {"draft": {"steps": 2, "audio_seconds": None}},
    }
    store = Store(tmp_path)
    agreed, _ = store.create(visitor="me", consent={"agreed": "2026-01-01T10:00:00Z"}, **draft)
    never_asked, _ = store.create(visitor="me", consent=None, **draft)
    jobs = Jobs(Pipelines(), StoreSettings(data=tmp_path))
    handlers = [each.fn for each in ui.build(jobs).fns.values() if each.fn is not None]
    on_page = {each.__name__: each for each in handlers if each.__module__.endswith("page_run")}
    for name in ("begin_full", "stop", "delete"):
        with pytest.raises(gr.Error, match="Only the browser that made"):
            on_page[name]({"visitor": "somebody else"}, agreed.id)
    on_page["begin_full"]({"visitor": "me"}, never_asked.id)
    assert {view.id for view in jobs.history("me")} == {agreed.id, never_asked.id}
    assert jobs.history("somebody else") == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_page_fits_its_window_and_everyone_can_use_it(browser, app, scheme, width):
    with visiting(browser, app.url, width=width, height=844, scheme=scheme) as visit:
        page = visit.page
        page.get_by_role("button", name="Example presenter 3").click()
        expect(page.locator("#voice svg")).to_be_visible()
        visit.unfold("Advanced settings")
        expect(page.locator("#steps")).to_be_visible()
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        shade = page.evaluate("getComputedStyle(document.body).backgroundColor")
        brightness = sum(map(int, shade.removeprefix("rgb(").rstrip(")").split(",")[:3]))
        assert (brightness > 600) == (scheme == "light")
        assert not visit.serious_faults()


def test_a_keyboard_reaches_everything_in_its_order(visit):
    page = visit.page
    reached = []
    for _ in range(60):
        page.keyboard.press("Tab")
        reached.append(
            page.evaluate(
                "[document.activeElement.id || document.activeElement.closest('[id]')?.id,"
                " document.activeElement.textContent.trim()].join(' ')"
            )
        )
        if reached[-1].startswith("draft"):
            break
    order = ["image", "audio", "Example", "prompt", "Woman", "agreed", "generate", "draft"]
    found = [next((n for n, each in enumerate(reached) if name in each), -1) for name in order]
    assert -1 not in found, reached
    assert found == sorted(found), reached

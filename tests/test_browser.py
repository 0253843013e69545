"""What a marketer does with the page, in a real browser: from upload to a video that plays."""

import re
from urllib.parse import urlsplit

import pytest
from app_process import write_voice
from gradio_client import Client
from gradio_client.exceptions import AppError
from page_driver import MADE, visiting
from playwright.sync_api import expect
from relay import relay


@pytest.fixture
def visit(browser, app):
    with visiting(browser, app.url) as visit:
        yield visit


def job_of(picture):
    """The job of which a picture or video is shown."""
    return re.search(r"files/(\w{32})/", picture.evaluate("shown => shown.src"))[1]


def test_from_upload_to_a_video_that_plays_and_is_found_again(visit, app, folder):
    page = visit.page
    visit.upload(folder / "face.png", folder / "voice.wav")
    expect(page.locator("#framing")).to_contain_text("192 × 192")
    expect(page.locator("#voice")).to_contain_text("1.0 seconds of video, made in one part")
    expect(page.locator("#estimate")).to_contain_text("Takes")
    visit.press("Friendly")
    prompt = page.locator("#prompt textarea")
    friendly = "The person is speaking with a friendly face and a happy smile."
    expect(prompt).to_have_value(friendly)
    visit.agree()
    visit.press("Generate")

    visit.expect_status("Part 1 of 1, step")
    expect(page.locator("#status [role=progressbar]")).to_be_visible()
    expect(page.locator("#preview img")).to_be_visible()
    expect(page.locator("#history")).to_contain_text("in the making")
    visit.expect_status("25 frames")
    expect(page.locator("#history")).not_to_contain_text("in the making")
    seen = visit.play("#video video", 0.5)
    assert seen["width"] == 192
    assert seen["seconds"] == pytest.approx(1.0, abs=0.05)
    expect(page.locator("#preview")).to_be_hidden()
    visit.unfold("Advanced settings")
    seed = page.locator("#seed input").input_value()
    expect(page.locator("#status")).to_contain_text(f"seed {seed}")
    assert not visit.serious_faults()

    page.reload()
    visit.play("#video video", 0.2)
    expect(page.locator("#history img")).to_have_count(1)
    expect(page.get_by_label("The person in the picture")).to_be_checked()
    expect(page.locator("#consent-banner")).to_be_hidden()
    visit.unfold("Settings of this video")
    expect(page.locator("#used")).to_contain_text("have agreed")

    visit.unfold("Advanced settings")
    page.locator("#history button").first.click()  # brings back what made it
    expect(page.locator("#seed input")).to_have_value(seed)
    expect(page.locator("#new_seed input")).not_to_be_checked()
    expect(page.locator("#image img")).to_be_visible()
    expect(page.locator("#voice svg")).to_be_visible()

    assert not visit.errors

    # Another one is begun, and while it is made this one is looked at and deleted.
    page.locator("#audio").get_by_label("Clear").click()
    page.set_input_files("#audio input[type=file]", folder / "long.wav")
    expect(page.locator("#voice")).to_contain_text("60.0 seconds")
    visit.press("Generate")
    visit.expect_status("step")
    expect(page.locator("#preview img")).to_be_visible()
    running = job_of(page.locator("#preview img"))
    page.reload()
    page.locator("#history button").nth(0).click()
    expect(page.locator("#stop")).to_be_visible()
    expect(prompt).to_have_value(friendly)
    page.locator("#history button").nth(1).click()
    visit.expect_status("25 frames")
    visit.play("#video video", 0.2)
    expect(page.locator("#stop")).to_be_hidden()
    expect(page.locator("#preview")).to_be_hidden()
    expect(page.locator("#generate")).to_be_enabled()
    prompt.fill("A man nods.")
    client = Client(app.url, verbose=False)
    with pytest.raises(AppError, match="only there"):
        client.predict(running, api_name="/cancel")
    window = page.context.new_page()
    window.goto(f"{app.url}?video={running}")
    window.locator("#stop").click()
    while client.predict(running, api_name="/job")[0]["state"] == "running":
        page.wait_for_timeout(100)
    window.close()
    expect(page.locator("#history")).not_to_contain_text("in the making")  # it looks again
    page.wait_for_timeout(1500)  # in which a page that still follows it would tell
    expect(prompt).to_have_value("A man nods.")
    expect(page.locator("#status")).to_contain_text("25 frames")
    shown = job_of(page.locator("#video video"))
    address = page.locator("#video video").evaluate("video => video.src")
    assert page.request.get(address).ok
    with page.expect_download() as download:
        page.locator("#download").click()
    assert download.value.suggested_filename == "video.mp4"

    page.once("dialog", lambda question: question.accept())
    visit.press("Delete")
    expect(page.locator("#video video")).to_be_hidden()
    expect(page.locator("#empty")).to_be_visible()
    assert client.predict(running, api_name="/job")[0]["state"] == "stopped"
    with pytest.raises(AppError, match="no such job"):
        client.predict(shown, api_name="/job")
    assert not page.request.get(address).ok
    kept = {path.name for path in (folder / "gradio").rglob("*")}
    assert not kept & {"video.mp4", "poster.jpg"}, "copies outlive what is deleted"
    assert visit.hosts <= {"127.0.0.1", "", None}


def test_a_job_is_found_again_after_a_reload_and_a_cut_and_keeps_its_parts_when_stopped(
    browser, app, folder
):
    port = urlsplit(app.url).port
    with relay(port) as connection, visiting(browser, connection.url) as visit:
        page = visit.page
        visit.upload(folder / "face.png", folder / "long.wav")
        visit.agree()
        visit.press("Generate")
        visit.expect_status("step")
        page.reload()
        visit.expect_status("left")
        expect(page.locator("#generate")).to_be_disabled()
        connection.cut()
        expect(page.locator(".toast-body")).to_contain_text("lost")
        connection.mend()
        visit.expect_status("Part 3")
        visit.unfold("Watch what is finished")
        page.locator("#parts video").evaluate("video => video.play()")
        visit.play("#parts video", 0.3)
        visit.press("Stop")
        visit.expect_status("are kept")
        seen = visit.play("#video video", 0.3)
        assert 1.9 < seen["seconds"] < 30
        expect(page.locator("#generate")).to_be_enabled()
        expect(page.locator("#parts")).to_be_hidden()


def test_a_draft_becomes_the_full_version_of_the_same_seed(visit, folder, tmp_path):
    page = visit.page
    visit.upload(folder / "face.png", write_voice(tmp_path / "three.wav", 3.2))
    prompt = page.locator("#prompt textarea")
    prompt.fill("A man nods.")
    visit.agree()
    visit.press("Quick draft")
    visit.expect_status("75 frames")
    visit.expect_status("seed")  # which it says a moment later
    seed = page.locator("#status").inner_text().rpartition("seed ")[2].split()[0]
    visit.press("Make the full version")
    visit.expect_status("80 frames")
    expect(page.locator("#status")).to_contain_text(f"seed {seed}")
    expect(page.locator("#full")).to_be_hidden()
    expect(page.locator("#history img")).to_have_count(2)

    visit.unfold("Captions")
    page.get_by_label("What is said").fill("One two three. Four five.")
    visit.press("Write them into the picture")
    expect(page.locator("#captioned")).to_be_visible(timeout=MADE)
    visit.press("Make subtitles (SRT)")
    with page.expect_download(timeout=MADE) as download:
        page.locator("#srt").click(timeout=MADE)
    assert "-->" in download.value.path().read_text()

    visit.unfold("Share, or make it by a program")
    visit.unfold("Settings of this video")
    expect(page.locator("#used")).to_contain_text(seed)
    expect(page.locator("#used")).to_contain_text("have agreed")
    expect(page.locator("#python textarea")).to_have_value(re.compile(f"seed={seed},"))
    expect(page.locator("#curl textarea")).to_have_value(re.compile(f'"seed": {seed}'))
    assert not visit.serious_faults()
    link = page.locator("#link textarea, #link input")
    expect(link).not_to_have_value("")
    shared = link.input_value()
    page.locator("#history button").nth(1).click()  # the draft
    expect(link).not_to_have_value(shared)
    expect(page.locator("#srt")).to_be_hidden()
    expect(page.locator("#captioned")).to_be_hidden()
    assert not [*(folder / "gradio").rglob("captioned.mp4")], "it would outlive its video"
    with visiting(page.context.browser, link.input_value()) as other:
        other.play("#video video", 0.2)
        expect(other.page.locator("#history img")).to_have_count(0)
        for owners in ("#full", "#delete", "#stop"):
            expect(other.page.locator(owners)).to_be_hidden()
        other.press("Change and run again")
        expect(other.page.locator("#prompt textarea")).to_have_value("A man nods.")
        expect(other.page.locator("#image img")).to_have_count(0)

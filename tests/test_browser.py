"""The page in a real browser, from upload to a video that plays."""

import shutil
from urllib.parse import urlsplit

import pytest
from app_process import running_app, write_portrait, write_voice
from playwright.sync_api import expect, sync_playwright

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--autoplay-policy=no-user-gesture-required",
)
VIDEO = """() => {
    const video = document.querySelector("#video video");
    return video && {
        time: video.currentTime, width: video.videoWidth, seconds: video.duration,
        sound: video.webkitAudioDecodedByteCount,
    };
}"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("browser")
    write_portrait(folder / "face.png")
    write_voice(folder / "voice.wav", 2.0)
    write_voice(folder / "long.wav", 60.0)
    (folder / "bad.png").write_text("no picture")
    return folder


@pytest.fixture(scope="module")
def app(folder):
    with running_app(folder) as app:
        yield app
        assert "Traceback" not in app.log


@pytest.fixture(scope="module")
def browser():
    found = next((path for path in map(shutil.which, BROWSERS) if path), None)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def page(browser, app):
    page = browser.new_page(viewport={"width": 1280, "height": 800})
    page.goto(app.url)
    yield page
    page.close()


def upload(page, image, audio):
    page.set_input_files("#image input[type=file]", image)
    page.set_input_files("#audio input[type=file]", audio)
    page.wait_for_selector("#image img")
    page.wait_for_selector("#audio #waveform, #audio [data-testid*=waveform]")


def press(page, name):
    page.get_by_role("button", name=name, exact=True).click()


def test_upload_generate_watch(browser, app, folder):
    page = browser.new_page(viewport={"width": 1280, "height": 800})
    errors, hosts = [], set()
    page.on("console", lambda line: errors.append(line.text) if line.type == "error" else None)
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("request", lambda request: hosts.add(urlsplit(request.url).hostname))
    page.goto(app.url)
    upload(page, folder / "face.png", folder / "voice.wav")
    press(page, "Generate")

    expect(page.locator("#status")).to_contain_text("step", timeout=60_000)
    expect(page.locator("#status .time")).to_contain_text("left")
    expect(page.locator("#preview img")).to_be_visible()
    expect(page.locator("#video video")).to_be_visible(timeout=60_000)
    page.wait_for_function(f"({VIDEO})().time > 0.5", timeout=20_000)
    video = page.evaluate(VIDEO)
    assert video["width"] == 128
    assert video["seconds"] == pytest.approx(2.0, abs=0.05)
    assert video["sound"] > 0
    expect(page.locator("#status")).to_contain_text("50 frames")
    expect(page.locator("#preview")).to_be_hidden()
    page.get_by_role("button", name="Settings of this video").click()
    expect(page.locator("#used")).to_contain_text("overlap_frames")
    assert not errors
    assert hosts <= {"127.0.0.1", "", None}
    page.close()


def test_stop_keeps_the_finished_parts(page, folder):
    upload(page, folder / "face.png", folder / "long.wav")
    press(page, "Generate")
    expect(page.locator("#status")).to_contain_text("Part 2", timeout=60_000)
    press(page, "Stop")
    expect(page.locator("#status")).to_contain_text("are kept", timeout=30_000)
    expect(page.locator("#video video")).to_be_visible()
    page.wait_for_function(f"({VIDEO})().seconds > 1.9", timeout=20_000)
    assert page.evaluate(VIDEO)["seconds"] < 30
    expect(page.get_by_role("button", name="Generate", exact=True)).to_be_enabled()


def test_bad_upload_is_told_beside_it_and_the_page_goes_on(page, folder):
    page.set_input_files("#image input[type=file]", folder / "bad.png")
    page.set_input_files("#audio input[type=file]", folder / "voice.wav")
    page.wait_for_timeout(500)
    press(page, "Generate")
    expect(page.locator("#image")).to_contain_text("bad.png is not a picture")
    expect(page.get_by_role("button", name="Generate", exact=True)).to_be_enabled()


def test_absent_model_is_one_sentence_and_its_defaults_are_shown(page, folder):
    upload(page, folder / "face.png", folder / "voice.wav")
    page.locator("#basic button").first.click()
    expect(page.locator("#aspect input").first).to_be_disabled()
    page.get_by_label("OmniAvatar 14B").check()
    expect(page.locator("#model")).to_contain_text("GPU")
    expect(page.locator("#steps input[type=number]")).to_have_value("50")
    expect(page.locator("#aspect input").first).to_be_enabled()
    press(page, "Generate")
    expect(page.locator("#status")).to_contain_text("14B", timeout=30_000)
    expect(page.locator(".toast-body")).to_contain_text("14B")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_page_fits_its_window(browser, app, scheme, width):
    page = browser.new_page(viewport={"width": width, "height": 844}, color_scheme=scheme)
    page.goto(app.url)
    page.wait_for_selector("#generate")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    shade = page.evaluate("getComputedStyle(document.body).backgroundColor")
    brightness = sum(map(int, shade.removeprefix("rgb(").rstrip(")").split(",")[:3]))
    assert (brightness > 600) == (scheme == "light")
    page.close()


def test_an_example_fills_the_form(page):
    page.locator("button.gallery-item").first.click()
    page.wait_for_selector("#image img")
    page.wait_for_selector("#audio [data-testid*=waveform], #audio #waveform")
    expect(page.locator("#prompt textarea")).not_to_have_value("")

"""A visitor of the page, as a browser is told to be one."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect, sync_playwright

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--autoplay-policy=no-user-gesture-required",
    # A camera and a microphone that show and say something of their own.
    "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",
)
SOON = 60_000  # milliseconds; on two cores that do other work as well
MADE = 240_000
expect.set_options(timeout=SOON)
VIDEO = """(selector) => {
    const video = document.querySelector(selector);
    if (!video || !video.videoWidth) return null;
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = [32, 32];
    const pen = canvas.getContext("2d");
    pen.drawImage(video, 0, 0, 32, 32);
    const pixels = pen.getImageData(0, 0, 32, 32).data;
    return {
        time: video.currentTime, width: video.videoWidth, seconds: video.duration,
        sound: video.webkitAudioDecodedByteCount,
        light: pixels.reduce((sum, each) => sum + each) / pixels.length,
        shades: new Set(pixels).size,
    };
}"""


@contextmanager
def open_browser() -> Iterator[Browser]:
    found = next((path for path in map(shutil.which, BROWSERS) if path), None)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=FLAGS)
        yield browser
        browser.close()


@dataclass
class Visit:
    """One open page, and what went wrong or elsewhere on it."""

    page: Page
    errors: list[str] = field(default_factory=list)
    hosts: set[str | None] = field(default_factory=set)

    def upload(self, image: Path, audio: Path) -> None:
        self.page.set_input_files("#image input[type=file]", image)
        self.page.set_input_files("#audio input[type=file]", audio)
        expect(self.page.locator("#framing img")).to_be_visible(timeout=SOON)
        expect(self.page.locator("#voice svg")).to_be_visible(timeout=SOON)

    def agree(self) -> None:
        self.page.get_by_label("The person in the picture").check()

    def unfold(self, name: str) -> None:
        self.page.get_by_role("button", name=name).click()

    def press(self, name: str) -> None:
        self.page.get_by_role("button", name=name, exact=True).click()

    def expect_status(self, words: str, timeout: int = MADE) -> None:
        expect(self.page.locator("#status")).to_contain_text(words, timeout=timeout)

    def play(self, selector: str, seconds: float) -> dict[str, float]:
        """Wait until a video has been played for so long, and say what is seen and heard of it."""
        self.page.wait_for_function(
            f"(selector) => (({VIDEO})(selector) || {{time: 0}}).time > {seconds}",
            arg=selector,
            timeout=MADE,
        )
        seen = self.page.evaluate(VIDEO, selector)
        assert seen["sound"] > 0, "no sound was decoded"
        assert seen["light"] > 30, "the picture is black"
        assert seen["shades"] > 8, "the picture is empty"
        return seen

    def serious_faults(self) -> list[str]:
        """What axe finds that keeps people from using the page."""
        found = Axe().run(self.page).response["violations"]
        return [
            f"{each['id']}: {node['html'][:120]}"
            for each in found
            if each["impact"] in ("serious", "critical")
            for node in each["nodes"]
        ]


@contextmanager
def visiting(
    browser: Browser, url: str, *, width: int = 1280, height: int = 900, scheme: str = "light"
) -> Iterator[Visit]:
    """Open the page as somebody who has never been there, and close it again."""
    context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
    context.set_default_timeout(SOON)
    page = context.new_page()
    visit = Visit(page)
    page.on("console", lambda m: visit.errors.append(m.text) if m.type == "error" else None)
    page.on("pageerror", lambda error: visit.errors.append(str(error)))
    page.on("request", lambda request: visit.hosts.add(urlsplit(request.url).hostname))
    page.goto(url)
    page.wait_for_selector("#generate", timeout=MADE)
    yield visit
    context.close()

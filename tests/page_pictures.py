"""Draw the pictures of the page in `docs/`: `python tests/page_pictures.py`, from the clone.

Needs what the tests need. A video is made in a running app, and the page is photographed light,
dark and on a phone. Tells how long a new visitor waits for something to be seen.
"""

import io
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from app_process import ROOT, running_app
from page_driver import Visit, open_browser, visiting
from PIL import Image

VIEWS = {
    "page-light.png": {"width": 1280, "height": 1420, "scheme": "light"},
    "page-dark.png": {"width": 1280, "height": 1420, "scheme": "dark"},
    "page-phone.png": {"width": 390, "height": 844, "scheme": "light"},
}
COLOURS = 256


def make_video(visit: Visit) -> None:
    """From an example to the video, stopped where the mouth is open."""
    page = visit.page
    page.get_by_role("button", name="Example presenter 1").click()
    page.wait_for_selector("#voice svg")
    visit.unfold("Advanced settings")
    page.locator("#new_seed input").uncheck()
    page.locator("#seed input").fill("1")
    visit.unfold("Advanced settings")
    visit.agree()
    visit.press("Generate")
    visit.expect_status("80 frames")
    visit.play("#video video", 0.5)
    page.evaluate(
        """() => new Promise((done) => {
            const video = document.querySelector("#video video");
            video.pause();
            video.addEventListener("seeked", () => done(), { once: true });
            video.currentTime = 1.0;
        })"""
    )


def first_paint(visit: Visit) -> float:
    """Seconds from the opening of the page until something could be seen."""
    found = "performance.getEntriesByName('first-contentful-paint')[0].startTime"
    return float(visit.page.evaluate(found)) / 1000


def photograph(visit: Visit, path: Path) -> None:
    """Save the window, in few colours, which keeps the file small."""
    visit.page.mouse.move(0, 0)
    visit.page.evaluate("document.activeElement.blur()")
    picture = Image.open(io.BytesIO(visit.page.screenshot())).convert("RGB")
    picture.quantize(COLOURS, dither=Image.Dither.NONE).save(path, optimize=True)


def main(folder: Path) -> None:
    with TemporaryDirectory() as work, running_app(Path(work)) as app, open_browser() as browser:
        for name, view in VIEWS.items():
            with visiting(browser, app.url, **view) as visit:
                sys.stdout.write(f"{name}: first paint after {first_paint(visit):.2f} s\n")
                make_video(visit)
                top = "#screen" if view["width"] < 640 else "body"
                visit.page.evaluate(f"document.querySelector('{top}').scrollIntoView()")
                photograph(visit, folder / name)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "docs")

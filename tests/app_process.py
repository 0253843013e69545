"""The app as visitors meet it: a process of its own, reached over HTTP."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np
from gradio_client.client import Job
from gradio_client.utils import ProgressUnit
from media_files import write_wav
from PIL import Image, ImageDraw
from warm_process import WarmProcess

ROOT = Path(__file__).parents[1]
SECONDS_TO_START = 120


@dataclass(frozen=True)
class App:
    url: str
    log_file: Path
    process: WarmProcess | subprocess.Popen[bytes]

    @property
    def log(self) -> str:
        return self.log_file.read_text()


@contextmanager
def running_app(folder: Path, *, script: Path | None = None) -> Iterator[App]:
    """Start the app on a free port, from a folder in which no published weights are.

    Args:
        script: what starts it, in a Python of its own; `app.py` in a warm one unless told.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "OMNIAVATAR_PORT": str(port),
        "GRADIO_ANALYTICS_ENABLED": "False",
        "GRADIO_TEMP_DIR": str(folder / "gradio"),
        "OMNIAVATAR_DATA": str(folder / "data"),
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
    }
    log_file = folder / "app.log"
    process: WarmProcess | subprocess.Popen[bytes]
    if script is None:
        words = [str(ROOT / "app.py")]
        process = WarmProcess(words, cwd=folder, environment=environment, output=log_file)
    else:
        with log_file.open("w") as log:
            process = subprocess.Popen(
                [sys.executable, str(script)],
                cwd=folder,
                env=environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
    app = App(url=f"http://127.0.0.1:{port}/", log_file=log_file, process=process)
    try:
        _wait_for(app)
        yield app
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        process.wait(timeout=30)


def _wait_for(app: App) -> None:
    end = time.monotonic() + SECONDS_TO_START
    while time.monotonic() < end and app.process.poll() is None:
        try:
            if httpx.get(app.url).is_success:
                return
        except httpx.TransportError:
            time.sleep(0.2)
    raise AssertionError(f"the app did not start:\n{app.log}")


def write_portrait(path: Path) -> Path:
    """A face in a few strokes."""
    picture = Image.new("RGB", (256, 256), "#7ba6a0")
    draw = ImageDraw.Draw(picture)
    draw.ellipse((60, 40, 196, 230), fill="#e0b090", outline="#503020", width=4)
    for x in (100, 156):
        draw.ellipse((x - 14, 104, x + 14, 126), fill="white", outline="black", width=2)
        draw.ellipse((x - 5, 110, x + 5, 120), fill="black")
    draw.line((100, 182, 156, 182), fill="#a03030", width=6)
    picture.save(path)
    return path


def write_voice(path: Path, seconds: float) -> Path:
    """A hum that swells four times a second, roughly as syllables do."""
    times = np.arange(round(seconds * 16000)) / 16000
    hum = sum(np.sin(2 * np.pi * 140 * n * times) / n for n in range(1, 12))
    return write_wav(path, 0.2 * hum * np.sin(2 * np.pi * 2 * times) ** 2, 16000)


def wait_for_step(job: Job) -> ProgressUnit:
    """The first that a job of the API tells of a step."""
    while not job.done():
        if (told := job.status().progress_data) and "step" in (told[0].desc or ""):
            return told[0]
        time.sleep(0.02)
    raise AssertionError(f"no step was told: {job.outputs()}")

"""The checklist of a release, against an endpoint or this machine, as Markdown and JSON."""

import json
import os
import threading
import time
import wave
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import imageio_ffmpeg
import numpy as np

from omniavatar import (
    CATALOG,
    AvatarPipeline,
    GenerationRequest,
    InputError,
    Notice,
    OutputError,
    load_image,
    load_speech,
)
from omniavatar.serving import remote
from omniavatar.serving.handler import gpu_memory_bytes

AUDIO_SECONDS = (5.0, 30.0, 60.0)
SHORT_SECONDS = 1.0
GUIDANCES = (1.0, 3.0, 6.0)
TOGETHER = 2
SAMPLE_RATE = 16000
MARKS = ("<!-- acceptance -->", "<!-- end -->")

Make = Callable[[GenerationRequest, Mapping[str, Any], Path], Mapping[str, Any]]
"""Have a video made; what is told beside it. The mapping holds settings that win over the
request's, and that nobody has checked yet: whoever makes the video has to."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One row of the checklist.

    Attributes:
        name: what was tried.
        passed: None where there is nothing to hold or to measure.
        measured: what was found, in words.
        seconds: from sending the request to having the video.
    """

    name: str
    passed: bool | None
    measured: str
    seconds: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """A whole checklist.

    Attributes:
        endpoint: what was tried: "local" or as `serving.remote` has it.
        model: checkpoint.
        begun: day and time, UTC.
        machine: of a local run.
        price_per_hour: that the costs are computed from, in dollars.
    """

    endpoint: str
    model: str
    begun: str
    machine: str
    price_per_hour: float
    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        return all(check.passed is not False for check in self.checks)

    def to_json(self) -> str:
        return json.dumps({**asdict(self), "passed": self.passed}, indent=2) + "\n"

    def to_markdown(self) -> str:
        words = {True: "passed", False: "**failed**", None: "-"}
        rows = [
            f"| {check.name} | {words[check.passed]} | "
            f"{'' if check.seconds is None else f'{check.seconds:.1f}'} | {check.measured} |"
            for check in self.checks
        ]
        where = f"{self.endpoint}{', ' if self.machine else ''}{self.machine}"
        head = f"`{self.model}` on {where}; {self.begun}; {self.price_per_hour:g} $ an hour."
        table = ["| check | result | seconds | measured |", "|---|---|---|---|", *rows]
        return "\n".join([head, "", *table]) + "\n"


def put_into(guide: Path, table: str | None) -> None:
    """Put a report's Markdown between the `MARKS` of a guide, in place of the last one.

    Args:
        table: None only checks that there is a place for it.

    Raises:
        InputError: the file can not be read, or has no such marks.
        OutputError: it can not be written.
    """
    try:
        before, begin, rest = guide.read_text(encoding="utf-8").partition(MARKS[0])
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{guide} can not be read. Give a Markdown file.") from error
    _, end, after = rest.partition(MARKS[1])
    if not begin or not end:
        raise InputError(f"{guide} has no place for the table. Put {' and '.join(MARKS)} into it.")
    if table is not None:
        _write(guide, f"{before}{begin}\n{table}{end}{after}")


def write(report: Report, name: Path) -> None:
    """Write NAME.md and NAME.json.

    Raises:
        OutputError: they can not be written.
    """
    _write(name.with_suffix(".md"), report.to_markdown())
    _write(name.with_suffix(".json"), report.to_json())


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise OutputError(f"{path} can not be written: {error.strerror}.") from error


def run(
    endpoint: str,
    *,
    image: Path,
    speech: Path,
    model: str = "nano",
    weights: Path | None = None,
    memory: str = "auto",
    steps: int | None = None,
    audio_seconds: Sequence[float] = AUDIO_SECONDS,
    price_per_hour: float = 0.0,
    tell: Callable[[Check], None] = lambda _check: None,
) -> Report:
    """Go through the checklist.

    Args:
        endpoint: "local", or as `serving.remote` has it.
        image: portrait for all videos.
        speech: recording that is repeated to the lengths that are needed.
        weights, memory: folder of the weights of a local run, and how its networks are arranged.
        steps: None takes the model's own.
        audio_seconds: lengths of the long videos; the first is also made twice.
        price_per_hour: of the machine, in dollars.
        tell: is given each row as soon as it is known.

    Raises:
        InputError: a length or the endpoint can not be used, or the portrait or the recording can
            not be read.
    """
    load_image(image)
    if endpoint != "local":
        remote.check_endpoint(endpoint)
    for seconds in audio_seconds:
        GenerationRequest(image=image, audio=speech, audio_seconds=seconds)  # in its range
    checks: list[Check] = []

    def add(check: Check) -> None:
        checks.append(check)
        tell(check)

    begun = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    machine = _machine() if endpoint == "local" else ""
    make = _local(model, weights, memory) if endpoint == "local" else _remote(endpoint, model)
    with TemporaryDirectory(prefix="omniavatar-acceptance-") as name:
        folder = Path(name)
        voice = {
            seconds: _repeat(speech, seconds, folder / f"voice-{seconds:g}.wav")
            for seconds in {SHORT_SECONDS, *audio_seconds}
        }
        request = GenerationRequest(image=image, audio=voice[audio_seconds[0]], steps=steps, seed=7)
        short = replace(request, audio=voice[SHORT_SECONDS])
        trial = _Trial(make, folder, CATALOG[model].fps, price_per_hour)
        add(trial.video(f"cold: {audio_seconds[0]:g} s", request))
        for seconds in audio_seconds:
            add(trial.video(f"warm: {seconds:g} s", replace(request, audio=voice[seconds])))
        for row in trial.guidances(short):
            add(row)
        for row in trial.invalid(short):
            add(row)
        add(trial.together(short))
        add(trial.memory())
    return Report(
        endpoint=endpoint,
        model=model,
        begun=begun,
        machine=machine,
        price_per_hour=price_per_hour,
        checks=tuple(checks),
    )


class _Trial:
    """The rows of the checklist, one method each."""

    def __init__(self, make: Make, folder: Path, fps: int, price_per_hour: float) -> None:
        self._make, self._folder, self._fps, self._price = make, folder, fps, price_per_hour
        self._count = 0
        self._memory: int | None = None
        self._arrangement = ""
        self._notices: list[str] = []

    def video(self, name: str, request: GenerationRequest) -> Check:
        """A video that is as long as its recording, and its sound as well."""
        begun = time.monotonic()
        with _told(name) as failed:
            path = self._one(request)
            seconds = time.monotonic() - begun
            frames, _ = imageio_ffmpeg.count_frames_and_secs(str(path))
            wanted = load_speech(request.audio).duration_seconds
            sound, picture = load_speech(path).duration_seconds, frames / self._fps
            fits = abs(picture - wanted) <= 1 / self._fps and abs(sound - wanted) <= 2 / self._fps
            measured = (
                f"{picture:.2f} s of video and {sound:.2f} s of sound for {wanted:.2f} s; "
                f"{seconds / picture:.2f} s a second"
            )
            if self._price:
                measured += f"; {seconds * self._price / 3600:.4f} $"
            return Check(name=name, passed=fits, measured=measured, seconds=seconds)
        return failed[0]

    def guidances(self, request: GenerationRequest) -> Iterator[Check]:
        """Scales that each give a video, and not the same one."""
        seen: set[bytes] = set()
        for scale in GUIDANCES:
            name = f"guidance {scale:g}"
            begun = time.monotonic()
            with _told(name) as failed:
                content = self._one(replace(request, guidance=scale)).read_bytes()
                seconds = time.monotonic() - begun
                new = content not in seen
                seen.add(content)
                words = "its own video" if new else "the same video as another scale"
                yield Check(name=name, passed=new, measured=words, seconds=seconds)
            yield from failed

    def invalid(self, request: GenerationRequest) -> Iterator[Check]:
        """Inputs that the endpoint has to refuse with a sentence, and without a video."""
        broken, empty = self._folder / "broken.bin", self._folder / "empty.bin"
        broken.write_bytes(b"neither seen nor heard" * 10)
        empty.write_bytes(b"")
        inputs: Mapping[str, tuple[GenerationRequest, Mapping[str, Any]]] = {
            "broken picture": (replace(request, image=broken), {}),
            "broken recording": (replace(request, audio=broken), {}),
            "empty recording": (replace(request, audio=empty), {}),
            "steps out of range": (request, {"steps": 1000}),
            "overlap that splits a latent": (request, {"overlap_frames": 12}),
        }
        for name, (wrong, unchecked) in inputs.items():
            begun = time.monotonic()
            try:
                self._one(wrong, **unchecked)
                passed, words = False, "was accepted"
            except InputError as error:  # no other: an endpoint that is down refuses nothing
                passed, words = True, " ".join(str(error).split())[:160].replace("|", "/")
            except Exception as error:
                passed, words = False, f"{type(error).__name__}: {error}"[:160]
            seconds = time.monotonic() - begun
            yield Check(name=f"refused: {name}", passed=passed, measured=words, seconds=seconds)

    def together(self, request: GenerationRequest) -> Check:
        """Requests at the same time, each with its own video."""
        name = f"{TOGETHER} requests at once"
        begun = time.monotonic()
        with _told(name) as failed, ThreadPoolExecutor(TOGETHER) as threads:
            requests = [replace(request, seed=seed) for seed in range(TOGETHER)]
            paths = list(threads.map(self._one, requests))
            different = len({path.read_bytes() for path in paths}) == TOGETHER
            seconds = time.monotonic() - begun
            words = f"{TOGETHER} different videos" if different else "a video was mixed up"
            return Check(name=name, passed=different, measured=words, seconds=seconds)
        return failed[0]

    def memory(self) -> Check:
        """What the GPU had in use after the jobs, how the networks were arranged, and what for."""
        known = self._memory is not None
        words = f"{(self._memory or 0) / 2**30:.1f} GiB" if known else "no GPU, or not told"
        told = [words, *([self._arrangement] if self._arrangement else []), *self._notices]
        return Check(name="GPU memory", passed=None, measured="; ".join(told))

    def _one(self, request: GenerationRequest, **unchecked: Any) -> Path:
        self._count += 1
        path = self._folder / f"video-{self._count}.mp4"
        answer = self._make(request, unchecked, path)
        worker = answer.get("worker") or {}
        used = worker.get("gpu_memory_bytes")
        if isinstance(used, int):
            self._memory = max(self._memory or 0, used)
        self._arrangement = str(worker.get("arrangement") or "")
        self._notices.extend(map(str, worker.get("notices") or ()))
        return path


def _local(model: str, weights: Path | None, memory: str) -> Make:
    """The pipeline in this process, loaded by the first request, one request at a time."""
    turn = threading.Lock()
    loaded: list[AvatarPipeline] = []

    def make(
        request: GenerationRequest, unchecked: Mapping[str, Any], output: Path
    ) -> Mapping[str, Any]:
        with turn:
            if not loaded:
                loaded.append(AvatarPipeline.from_pretrained(model, folder=weights, memory=memory))
            events = loaded[0].stream(replace(request, **unchecked), output)
            notices = [event.what for event in events if isinstance(event, Notice)]
            return {
                "worker": {
                    "gpu_memory_bytes": gpu_memory_bytes(),
                    "arrangement": loaded[0].arrangement,
                    "notices": notices,
                }
            }

    return make


def _remote(endpoint: str, model: str) -> Make:
    def make(
        request: GenerationRequest, unchecked: Mapping[str, Any], output: Path
    ) -> Mapping[str, Any]:
        *_, last = remote.stream(
            request, output, endpoints=[endpoint], model=model, unchecked=unchecked
        )
        assert isinstance(last, remote.RemoteFinished)
        return last.answer

    return make


def _machine() -> str:
    threads = os.environ.get("OMP_NUM_THREADS")
    used = f", {threads} thread(s) used" if threads else ""
    return f"{os.cpu_count()} CPU cores{used}, load {os.getloadavg()[0]:.1f} before"


@contextmanager
def _told(name: str) -> Iterator[list[Check]]:
    """A list that holds the failed row when the block could not be completed."""
    failed: list[Check] = []
    try:
        yield failed
    except Exception as error:
        failed.append(Check(name=name, passed=False, measured=f"{type(error).__name__}: {error}"))


def _repeat(speech: Path, seconds: float, path: Path) -> Path:
    """A recording of exactly this length, from one that is repeated or cut."""
    samples = load_speech(speech, sample_rate=SAMPLE_RATE).samples
    wanted = np.resize(samples, round(seconds * SAMPLE_RATE))
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(SAMPLE_RATE)
        file.writeframes((wanted.clip(-1, 1) * 32767).round().astype("<i2").tobytes())
    return path

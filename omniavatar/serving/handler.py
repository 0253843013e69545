"""A worker of RunPod serverless: `python -m omniavatar.serving.handler`.

A job is the fields of a request as JSON, the files as base64, data URL or address. Its answer holds
the video, or `error`, `code` and `field` for what the sender can mend; what only we can mend is an
exception, after which the platform tries again. The model is loaded before the first job is taken.
"""

import asyncio
import base64
import hashlib
import json
import logging
import math
import os
import re
import subprocess
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, closing
from dataclasses import fields, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from omniavatar import (
    CATALOG,
    AvatarPipeline,
    ChunkDone,
    Event,
    Finished,
    FullMemoryError,
    GenerationRequest,
    InputError,
    Notice,
    OmniAvatarError,
    StepDone,
    setting_of,
)
from omniavatar.serving import sources, wording
from omniavatar.serving.settings import MEGABYTE, WorkerSettings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from omniavatar.serving.storage import Bucket

logger = logging.getLogger(__name__)

Job = Mapping[str, Any]
Answer = dict[str, Any]
Send = Callable[[Job, Mapping[str, Any]], Awaitable[None]]

FILES = ("image", "audio")
NAMES = ("model", "request_id", *(entry.name for entry in fields(GenerationRequest)))
KEPT_ANSWERS = 2
SECONDS_BETWEEN_STEPS = 0.5
SECONDS_OF_QUIET = 1.4  # with the above, something is said at least every two seconds
SECONDS_TO_SEND_THE_LAST = 5.0
SECONDS_BEYOND = 2.0
LONGEST_PART = next(
    setting_of(entry).maximum or math.inf
    for entry in fields(GenerationRequest)
    if entry.name == "audio_seconds"
)
LONGEST_NAME = 60


class Stopped(Exception):
    """The platform has cancelled the job, or its time is over."""


class Worker:
    """Carries out jobs one after another, each in the same thread, so that the SDK stays awake.

    Args:
        settings: limits and bucket.
        pipeline: the model that is served.
        bucket: where large videos go; None when there is none.
        send: posts a job's progress; None says it to the log alone.
        load_seconds: how long the model took to load, for the answers.
    """

    def __init__(
        self,
        settings: WorkerSettings,
        pipeline: AvatarPipeline,
        *,
        bucket: "Bucket | None" = None,
        send: Send | None = None,
        load_seconds: float = 0.0,
    ) -> None:
        self._settings = settings
        self._pipeline = pipeline
        self._bucket = bucket
        self._send = send
        self._load_seconds = load_seconds
        self._jobs_done = 0
        self._answers: OrderedDict[str, tuple[bytes, Answer]] = OrderedDict()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="pipeline")

    async def handle(self, job: Job) -> Answer:
        """Answer one job; a cancelled one has stopped, and left nothing, when this returns."""
        stop = threading.Event()
        async with _reports(job, self._send) as tell:
            work = asyncio.get_running_loop().run_in_executor(
                self._thread, self._work, job, tell, stop
            )
            try:
                return await asyncio.shield(work)
            except asyncio.CancelledError:
                stop.set()
                await asyncio.wait([work])
                work.exception()  # that it was stopped is known
                raise

    def _work(self, job: Job, tell: Callable[[Event], None], stop: threading.Event) -> Answer:
        try:
            with TemporaryDirectory(prefix="omniavatar-") as folder:
                return self._make(job, Path(folder), tell, stop)
        except InputError as error:
            code = getattr(error, "code", "invalid_input")
            field = None if error.field is None else _shown(error.field)
            return {"error": _sendable(str(error)), "code": code, "field": field}
        except FullMemoryError as error:
            return {"error": str(error), "code": "out_of_memory", "refresh_worker": True}
        finally:
            self._jobs_done += 1

    def _make(
        self, job: Job, folder: Path, tell: Callable[[Event], None], stop: threading.Event
    ) -> Answer:
        began = time.monotonic()
        values = _values(job, self._pipeline.spec.name)
        name = _request_id(values.pop("request_id", None))
        request = self._request(values, folder)
        digest = hashlib.sha256(json.dumps(values, sort_keys=True).encode()).digest()
        if name is not None and name in self._answers:
            known, answer = self._answers[name]
            if known != digest:
                raise InputError(
                    "request_id is that of another request. Use a new one for each.",
                    field="request_id",
                )
            return dict(answer)  # the sender did not hear it, and asks again
        self._fetch(request, values, stop)
        fetched, notices = time.monotonic(), []
        work = self._pipeline.stream(self._shortened(request), folder / "avatar.mp4")
        with closing(work) as events:
            for event in events:
                tell(event)
                if isinstance(event, Notice):
                    logger.warning("%s: %s", job.get("id"), event.what)
                    notices.append(event.what)
                if stop.is_set():
                    raise Stopped
        assert isinstance(event, Finished)
        made = time.monotonic()
        answer = {
            **self._deliver(event.path, name or str(job.get("id") or "video")),
            **{key: getattr(event, key) for key in ("frames", "fps", "width", "height", "seed")},
            "duration_seconds": event.duration_seconds,
            "settings": dict(event.settings),
            "timings": {
                **event.timings,
                "fetch": fetched - began,
                "deliver": time.monotonic() - made,
            },
            "worker": {
                "first_job": not self._jobs_done,
                "load_seconds": self._load_seconds,
                "gpu_memory_bytes": gpu_memory_bytes(),
                "arrangement": self._pipeline.arrangement,
                "notices": notices,
            },
        }
        if name:
            self._answers[name] = digest, dict(answer)
            while len(self._answers) > KEPT_ANSWERS:
                self._answers.popitem(last=False)
        return answer

    def _request(self, values: Mapping[str, Any], folder: Path) -> GenerationRequest:
        """The request of a job, whose files are yet to be fetched."""
        paths = {name: folder / name for name in FILES}
        request = GenerationRequest.from_mapping({**values, **paths})
        limit = self._settings.max_steps
        if (request.steps or 0) > limit:
            raise sources.TooLargeError(
                f"steps is {request.steps}, but this worker does up to {limit}. Use fewer.",
                field="steps",
            )
        return request

    def _fetch(
        self, request: GenerationRequest, values: Mapping[str, Any], stop: threading.Event
    ) -> None:
        """Write the files of a request, and check them."""
        limits = sources.Limits(
            most_bytes=round(self._settings.max_file_megabytes * MEGABYTE),
            seconds=self._settings.download_seconds,
            private_addresses=self._settings.private_addresses,
        )
        for name in FILES:
            sources.save(values[name], getattr(request, name), field=name, limits=limits, stop=stop)
            if stop.is_set():
                raise Stopped
        most = self._settings.max_video_seconds
        # A small file can hold hours of silence, which take gigabytes: no more is heard of it than
        # shows that it is too long.
        heard = min(request.audio_seconds or LONGEST_PART, most + SECONDS_BEYOND, LONGEST_PART)
        plan = self._pipeline.check(replace(self._shortened(request), audio_seconds=heard))
        if plan.frames / plan.fps > most + 1:
            raise sources.TooLargeError(
                f"audio would make a video of more than {most:g} seconds, the longest that this "
                "worker makes. Cut it into shorter parts, or ask for one with audio_start and "
                "audio_seconds.",
                field="audio",
            )

    def _shortened(self, request: GenerationRequest) -> GenerationRequest:
        if self._settings.max_tokens is None:
            return request
        spec = self._pipeline.spec.at_resolution(request.resolution)
        wanted = request.max_tokens or spec.max_tokens
        return replace(request, max_tokens=min(wanted, self._settings.max_tokens))

    def _deliver(self, video: Path, name: str) -> Answer:
        """The video itself, or where it is when it is too large for an answer."""
        size, limit = video.stat().st_size, self._settings.max_result_megabytes
        if size <= limit * MEGABYTE:
            return {"video": base64.b64encode(video.read_bytes()).decode("ascii")}
        if self._bucket is None:
            raise sources.TooLargeError(
                f"The video has {size / MEGABYTE:.1f} MB, but an answer holds {limit:g} MB. Set "
                "the bucket's variables (BUCKET_ENDPOINT_URL, BUCKET_NAME, BUCKET_ACCESS_KEY_ID, "
                "BUCKET_SECRET_ACCESS_KEY) on the worker, or send shorter recordings."
            )
        return {"video_url": self._bucket.upload(video, f"{name}.mp4")}


def main() -> int:
    """Load the model and work until the platform stops the process; 1 when that cannot begin."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    began = time.monotonic()
    try:
        settings = WorkerSettings.from_environment(os.environ)
        if settings.ready_file is not None:
            settings.ready_file.unlink(missing_ok=True)
        bucket = None
        if settings.has_bucket:
            from omniavatar.serving.storage import Bucket

            bucket = Bucket(settings)
        pipeline = AvatarPipeline.from_pretrained(
            settings.model,
            folder=settings.weights,
            device=settings.device,
            memory=settings.memory,
            loras=settings.lora_choices,
        )
        load_seconds = time.monotonic() - began
        if settings.ready_file is not None:
            settings.ready_file.touch()
    except Exception as error:
        if not isinstance(error, OmniAvatarError | OSError):
            logger.exception("this was not foreseen")
        sentence = " ".join(str(error).split()) or type(error).__name__
        sys.stderr.write(f"omniavatar: the worker can not start: {sentence}\n")
        return 1
    logger.info("%s is loaded, after %.1f s", settings.model, load_seconds)
    # The SDK writes the jobs it holds into this file. One left by a process that was killed would
    # make it believe for ever that it is busy.
    Path(".runpod_jobs.pkl").unlink(missing_ok=True)
    # At its own level, DEBUG, it also writes every answer, which is somebody's face, into the log.
    os.environ.setdefault("RUNPOD_DEBUG_LEVEL", "INFO")
    import runpod

    worker = Worker(
        settings,
        pipeline,
        bucket=bucket,
        send=_send_to_platform if "RUNPOD_WEBHOOK_POST_OUTPUT" in os.environ else None,
        load_seconds=load_seconds,
    )
    runpod.serverless.start({"handler": worker.handle})
    return 0


def gpu_memory_bytes() -> int | None:
    """What is in use on the GPU, or None without one.

    torch keeps what it once needed, so after a job this is the most that the job needed.
    """
    try:
        command = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
        told = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)
        return max(int(line) for line in told.stdout.split()) * 2**20
    except (OSError, ValueError, subprocess.SubprocessError):
        return None


# ---- what a job says


def _values(job: Job, model: str) -> dict[str, Any]:
    """The input of a job without empty fields; its names and its model are right."""
    found = job.get("input")
    if not isinstance(found, dict):
        raise InputError("input is not a JSON object. Give one with image and audio.")
    for name in found:
        if name not in NAMES:
            raise InputError(
                f"{_shown(name)!r} is not a setting. Settings are: {', '.join(NAMES)}.", field=name
            )
    values = {name: value for name, value in found.items() if value is not None}
    for name in FILES:
        if not values.get(name):
            raise InputError(f"{name} is missing. {sources.ACCEPTED}.", field=name)
        if not isinstance(values[name], str):
            raise InputError(f"{name} is not a text. {sources.ACCEPTED}.", field=name)
    asked = values.pop("model", model)
    if asked != model:
        known = asked in CATALOG if isinstance(asked, str) else False
        raise InputError(
            f"model is {_shown(asked)!r}, but this worker serves {model!r}. "
            + ("Ask an endpoint that serves it." if known else f"Use {model!r}, or leave it out."),
            field="model",
        )
    return values


def _shown(value: Any) -> str:
    """A value of a sender in a message, which stays a sentence whatever it is."""
    text = _sendable(str(value))
    return text if len(text) <= LONGEST_NAME else f"{text[: LONGEST_NAME - 3]}..."


def _sendable(text: str) -> str:
    """JSON can name halves of characters. The SDK can not write them, and would drop the answer."""
    return text.encode(errors="replace").decode()


def _request_id(value: Any) -> str | None:
    if value is not None and not (
        isinstance(value, str) and re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}", value)
    ):
        raise InputError(
            "request_id is not a name. Use up to 100 letters, digits, dots, dashes and "
            "underscores.",
            field="request_id",
        )
    return value


# ---- what a job tells


@asynccontextmanager
async def _reports(job: Job, send: Send | None) -> "AsyncIterator[Callable[[Event], None]]":
    """A function, for any thread, that tells an event; all that is told comes before the answer."""
    loop, told = asyncio.get_running_loop(), asyncio.Queue[Event | None]()
    reporter = asyncio.create_task(_report(job, send or _log, told))

    def tell(event: Event) -> None:
        loop.call_soon_threadsafe(told.put_nowait, _light(event))

    try:
        yield tell
    finally:
        told.put_nowait(None)
        await asyncio.wait([reporter], timeout=SECONDS_TO_SEND_THE_LAST)
        reporter.cancel()


async def _report(job: Job, send: Send, told: "asyncio.Queue[Event | None]") -> None:
    """Send every chunk, the newest step now and then, and a sign of life when nothing happens."""
    began, sent_at = time.monotonic(), -SECONDS_BETWEEN_STEPS
    latest: Event | None = None
    came_at = began
    while True:
        try:
            event = await asyncio.wait_for(told.get(), SECONDS_OF_QUIET)
            if event is None:
                return
            latest, came_at = event, time.monotonic()
            if isinstance(event, StepDone) and (
                came_at - sent_at < SECONDS_BETWEEN_STEPS or not told.empty()
            ):
                continue
        except TimeoutError:
            pass
        sent_at = time.monotonic()
        try:
            progress = describe(
                latest, elapsed_seconds=sent_at - began, quiet_seconds=sent_at - came_at
            )
            await send(job, progress)
        except Exception as error:  # the next may arrive
            logger.warning("%s: progress was not sent: %r", job.get("id"), error)


def describe(
    event: Event | None, *, elapsed_seconds: float, quiet_seconds: float = 0.0
) -> dict[str, Any]:
    """The progress that a sender sees: phase, percent and the time that is left.

    Args:
        event: the last one; None before the first.
        elapsed_seconds: since the job began.
        quiet_seconds: since the event, of which the time that was left then is shorter now.
    """
    progress: dict[str, Any] = {"phase": "Reading the input", "percent": 0.0}
    if event is not None:
        progress["phase"] = wording.phase(event)
    if isinstance(event, Finished):
        progress["percent"] = 100.0
    if isinstance(event, StepDone | ChunkDone):
        left = event.remaining_seconds
        progress |= {
            "percent": round(100 * event.fraction, 1),
            "chunk": event.chunk,
            "chunks": event.chunks,
            "remaining_seconds": None if left is None else round(max(left - quiet_seconds, 0), 2),
        }
    if isinstance(event, StepDone):
        progress |= {"step": event.step, "steps": event.steps}
    return {**progress, "elapsed_seconds": round(elapsed_seconds, 2)}


def _light(event: Event) -> Event:
    """An event without its pictures, which would wait in memory."""
    match event:
        case StepDone():
            return replace(event, preview=None)
        case ChunkDone():
            return replace(event, frames=event.frames[:0])
        case _:
            return event


async def _log(job: Job, progress: Mapping[str, Any]) -> None:
    logger.info("%s: %s", job.get("id"), progress)


async def _send_to_platform(job: Job, progress: Mapping[str, Any]) -> None:
    """As `runpod.serverless.progress_update` does, which starts a thread for each and so may
    post the second before the first, and either after the answer."""
    from runpod.http_client import AsyncClientSession
    from runpod.serverless.modules.rp_http import send_result

    async with AsyncClientSession() as session:
        await send_result(session, {"status": "IN_PROGRESS", "output": progress}, job)


if __name__ == "__main__":
    sys.exit(main())

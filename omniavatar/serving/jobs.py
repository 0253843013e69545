"""Requests carried out for visitors: kept, queued, run on the device, stopped, told in words.

A job belongs to the server and not to the page that asked for it: pages and programs only follow
it. One thread works jobs off, so that there is one on the device at a time; visitors take turns.
What follows a job is a generator that speaks at least every second, because only that notices that
nobody listens any more.
"""

import atexit
import contextvars
import logging
import os
import threading
import time
from collections.abc import Generator, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
import spaces
from numpy.typing import NDArray
from PIL import Image

from omniavatar import (
    CATALOG,
    MEMORY_TIERS,
    ChunkDone,
    DownloadProgress,
    Event,
    Finished,
    GenerationRequest,
    InputError,
    Notice,
    OmniAvatarError,
    Preparing,
    StepDone,
    VideoPlan,
    WeightsError,
    device_name,
    kept_pieces,
    read_inputs,
)
from omniavatar.serving import downloads, wording
from omniavatar.serving.estimate import Rates, work_of
from omniavatar.serving.loras import spec_of
from omniavatar.serving.pipelines import Pipelines
from omniavatar.serving.store import Asked, State, Status, Store, StoreSettings, data_folder, whose
from omniavatar.serving.turns import Turns
from omniavatar.serving.uploads import uploaded_file

logger = logging.getLogger(__name__)

UNKNOWN_FAULT = "Something went wrong on our side; it has been noted. Please try again."
LONGEST_STOP_SECONDS = 120.0
LONGEST_CLOSE_SECONDS = 20.0
SECONDS_UNTIL_ABANDONED = 30.0
SECONDS_OF_QUIET = 1.0
SECONDS_BETWEEN_SWEEPS = 600.0
KEPT_PREVIEWS = 16  # of one job: a page that is busy loads them late
ENDED = ("finished", "stopped", "failed", "interrupted")

# A shared GPU is asked for longer than a video should take, since one that takes longer is lost.
GPU_MARGIN = 1.5
GPU_SECONDS_AROUND = 20.0


@dataclass(frozen=True, slots=True, kw_only=True)
class JobView:
    """A job as it is at one moment, for whoever shows it.

    Attributes:
        id: opens the job and cannot be guessed.
        state: "interrupted" is a job whose server ended before it did.
        model: name of the checkpoint.
        memory: how its networks are arranged; None as the server has it.
        settings: of the request, without its files, as they were asked for.
        image, audio: copies of the files that were given; not served, see `Store`.
        options: what `submit` was given.
        consent: what was confirmed about the people in the video, and when.
        created: seconds since 1970.
        position: how many jobs come before this one; None when it does not wait.
        wait_seconds: until it begins, as far as that is known.
        phase: what is being done, in words.
        fraction: share of the work that is done, 0..1.
        step, steps, chunk, chunks: counted from 1; None before the first.
        elapsed_seconds: since the device began with it.
        remaining_seconds: measured on this run, and before that as was estimated.
        preview: a rough or small picture of what is being made.
        segments: the finished parts, a playable MP4 each, with sound.
        video: the whole video, or what was finished of it when the job ended early.
        poster: a frame of the video.
        used: the settings that made the video, as its metadata has them.
        timings: seconds of work by stage.
        error: a sentence for the visitor.
        field: the setting at fault.
        notices: sentences about the run that are no faults.
    """

    id: str
    state: State
    model: str
    memory: str | None
    settings: Mapping[str, Any]
    image: Path
    audio: Path
    options: Mapping[str, Any]
    consent: Mapping[str, Any] | None
    created: float
    position: int | None
    wait_seconds: float | None
    phase: str
    fraction: float
    step: int | None
    steps: int | None
    chunk: int | None
    chunks: int | None
    elapsed_seconds: float
    remaining_seconds: float | None
    preview: Path | None
    segments: tuple[Path, ...]
    video: Path | None
    poster: Path | None
    used: Mapping[str, Any] | None
    timings: Mapping[str, float] | None
    error: str | None
    field: str | None
    notices: tuple[str, ...]

    @property
    def ended(self) -> bool:
        return self.state in ENDED

    @property
    def seed(self) -> int:
        return int((self.used or self.settings)["seed"])


@dataclass(slots=True, eq=False)
class _Job:
    """A job in memory; changed under the lock of `Jobs`.

    Attributes:
        context: of the call that asked for it, which says to a shared GPU for whom it works.
        event, progress: the newest that the pipeline told, and the newest that says how far it is.
        changes: counts what there is to tell.
        seconds: how long it is expected to take; None when that is not known.
        attended: when its owner, who alone wants it, last asked for it; None without an owner.
    """

    asked: Asked
    status: Status
    context: contextvars.Context | None = None
    event: Event | None = None
    progress: StepDone | ChunkDone | None = None
    changes: int = 0
    seconds: float | None = None
    attended: float | None = None
    stop: threading.Event = field(default_factory=threading.Event)

    @property
    def id(self) -> str:
        return self.asked.id

    @property
    def ended(self) -> bool:
        return self.status.state in ENDED

    @property
    def is_unwanted(self) -> bool:
        """Whether it is to stop: it was cancelled, or its owner has been gone for long."""
        if self.attended is not None:
            abandoned = time.monotonic() - self.attended > SECONDS_UNTIL_ABANDONED
            return abandoned or self.stop.is_set()
        return self.stop.is_set()


class _StoppedError(Exception):
    """The job is to stop while its model is still being downloaded."""


class Jobs:
    """The work behind the page and the API of one process.

    Args:
        pipelines: where the models come from.
        settings: limits and places; None reads the environment.

    Attributes:
        settings: the same.
        store: where jobs are on disk.

    Raises:
        InputError: a variable of the environment can not be used.
        OutputError: jobs can not be kept.
    """

    def __init__(self, pipelines: Pipelines, settings: StoreSettings | None = None) -> None:
        self._pipelines = pipelines
        self.settings = settings or StoreSettings.from_environment(os.environ)
        self.store = Store(data_folder(self.settings, os.environ))
        self._rates = Rates(self.store.folder / "rates.json")
        self._on_device = spaces.GPU(duration=self._gpu_seconds)(self._stream)
        self._changed = threading.Condition()
        self._jobs: dict[str, _Job] = {}
        self._turns: Turns[_Job] = Turns()
        self._running: _Job | None = None
        self._worker: threading.Thread | None = None
        self._closing = False
        self.store.recover()
        self._sweep()
        for asked, status in self.store.load_all():
            self._jobs[asked.id] = _Job(asked, status)

    @property
    def served(self) -> Path:
        """The folder of videos and pictures, for `launch(allowed_paths=...)`."""
        return self.store.served

    # ---- asked for

    def submit(
        self,
        model: str,
        request: GenerationRequest | Mapping[str, Any],
        *,
        visitor: str,
        options: Mapping[str, Any] | None = None,
        consent: Mapping[str, Any] | None = None,
        memory: str | None = None,
        most_waiting: int | None = None,
    ) -> str:
        """Put a job into the queue.

        Args:
            model: name of a checkpoint.
            request: what to make, or the values of a form, whose files are uploads.
            visitor: whose turn it takes and in whose history it will be; cannot be guessed.
            options: values that JSON can hold, to be found in its views.
            consent: recorded with the job and in the video.
            memory: how the networks are arranged, one of `MEMORY_TIERS`; None as the server has it.
            most_waiting: how many jobs this visitor may have in the queue; None as in the settings.

        Returns:
            The ID of the job, which opens it to whoever knows it.

        Raises:
            InputError: a setting can not be used, or too many jobs wait.
            OutputError: the job can not be kept.
        """
        if not isinstance(request, GenerationRequest):
            request = read_request(request)
        if model not in CATALOG:
            raise InputError(
                f"model is {model!r}. Use one of: {', '.join(CATALOG)}.", field="model"
            )
        if memory is not None and memory not in MEMORY_TIERS:
            raise InputError(
                f"memory is {memory!r}. Use one of: {', '.join(MEMORY_TIERS)}.", field="memory"
            )
        with self._changed:
            self._refuse_more(visitor, most_waiting or self.settings.waiting)
        inputs = read_inputs(request, spec_of(model))
        settings = request.to_mapping()
        asked, status = self.store.create(
            visitor=visitor,
            model=model,
            memory=memory,
            settings={name: settings[name] for name in settings.keys() - {"image", "audio"}},
            image=request.image,
            audio=request.audio,
            options=options or {},
            consent=consent,
        )
        seconds = self.estimate(model, inputs.request, inputs.plan, memory=memory)
        job = _Job(asked, status, context=contextvars.copy_context(), seconds=seconds)
        with self._changed:
            self._jobs[job.id] = job
            self._turns.add(asked.visitor, job)
            if self._worker is None:
                self._worker = threading.Thread(target=self._work, name="jobs", daemon=True)
                self._worker.start()
                # A thread that is within torch when the interpreter ends makes it abort.
                atexit.register(self.close)
            self._changed.notify_all()
        return job.id

    def cancel(self, job_id: str, *, wait: bool = False) -> None:
        """End a job: at once when it waits, within a step when it runs. What is finished stays.

        Args:
            wait: return when it has ended.
        """
        with self._changed:
            job = self._jobs.get(job_id)
            if job is None:
                return
            job.stop.set()
            if self._turns.remove(job):
                self._end(job, "stopped")
            if wait:
                self._changed.wait_for(lambda: job.ended, LONGEST_STOP_SECONDS)

    def remove(self, job_id: str, *, visitor: str) -> None:
        """Delete a job of this visitor with all of its files, ending it first if it runs."""
        job = self._find(job_id)
        if job is None or not self.is_of(job_id, visitor=visitor):
            return
        self.cancel(job_id, wait=True)
        if not job.ended:  # another process works on it
            return
        with self._changed:
            self._jobs.pop(job_id, None)
        self.store.delete(job_id)
        if batch := job.asked.options.get("batch"):
            self.store.drop_archive(batch)

    def is_of(self, job_id: str, *, visitor: str) -> bool:
        """Whether there is such a job, and it is this visitor's."""
        job = self._find(job_id)
        return job is not None and job.asked.visitor == whose(visitor)

    def estimate(
        self,
        model: str,
        request: GenerationRequest,
        plan: VideoPlan,
        *,
        memory: str | None = None,
    ) -> float:
        """How many seconds the device will take for a video."""
        spec = spec_of(model)
        work = work_of(plan, request, spec)
        return self._rates.seconds(work, spec, device=self._device_as(memory))

    def is_measured(self, model: str, *, memory: str | None = None) -> bool:
        """Whether estimates for this model come from what it took here."""
        return self._rates.is_measured(spec_of(model), device=self._device_as(memory))

    def _device_as(self, memory: str | None) -> str:
        """The device's name, apart for each way of arranging networks, which decides the speed."""
        return self._device if memory in (None, "auto") else f"{self._device}, {memory}"

    @cached_property
    def _device(self) -> str:
        if self._pipelines.is_shared_gpu:
            return "ZeroGPU"
        try:
            return device_name()
        except Exception as error:  # as the driver has it
            logger.warning("the device does not say its name: %s", error)
            return "unknown"

    def close(self) -> None:
        """Interrupt what runs and what waits, as the process is about to end."""
        with self._changed:
            self._closing = True
            for job in self._turns.order():
                self._turns.remove(job)
                self._end(job, "interrupted")
            running = self._running
            if running is not None:
                running.stop.set()
                self._changed.wait_for(lambda: running.ended, LONGEST_CLOSE_SECONDS)

    def _refuse_more(self, visitor: str, most: int) -> None:
        waiting = self._turns.waiting(whose(visitor))
        if waiting >= most:
            raise InputError(
                f"You have {waiting} videos in the queue already. Wait until one is finished, or "
                "stop one."
            )
        if len(self._turns) >= self.settings.waiting_together:
            raise InputError("Too many videos are waiting here at the moment. Try again later.")

    # ---- seen

    def view(self, job_id: str) -> JobView | None:
        """A job as it is now; None when there is none with this ID."""
        job = self._find(job_id)
        if job is None:
            return None
        with self._changed:
            return self._view(job)

    def follow(
        self, job_id: str, *, cancel_on_close: bool = False
    ) -> Generator[JobView, None, None]:
        """Tell how a job is: now, whenever something changes, and at least every second.

        Closing this generator leaves the job alone.

        Args:
            cancel_on_close: end the job when this generator is closed before the job's end.

        Raises:
            InputError: there is no such job.
        """
        job = self._find(job_id)
        if job is None:
            raise InputError("This video is not here any more. Make it again.")
        try:
            while True:
                if cancel_on_close:
                    self.attend(job_id)
                with self._changed:
                    seen, view = job.changes, self._view(job)
                yield view
                if view.ended:
                    return
                self._wait_for_more(job, seen)
                job = self._find(job_id) or job  # of another process: as it has it on disk now
        finally:
            if cancel_on_close and not job.ended:
                self.cancel(job_id)

    def attend(self, job_id: str) -> None:
        """Say that somebody waits for a job who alone wants it: it ends when that was long ago.

        Gradio can lose a generator that is cancelled at the moment when it begins: nobody closes it
        then, and nobody asks it for more.
        """
        with self._changed:
            if job := self._jobs.get(job_id):
                job.attended = time.monotonic()

    def wait_for_change(self, seconds: float) -> None:
        """Return when something changes in any job, or after so long."""
        with self._changed:
            self._changed.wait(seconds)

    def _wait_for_more(self, job: _Job, seen: int) -> None:
        with self._changed:
            self._changed.wait_for(lambda: job.changes != seen, SECONDS_OF_QUIET)

    def history(self, visitor: str) -> list[JobView]:
        """All that this visitor has asked for and that is still kept, the newest first."""
        owner = whose(visitor)
        with self._changed:
            own = [job for job in self._jobs.values() if job.asked.visitor == owner]
            own.sort(key=lambda job: job.asked.created, reverse=True)
            return [self._view(job) for job in own]

    def _find(self, job_id: str) -> _Job | None:
        """A job of this process, or one that another has kept in the same folder."""
        with self._changed:
            if job := self._jobs.get(job_id):
                return job
        kept = self.store.load(job_id)
        return None if kept is None else _Job(*kept)

    def _view(self, job: _Job) -> JobView:
        asked, status, event, store = job.asked, job.status, job.event, self.store
        image, audio = store.inputs(asked)
        position, wait_seconds = self._place(job)
        of_chunk = job.progress
        of_step = of_chunk if isinstance(of_chunk, StepDone) else None
        started, ended = status.started, status.ended or time.time()
        fraction = 1.0 if status.state == "finished" else of_chunk.fraction if of_chunk else 0.0
        elapsed = ended - started if started else 0.0
        running = status.state == "running"
        remaining = of_chunk.remaining_seconds if of_chunk else None
        if remaining is None and job.seconds is not None:
            remaining = max(0.0, job.seconds - elapsed)
        video, poster = store.video(job.id), store.poster(job.id)
        return JobView(
            id=job.id,
            state=status.state,
            model=asked.model,
            memory=asked.memory,
            settings=asked.settings,
            image=image,
            audio=audio,
            options=asked.options,
            consent=asked.consent,
            created=asked.created,
            position=position,
            wait_seconds=wait_seconds,
            phase=wording.job_phase(status.state, event),
            fraction=fraction,
            step=of_step.step if of_step else None,
            steps=of_step.steps if of_step else None,
            chunk=of_chunk.chunk if of_chunk else status.chunks_done or None,
            chunks=of_chunk.chunks if of_chunk else status.chunks or None,
            elapsed_seconds=elapsed,
            remaining_seconds=remaining if running else None,
            preview=_newest_preview(store.files(job.id)) if running else None,
            segments=tuple(kept_pieces(store.pieces(job.id))),
            video=video if job.ended and video.exists() else None,
            poster=poster if poster.exists() else None,
            used=status.used,
            timings=status.timings,
            error=status.error,
            field=status.field,
            notices=status.notices,
        )

    def _place(self, job: _Job) -> tuple[int | None, float | None]:
        """How many jobs come before one that waits, and how long they will take."""
        if job.status.state != "queued" or job.id not in self._jobs:
            return None, None
        order = self._turns.order()
        before = order[: order.index(job)] if job in order else []
        seconds = [each.seconds for each in before]
        if self._running is not None:
            told, left = self._running.progress, self._running.seconds
            if told is not None and told.remaining_seconds is not None:
                left = told.remaining_seconds
            elif left is not None and self._running.status.started:
                left = max(0.0, left - (time.time() - self._running.status.started))
            seconds.append(left)
        known = [each for each in seconds if each is not None]
        position = len(before) + (self._running is not None)
        return position, sum(known) if len(known) == len(seconds) else None

    # ---- carried out

    def _work(self) -> None:
        """Carry out one job after another, for as long as the process lives."""
        swept = time.monotonic()
        while True:
            with self._changed:
                self._changed.wait_for(lambda: len(self._turns) > 0, SECONDS_BETWEEN_SWEEPS)
                job = self._turns.take() if len(self._turns) else None
                self._running = job
                if job is not None:
                    self._set(job, replace(job.status, state="running", started=time.time()))
            if job is not None:
                assert job.context is not None
                try:
                    job.context.run(self._carry_out, job)
                except Exception as error:  # whatever it is, the next job's turn comes
                    with self._changed:
                        job.status = replace(job.status, state="failed", error=told_as(error))
                        job.changes += 1
                job.context = None
                with self._changed:
                    self._running = None
            if job is None or time.monotonic() - swept > SECONDS_BETWEEN_SWEEPS:
                swept = time.monotonic()
                self._sweep()

    def _carry_out(self, job: _Job) -> None:
        """Make the video of one job; whatever happens, the job has ended afterwards."""
        state: State = "failed"
        error: Exception | None = None
        try:
            state = self._make(job)
        except Exception as fault:
            error = fault
        try:
            if state != "finished":
                self.store.rescue_video(job.id)
            self.store.drop_work(job.id)
        except OSError:
            logger.exception("what is left of a job could not be put in order")
        with self._changed:
            self._end(job, state, error)

    def _make(self, job: _Job) -> State:
        """Run the pipeline to its end, or until the job is to stop."""
        self._hear(job, Preparing(what="getting the model ready", elapsed_seconds=0.0))
        asked = job.asked
        if job.is_unwanted:
            return self._stopped
        # Loaded here and not in `_stream`: on a shared GPU that is another process, which inherits
        # what is loaded and takes to its end what it loads itself.
        try:
            pipeline = self._pipelines.get(
                asked.model, memory=asked.memory, report=partial(self._hear_download, job)
            )
        except _StoppedError:
            return self._stopped
        except WeightsError as error:
            logger.error("%s", error)  # names folders, about which visitors can do nothing
            raise InputError(
                f"{asked.model} can not be used here: its files are missing or damaged, and could "
                "not be downloaded. Choose another model; the server's log says what to do.",
                field="model",
            ) from error
        image, audio = self.store.inputs(asked)
        request = GenerationRequest.from_mapping({**asked.settings, "image": image, "audio": audio})
        plan = pipeline.check(request)
        with self._changed:
            self._set(job, replace(job.status, chunks=len(plan.chunks)))
        notes = {} if asked.consent is None else {"consent": dict(asked.consent)}
        place = _Place(
            video=self.store.video(job.id),
            poster=self.store.poster(job.id),
            pieces=self.store.pieces(job.id),
            notes=notes,
        )
        work = self._on_device(asked.model, request, place, plan, asked.memory)
        with closing(work):
            for event in work:
                self._hear(job, event)
                if isinstance(event, Finished):
                    work_done = work_of(plan, request, pipeline.spec)
                    self._rates.learn(
                        work_done,
                        pipeline.spec,
                        event.timings,
                        device=self._device_as(asked.memory),
                    )
                if job.is_unwanted and not isinstance(event, Finished):
                    return self._stopped
        return "finished"

    @property
    def _stopped(self) -> State:
        return "interrupted" if self._closing else "stopped"

    def _hear_download(self, job: _Job, progress: DownloadProgress) -> None:
        """Tell how far a model's files are; a job that is to stop leaves the rest to the next."""
        if job.stop.is_set():
            raise _StoppedError
        elapsed = time.time() - (job.status.started or time.time())
        self._hear(job, Preparing(what=downloads.preparing(progress), elapsed_seconds=elapsed))

    def _hear(self, job: _Job, event: Event) -> None:
        """Take notice of what the pipeline tells."""
        with self._changed:
            job.event = event
            job.changes += 1
            if isinstance(event, StepDone | ChunkDone):
                job.progress = event
            match event:
                case Notice():
                    notices = (*job.status.notices, event.what)
                    self._set(job, replace(job.status, notices=notices))
                case ChunkDone():
                    self._set(job, replace(job.status, chunks_done=event.chunk))
                case Finished():
                    job.status = replace(
                        job.status, used=dict(event.settings), timings=dict(event.timings)
                    )
            self._changed.notify_all()

    def _set(self, job: _Job, status: Status) -> None:
        job.status = status
        job.changes += 1
        self.store.save(job.id, status)
        self._changed.notify_all()

    def _end(self, job: _Job, state: State, error: Exception | None = None) -> None:
        told = None
        if error is not None:  # where the server keeps things is nobody's business but its own
            told = told_as(error).replace(f"{self.store.video(job.id).parent}{os.sep}", "")
            for path in self.store.inputs(job.asked):
                told = told.replace(f"{path.parent}{os.sep}", "")
        named = error.field if isinstance(error, InputError) else None
        self._set(job, replace(job.status, state=state, ended=time.time(), error=told, field=named))

    def _sweep(self) -> None:
        """Delete what has become too old, on disk and in memory."""
        with self._changed:
            busy = [job.id for job in self._jobs.values() if not job.ended]
        try:
            gone = self.store.expire(self.settings, busy=busy)
        except Exception:  # whatever it is, the jobs that wait are carried out
            logger.exception("old jobs could not be deleted")
            return
        with self._changed:
            for job_id in gone:
                self._jobs.pop(job_id, None)

    def _stream(
        self,
        model: str,
        request: GenerationRequest,
        place: "_Place",
        plan: VideoPlan,  # noqa: ARG002 (for `_gpu_seconds`, which is called with the same)
        memory: str | None,
    ) -> Iterator[Event]:
        """The pipeline's events, their pictures put into files: on a shared GPU this runs in a
        process of its own, to which nothing goes back but what is yielded."""
        work = self._pipelines.get(model, memory=memory).stream(
            request, place.video, pieces=place.pieces, notes=place.notes
        )
        with _told(), closing(work) as events:
            for event in events:
                yield _lightened(event, place)

    def _gpu_seconds(
        self,
        model: str,
        request: GenerationRequest,
        _place: "_Place",
        plan: VideoPlan,
        memory: str | None,
    ) -> int:
        """How long a shared GPU is asked for."""
        seconds = self.estimate(model, request, plan, memory=memory)
        return round(GPU_SECONDS_AROUND + GPU_MARGIN * seconds)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Place:
    """Where the files of a job go, and what its video is to remember."""

    video: Path
    poster: Path
    pieces: Path
    notes: Mapping[str, Any]


def read_request(values: Mapping[str, Any]) -> GenerationRequest:
    """A request from the values of a form, whose files are where Gradio put the uploads.

    Raises:
        InputError: as `GenerationRequest` does.
    """
    values = dict(values)
    for name in ("image", "audio"):
        values[name] = uploaded_file(values.get(name), field=name)
    return GenerationRequest.from_mapping(values)


def told_as(error: Exception) -> str:
    """An error as one sentence for the visitor; those that we did not expect are logged."""
    if isinstance(error, OmniAvatarError):
        return str(error)
    if isinstance(error, gr.Error):
        return str(error.message)
    logger.error("a job failed", exc_info=error)
    return UNKNOWN_FAULT


@contextmanager
def _told() -> Iterator[None]:
    """Make every fault one that crosses processes and says a sentence to the visitor."""
    try:
        yield
    except gr.Error:
        raise
    except Exception as error:
        raise gr.Error(told_as(error), print_exception=False) from error


def _lightened(event: Event, place: _Place) -> Event:
    """An event without its pictures, the newest of which become files beside the video."""
    folder = place.video.parent
    match event:
        case StepDone():
            if event.preview is not None:
                name = f"preview-{event.chunk:05}-{event.step:04}.jpg"
                _save_preview(event.preview, folder / name)
            return replace(event, preview=None)
        case ChunkDone():
            if len(event.frames):
                middle = event.frames[len(event.frames) // 2]
                _save_preview(event.frames[-1], folder / f"preview-{event.chunk:05}-9999.jpg")
                if not place.poster.exists():
                    _save_picture(middle, place.poster)
            return replace(event, frames=event.frames[:0])
        case _:
            return event


def _save_preview(picture: NDArray[np.uint8], path: Path) -> None:
    """Save a picture; of those before it a few stay, which a page may be loading."""
    _save_picture(picture, path)
    for old in sorted(path.parent.glob("preview-*"))[:-KEPT_PREVIEWS]:
        old.unlink(missing_ok=True)


def _save_picture(picture: NDArray[np.uint8], path: Path) -> None:
    draft = path.with_name(f".{path.name}")
    try:
        Image.fromarray(picture).save(draft, format="JPEG", quality=90)
        draft.replace(path)
    except OSError as error:  # a video is not given up for its pictures
        logger.warning("%s could not be saved: %s", path.name, error)


def _newest_preview(folder: Path) -> Path | None:
    return max(folder.glob("preview-*"), default=None)

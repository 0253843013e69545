"""Requests carried out for visitors: checked, run on the device, stopped, and told in words.

Whatever computes is a generator that yields at every step, because only that can be stopped and
gives its place in the queue back when it really is at rest.
"""

import logging
import threading
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import gradio as gr
import spaces

from omniavatar import (
    CATALOG,
    ChunkDone,
    Event,
    GenerationRequest,
    InputError,
    OmniAvatarError,
    Preparing,
    VideoPlan,
    load_image,
    load_speech,
)
from omniavatar.serving.pipelines import Pipelines

logger = logging.getLogger(__name__)

UNKNOWN_FAULT = "Something went wrong on our side; it has been noted. Please try again."
LONGEST_STOP_SECONDS = 120.0

# Seconds of a shared GPU for a step of a second of video, from the published sizes on one H200,
# rounded up; and seconds to begin and end with.
GPU_SECONDS = {"nano": 0.05, "1.3B": 0.4, "14B": 2.0}
GPU_SECONDS_AROUND = 20.0


@dataclass(frozen=True, slots=True)
class Stopped:
    """The visitor ended the job.

    Attributes:
        path: the MP4 of the parts that were finished, or None when there was none.
    """

    path: Path | None


@dataclass(frozen=True, slots=True)
class _Visit:
    """The job of one open page."""

    stop: threading.Event = field(default_factory=threading.Event)
    ended: threading.Event = field(default_factory=threading.Event)


class Jobs:
    """The work behind the page and the API of one process."""

    def __init__(self, pipelines: Pipelines) -> None:
        self._pipelines = pipelines
        self._visits: dict[str, _Visit] = {}
        self._on_device = spaces.GPU(duration=_gpu_seconds)(self._stream)

    def check(self, values: Mapping[str, Any]) -> InputError | None:
        """What is wrong with the settings and files of a form, found before the queue."""
        try:
            request = read_request(values)
            load_image(request.image)
            load_speech(request.audio)
        except InputError as error:
            return error
        except Exception:
            logger.exception("checking a request failed")
        return None

    def events(
        self, model: str, values: Mapping[str, Any], *, visitor: str | None = None
    ) -> Iterator[Event | Stopped]:
        """Make a video; its file is gone when this generator has ended.

        Args:
            model: name of a checkpoint.
            values: the settings of a form.
            visitor: whose `stop` is to end the job.

        Raises:
            gr.Error: one sentence for the visitor.
        """
        visit = _Visit()
        if visitor is not None:
            self._visits[visitor] = visit
        try:
            with _told(), TemporaryDirectory(prefix="omniavatar-") as folder:
                yield Preparing(what="getting the model ready", elapsed_seconds=0.0)
                # Loaded here and not in `_stream`: on a shared GPU that is another process,
                # which inherits what is loaded and takes to its end what it loads itself.
                request = read_request(values)
                plan = self._pipelines.get(model).check(request)
                output = Path(folder) / "avatar.mp4"
                with closing(self._on_device(model, request, output, plan)) as work:
                    for event in work:
                        yield event
                        if visit.stop.is_set():
                            break
                    else:
                        return
                yield Stopped(output if output.exists() else None)
        finally:
            visit.ended.set()
            if visitor is not None:
                self._visits.pop(visitor, None)

    def stop(self, visitor: str) -> None:
        """End this visitor's job, if one is running, and wait until it has ended."""
        if visit := self._visits.get(visitor):
            visit.stop.set()
            visit.ended.wait(LONGEST_STOP_SECONDS)

    def _stream(
        self,
        model: str,
        request: GenerationRequest,
        output: Path,
        plan: VideoPlan,  # noqa: ARG002 (for `_gpu_seconds`, which is called with the same)
    ) -> Iterator[Event]:
        """The pipeline's events, light enough to be sent from process to process."""
        with _told(), closing(self._pipelines.get(model).stream(request, output)) as events:
            for event in events:
                if isinstance(event, ChunkDone):
                    event = replace(event, frames=event.frames[-1:])
                yield event


def read_request(values: Mapping[str, Any]) -> GenerationRequest:
    """A request from the values of a form, whose files are where Gradio put the uploads.

    Raises:
        InputError: as `GenerationRequest` does.
    """
    values = dict(values)
    for name in ("image", "audio"):
        upload = values.get(name)
        path = upload.get("path") if isinstance(upload, dict) else None
        if not path:
            raise InputError(f"There is no {name} yet: please upload one.", field=name)
        values[name] = path
    return GenerationRequest.from_mapping(values)


@contextmanager
def _told() -> Iterator[None]:
    """Faults become one sentence for the visitor; those that we did not expect are logged."""
    try:
        yield
    except gr.Error:
        raise
    except OmniAvatarError as error:
        raise gr.Error(str(error), print_exception=False) from error
    except Exception as error:
        logger.exception("a job failed")
        raise gr.Error(UNKNOWN_FAULT, print_exception=False) from error


def _gpu_seconds(model: str, request: GenerationRequest, _output: Path, plan: VideoPlan) -> int:
    """How long a shared GPU is asked for."""
    steps = request.steps or CATALOG[model].steps
    video_seconds = len(plan.chunks) * plan.chunk_frames / plan.fps
    return round(GPU_SECONDS_AROUND + GPU_SECONDS[model] * steps * video_seconds)

"""What a running job tells its listeners, in the order in which it happens.

    Preparing*  (StepDone* ChunkDone)*  Finished

A Notice may come between any two of them; after one, steps of a chunk may be told again.

Every number counts from 1. `fraction` is the share of the whole job that is done, 0 to 1;
`remaining_seconds` is measured on this run, and None until there is something to measure.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, kw_only=True)
class Preparing:
    """Work before the first chunk begins.

    Attributes:
        what: a few words for people, such as "listening to the speech".
        elapsed_seconds: since the job began.
    """

    what: str
    elapsed_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    """Something that people should know, and that is no fault.

    Attributes:
        what: one sentence.
        elapsed_seconds: since the job began.
    """

    what: str
    elapsed_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class StepDone:
    """One denoising step of one chunk.

    Attributes:
        preview: a small rough picture of the chunk's middle frame as the step sees it,
            uint8 [h, w, 3], or None for checkpoints without preview colours.
    """

    chunk: int
    chunks: int
    step: int
    steps: int
    preview: NDArray[np.uint8] | None
    fraction: float
    elapsed_seconds: float
    remaining_seconds: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunkDone:
    """A chunk is decoded and handed to the video encoder.

    Attributes:
        frames: the frames that it adds to the video, uint8 [n, h, w, 3].
    """

    chunk: int
    chunks: int
    frames: NDArray[np.uint8]
    fraction: float
    elapsed_seconds: float
    remaining_seconds: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """The video is on disk.

    Attributes:
        path: the MP4.
        frames: number of frames in it.
        duration_seconds: frames / fps.
        settings: all settings that made it, as stored in its metadata.
        timings: seconds of work by stage.
    """

    path: Path
    frames: int
    fps: int
    width: int
    height: int
    duration_seconds: float
    seed: int
    settings: Mapping[str, Any]
    timings: Mapping[str, float]


Event = Preparing | Notice | StepDone | ChunkDone | Finished

"""A model on Replicate: the same pipeline, settings and sentences as everywhere else.

Progress is in the log, one "42.0% Part 1 of 3" a line. A refused input fails with its code and
field in front, as `python -m omniavatar remote` reads them. Cog reads the signature of `predict`
without running it, so the settings are spelled out; a test holds them to the request's fields.
"""

import logging
import os
from contextlib import closing
from pathlib import Path as LocalPath
from tempfile import TemporaryDirectory, mkstemp
from typing import Any

from cog import BasePredictor, Input, Path

from omniavatar import AvatarPipeline, ChunkDone, GenerationRequest, InputError, Notice, StepDone
from omniavatar.serving import wording
from omniavatar.serving.settings import WorkerSettings

logger = logging.getLogger(__name__)


class Predictor(BasePredictor):
    """One checkpoint."""

    def setup(self) -> None:
        """Load the model, once."""
        logging.basicConfig(level=logging.INFO, format="%(message)s")
        self.made: LocalPath | None = None
        settings = WorkerSettings.from_environment(os.environ)
        self.pipeline = AvatarPipeline.from_pretrained(
            settings.model,
            folder=settings.weights,
            device=settings.device,
            memory=settings.memory,
            loras=settings.lora_choices,
        )

    def predict(
        self,
        image: Path = Input(description="portrait of the person who is to speak"),
        audio: Path = Input(description="recording of the speech"),
        prompt: str = Input(description="how the person behaves, in a sentence or two", default=""),
        negative_prompt: str | None = Input(description="what to keep away from", default=None),
        aspect: str = Input(
            description="shape of the video; auto takes the one closest to the picture's",
            default="auto",
            choices=["auto", "portrait", "square", "landscape"],
        ),
        fit: str = Input(
            description="cover cuts off what does not fit the shape; contain shows the whole picture and continues its edges",
            default="cover",
            choices=["cover", "contain"],
        ),
        focus_x: float | None = Input(
            description="what to keep in the middle when the sides are cut off, from left 0 to right 1; empty: the face, else the middle",
            default=None,
            ge=0.0,
            le=1.0,
        ),
        focus_y: float | None = Input(
            description="the same when top and bottom are cut off, from top 0 to bottom 1",
            default=None,
            ge=0.0,
            le=1.0,
        ),
        audio_start: float = Input(
            description="where in the recording the speech begins", default=0.0, ge=0.0, le=7200.0
        ),
        audio_seconds: float | None = Input(
            description="how much of the recording to use from there; empty: all of it",
            default=None,
            ge=0.1,
            le=7200.0,
        ),
        resolution: str = Input(
            description="small videos (nano) are quicker to make; large ones (1.3B and 14B, 720p) take about seven times the work, and their authors call them less stable",
            default="standard",
            choices=["standard", "small", "large"],
        ),
        steps: int | None = Input(
            description="denoising steps: more is slower and finer", default=None, ge=1, le=100
        ),
        guidance: float | None = Input(
            description="how strongly prompt and speech are followed; 1 is off and twice as fast",
            default=None,
            ge=1.0,
            le=15.0,
        ),
        audio_guidance: float | None = Input(
            description="a strength of its own for the speech, at three forwards a step; empty: same as guidance",
            default=None,
            ge=0.0,
            le=15.0,
        ),
        seed: int = Input(
            description="the same seed and settings give the same video",
            default=42,
            ge=0,
            le=2147483647,
        ),
        overlap_frames: int | None = Input(
            description="frames that one chunk hands to the next: 4n + 1",
            default=None,
            ge=1,
            le=1001,
        ),
        max_tokens: int | None = Input(
            description="length of a chunk, in tokens of the transformer: longer needs more memory",
            default=None,
            ge=1,
            le=1000000,
        ),
        step_cache: float = Input(
            description="skip steps that change little (TeaCache threshold, about 0.05 to 0.15); 0 is off",
            default=0.0,
            ge=0.0,
            le=1.0,
        ),
        silence_seconds: float = Input(
            description="silence to put in front of the speech", default=0.0, ge=0.0, le=30.0
        ),
    ) -> Path:
        """Make a portrait speak a recording."""
        values = {name: value for name, value in locals().items() if name != "self"}
        return self._make(values)

    def _make(self, values: dict[str, Any]) -> Path:
        values |= {name: LocalPath(values[name]) for name in ("image", "audio")}
        # Cog reads the file after this has returned, and leaves it; a failed run leaves none.
        if self.made is not None:
            self.made.unlink(missing_ok=True)
        with TemporaryDirectory(prefix="omniavatar-") as folder:
            output = LocalPath(folder) / "avatar.mp4"
            try:
                request = GenerationRequest.from_mapping(values)
                with closing(self.pipeline.stream(request, output)) as events:
                    for event in events:
                        if isinstance(event, Notice):
                            logger.warning("%s", wording.phase(event))
                        if isinstance(event, StepDone | ChunkDone):
                            logger.info("%.1f%% %s", 100 * event.fraction, wording.phase(event))
            except InputError as error:
                field = f" ({error.field})" if error.field else ""
                raise ValueError(f"invalid_input{field}: {error}") from error
            descriptor, place = mkstemp(prefix="omniavatar-", suffix=".mp4")
            with os.fdopen(descriptor, "wb") as file:
                file.write(output.read_bytes())
        self.made = LocalPath(place)
        return Path(place)

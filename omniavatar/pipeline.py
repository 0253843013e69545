"""A portrait and a voice in, a talking person out: the stages in their order."""

import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, Self, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

import omniavatar
from omniavatar.errors import InputError
from omniavatar.events import ChunkDone, Event, Finished, Preparing, StepDone
from omniavatar.inputs import read_inputs
from omniavatar.media.image import fit_image
from omniavatar.media.speech import normalise
from omniavatar.media.video import Mp4Writer, check_output
from omniavatar.memory import Placement, choose_placement
from omniavatar.models import Models
from omniavatar.plan import VideoPlan
from omniavatar.progress import Progress
from omniavatar.request import GenerationRequest
from omniavatar.stages.conditions import Conditions, SpeechRows, encode_prompt
from omniavatar.stages.denoise import Sampler
from omniavatar.stages.guidance import Guidance
from omniavatar.stages.join import Joiner
from omniavatar.stages.latents import encode_tiling, encode_video, to_pixels
from omniavatar.stages.preview import draw_preview
from omniavatar.stages.render import ChunkStep, ChunkVideo, render_chunks
from omniavatar.stages.schedule import make_schedule
from omniavatar.stages.step_cache import plan_skips
from omniavatar.weights.catalog import CATALOG, ModelSpec
from omniavatar.weights.download import Report, fetch
from omniavatar.weights.load import load_models

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A request with its files read and its defaults filled in.

    Attributes:
        request: every setting has a value.
        plan: size and chunks of the video.
        picture: the portrait at the video's size, [3, h, w] in 0..1.
        waveform: mono speech, zero mean and unit variance, silence in front included, [n].
    """

    request: GenerationRequest
    plan: VideoPlan
    picture: NDArray[np.float32]
    waveform: NDArray[np.float32]


class AvatarPipeline:
    """One checkpoint, ready to make videos, one at a time.

    Args:
        models: the networks, in place.
        spec: what the checkpoint was trained with and its defaults.
        placement: device and precision of the transformer's inputs.
    """

    def __init__(self, models: Models, spec: ModelSpec, placement: Placement) -> None:
        self.models = models
        self.spec = spec
        self.placement = placement

    @classmethod
    def from_pretrained(
        cls,
        model: str = "nano",
        *,
        folder: Path | str | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        report: Report | None = None,
    ) -> Self:
        """Load a checkpoint by its name in the catalog; download first what is missing of it.

        Args:
            model: "nano", "1.3B" or "14B".
            folder: where the weights are, in the published or in diffusers' layout; None takes the
                bundled ones, or the place where downloads go (`weights.files.find_folder`).
            device, dtype: None chooses by what the machine has.
            report: told how far a download is; what it raises ends the download.

        Raises:
            InputError: there is no such model.
            WeightsError: a file is missing and can not be downloaded, or does not fit.
        """
        if model not in CATALOG:
            raise InputError(
                f"model is {model!r}. Use one of: {', '.join(CATALOG)}.", field="model"
            )
        spec = CATALOG[model]
        placement = choose_placement(device=device, dtype=dtype)
        models = load_models(
            spec,
            folder=fetch(spec, folder=folder, report=report),
            device=placement.device,
            dtype=placement.dtype,
        )
        return cls(models, spec, placement)

    def check(self, request: GenerationRequest) -> VideoPlan:
        """Do every check that `stream` would do, and say what it would make.

        Raises:
            InputError: the picture, the recording or a setting can not be used.
        """
        return self.prepare(request).plan

    def generate(self, request: GenerationRequest, output: Path | str) -> Finished:
        """Make the whole video; see `stream`."""
        *_, last = self.stream(request, output)
        assert isinstance(last, Finished)
        return last

    @torch.inference_mode()
    def stream(
        self,
        request: GenerationRequest,
        output: Path | str,
        *,
        pieces: Path | None = None,
        notes: Mapping[str, Any] | None = None,
    ) -> Generator[Event, None, None]:
        """Make a video and tell each thing as it happens.

        Closing the generator stops within one step; what is finished by then is left at `output` as
        a playable MP4 that ends with its last chunk.

        Args:
            request: what to make.
            output: where the MP4 goes; a file that is there is replaced.
            pieces: folder that keeps each finished chunk as a playable MP4; see `Mp4Writer`.
            notes: what else the MP4 is to remember beside its settings; values that JSON can hold.

        Raises:
            InputError: the picture, the recording or a setting can not be used; before any work.
            OutputError: the MP4 can not be written.
        """
        output, clock = Path(output), _Clock()
        check_output(output, request.audio)
        with clock.stage("read"):
            job = self.prepare(request)
        request, plan = job.request, job.plan
        settings = {**self._settings(job), **(notes or {})}

        yield Preparing(what="reading prompt, portrait and speech", elapsed_seconds=clock.elapsed)
        with clock.stage("conditions"):
            conditions = self.condition(job)
        progress = Progress(chunks=len(plan.chunks), steps=_given(request.steps))
        keep_lead = request.lead_frame == "keep"
        joiner = Joiner(plan, fade=request.join == "smooth", keep_lead=keep_lead)
        with Mp4Writer(
            output,
            width=plan.width,
            height=plan.height,
            fps=plan.fps,
            audio=request.audio,
            settings=settings,
            silence_seconds=request.silence_seconds + keep_lead / plan.fps,
            audio_start=request.audio_start,
            audio_seconds=request.audio_seconds,
            pieces=pieces,
        ) as writer:
            try:
                work = self.render(job, conditions)
                for piece in clock.timed(work, {ChunkStep: "denoise", ChunkVideo: "decode"}):
                    if isinstance(piece, ChunkStep):
                        progress.step_done()
                        yield self._step_done(piece, job, progress, clock)
                        continue
                    with clock.stage("write"):
                        frames = to_pixels(
                            joiner.new_frames(piece), rounding=request.pixel_rounding
                        )
                        writer.write(frames)
                        if pieces is not None:
                            writer.cut()
                    progress.decode_done()
                    yield ChunkDone(
                        chunk=piece.chunk + 1,
                        chunks=len(plan.chunks),
                        frames=frames,
                        fraction=progress.fraction,
                        elapsed_seconds=clock.elapsed,
                        remaining_seconds=progress.remaining_seconds,
                    )
            finally:
                held = joiner.take_held()  # none, unless the job ends early
                if held is not None:
                    writer.write(to_pixels(held, rounding=request.pixel_rounding))
            with clock.stage("write"):
                writer.finish()
        yield Finished(
            path=output,
            frames=writer.frames,
            fps=plan.fps,
            width=plan.width,
            height=plan.height,
            duration_seconds=writer.frames / plan.fps,
            seed=request.seed,
            settings=settings,
            timings={**clock.seconds, "total": clock.elapsed},
        )

    def prepare(self, request: GenerationRequest) -> "Job":
        """Read the files, fill in the model's defaults and plan the video: all checks, no model.

        Raises:
            InputError: the picture, the recording or a setting can not be used.
        """
        inputs = read_inputs(request, self.spec)
        request, plan = inputs.request, inputs.plan
        self._cache_coefficients(request)
        return Job(
            request=request,
            plan=plan,
            picture=fit_image(
                inputs.image,
                plan.height,
                plan.width,
                border=request.border,
                fit=request.fit,
                focus=inputs.focus,
            ),
            waveform=normalise(inputs.samples),
        )

    def condition(self, job: "Job") -> Conditions:
        """Encode prompt, negative prompt and portrait; the speech follows as chunks need it."""
        models, spec, request = self.models, self.spec, job.request
        prompt, negative_prompt = (
            encode_prompt(models.text_encoder, models.tokenizer, text, tokens=spec.text_tokens).to(
                self.placement.device, self.placement.dtype
            )
            for text in (request.prompt, request.negative_prompt or "")
        )
        picture = torch.from_numpy(job.picture)[None, :, None] * 2 - 1  # [1, 3, 1, h, w]
        reference = encode_video(models.vae, picture, tiling=encode_tiling(request.vae_tiles))
        whole = request.speech_windows == "whole"
        frames = job.plan.padded_audio_frames
        speech = SpeechRows(
            models.speech_encoder,
            torch.from_numpy(job.waveform),
            padded_frames=frames,
            samples_per_frame=spec.sample_rate // spec.fps,
            window_frames=frames if whole else spec.speech_window_frames,
            context_frames=spec.speech_context_frames,
            device=self.placement.device,
            dtype=self.placement.dtype,
        )
        return Conditions(
            prompt=prompt,
            negative_prompt=negative_prompt,
            speech=speech,
            reference=reference.to(self.placement.device),
        )

    def render(
        self,
        job: "Job",
        conditions: Conditions,
        *,
        draw_noise: Callable[[tuple[int, ...]], Tensor] | None = None,
    ) -> Iterator[ChunkStep | ChunkVideo]:
        """Run the model over all chunks; see `stages.render`.

        Args:
            draw_noise: where noise comes from, by shape; None draws it on the CPU from one
                generator with the request's seed, so that a request gives the same video on each
                device and whatever ran before it.
        """
        generator = torch.Generator("cpu").manual_seed(job.request.seed)

        def seeded(shape: tuple[int, ...]) -> Tensor:
            return torch.randn(shape, generator=generator)

        return render_chunks(
            self.models,
            conditions,
            job.plan,
            self._sampler(job.request),
            tiles=job.request.vae_tiles,
            draw_noise=draw_noise or seeded,
        )

    def _step_done(
        self, piece: ChunkStep, job: "Job", progress: Progress, clock: "_Clock"
    ) -> StepDone:
        preview = None
        if self.spec.latent_rgb is not None:
            rows, bias = self.spec.latent_rgb
            preview = draw_preview(piece.step.clean, rows=rows, bias=bias)
        return StepDone(
            chunk=piece.chunk + 1,
            chunks=len(job.plan.chunks),
            step=piece.step.index + 1,
            steps=_given(job.request.steps),
            preview=preview,
            fraction=progress.fraction,
            elapsed_seconds=clock.elapsed,
            remaining_seconds=progress.remaining_seconds,
        )

    def _sampler(self, request: GenerationRequest) -> Sampler:
        schedule = make_schedule(_given(request.steps), shift=self.spec.shift)
        times = schedule.timesteps.to(self.placement.device)
        skips = plan_skips(
            [self.models.transformer.time_modulation(time[None]) for time in times],
            threshold=request.step_cache,
            coefficients=self._cache_coefficients(request),
        )
        keep_precise = request.sample_dtype == "float32"
        return Sampler(
            guidance=Guidance(text=_given(request.guidance), audio=request.audio_guidance),
            schedule=schedule,
            skips=skips,
            skip_third_branch=request.cache_third_pass,
            dtype=self.placement.dtype,
            sample_dtype=torch.float32 if keep_precise else self.placement.dtype,
        )

    def _cache_coefficients(self, request: GenerationRequest) -> Sequence[float]:
        own = request.cache_coefficients == "model"
        coefficients = (self.spec if own else CATALOG["14B"]).cache_coefficients
        if request.step_cache and coefficients is None:
            raise InputError(
                f"step_cache is {request.step_cache:g}, but it is not calibrated for "
                f"{self.spec.name}. Use 0, which turns it off.",
                field="step_cache",
            )
        return coefficients or ()

    def _settings(self, job: "Job") -> dict[str, Any]:
        """What the MP4 remembers: enough to make it again, and no paths of the user's machine."""
        request, plan = job.request, job.plan
        return {
            **request.to_mapping(),
            "image": request.image.name,
            "audio": request.audio.name,
            "model": self.spec.name,
            "width": plan.width,
            "height": plan.height,
            "fps": plan.fps,
            "versions": {
                "omniavatar": omniavatar.__version__,
                **{name: version(name) for name in ("torch", "diffusers", "transformers")},
            },
        }


@dataclass(slots=True)
class _Clock:
    """Adds up seconds by stage."""

    seconds: dict[str, float] = field(default_factory=dict)
    began: float = field(default_factory=time.monotonic)

    @property
    def elapsed(self) -> float:
        return time.monotonic() - self.began

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        start = time.monotonic()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.monotonic() - start

    def timed(self, work: Iterator[T], names: dict[type, str]) -> Iterator[T]:
        """Pass on what `work` makes; the time to make a value counts for its type's stage."""
        while True:
            start = time.monotonic()
            try:
                value = next(work)
            except StopIteration:
                return
            name = names[type(value)]
            self.seconds[name] = self.seconds.get(name, 0.0) + time.monotonic() - start
            yield value


def _given(value: T | None) -> T:
    """A setting that the model's defaults have filled in."""
    assert value is not None, "defaults fill every setting that sampling needs"
    return value

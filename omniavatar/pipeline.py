"""A portrait and a voice in, a talking person out: the stages in their order."""

import logging
import time
import traceback
from collections import OrderedDict
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from threading import Thread
from typing import Any, Self, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

import omniavatar
from omniavatar.errors import FullMemoryError, InputError
from omniavatar.events import ChunkDone, Event, Finished, Notice, Preparing, StepDone
from omniavatar.flops import transformer_flops
from omniavatar.inputs import LastPicture, Picture, cache_coefficients, read_inputs
from omniavatar.media.speech import normalise
from omniavatar.media.video import Mp4Writer, check_output
from omniavatar.memory import (
    Free,
    Placement,
    Work,
    arrange,
    choose_placement,
    describe,
    free_host_memory,
    free_memory,
    needs,
    refit,
    step_down,
)
from omniavatar.models import Models
from omniavatar.models.footprint import Footprint, footprint_of
from omniavatar.placement import is_out_of_memory, place, release
from omniavatar.plan import (
    FRAMES_PER_LATENT,
    PIXELS_PER_TOKEN,
    VideoPlan,
    frames_per_chunk,
)
from omniavatar.progress import Progress
from omniavatar.request import GenerationRequest
from omniavatar.speed import Compilation
from omniavatar.stages.blinks import Blinks
from omniavatar.stages.close_up import CloseUp
from omniavatar.stages.conditions import Conditions, SpeechRows, encode_prompt
from omniavatar.stages.denoise import Sampler
from omniavatar.stages.guidance import Guidance
from omniavatar.stages.join import Joiner
from omniavatar.stages.keep_portrait import PortraitKeeper
from omniavatar.stages.latents import encode_tiling, encode_video, to_pixels
from omniavatar.stages.preview import draw_preview
from omniavatar.stages.render import ChunkStep, ChunkVideo, Rendering
from omniavatar.stages.schedule import make_schedule
from omniavatar.stages.step_cache import plan_skips
from omniavatar.weights.catalog import CATALOG, ModelSpec
from omniavatar.weights.download import Report, fetch
from omniavatar.weights.files import find_faults, find_folder
from omniavatar.weights.load import load_models, measure_files
from omniavatar.weights.presets import LoraChoice
from omniavatar.weights.record import settle_spec
from omniavatar.weights.sizes import footprint_of_spec

T = TypeVar("T")

logger = logging.getLogger(__name__)

KEPT_PROMPTS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A request with its files read and its defaults filled in.

    Attributes:
        request: every setting has a value.
        plan: size and chunks of the video.
        picture: the portrait, or the close-up that is made of it, at the video's size, [3, h, w]
            in 0..1.
        waveform: mono speech, zero mean and unit variance, silence in front included, [n].
        close_up: of what picture it is one, if it is.
        lively: where in the picture things move easily, [h, w] in 0..1; None if they do everywhere.
    """

    request: GenerationRequest
    plan: VideoPlan
    picture: NDArray[np.float32]
    waveform: NDArray[np.float32]
    close_up: CloseUp | None = None
    lively: NDArray[np.float32] | None = None


class AvatarPipeline:
    """One checkpoint, ready to make videos, one at a time.

    Args:
        models: the networks, in place.
        spec: what the checkpoint was trained with and its defaults.
        placement: where they are, and the precision of the transformer's inputs. It changes when
            memory runs out.
        budget: bytes of the device's memory that all of it may take; None is not known, and then
            only an error shows that it is too little.
        compilation: when the transformer's blocks are compiled; None is "auto".
    """

    def __init__(
        self,
        models: Models,
        spec: ModelSpec,
        placement: Placement,
        *,
        budget: int | None = None,
        compilation: Compilation | None = None,
    ) -> None:
        self.models = models
        self.spec = spec
        self.placement = placement
        self._budget = budget
        self._compilation = compilation or Compilation()
        self._ran_out = False
        self._is_placed = True
        self._prompts: OrderedDict[str, Tensor] = OrderedDict()
        self._last_picture = LastPicture()

    @property
    def arrangement(self) -> str:
        """Where the networks are and in which precision, in words."""
        return describe(self.placement)

    @cached_property
    def footprint(self) -> Footprint:
        """How large the networks are."""
        return footprint_of(self.models)

    @classmethod
    def from_pretrained(
        cls,
        model: str = "nano",
        *,
        folder: Path | str | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        memory: str = "auto",
        compile: str = "auto",
        loras: Sequence[LoraChoice] = (),
        merge: bool = True,
        report: Report | None = None,
    ) -> Self:
        """Load a checkpoint by its name in the catalog; download first what is missing of it.

        Args:
            model: "nano", "1.3B" or "14B".
            folder: where the weights are, in the published or in diffusers' layout; None takes the
                bundled ones, or the place where downloads go (`weights.files.find_folder`).
            device, dtype: None chooses by what the machine has.
            memory: "auto" arranges the networks by the memory that is free, one of `MEMORY_TIERS`
                as for a card of that size.
            compile: "auto" compiles the transformer's blocks, and what can be of the VAE, on CUDA
                once the work that was asked for is worth it, "on" at once and on any device, "off"
                never; see `speed`.
            loras: further LoRAs over the transformer; the preset of one changes the pipeline's
                `spec`.
            merge: merge these and the adapter into the weights. False keeps their low-rank changes
                beside, as adapters of diffusers that can be weighed anew, at more work a step.
            report: told how far a download is; what it raises ends the download.

        Raises:
            InputError: there is no such model, too little memory for it, or a preset does not fit.
            WeightsError: a file is missing and can not be downloaded, or does not fit.
            FullMemoryError: the device's memory ran out in every arrangement.
        """
        spec = settle_spec(_spec(model), folder=folder, loras=loras)
        chosen = choose_placement(device=device, dtype=dtype, cpu_dtype=spec.cpu_dtype)
        free, work = free_memory(chosen.device, memory), longest_work(spec)
        if find_faults(spec, find_folder(spec, folder)):
            _foresee(lambda: arrange(chosen, footprint_of_spec(spec), work, free, name=model))
        folder = fetch(spec, folder=folder, report=report)
        sizes, fp8 = measure_files(spec, folder)
        placement = arrange(replace(chosen, fp8=fp8), sizes, work, free, name=model)
        while True:
            try:
                models = _load(spec, placement, folder=folder, merge=merge, loras=loras)
                break
            except RuntimeError as error:  # somebody else has taken what was free
                fault = _memory_fault(error)
            below = _below(placement, sizes, work)
            if below is None:
                raise FullMemoryError(
                    f"The memory of {placement.device} is too small to load {model} with "
                    f"{describe(placement)}. Close what else runs on it, or use a smaller model or "
                    "a larger device."
                ) from fault
            placement = below
            logger.warning("memory ran out; loading %s with %s", model, describe(placement))
        return cls(models, spec, placement, budget=free.device, compilation=Compilation(compile))

    @staticmethod
    def fits_whole(
        model: str,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        memory: str = "auto",
    ) -> bool:
        """Whether all of a model has room on the device beside what is there now.

        Raises:
            InputError: there is no such model, device or tier.
        """
        spec = _spec(model)
        chosen = choose_placement(device=device, dtype=dtype, cpu_dtype=spec.cpu_dtype)
        free = free_memory(chosen.device, memory)
        try:
            found = arrange(chosen, footprint_of_spec(spec), longest_work(spec), free, name=model)
        except InputError:
            return False
        return found == chosen

    def close(self) -> None:
        """Give the memory of the networks back; the pipeline is of no more use."""
        del self.models
        release(self.placement.device)

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

    # Not `inference_mode`: offloaded weights are put into place while it runs, which it forbids.
    @torch.no_grad()
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
            FullMemoryError: the device's memory ran out in every arrangement; what is finished is
                left at `output`.
        """
        output, clock = Path(output), _Clock()
        check_output(output, request.audio)
        with clock.stage("read"):
            job = self.prepare(request)
        request, plan = job.request, job.plan
        settings = {**self._settings(job), **(notes or {})}

        yield Preparing(what="reading prompt, portrait and speech", elapsed_seconds=clock.elapsed)
        yield from self._fit(job, clock)
        with clock.stage("conditions"):
            conditions = yield from self._persist(lambda: self.condition(job), job, clock)
        rendering = self._rendering(job, conditions)
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
            pen = _Pen(writer, cuts=pieces is not None)
            chunk_done: ChunkDone | None = None
            try:
                for piece in self._pieces(rendering, job, clock):
                    if chunk_done is not None:  # written while the next chunk began
                        with clock.stage("write"):
                            pen.wait()
                        yield chunk_done
                        chunk_done = None
                    if isinstance(piece, Notice):
                        progress.chunk_lost()
                        yield piece
                        continue
                    if isinstance(piece, ChunkStep):
                        progress.step_done()
                        yield self._step_done(piece, job, progress, clock)
                        continue
                    with clock.stage("write"):
                        frames = yield from self._frames(piece, joiner, job, clock)
                        pen.begin(frames)
                    progress.decode_done()
                    chunk_done = ChunkDone(
                        chunk=piece.chunk + 1,
                        chunks=len(plan.chunks),
                        frames=frames,
                        fraction=progress.fraction,
                        elapsed_seconds=clock.elapsed,
                        remaining_seconds=progress.remaining_seconds,
                    )
                    del piece  # the next chunk needs the room
                with clock.stage("write"):
                    pen.wait()
                if chunk_done is not None:
                    yield chunk_done
            except FullMemoryError:
                if chunk_done is not None:  # it is finished, whatever became of the next
                    pen.wait()
                    yield chunk_done
                raise
            finally:
                pen.wait()
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
        inputs = read_inputs(request, self.spec, last_picture=self._last_picture)
        request, plan = inputs.request, inputs.plan
        self._refit(plan)
        portrait, close_up = _animated(inputs.picture, request)
        return Job(
            request=request,
            plan=plan,
            picture=portrait,
            waveform=normalise(inputs.samples),
            close_up=close_up,
            lively=_lively(inputs.picture),
        )

    def condition(self, job: "Job") -> Conditions:
        """Encode prompt, negative prompt and portrait; the speech follows as chunks need it."""
        models, spec, request = self.models, self.spec, job.request
        prompt, negative_prompt = map(self._embed, (request.prompt, request.negative_prompt or ""))
        blinking = self._embed(spec.blink_prompt) if spec.blink_prompt else None
        picture = _portrait(job) * 2 - 1
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
            blinking=blinking,
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
        rendering = self._rendering(job, conditions, draw_noise=draw_noise)
        return rendering.run(self.models, self._sampler(job.request))

    def _rendering(
        self,
        job: "Job",
        conditions: Conditions,
        *,
        draw_noise: Callable[[tuple[int, ...]], Tensor] | None = None,
    ) -> Rendering:
        generator = torch.Generator("cpu").manual_seed(job.request.seed)

        def seeded(shape: tuple[int, ...]) -> Tensor:
            return torch.randn(shape, generator=generator)

        return Rendering(
            conditions,
            job.plan,
            tiles=job.request.vae_tiles,
            draw_noise=draw_noise or seeded,
            blinks=Blinks(job.plan, job.request.seed),
            keeper=_keeper(job) if self.spec.keep_portrait else None,
            close_up=job.close_up,
        )

    def _embed(self, prompt: str) -> Tensor:
        """The embedding of a prompt, [1, l, x], where the transformer takes it.

        The last few are kept on the CPU, since their encoder may have to be brought in.
        """
        known = self._prompts.pop(prompt, None)
        if known is None:
            known = encode_prompt(
                self.models.text_encoder,
                self.models.tokenizer,
                prompt,
                tokens=self.spec.text_tokens,
                device=self.placement.device,
            ).cpu()
        self._prompts[prompt] = known
        while len(self._prompts) > KEPT_PROMPTS:
            self._prompts.popitem(last=False)
        return known.to(self.placement.device, self.placement.dtype)

    def _refit(self, plan: VideoPlan) -> Placement:
        """The placement for a video's size and chunks.

        Raises:
            InputError: they take too much memory in every arrangement.
        """
        return refit(
            self.placement,
            self.footprint,
            _work(plan),
            Free(device=self._budget, host=free_host_memory()),
            name=self.spec.name,
            keep_tiles=self._ran_out and self.placement.vae_tiled,
        )

    def _fit(self, job: "Job", clock: "_Clock") -> Iterator[Notice]:
        """Place the networks for a job before it begins."""
        placement = self._refit(job.plan)
        if self._is_placed and placement == self.placement:
            return
        if replace(placement, vae_tiled=self.placement.vae_tiled) != self.placement:
            what = f"this video needs another arrangement: {describe(placement)}"
            yield Notice(what=what, elapsed_seconds=clock.elapsed)
        try:
            self._place(placement, clock)
        except RuntimeError as error:
            fault = _memory_fault(error)
        else:
            return
        yield self._step_down(fault, job, clock)

    def _place(self, placement: Placement, clock: "_Clock") -> None:
        """Carry a placement out. Networks that this leaves half moved are placed by the next job,
        even if it needs no other arrangement."""
        self.placement, self._is_placed = placement, False
        with clock.stage("place"):
            place(self.models, placement)
        self._is_placed = True

    def _pieces(
        self, rendering: Rendering, job: "Job", clock: "_Clock"
    ) -> Iterator[ChunkStep | ChunkVideo | Notice]:
        """Make all chunks; when memory runs out, place the networks anew and go on."""
        stages: dict[type, str] = {ChunkStep: "denoise", ChunkVideo: "decode"}
        flops, pixels = self._flops(job), _decoded_pixels(job.plan)
        while not rendering.finished:
            self._compilation.prepare(
                self.models.transformer, self.models.vae, flops=flops, pixels=pixels
            )
            flops, pixels = 0.0, 0.0
            try:
                yield from clock.timed(
                    rendering.run(self.models, self._sampler(job.request)), stages
                )
            except RuntimeError as error:
                fault = _memory_fault(error)
            else:
                return
            yield self._step_down(fault, job, clock)

    def _flops(self, job: "Job") -> float:
        """Arithmetic of the transformer for a whole video."""
        request = job.request
        guidance = Guidance(text=_given(request.guidance), audio=request.audio_guidance)
        forwards = len(job.plan.chunks) * _given(request.steps) * len(guidance.branches)
        config = self.models.transformer.config
        return forwards * transformer_flops(config, tokens=_work(job.plan).tokens)

    def _frames(
        self, piece: ChunkVideo, joiner: Joiner, job: "Job", clock: "_Clock"
    ) -> Generator[Notice, None, NDArray[np.uint8]]:
        """The frames that a chunk adds to the video, [n, h, w, 3]."""
        video = yield from self._persist(lambda: joiner.new_frames(piece), job, clock)
        rounding = job.request.pixel_rounding
        frames = yield from self._persist(lambda: to_pixels(video, rounding=rounding), job, clock)
        return frames

    def _persist(
        self, work: Callable[[], T], job: "Job", clock: "_Clock"
    ) -> Generator[Notice, None, T]:
        """The result of one piece of work, tried again after each step down."""
        while True:
            try:
                return work()
            except RuntimeError as error:
                fault = _memory_fault(error)
            yield self._step_down(fault, job, clock)

    def _step_down(self, fault: RuntimeError, job: "Job", clock: "_Clock") -> Notice:
        """Place the networks in the next smaller arrangement, after memory ran out.

        Raises:
            FullMemoryError: there is none.
        """
        self._ran_out = True
        while True:
            release(self.placement.device)
            below = step_down(
                self.placement, self.footprint, _work(job.plan), host=free_host_memory()
            )
            if below is None:
                raise FullMemoryError(
                    f"The memory of {self.placement.device} is too small for {self.spec.name} with "
                    f"{self.arrangement}. Close what else runs on it, lower max_tokens (now "
                    f"{job.request.max_tokens}), or use a smaller model or a larger device."
                ) from fault
            try:
                self._place(below, clock)
                break
            except RuntimeError as error:  # not even to move has it room
                fault = _memory_fault(error)
        what = f"memory ran out; going on with {self.arrangement}"
        return Notice(what=what, elapsed_seconds=clock.elapsed)

    def _step_done(
        self, piece: ChunkStep, job: "Job", progress: Progress, clock: "_Clock"
    ) -> StepDone:
        preview = None
        if self.spec.latent_rgb is not None:
            rows, bias = self.spec.latent_rgb
            preview = draw_preview(piece.step.clean, rows=rows, bias=bias)
            if job.close_up is not None:
                preview = job.close_up.place_preview(preview)
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
        preset = self.spec.preset
        schedule = make_schedule(
            _given(request.steps),
            shift=self.spec.shift,
            timesteps=preset.timesteps if preset else None,
        )
        keep_precise = request.sample_dtype == "float32"
        sample_dtype = torch.float32 if keep_precise else self.placement.dtype
        times = schedule.timesteps.to(self.placement.device, sample_dtype)  # as steps are told them
        skips = plan_skips(
            [self.models.transformer.time_modulation(time[None]) for time in times],
            threshold=request.step_cache,
            coefficients=cache_coefficients(request, self.spec),
        )
        return Sampler(
            guidance=Guidance(text=_given(request.guidance), audio=request.audio_guidance),
            schedule=schedule,
            skips=skips,
            skip_third_branch=request.cache_third_pass,
            dtype=self.placement.dtype,
            sample_dtype=sample_dtype,
        )

    def _settings(self, job: "Job") -> dict[str, Any]:
        """What the MP4 remembers: enough to make it again, and no paths of the user's machine."""
        request, plan = job.request, job.plan
        return {
            **request.to_mapping(),
            "image": request.image.name,
            "audio": request.audio.name,
            "model": self.spec.name,
            **({"preset": self.spec.preset.name} if self.spec.preset else {}),
            "width": plan.width,
            "height": plan.height,
            "fps": plan.fps,
            "versions": {
                "omniavatar": omniavatar.__version__,
                **{name: version(name) for name in ("torch", "diffusers", "transformers")},
            },
        }


def _foresee(work: Callable[[], object]) -> None:
    """Warn of what is going to fail, for a person who is about to wait for a download."""
    try:
        work()
    except InputError as error:
        logger.warning("%s", error)


def _spec(model: str) -> ModelSpec:
    if model not in CATALOG:
        raise InputError(f"model is {model!r}. Use one of: {', '.join(CATALOG)}.", field="model")
    return CATALOG[model]


def longest_work(spec: ModelSpec) -> Work:
    """The chunk that a model makes of itself, at the first of its sizes."""
    height, width = spec.sizes[0]
    return _chunk_work(frames_per_chunk(spec.max_tokens, height, width), height, width)


def _portrait(job: Job) -> Tensor:
    """The portrait at the video's size, [1, 3, 1, h, w] in 0..1."""
    return torch.from_numpy(job.picture)[None, :, None]


def _animated(
    picture: Picture, request: GenerationRequest
) -> tuple[NDArray[np.float32], CloseUp | None]:
    """What the model is shown, [3, h, w] in 0..1, and what puts it back if it is a close-up."""
    framed = picture.framed(request.border)
    if picture.close_up is None:
        return framed, None
    portrait = picture.looked_at_closer()
    return portrait, CloseUp(framed, portrait, picture.close_up)


def _lively(picture: Picture) -> NDArray[np.float32] | None:
    """Where a photograph's face moves that speaks, as the model is shown it, [h, w] in 0..1."""
    if picture.speaker is None:
        return None
    from omniavatar.media.face import speaking_parts  # takes OpenCV, which most do not

    height, width, face = picture.height, picture.width, picture.speaker
    if picture.close_up is not None:
        left, top, right, bottom = picture.close_up
        face = face.within((left / width, top / height, right / width, bottom / height))
    return speaking_parts(face, height=height, width=width)


def _keeper(job: Job) -> PortraitKeeper:
    lively = None if job.lively is None else torch.from_numpy(job.lively)
    return PortraitKeeper(_portrait(job), lively=lively)


def _work(plan: VideoPlan) -> Work:
    return _chunk_work(plan.chunk_frames, plan.height, plan.width)


def _decoded_pixels(plan: VideoPlan) -> float:
    return float(len(plan.chunks) * plan.chunk_frames * plan.height * plan.width)


def _chunk_work(frames: int, height: int, width: int) -> Work:
    latent_frames = (frames - 1) // FRAMES_PER_LATENT + 1
    tokens = latent_frames * height * width // PIXELS_PER_TOKEN
    return Work(tokens=tokens, frames=frames, height=height, width=width)


def _load(
    spec: ModelSpec,
    placement: Placement,
    *,
    folder: Path,
    merge: bool,
    loras: Sequence[LoraChoice],
) -> Models:
    models = load_models(
        spec,
        folder=folder,
        device=placement.device,
        dtype=placement.dtype,
        merge=merge,
        loras=loras,
        waiting=placement.offloaded,
        fp8=placement.fp8,
    )
    place(models, placement)
    return models


def _below(placement: Placement, sizes: Footprint, work: Work) -> Placement | None:
    """The next smaller arrangement for networks that did not come to be placed."""
    release(placement.device)
    host = free_host_memory()
    if host is not None:
        host -= needs(placement, sizes, work).host  # which nothing takes yet
    return step_down(placement, sizes, work, host=host)


def _memory_fault(error: RuntimeError) -> RuntimeError:
    """An error that memory ran out, without what the functions that it went through had in theirs.

    Raises:
        RuntimeError: it is another error.
    """
    if not is_out_of_memory(error):
        raise error
    linked: BaseException | None = error
    while linked is not None:
        traceback.clear_frames(linked.__traceback__)
        linked.__traceback__ = None
        linked = linked.__cause__ or linked.__context__
    return error


class _Pen:
    """Encodes a chunk's frames beside the work on the next chunk, one chunk at a time.

    Args:
        cuts: end a piece after each chunk.
    """

    def __init__(self, writer: Mp4Writer, *, cuts: bool) -> None:
        self._writer, self._cuts = writer, cuts
        self._thread: Thread | None = None
        self._error: BaseException | None = None

    def begin(self, frames: NDArray[np.uint8]) -> None:
        """Hand frames over; they are written when `wait` returns."""
        self.wait()
        self._thread = Thread(target=self._write, args=(frames,), name="encode")
        self._thread.start()

    def wait(self) -> None:
        """Wait for what was handed over.

        Raises:
            OutputError: it could not be written.
        """
        if self._thread is None:
            return
        self._thread.join()
        self._thread, error, self._error = None, self._error, None
        if error is not None:
            raise error

    def _write(self, frames: NDArray[np.uint8]) -> None:
        try:
            self._writer.write(frames)
            if self._cuts:
                self._writer.cut()
        except BaseException as error:  # it belongs to whoever waits
            self._error = error


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
            del value  # not to be held while the next one is made


def _given(value: T | None) -> T:
    """A setting that the model's defaults have filled in."""
    assert value is not None, "defaults fill every setting that sampling needs"
    return value

"""One chunk of a network of full size, stage by stage, and diffusers' own transformer beside it."""

import dataclasses
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import WanTransformer3DModel
from torch import Tensor

from omniavatar.bench.machine import (
    Machine,
    Stages,
    attention_rates,
    matmul_ceiling,
    peak_host_bytes,
    seconds_of,
)
from omniavatar.bench.random_networks import random_models
from omniavatar.flops import chunk_tokens, transformer_flops
from omniavatar.memory import Work, check_fit, choose_placement, free_memory
from omniavatar.models import Models
from omniavatar.models.transformer import OmniAvatarTransformer3DModel
from omniavatar.plan import FRAMES_PER_LATENT, frames_per_chunk
from omniavatar.speed import (
    arrange_for_convolution,
    attention_kernel,
    compiler_problem,
    set_compiled,
    set_vae_compiled,
)
from omniavatar.stages.conditions import SpeechRows, encode_prompt
from omniavatar.stages.denoise import ChunkInputs, Sampler, audio_terms, denoise
from omniavatar.stages.guidance import Guidance
from omniavatar.stages.latents import decode_latents, encode_video, to_pixels
from omniavatar.stages.schedule import make_schedule
from omniavatar.weights.build import empty
from omniavatar.weights.catalog import ModelSpec
from omniavatar.weights.sizes import footprint_of_spec

ROUNDS = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """The chunk that is measured: latent frames, and the picture's size in pixels."""

    latent_frames: int
    height: int
    width: int

    @property
    def tokens(self) -> int:
        return chunk_tokens(latent_frames=self.latent_frames, height=self.height, width=self.width)

    @property
    def frames(self) -> int:
        return FRAMES_PER_LATENT * (self.latent_frames - 1) + 1

    @property
    def work(self) -> Work:
        return Work(tokens=self.tokens, frames=self.frames, height=self.height, width=self.width)

    @classmethod
    def of(cls, spec: ModelSpec, tokens: int | None) -> "Shape":
        """The model's own chunk at its first size, or one with about so many tokens."""
        height, width = spec.sizes[0]
        if tokens is None:
            frames = frames_per_chunk(spec.max_tokens, height, width)
            return cls(
                latent_frames=(frames - 1) // FRAMES_PER_LATENT + 1, height=height, width=width
            )
        if tokens < 4 * chunk_tokens(latent_frames=1, height=height, width=width):
            height = width = 64
        a_frame = chunk_tokens(latent_frames=1, height=height, width=width)
        return cls(latent_frames=max(4, tokens // a_frame), height=height, width=width)


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Another way to run the same steps, measured in turns with ours: this, that, that, this.

    Attributes:
        what: the other way.
        step_seconds: its median.
        ratio: our median over it.
        difference: of one prediction from ours, relative to its size.
    """

    what: str
    step_seconds: float
    ratio: float
    difference: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunkReport:
    """One run's figures.

    Attributes:
        model, dtype, tokens, frames, height, width: what ran; its weights are random.
        machine: where.
        attention: the kernel that torch chose.
        attention_rates: operations a second of each kernel at this many tokens.
        matmul_before, matmul_after: operations a second of a large matrix product.
        forward_flops: of one forward of the transformer, by the closed form.
        forwards: of the transformer, counted, in one step with guidance.
        step_seconds: median of a step with guidance; `fastest`, `slowest`: of its blocks of steps.
        rate: operations a second of such a step; `share`: of the matrix product's.
        compiled: whether the blocks were; `compile_seconds`: what that took.
        stages: seconds of each other stage of a chunk, warm; `denoise` is one step.
        peak_bytes: most device memory of each stage, all networks being on the device.
        reserved_bytes, host_bytes: most that the process took of the device and of the host.
        steps: of a video; the two figures below are reckoned for so many, not run.
        chunk_seconds: of one chunk; `seconds_per_second`: of work for a second of new video.
        comparison: with plain diffusers, where asked for.
    """

    model: str
    machine: Machine
    dtype: str
    tokens: int
    frames: int
    height: int
    width: int
    attention: str
    attention_rates: dict[str, float]
    matmul_before: float
    matmul_after: float
    forward_flops: float
    forwards: int
    step_seconds: float
    fastest: float
    slowest: float
    rate: float
    share: float
    compiled: bool
    compile_seconds: float
    stages: dict[str, float]
    peak_bytes: dict[str, int]
    reserved_bytes: int | None
    host_bytes: int | None
    steps: int
    chunk_seconds: float
    seconds_per_second: float
    comparison: Comparison | None

    def to_mapping(self) -> dict[str, Any]:
        return {"kind": "chunk", **dataclasses.asdict(self)}


@torch.inference_mode()
def measure_chunk(
    spec: ModelSpec,
    *,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    tokens: int | None = None,
    steps: int = 4,
    compile_blocks: bool = True,
    compare: bool = False,
) -> ChunkReport:
    """Measure a chunk of a checkpoint's sizes with random weights, everything on the device.

    Args:
        device, dtype: None chooses by what the machine has.
        tokens: about so many; None takes the model's own chunk.
        steps: in a block that is timed; four blocks are.
        compile_blocks: where there is a compiler.
        compare: run diffusers' own transformer in turns with ours.

    Raises:
        InputError: there is too little memory for the networks and the chunk.
    """
    chosen = choose_placement(device=device, dtype=dtype)
    device, dtype = chosen.device, chosen.dtype
    shape = Shape.of(spec, tokens)
    check_fit(chosen, footprint_of_spec(spec), shape.work, free_memory(device), name=spec.name)
    before = matmul_ceiling(device)
    models = random_models(spec, device=device, dtype=dtype)
    transformer = models.transformer
    config = transformer.config
    heads, head_dim = config.num_attention_heads, config.attention_head_dim
    rates = attention_rates(device, dtype, heads=heads, head_dim=head_dim, tokens=shape.tokens)
    if device.type == "cuda":
        arrange_for_convolution(models.vae)
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)

    stages = Stages(device)
    inputs = make_inputs(models, spec, shape, stages, device=device, dtype=dtype)
    sampler = make_sampler(steps, spec, dtype=dtype)
    other = _share_with_diffusers(transformer) if compare else None
    compiled = compile_blocks and compiler_problem(device) is None
    if compiled:
        set_compiled(transformer, True)
    one = dataclasses.replace(sampler, schedule=make_schedule(1, shift=spec.shift))
    forwards: list[int] = []
    hook = transformer.register_forward_hook(lambda *_: forwards.append(1))
    first = seconds_of(lambda: _run(transformer, inputs, one), device)
    hook.remove()
    with stages.stage("denoise"):
        latents = _run(transformer, inputs, one)
    assert latents.isfinite().all(), "random weights keep numbers finite"

    def ours() -> float:
        return seconds_of(lambda: _run(transformer, inputs, sampler), device) / steps

    times, comparison = [], None
    if other is None:
        times = [ours() for _ in range(2 * ROUNDS)]
    else:
        if compiled:
            other.compile_repeated_blocks(fullgraph=True)
        plain = other
        _run_diffusers(plain, inputs, one)

        def theirs() -> float:
            return seconds_of(lambda: _run_diffusers(plain, inputs, sampler), device) / steps

        times, others = _in_turns(ours, theirs)
        comparison = Comparison(
            what=f"diffusers WanTransformer3DModel, {'compiled' if compiled else 'uncompiled'}",
            step_seconds=statistics.median(others),
            ratio=statistics.median(times) / statistics.median(others),
            difference=_difference(transformer, plain, inputs, dtype),
        )
        del other, plain
    step_seconds = statistics.median(times)

    _decode(models, latents, stages, compiled=compiled)
    branches = len(sampler.guidance.branches)
    flops = transformer_flops(spec, tokens=shape.tokens)
    after = matmul_ceiling(device)
    rate = branches * flops / step_seconds
    each_chunk = ("audio terms", "encode", "decode", "pixels")
    chunk_seconds = spec.steps * step_seconds + sum(stages.seconds[name] for name in each_chunk)
    return ChunkReport(
        model=spec.name,
        machine=Machine.of(device),
        dtype=str(dtype).removeprefix("torch."),
        tokens=shape.tokens,
        frames=shape.frames,
        height=shape.height,
        width=shape.width,
        attention=attention_kernel(device, dtype, head_dim=head_dim, tokens=shape.tokens),
        attention_rates=rates,
        matmul_before=before,
        matmul_after=after,
        forward_flops=flops,
        forwards=len(forwards),
        step_seconds=step_seconds,
        fastest=min(times),
        slowest=max(times),
        rate=rate,
        share=rate / max(before, after),
        compiled=compiled,
        compile_seconds=max(0.0, first - step_seconds) if compiled else 0.0,
        stages={**stages.seconds, "denoise": step_seconds},
        peak_bytes=stages.peak_bytes,
        reserved_bytes=stages.reserved_bytes,
        host_bytes=peak_host_bytes(),
        steps=spec.steps,
        chunk_seconds=chunk_seconds,
        seconds_per_second=chunk_seconds * spec.fps / (shape.frames - spec.overlap_frames)
        if shape.frames > spec.overlap_frames
        else chunk_seconds,
        comparison=comparison,
    )


def make_inputs(
    models: Models,
    spec: ModelSpec,
    shape: Shape,
    stages: Stages,
    *,
    device: torch.device,
    dtype: torch.dtype,
) -> ChunkInputs:
    """Make the conditions of a chunk through the stages that make them, each run twice."""
    generator = torch.Generator(device).manual_seed(1)

    def noise(*size: int) -> Tensor:
        return torch.randn(size, generator=generator, device=device)

    samples = shape.frames * spec.sample_rate // spec.fps
    waveform = noise(samples).cpu()
    overlap = min(spec.overlap_frames, shape.frames)
    for _ in range(2):  # the first time is slower, and written over
        with stages.stage("text"):
            contexts = {
                has_prompt: encode_prompt(
                    models.text_encoder,
                    models.tokenizer,
                    text,
                    tokens=spec.text_tokens,
                    device=device,
                ).to(device, dtype)
                for has_prompt, text in ((True, spec.prompt), (False, spec.negative_prompt))
            }
        with stages.stage("speech"):
            rows = SpeechRows(
                models.speech_encoder,
                waveform,
                padded_frames=shape.frames,
                samples_per_frame=spec.sample_rate // spec.fps,
                window_frames=spec.speech_window_frames,
                context_frames=spec.speech_context_frames,
                device=device,
                dtype=dtype,
            ).rows(0, shape.frames)
        with stages.stage("audio terms"):
            audio = audio_terms(models.transformer, rows, Guidance(text=spec.guidance))
        with stages.stage("encode"):
            video = noise(1, 3, overlap, shape.height, shape.width).clamp(-1, 1)
            known = encode_video(models.vae, video)
    scale = models.vae.config.scale_factor_spatial
    size = (shape.height // scale, shape.width // scale)
    return ChunkInputs(
        noise=noise(1, known.shape[1], shape.latent_frames, *size),
        known=known,
        reference=known[:, :, :1],
        contexts=contexts,
        audio=audio,
    )


def make_sampler(steps: int, spec: ModelSpec, *, dtype: torch.dtype) -> Sampler:
    """The sampler of a video with the model's defaults, but for the number of steps."""
    return Sampler(
        guidance=Guidance(text=spec.guidance),
        schedule=make_schedule(steps, shift=spec.shift),
        skips=(False,) * steps,
        skip_third_branch=False,
        dtype=dtype,
        sample_dtype=torch.float32,
    )


def _run(
    transformer: OmniAvatarTransformer3DModel, inputs: ChunkInputs, sampler: Sampler
) -> Tensor:
    *_, last = denoise(transformer, inputs, sampler)
    return last.latents


def _share_with_diffusers(transformer: OmniAvatarTransformer3DModel) -> WanTransformer3DModel:
    """Diffusers' own class with the same weights, those of the audio modules left out."""
    settings = {
        name: value
        for name, value in transformer.config.items()
        if not name.startswith(("audio_", "_"))
    }
    other = empty(lambda: WanTransformer3DModel.from_config(settings))
    own = transformer.state_dict()
    other.load_state_dict({name: own[name] for name in other.state_dict()}, assign=True)
    other.rope.to(transformer.rope.freqs_cos.device)
    return other.requires_grad_(False).eval()


def _run_diffusers(other: WanTransformer3DModel, inputs: ChunkInputs, sampler: Sampler) -> Tensor:
    """The same steps, written plainly over the library: without speech and given frames."""
    schedule = make_schedule(len(sampler.schedule.timesteps), shift=sampler.schedule.config.shift)
    latents = inputs.noise
    reference = inputs.reference.expand(-1, -1, latents.shape[2], -1, -1)
    fixed = torch.cat([reference, torch.ones_like(latents[:, :1])], dim=1)
    for timestep in schedule.timesteps.to(latents.device):
        model_input = torch.cat([latents, fixed], dim=1).to(sampler.dtype)
        full, neither = (
            other(model_input, timestep[None], inputs.contexts[prompt], return_dict=False)[0]
            for prompt in (True, False)
        )
        guided = neither + sampler.guidance.text * (full - neither)
        latents = schedule.step(guided, timestep, latents, return_dict=False)[0]
    return latents


def _difference(
    transformer: OmniAvatarTransformer3DModel,
    other: WanTransformer3DModel,
    inputs: ChunkInputs,
    dtype: torch.dtype,
) -> float:
    """How far the two are apart without audio, whose terms diffusers' class does not know."""
    latents = inputs.noise.to(dtype)
    model_input = torch.cat([latents, latents, latents[:, :1]], dim=1)
    time = torch.full((1,), 500.0, device=latents.device)
    silence = torch.zeros_like(inputs.audio[True])
    ours = transformer(
        model_input, time, inputs.contexts[True], audio_conditioning=silence, return_dict=False
    )[0].float()
    theirs = other(model_input, time, inputs.contexts[True], return_dict=False)[0].float()
    return ((ours - theirs).norm() / theirs.norm()).item()


def _in_turns(
    one: Callable[[], float], other: Callable[[], float]
) -> tuple[list[float], list[float]]:
    ones, others = [], []
    for _ in range(ROUNDS):
        ones.append(one())
        others += [other(), other()]
        ones.append(one())
    return ones, others


def _decode(models: Models, latents: Tensor, stages: Stages, *, compiled: bool) -> None:
    for _ in range(3):
        with stages.stage("decode"):
            video = decode_latents(models.vae, latents)
    if compiled:
        set_vae_compiled(models.vae, True)
        for name in ("compile VAE", "decode, compiled", "decode, compiled"):
            with stages.stage(name):
                decode_latents(models.vae, latents)
    with stages.stage("pixels"):
        to_pixels((video + 1) / 2, rounding="nearest")
    assert video.isfinite().all(), "random weights keep numbers finite"

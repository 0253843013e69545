"""Noise to the latents of one chunk, step by step.

Source: OmniAvatar (arXiv 2506.18866); Omni-Avatar/OmniAvatar wan_video.py, Apache-2.0.
"""

# c latent channels, f latent frames, h, w latent rows and columns, t video frames, a audio features
# n audio projections, d model width, l text tokens, x text width

from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from torch import Tensor

from omniavatar.models.transformer import BlockResidual, Moments, OmniAvatarTransformer3DModel
from omniavatar.stages.conditions import without_padding
from omniavatar.stages.guidance import SILENT, Guidance


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampler:
    """Everything about sampling that is the same for each chunk.

    Attributes:
        guidance: the forwards of a step and their scales.
        schedule: sigmas and step; see `stages.schedule`. It is never advanced itself.
        skips: for each step, whether it reuses the last residual of the blocks.
        skip_third_branch: let the third forward of a separate audio guidance skip as well; the
            published code never does.
        dtype: precision of the transformer's inputs.
        sample_dtype: precision of the latents and timesteps between steps.
    """

    guidance: Guidance
    schedule: FlowMatchEulerDiscreteScheduler
    skips: tuple[bool, ...]
    skip_third_branch: bool
    dtype: torch.dtype
    sample_dtype: torch.dtype


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunkInputs:
    """The conditions of one chunk.

    Attributes:
        noise: [1, c, f, h, w], all frames, although those that are known get overwritten.
        known: clean latents of the given first frames, [1, c, k, h, w].
        reference: latent of the portrait, [1, c, 1, h, w].
        contexts: text embedding of the prompt (True) and the negative prompt (False), [1, l, x].
        audio: audio terms with the speech (True) and with silence (False), [1, n, f, d].
        moments: what stands in for the prompt in some frames; the negative prompt holds in all.
    """

    noise: Tensor
    known: Tensor
    reference: Tensor
    contexts: Mapping[bool, Tensor]
    audio: Mapping[bool, Tensor]
    moments: Moments | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What one step did.

    Attributes:
        index: from 0.
        prediction: guided velocity, [1, c, f, h, w].
        clean: the step's estimate of the finished latents, [1, c, f, h, w].
        latents: after the step, before the known frames are written again, [1, c, f, h, w].
    """

    index: int
    prediction: Tensor
    clean: Tensor
    latents: Tensor


def audio_terms(
    transformer: OmniAvatarTransformer3DModel, rows: Tensor, guidance: Guidance
) -> dict[bool, Tensor]:
    """The audio terms that a chunk needs: with its speech, and with silence when guided.

    "Silence" is an embedding of zeros, which leaves the biases of the audio modules, as published.

    Args:
        rows: speech embedding of the chunk's frames, [t, a].
    """
    needed = {branch.speech for branch in guidance.branches}
    sources = {True: rows, False: torch.zeros_like(rows)}
    return {speech: transformer.encode_audio(sources[speech][None]) for speech in needed}


def denoise(
    transformer: OmniAvatarTransformer3DModel, inputs: ChunkInputs, sampler: Sampler
) -> Iterator[Step]:
    """Denoise one chunk; closing the iterator stops it between two steps.

    The chunk's result is the last step's `latents` with the known frames written over them once
    more: see `finished_latents`.

    On CUDA a step is passed on when the device has finished it, while it already works on the
    next: so it never waits for what is done with a step.
    """
    steps = _steps(transformer, inputs, sampler)
    return one_ahead(steps, _mark) if inputs.noise.is_cuda else steps


def one_ahead(
    steps: Generator[Step, None, None], mark: Callable[[], Callable[[], None]]
) -> Iterator[Step]:
    """Begin each step before the one before it is passed on.

    Args:
        mark: marks the device's work so far and gives a function that waits for it.
    """
    with closing(steps):
        before: tuple[Step, Callable[[], None]] | None = None
        for step in steps:
            wait = mark()
            if before is not None:
                before[1]()
                yield before[0]
            before = step, wait
        if before is not None:
            before[1]()
            yield before[0]


def _mark() -> Callable[[], None]:
    event = torch.cuda.Event()
    event.record()
    return event.synchronize


def _steps(
    transformer: OmniAvatarTransformer3DModel, inputs: ChunkInputs, sampler: Sampler
) -> Generator[Step, None, None]:
    schedule = _fresh(sampler.schedule)
    prompts = _prompts(inputs)
    residuals = {branch: BlockResidual() for branch in sampler.guidance.branches}
    latents = inputs.noise.to(sampler.sample_dtype)
    mask = torch.ones_like(inputs.noise[:, :1])
    mask[:, :, : inputs.known.shape[2]] = 0
    reference = inputs.reference.expand(-1, -1, inputs.noise.shape[2], -1, -1)
    fixed = torch.cat([reference, mask], dim=1).to(sampler.dtype)  # [1, c + 1, f, h, w]
    times = schedule.timesteps.to(latents.device, sampler.sample_dtype)  # once: a copy waits

    for index, timestep in enumerate(schedule.timesteps):
        latents = finished_latents(latents, inputs.known)
        model_input = torch.cat([latents.to(sampler.dtype), fixed], dim=1)
        time = times[index, None]
        predictions = []
        for branch, residual in residuals.items():
            may_skip = sampler.skip_third_branch or branch != SILENT
            residual.reuse = sampler.skips[index] and may_skip
            predictions.append(
                _predict(
                    transformer,
                    model_input,
                    time,
                    prompts[branch.prompt],
                    inputs.audio[branch.speech],
                    # Recording a residual costs a copy of all tokens: only for runs that reuse one.
                    residual if any(sampler.skips) else None,
                )
            )
        prediction = sampler.guidance.combine([p.to(sampler.sample_dtype) for p in predictions])
        sigma = schedule.sigmas[index].item()
        clean = latents - sigma * prediction
        latents = schedule.step(prediction, timestep, latents, return_dict=False)[0]
        yield Step(index=index, prediction=prediction, clean=clean, latents=latents)


def finished_latents(latents: Tensor, known: Tensor) -> Tensor:
    """`latents` with the known first frames in their place."""
    return torch.cat([known.to(latents), latents[:, :, known.shape[2] :]], dim=2)


def _prompts(inputs: ChunkInputs) -> dict[bool, dict[str, Any]]:
    """What the transformer is told of the prompt (True) and the negative prompt (False).

    A CPU attends to the padding as to one row. Elsewhere that gains nothing, and the kernels that
    are quickest there take no weights of rows.
    """
    on_cpu = inputs.noise.device.type == "cpu"

    def rows(prompt: Tensor) -> tuple[Tensor, int]:
        return without_padding(prompt) if on_cpu else (prompt, 0)

    found: dict[bool, dict[str, Any]] = {}
    for has_prompt, context in inputs.contexts.items():
        kept, padding = rows(context)
        found[has_prompt] = {"encoder_hidden_states": kept, "padding_rows": padding}
    if inputs.moments is not None:
        kept, padding = rows(inputs.moments.prompt)
        found[True]["moments"] = inputs.moments._replace(prompt=kept, padding_rows=padding)
    return found


def _predict(
    transformer: OmniAvatarTransformer3DModel,
    model_input: Tensor,
    time: Tensor,
    prompt: Mapping[str, Any],
    audio: Tensor,
    residual: BlockResidual | None,
) -> Tensor:
    (prediction,) = transformer(
        hidden_states=model_input,
        timestep=time,
        audio_conditioning=audio,
        block_residual=residual,
        return_dict=False,
        **prompt,
    )
    return prediction


def _fresh(schedule: FlowMatchEulerDiscreteScheduler) -> FlowMatchEulerDiscreteScheduler:
    """A scheduler with the same sigmas at its first step: schedulers count their steps."""
    fresh = FlowMatchEulerDiscreteScheduler.from_config(schedule.config)
    fresh.timesteps, fresh.sigmas = schedule.timesteps, schedule.sigmas
    fresh.set_begin_index(0)
    return fresh

"""What each memory tier takes and costs, on a card whose memory is held to the tier's."""

import dataclasses
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch

from omniavatar.bench.chunk import Shape, make_inputs, make_sampler
from omniavatar.bench.machine import Machine, Stages, peak_host_bytes
from omniavatar.bench.random_networks import random_models
from omniavatar.errors import InputError
from omniavatar.flops import transformer_flops
from omniavatar.memory import (
    USABLE,
    Free,
    Placement,
    Work,
    arrange,
    check_fit,
    choose_placement,
    describe,
    free_memory,
    step_down,
)
from omniavatar.pinned import pin
from omniavatar.placement import is_out_of_memory, place, release
from omniavatar.speed import has_hooks, set_compiled
from omniavatar.stages.denoise import denoise
from omniavatar.stages.latents import decode_latents
from omniavatar.stages.schedule import make_schedule
from omniavatar.tiers import MEMORY_TIERS, tier_bytes
from omniavatar.weights.catalog import ModelSpec
from omniavatar.weights.sizes import footprint_of_spec


@dataclass(frozen=True, slots=True, kw_only=True)
class Tier:
    """One tier's figures.

    Attributes:
        memory: its name, or the names of all that get the same placement.
        limit_bytes: what torch was held to, the smallest one's; more is an error.
        placement: what was chosen, in words; None when nothing fits, and `problem` says why.
        peak_bytes, reserved_bytes: most that was taken of the device, without and with the gaps.
        host_bytes: most that the process held up to then, from making the networks on.
        step_seconds: of a step with guidance.
        rate: operations a second of such a step.
        stages: seconds of each other stage of a chunk.
        compiled: whether the blocks were.
    """

    memory: str
    limit_bytes: int
    placement: str | None = None
    peak_bytes: int | None = None
    reserved_bytes: int | None = None
    host_bytes: int | None = None
    step_seconds: float | None = None
    rate: float | None = None
    stages: dict[str, float] = dataclasses.field(default_factory=dict)
    compiled: bool = False
    problem: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TierReport:
    """The tiers of one model on one card; its weights are random."""

    model: str
    machine: Machine
    tokens: int
    tiers: tuple[Tier, ...]

    def to_mapping(self) -> dict[str, Any]:
        return {"kind": "tiers", **dataclasses.asdict(self)}


@torch.no_grad()
def measure_tiers(
    spec: ModelSpec,
    *,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    tiers: Sequence[str] = MEMORY_TIERS,
    tokens: int | None = None,
    steps: int = 2,
    compile_blocks: bool = True,
) -> TierReport:
    """Measure each tier with random weights; those that get the same placement at once.

    The host's memory is taken to be enough. What runs out of the device's all the same is told as
    a problem, and followed by the next arrangement that takes less; the larger tiers of that
    placement are measured by themselves then.

    Args:
        device, dtype: None chooses by what the machine has.
        tokens: about so many in a chunk; None takes the model's own chunk.
        steps: how many are timed, after one that is not.
        compile_blocks: where weights stay as and where they are.

    Raises:
        InputError: there is too little memory to draw the weights.
    """
    chosen = choose_placement(device=device, dtype=dtype)
    shape, sizes = Shape.of(spec, tokens), footprint_of_spec(spec)
    work = shape.work
    nothing = Work(tokens=0, frames=0, height=0, width=0)  # weights are drawn where they fit whole
    check_fit(chosen, sizes, nothing, free_memory(chosen.device), name=spec.name)
    found: dict[Placement, list[str]] = {}
    results = []
    for memory in sorted(tiers, key=lambda name: tier_bytes(name) or 0):
        free = Free(device=tier_bytes(memory), host=None)
        try:
            placement = arrange(chosen, sizes, work, free, name=spec.name)
        except InputError as error:
            results.append(Tier(memory=memory, limit_bytes=_limit(memory), problem=str(error)))
        else:
            found.setdefault(placement, []).append(memory)
    left = list(found.items())
    while left:
        placement, names = left.pop(0)
        tier = Tier(
            memory=", ".join(names), limit_bytes=_limit(names[0]), placement=describe(placement)
        )
        try:
            tier = _measure(
                spec, shape, placement, tier, steps=steps, compile_blocks=compile_blocks
            )
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            problem = str(error).splitlines()[0].split(" GPU ")[0]
            tier = replace(tier, memory=names[0], problem=problem)
            larger = [(placement, names[1:])] if names[1:] else []
            below = step_down(placement, sizes, work, host=None)
            left[:0] = [(below, names[:1]), *larger] if below is not None else larger
        results.append(tier)
        release(chosen.device)
    machine = Machine.of(chosen.device)
    return TierReport(model=spec.name, machine=machine, tokens=shape.tokens, tiers=tuple(results))


def _limit(memory: str) -> int:
    return round((tier_bytes(memory) or 0) * USABLE)


def _measure(
    spec: ModelSpec,
    shape: Shape,
    placement: Placement,
    tier: Tier,
    *,
    steps: int,
    compile_blocks: bool,
) -> Tier:
    device, dtype = placement.device, placement.dtype
    models = random_models(spec, device=device, dtype=dtype)
    if placement.pinned:
        pin(models.transformer.blocks)  # at once: by way of other memory it takes minutes
    # Drawing them takes more than a small card has, and cuts what it takes up.
    for network in (models.transformer, models.text_encoder, models.vae, models.speech_encoder):
        network.to("cpu")
    release(device)
    with _held_to(tier.limit_bytes, device):
        place(models, placement)
        compiled = compile_blocks and device.type == "cuda" and not has_hooks(models.transformer)
        set_compiled(models.transformer, compiled)

        stages = Stages(device)
        inputs = make_inputs(models, spec, shape, stages, device=device, dtype=dtype)
        sampler = make_sampler(1, spec, dtype=dtype)
        with stages.stage("first step"):
            [step] = denoise(models.transformer, inputs, sampler)
        assert step.latents.isfinite().all(), "random weights keep numbers finite"
        timed = replace(
            sampler, schedule=make_schedule(steps, shift=spec.shift), skips=(False,) * steps
        )
        with stages.stage("steps"):
            list(denoise(models.transformer, inputs, timed))
        step_seconds = stages.seconds.pop("steps") / steps
        for _ in range(2):
            with stages.stage("decode"):
                decode_latents(models.vae, step.latents)
    flops = len(sampler.guidance.branches) * transformer_flops(spec, tokens=shape.tokens)
    return replace(
        tier,
        peak_bytes=max(stages.peak_bytes.values(), default=None),
        reserved_bytes=stages.reserved_bytes,
        host_bytes=peak_host_bytes(),
        step_seconds=step_seconds,
        rate=flops / step_seconds,
        stages=stages.seconds,
        compiled=compiled,
    )


@contextmanager
def _held_to(limit: int, device: torch.device) -> Iterator[None]:
    """Hold torch to a part of the card's memory: asking for more is an error."""
    if device.type != "cuda":
        yield
        return
    card = torch.cuda.current_device() if device.index is None else device.index
    total = torch.cuda.get_device_properties(card).total_memory
    torch.cuda.set_per_process_memory_fraction(min(1.0, limit / total), card)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, card)

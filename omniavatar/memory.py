"""Where networks run and in which precision: pure choices, and what they rest on.

A placement is chosen from the memory that is free, the sizes of the networks and the length of a
chunk. It is a value; `placement` carries it out. In the order in which they are preferred:

    everything on the device, as trained
    the text encoder in host memory, brought in layer by layer when a prompt is new
    the VAE in tiles
    the transformer stored in 8 bits
    the transformer in host memory, its blocks brought in one ahead of the work

What only moves weights changes no value. Tiles and 8 bits do, a little: see README.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Literal

import torch

from omniavatar.errors import InputError
from omniavatar.models.footprint import Footprint
from omniavatar.tiers import GIGABYTE, tier_bytes

PRECISIONS = (torch.bfloat16, torch.float32)

USABLE = 0.92
"""Share of a card's memory that is planned with: the rest goes to CUDA itself and to gaps."""

PROCESS_BYTES = GIGABYTE // 2
CUDA_HOST_BYTES = 5 * GIGABYTE // 2
"""Host memory that a job takes beside the networks, and that CUDA takes beside that."""

PINNED_SHARE = 1.05
"""Pinned memory is handed out in powers of two; `pinned.pin` leaves little of it unused."""

# Working memory, in the tensors of the widest part of each network. Measured on one H200 at 30,375
# tokens and 400x720 pixels in bfloat16: the uncompiled transformer took 3.4 GiB (14B) and 1.5 GiB
# (1.3B) beyond its weights, the VAE's decoder 3.4 GB.
TENSORS_OF_TOKENS = 8
TENSORS_OF_HIDDEN = 2
TENSORS_OF_PIXELS = 62
TEXT_WORK_BYTES = GIGABYTE // 4

BLOCKS_AT_WORK = 3
"""Of a streamed transformer: one, the next, and one for the gaps that their coming and going leave.
Held to 7.4 GB on an H200, 14B ran out of memory where two of bfloat16 would have fitted."""

TILE_PIXELS = 256 * 256
TILE_OVERLAP = 1.9
"""How much more pixels the VAE's overlapping tiles have than the picture, at most."""

TRANSFORMER, TEXT_ENCODER = "transformer", "text_encoder"
PARTS = frozenset({TRANSFORMER, TEXT_ENCODER})


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """Where the networks are. By itself: all of them on the device, in the given precision.

    Attributes:
        device: what computes.
        dtype: of the transformer's inputs; see `weights.load` for what stays in float32.
        offloaded: parts, of `PARTS`, whose weights wait in host memory.
        fp8: parts whose large weights are stored in 8 bits and computed with in `dtype`.
        vae_tiled: the VAE works through a picture in tiles.
        pinned: the waiting transformer is in pinned host memory, which is quicker and larger.
    """

    device: torch.device
    dtype: torch.dtype
    offloaded: frozenset[str] = frozenset()
    fp8: frozenset[str] = frozenset()
    vae_tiled: bool = False
    pinned: bool = False

    def __post_init__(self) -> None:
        assert self.offloaded <= PARTS
        assert self.fp8 <= PARTS


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """The longest chunk that is to be made: tokens, frames, and size in pixels."""

    tokens: int
    frames: int
    height: int
    width: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Free:
    """Memory that is free, in bytes; None where it is not known or, on the device, not a limit."""

    device: int | None
    host: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Needs:
    """Bytes that a placement takes.

    Attributes:
        conditions, denoise, decode: on the device, while that stage works.
        host: in the host's memory.
    """

    conditions: int
    denoise: int
    decode: int
    host: int

    @property
    def device(self) -> int:
        """The most that it takes on the device."""
        return max(self.conditions, self.denoise, self.decode)


# ---- what a placement takes


def needs(placement: Placement, sizes: Footprint, work: Work) -> Needs:
    """Reckon what a placement takes, see the constants above."""
    item = placement.dtype.itemsize
    always = sizes.vae * item + sizes.speech_encoder * 4
    stored = 1 if TRANSFORMER in placement.fp8 else item
    blocks = sizes.blocks * sizes.block * stored
    transformer_bytes = blocks + sizes.around * item
    text_bytes = _text_bytes(placement, sizes)

    waiting, working = transformer_bytes, transformer_bytes
    if TRANSFORMER in placement.offloaded:
        waiting = sizes.around * item
        working = min(BLOCKS_AT_WORK * sizes.block * stored + waiting, transformer_bytes)
    text_waiting, text_working = text_bytes, text_bytes
    if TEXT_ENCODER in placement.offloaded:
        text_waiting, text_working = 0, min(sizes.text_layer * item, text_bytes)

    tokens = work.tokens * (TENSORS_OF_TOKENS * sizes.width + TENSORS_OF_HIDDEN * sizes.hidden)
    video = work.frames * work.height * work.width * 3
    picture = work.height * work.width
    tile = min(TILE_PIXELS, picture) if placement.vae_tiled else picture
    vae_work = tile * sizes.vae_channels * TENSORS_OF_PIXELS * item
    copies = TILE_OVERLAP if placement.vae_tiled else 1
    decode = max(vae_work + round(copies * video * item), 4 * video * 4)

    on_cpu = placement.device.type == "cpu"
    host = PROCESS_BYTES + (CUDA_HOST_BYTES if placement.device.type == "cuda" else 0)
    for part, size in ((TRANSFORMER, transformer_bytes), (TEXT_ENCODER, text_bytes)):
        if part in placement.offloaded or on_cpu:
            share = PINNED_SHARE if placement.pinned and part == TRANSFORMER else 1
            host += round(size * share)
    if on_cpu:
        host += always + max(tokens * item, decode)
    return Needs(
        conditions=always + waiting + max(text_working + TEXT_WORK_BYTES, text_waiting + vae_work),
        denoise=always + text_waiting + working + tokens * item,
        decode=always + text_waiting + waiting + decode,
        host=host,
    )


def _text_bytes(placement: Placement, sizes: Footprint) -> int:
    item = placement.dtype.itemsize
    stored = 1 if TEXT_ENCODER in placement.fp8 else item
    return sizes.text_exact * item + (sizes.text_encoder - sizes.text_exact) * stored


# ---- choices


def choose_placement(
    *,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    cpu_dtype: Literal["float32", "bfloat16"] = "float32",
    available: Sequence[str] | None = None,
) -> Placement:
    """Choose device and precision by what the machine has, where nothing is asked for.

    Args:
        device: None takes the first of CUDA, Apple's MPS and the CPU that is there.
        dtype: None is bfloat16 on CUDA, as published, on a CPU that computes with it what
            `cpu_dtype` says, and float32 elsewhere.
        cpu_dtype: see `ModelSpec.cpu_dtype`.
        available: kinds of device, best first; None asks torch.

    Returns:
        A placement with everything on that device.

    Raises:
        InputError: the machine has no such device, or the precision is not one of `PRECISIONS`.
    """
    kinds = available_devices() if available is None else tuple(available)
    try:
        chosen = torch.device(kinds[0] if device is None else device)
    except RuntimeError as error:
        raise InputError(
            f"device is {device!r}. Use one of: {', '.join(kinds)}.", field="device"
        ) from error
    if chosen.type not in kinds:
        raise InputError(
            f"device is {str(device)!r}, but this machine has only: {', '.join(kinds)}.",
            field="device",
        )
    if dtype is None:
        dtype = torch.bfloat16 if chosen.type == "cuda" else torch.float32
        if chosen.type == "cpu" and computes_bfloat16():
            dtype = getattr(torch, cpu_dtype)
    if dtype not in PRECISIONS:
        raise InputError(
            f"dtype is {dtype}. Use one of: {', '.join(map(str, PRECISIONS))}.", field="dtype"
        )
    return Placement(device=chosen, dtype=dtype)


def computes_bfloat16() -> bool:
    """Whether the CPU has instructions for it: without them it is slower than float32."""
    has = torch.cpu.get_capabilities()
    return any(has.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16"))


def arrange(
    placement: Placement,
    sizes: Footprint,
    work: Work,
    free: Free,
    *,
    name: str,
) -> Placement:
    """Choose the best arrangement that fits.

    Args:
        placement: device and precision, and what has 8 bits in any case.
        name: of the model, for the error.

    Raises:
        InputError: nothing fits.
    """
    budget, host = _usable(free.device), free.host
    tried = tuple(arrangements(placement))
    for candidate in tried:
        taken = needs(candidate, sizes, work)
        if _fits(taken.device, budget) and _fits(taken.host, host):
            return candidate
    raise InputError(_too_little(tried, sizes, work, budget, host, name=name), field="memory")


def check_fit(placement: Placement, sizes: Footprint, work: Work, free: Free, *, name: str) -> None:
    """Refuse a placement that takes more than there is.

    Raises:
        InputError: it does.
    """
    budget, taken = _usable(free.device), needs(placement, sizes, work)
    if not (_fits(taken.device, budget) and _fits(taken.host, free.host)):
        message = _too_little((placement,), sizes, work, budget, free.host, name=name)
        raise InputError(message, field="memory")


def refit(
    placement: Placement, sizes: Footprint, work: Work, free: Free, *, name: str, keep_tiles: bool
) -> Placement:
    """The best arrangement for other work that is reached from this one; often the same.

    Args:
        free: `device` is what was free before the networks came, `host` what is free now.
        keep_tiles: tiles were found to be needed before.

    Raises:
        InputError: the work takes too much memory in every arrangement.
    """
    budget = _usable(free.device)
    held = needs(placement, sizes, work).host
    host = None if free.host is None else free.host + held
    tried = [
        other
        for other in arrangements(placement)
        if _is_reached(placement, other) and (other.vae_tiled or not keep_tiles)
    ]
    for candidate in tried:
        taken = needs(candidate, sizes, work)
        if _fits(taken.device, budget) and (candidate == placement or _fits(taken.host, host)):
            return candidate
    message = _too_little(tried, sizes, work, budget, host, name=name)
    raise InputError(message, field="max_tokens")


def step_down(
    placement: Placement, sizes: Footprint, work: Work, *, host: int | None
) -> Placement | None:
    """The next arrangement that takes less of the device, or None when there is none.

    It is reached from this one without reading a file: what is stored in 8 bits stays so. What
    changes no value comes before what does.

    Args:
        host: bytes of host memory that are free beside what this placement holds of it.
    """
    now = needs(placement, sizes, work)
    order = sorted(arrangements(placement), key=lambda other: (bool(other.fp8), other.vae_tiled))
    for other in order:
        if not _is_reached(placement, other) or (placement.vae_tiled and not other.vae_tiled):
            continue
        taken = needs(other, sizes, work)
        stages = [
            (taken.conditions, now.conditions),
            (taken.denoise, now.denoise),
            (taken.decode, now.decode),
        ]
        is_less = all(new <= old for new, old in stages) and any(new < old for new, old in stages)
        if is_less and _fits(taken.host - now.host, host):
            return other
    return None


def _is_reached(placement: Placement, other: Placement) -> bool:
    """Whether nothing has to be read again to come to another of its `arrangements`."""
    if TRANSFORMER in placement.offloaded and other.pinned != placement.pinned:
        return False
    return placement.offloaded <= other.offloaded


def arrangements(placement: Placement) -> Iterator[Placement]:
    """Every way to place the networks on this device, the best first.

    What `placement` has in 8 bits has them in each: they may be those of the files.
    """
    device = placement.device
    plain = Placement(device=device, dtype=placement.dtype, fp8=placement.fp8)
    yield plain
    if device.type == "mps":  # its memory is the host's: nothing is gained by moving
        yield replace(plain, vae_tiled=True)
        return
    nothing = frozenset[str]()
    transformer, text_encoder = frozenset({TRANSFORMER}), frozenset({TEXT_ENCODER})
    for (moved, small), tiled, (text_moved, text_small), pinned in product(
        ((nothing, nothing), (nothing, transformer), (transformer, nothing), (transformer,) * 2),
        (False, True),
        ((nothing, nothing), (text_encoder, nothing), (nothing, text_encoder), (text_encoder,) * 2),
        (True, False),
    ):
        fp8 = small | text_small
        if not placement.fp8 <= fp8:
            continue
        candidate = replace(
            plain,
            offloaded=moved | text_moved,
            fp8=fp8,
            vae_tiled=tiled,
            pinned=pinned,
        )
        # Only CUDA copies from pinned memory while it computes.
        if candidate != plain and (not pinned or (moved and device.type == "cuda")):
            yield candidate


def describe(placement: Placement) -> str:
    """A placement in words, for people."""
    place = "GPU" if placement.device.type in ("cuda", "mps") else str(placement.device)
    told = [_where(placement, TRANSFORMER, "transformer", place)]
    told.append(_where(placement, TEXT_ENCODER, "text encoder", place))
    told.append(f"VAE {'in tiles' if placement.vae_tiled else 'without tiles'}")
    return ", ".join(told)


def _where(placement: Placement, part: str, name: str, place: str) -> str:
    kind = "fp8" if part in placement.fp8 else str(placement.dtype).removeprefix("torch.")
    moved = part in placement.offloaded
    return f"{name} in {kind} {'streamed from host memory' if moved else f'on the {place}'}"


def _usable(free: int | None) -> int | None:
    return None if free is None else round(free * USABLE)


def _fits(taken: int, free: int | None) -> bool:
    return free is None or taken <= free


def _too_little(
    tried: Sequence[Placement],
    sizes: Footprint,
    work: Work,
    budget: int | None,
    host: int | None,
    *,
    name: str,
) -> str:
    """What is missing, and what can be done about it."""
    taken = [needs(candidate, sizes, work) for candidate in tried]
    least = min(taken, key=lambda one: one.device)
    if not any(_fits(one.device, budget) for one in taken):
        assert budget is not None
        return (
            f"{name} needs at least {_gigabytes(least.device)} of GPU memory, but "
            f"{_gigabytes(budget)} can be used. Close what else runs on the GPU, lower max_tokens, "
            "or use a smaller model."
        )
    lightest = min(one.host for one in taken if _fits(one.device, budget))
    assert host is not None
    where = "" if tried[0].device.type == "cpu" else " beside this GPU"
    return (
        f"{name} needs {_gigabytes(lightest)} of free host memory{where}, but there are "
        f"{_gigabytes(host)}. Close other programs, or use a smaller model"
        f"{'.' if not where else ', a larger GPU or more host memory.'}"
    )


def _gigabytes(count: int) -> str:
    return f"{count / GIGABYTE:.1f} GB"


# ---- what the machine has


def available_devices() -> tuple[str, ...]:
    """The kinds of device that torch finds here, best first."""
    found = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    return (*(kind for kind, there in found.items() if there), "cpu")


def device_name(device: torch.device | None = None) -> str:
    """What a device is called: the card's own name, or the kind of device.

    Args:
        device: None takes the best that is there.
    """
    device = torch.device(available_devices()[0]) if device is None else device
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def free_memory(device: torch.device, memory: str = "auto") -> Free:
    """What is free now on a device and in the host's memory.

    Args:
        memory: one of `MEMORY_TIERS` counts no more of the device than such a card has.

    Raises:
        InputError: there is no such tier.
    """
    named = tier_bytes(memory)
    limits = [] if named is None else [named]
    if device.type == "cuda":
        # What torch keeps for reuse is free for us as well.
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        limits.append(torch.cuda.mem_get_info(device)[0] + kept)
    return Free(device=min(limits, default=None), host=free_host_memory())


def free_host_memory(root: Path = Path("/")) -> int | None:
    """Bytes of memory that this process may still take, or None where that is not told.

    A container's own limit counts, which the figures of the machine do not show.

    Args:
        root: where `proc` and `sys` are.
    """
    found = []
    for line in _lines(root / "proc/meminfo"):
        if line.startswith("MemAvailable:"):
            found.append(int(line.split()[1]) * 1024)
    group = root / "sys/fs/cgroup"
    for limit, used, cache in (
        ("memory.max", "memory.current", "inactive_file"),
        (
            "memory/memory.limit_in_bytes",
            "memory/memory.usage_in_bytes",
            "total_inactive_file",
        ),
    ):
        numbers = [_lines(group / name)[:1] for name in (limit, used)]
        if all(number and number[0].strip().isdigit() for number in numbers):
            most, taken = (int(number[0]) for number in numbers)
            kept = [
                int(line.split()[1])
                for line in _lines((group / limit).with_name("memory.stat"))
                if line.split()[:1] == [cache]
            ]
            found.append(max(0, most - taken + sum(kept)))
    if found:
        return min(found)
    try:  # macOS tells only how much there is; the system is given a quarter of it
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") * 3 // 4
    except (AttributeError, OSError, ValueError):
        return None


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []

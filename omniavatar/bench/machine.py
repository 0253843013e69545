"""The machine of a run: what it is, how quick its matrix products are, what memory was taken."""

import datetime
import platform
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any

import torch
import torch.nn.functional as F
from torch.nn.attention import sdpa_kernel

from omniavatar.speed import KERNELS


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What ran where.

    Attributes:
        device: name of the card, or of the processor.
        memory_bytes: of the card; None on a processor.
        software: versions of what decides the speed.
        date: of the run.
    """

    device: str
    memory_bytes: int | None
    software: dict[str, str]
    date: str

    @classmethod
    def of(cls, device: torch.device) -> "Machine":
        software = {name: version(name) for name in ("torch", "diffusers", "transformers")}
        name, memory = platform.processor() or platform.machine(), None
        if device.type == "cuda":
            properties = torch.cuda.get_device_properties(device)
            name, memory = properties.name, properties.total_memory
            software |= {
                "torch": torch.__version__,
                "CUDA": str(torch.version.cuda),
                "cuDNN": str(torch.backends.cudnn.version()),
            }
        today = datetime.datetime.now(tz=datetime.UTC).date().isoformat()
        return cls(device=name, memory_bytes=memory, software=software, date=today)


@dataclass(slots=True)
class Stages:
    """Seconds and most device memory of each named stage, the device's work included.

    Attributes:
        seconds: by stage.
        peak_bytes: by stage; empty where the device does not tell.
        reserved_bytes: most in all of them, with the gaps between; None likewise.
    """

    device: torch.device
    seconds: dict[str, float] = field(default_factory=dict)
    peak_bytes: dict[str, int] = field(default_factory=dict)
    reserved_bytes: int | None = None

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        is_cuda = self.device.type == "cuda"
        if is_cuda:
            torch.cuda.synchronize(self.device)
            torch.cuda.reset_peak_memory_stats(self.device)
        began = time.perf_counter()
        yield
        wait(self.device)
        self.seconds[name] = time.perf_counter() - began
        if is_cuda:
            self.peak_bytes[name] = torch.cuda.max_memory_allocated(self.device)
            reserved = torch.cuda.max_memory_reserved(self.device)
            self.reserved_bytes = max(reserved, self.reserved_bytes or 0)


def seconds_of(work: Callable[[], Any], device: torch.device) -> float:
    """How long some work takes, the device's included."""
    wait(device)
    began = time.perf_counter()
    work()
    wait(device)
    return time.perf_counter() - began


def wait(device: torch.device) -> None:
    """Wait until the device has done all that it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def matmul_ceiling(device: torch.device) -> float:
    """Operations a second of a large matrix product of random numbers, the best of some."""
    is_cuda = device.type == "cuda"
    size, dtype = (8192, torch.bfloat16) if is_cuda else (512, torch.float32)
    one, other = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    product = torch.empty_like(one)
    times = 20 if is_cuda else 3

    def multiply() -> None:
        for _ in range(times):
            torch.mm(one, other, out=product)

    multiply()
    return 2 * size**3 * times / min(seconds_of(multiply, device) for _ in range(3))


def attention_rates(
    device: torch.device, dtype: torch.dtype, *, heads: int, head_dim: int, tokens: int
) -> dict[str, float]:
    """Operations a second of each kernel of attention that this device has."""
    query, key, value = (
        torch.randn(1, heads, tokens, head_dim, device=device, dtype=dtype) for _ in range(3)
    )
    rates: dict[str, float] = {}
    for backend, name in KERNELS.items():
        if name == "plain" and tokens > 8192:
            continue  # a matrix of all tokens with all would not fit

        def attend() -> None:
            F.scaled_dot_product_attention(query, key, value)

        try:
            with sdpa_kernel(backend):
                attend()
                seconds = min(seconds_of(attend, device) for _ in range(3))
        except RuntimeError:  # this device or this torch does not have it
            continue
        rates[name] = 4 * tokens**2 * heads * head_dim / seconds
    return rates


def peak_host_bytes() -> int | None:
    """Most memory that this process held so far; None where it is not told."""
    if sys.platform == "win32":
        return None
    import resource  # not there on Windows

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024

"""Weights in page-locked host memory, from which a card copies while it computes.

PyTorch's allocator of such memory rounds every request up to a power of two: asked for tensor by
tensor, the 28 GB of a 14B transformer take 41 GB. So tensors share slabs whose size is one.
"""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

SLAB_BYTES = 2**32
_ALIGNMENT = 512
"""Bytes; what copies and kernels like best."""


def pin(
    network: nn.Module,
    *,
    allocate: Callable[[int], Tensor] | None = None,
    slab_bytes: int = SLAB_BYTES,
) -> None:
    """Move weights and buffers, from wherever they are, into page-locked memory of the host.

    Each is let go of as soon as it is copied, so there are never two copies of all. What is locked
    already stays where it is.

    Args:
        network: its tensors are replaced in place; those that share memory by being one parameter
            still do.
        allocate: so many bytes of memory, [n] uint8; by default page-locked by CUDA.
        slab_bytes: a power of two.

    Raises:
        RuntimeError: the host has no memory left, or there is no CUDA device.
    """
    tensors = [
        tensor for tensor in (*network.parameters(), *network.buffers()) if not tensor.is_pinned()
    ]
    slabs = _Slabs(allocate or _page_locked, sizes=map(_size, tensors), slab_bytes=slab_bytes)
    for tensor in tensors:
        place = slabs.take(_size(tensor))[: tensor.nbytes]
        held = place.view(tensor.dtype).view(tensor.shape)
        held.copy_(tensor.data)
        tensor.data = held


def _page_locked(size: int) -> Tensor:
    return torch.empty(size, dtype=torch.uint8, pin_memory=True)


def _size(tensor: Tensor) -> int:
    return -(-tensor.nbytes // _ALIGNMENT) * _ALIGNMENT


class _Slabs:
    """Hands out parts of slabs. All are powers of two, towards the end ever smaller ones."""

    def __init__(
        self, allocate: Callable[[int], Tensor], *, sizes: Iterable[int], slab_bytes: int
    ) -> None:
        self._allocate = allocate
        self._left = sum(sizes)
        self._slab_bytes = slab_bytes
        self._open: list[Tensor] = []

    def take(self, size: int) -> Tensor:
        """[size] uint8."""
        number = next((n for n, slab in enumerate(self._open) if len(slab) >= size), None)
        if number is None:
            no_more_than_left = 1 << (max(self._left, 1).bit_length() - 1)
            holds_it = 1 << max(size - 1, 0).bit_length()
            asked = max(min(self._slab_bytes, no_more_than_left), holds_it)
            self._open.append(self._allocate(asked))
            number = len(self._open) - 1
        slab = self._open[number]
        self._open[number] = slab[size:]
        self._left -= size
        return slab[:size]

"""Where a checkpoint runs and in which precision: a pure choice, from what the machine has."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from omniavatar.errors import InputError

PRECISIONS = (torch.bfloat16, torch.float32)


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """All networks resident on one device.

    Attributes:
        device: of the networks and their inputs.
        dtype: of the transformer's inputs; see `weights.load` for what stays in float32.
    """

    device: torch.device
    dtype: torch.dtype


def choose_placement(
    *,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    available: Sequence[str] | None = None,
) -> Placement:
    """Choose by what the machine has, where nothing is asked for.

    Args:
        device: None takes the first of CUDA, Apple's MPS and the CPU that is there.
        dtype: None is bfloat16 on CUDA, as published, and float32 elsewhere.
        available: kinds of device, best first; None asks torch.

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
    if dtype not in PRECISIONS:
        raise InputError(
            f"dtype is {dtype}. Use one of: {', '.join(map(str, PRECISIONS))}.", field="dtype"
        )
    return Placement(device=chosen, dtype=dtype)


def available_devices() -> tuple[str, ...]:
    """The kinds of device that torch finds here, best first."""
    found = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    return (*(kind for kind, there in found.items() if there), "cpu")

"""Tensors on disk by name, read one at a time.

A checkpoint of 28 GB is never in memory as a whole: safetensors and the zipped files of torch are
mapped, and what has been handed on is not kept.
"""

import math
import pickle
import re
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from omniavatar.errors import WeightsError
from omniavatar.weights.files import gguf_fault

_FLOAT = re.compile(r"(torch\.)?b?f", re.IGNORECASE)
"""How the float types of torch and safetensors begin."""

_SCALES = re.compile(r"(^|\.)(scale_weight|weight_scale|scaled_fp8)$")
"""Tensors beside quantised ones, or that mark a file of them: ComfyUI's names, and LightX2V's."""


class Checkpoint(Mapping[str, Tensor]):
    """The tensors of one or several files, as a mapping that reads a tensor when it is asked for.

    Args:
        files: `.safetensors`, or `.pt`, `.pth` and `.bin` of torch; their names must not collide.

    Raises:
        WeightsError: a file is missing or damaged, holds something other than tensors, is quantised
            with scales, or repeats a name; or, when a tensor is read, has numbers that are not
            finite.
    """

    def __init__(self, *files: Path) -> None:
        self.files = files
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.fp8: set[str] = set()
        self._sources: dict[str, Any] = {}
        self._places: dict[str, Path] = {}
        self._stack = ExitStack()
        for file in files:
            source = self._open(file)
            for name in source.keys():  # noqa: SIM118  a safetensors file is no iterable
                if name in self._sources:
                    raise WeightsError(f"{file} repeats the tensor {name} of another file.")
                self._sources[name], self._places[name] = source, file
                if isinstance(source, dict):
                    shape, kind = source[name].shape, str(source[name].dtype)
                else:
                    part = source.get_slice(name)
                    shape, kind = part.get_shape(), part.get_dtype()
                self.shapes[name] = tuple(shape)
                if _SCALES.search(name) or (len(shape) > 1 and not _FLOAT.match(kind)):
                    raise WeightsError(
                        f"{file} is in a quantised form that is not read, such as scaled fp8 or "
                        f"int8: it has {name}. Use the same weights in bf16, or in fp8 without "
                        "scales."
                    )
                if kind in ("F8_E4M3", str(torch.float8_e4m3fn)):
                    self.fp8.add(name)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()
        self._sources.clear()

    def __getitem__(self, name: str) -> Tensor:
        source = self._sources[name]
        tensor = source[name].detach() if isinstance(source, dict) else source.get_tensor(name)
        if not _is_finite(tensor):
            raise WeightsError(
                f"{self._places[name]} is damaged: {name} has numbers that are not finite. Fetch "
                "it again."
            )
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self.shapes)

    def __len__(self) -> int:
        return len(self.shapes)

    def _open(self, file: Path) -> Any:
        if not file.is_file():
            raise WeightsError(f"{file} is missing.")
        if fault := gguf_fault(file):
            raise WeightsError(fault)
        if file.suffix == ".safetensors":
            try:
                return self._stack.enter_context(safe_open(file, framework="pt"))
            except (SafetensorError, OSError) as error:
                raise WeightsError(f"{file} is damaged or incomplete. Fetch it again.") from error
        return _read_torch_file(file)


def _is_finite(tensor: Tensor) -> bool:
    """Whether a tensor has only numbers, told by its bounds: nothing of its size is made.

    A block that a disk has lost or a program has written over is found so, as a rule.
    """
    if not tensor.numel() or not tensor.is_floating_point() or tensor.dtype.itemsize == 1:
        return True
    return all(math.isfinite(bound) for bound in tensor.aminmax())


def shape_of(tensors: Mapping[str, Tensor], name: str) -> tuple[int, ...]:
    """Shape of a tensor, without reading it when it is on disk."""
    return tensors.shapes[name] if isinstance(tensors, Checkpoint) else tuple(tensors[name].shape)


def is_fp8(tensors: Mapping[str, Tensor], name: str) -> bool:
    """Whether a tensor is stored in 8 bits, without reading it when it is on disk."""
    if isinstance(tensors, Checkpoint):
        return name in tensors.fp8
    return tensors[name].dtype == torch.float8_e4m3fn


def _read_torch_file(file: Path) -> dict[str, Tensor]:
    try:
        # Files of torch before 1.6 are no zip archives and can not be mapped.
        content = torch.load(
            file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file)
        )
    except pickle.UnpicklingError as error:
        raise WeightsError(
            f"{file} is damaged, or holds more than tensors, which is not read for safety."
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise WeightsError(f"{file} is damaged or incomplete. Fetch it again.") from error
    if isinstance(content, dict):
        content = content.get("state_dict", content)  # beside what a trainer also keeps
    if not isinstance(content, dict) or not all(isinstance(v, Tensor) for v in content.values()):
        raise WeightsError(f"{file} is not a table of named tensors.")
    return dict(content)

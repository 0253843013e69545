"""The published code's tiles: which parts of a picture the VAE sees at a time, and their blend.

diffusers tiles in another geometry with another blend, so its result differs visibly from the
published one; this file exists for results that are equal to it.

Source: Omni-Avatar/OmniAvatar wan_video_vae.py, Apache-2.0.
"""

# h, w rows and columns, in latent cells unless said otherwise

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Tiling:
    """Tile size and stride in latent cells, (rows, columns)."""

    size: tuple[int, int]
    stride: tuple[int, int]

    def __post_init__(self) -> None:
        assert all(0 < step <= size for step, size in zip(self.stride, self.size, strict=True))


PUBLISHED_ENCODE = Tiling(size=(34, 34), stride=(18, 16))
PUBLISHED_DECODE = Tiling(size=(30, 52), stride=(15, 26))


@dataclass(frozen=True, slots=True, kw_only=True)
class Tile:
    """A half-open rectangle of latent cells."""

    top: int
    bottom: int
    left: int
    right: int


def plan_tiles(height: int, width: int, tiling: Tiling) -> tuple[Tile, ...]:
    """All tiles of a latent of `height` x `width` cells, row by row."""
    rows = tuple(_spans(height, tiling.size[0], tiling.stride[0]))
    columns = tuple(_spans(width, tiling.size[1], tiling.stride[1]))
    return tuple(
        Tile(top=top, bottom=bottom, left=left, right=right)
        for top, bottom in rows
        for left, right in columns
    )


def run_tiled(
    run: Callable[[Tensor], Tensor],
    source: Tensor,
    *,
    height: int,
    width: int,
    tiling: Tiling,
    source_scale: int,
    result_scale: int,
) -> Tensor:
    """Run a network on each tile and blend the results with linear ramps.

    Args:
        run: one tile of the source -> one tile of the result, both [b, c, t, rows, columns].
        source: whole input, [b, c, t, height * source_scale, width * source_scale].
        height, width: size of the whole in latent cells.
        source_scale, result_scale: rows (and columns) per latent cell in source and result.

    Returns:
        [b, c', t', height * result_scale, width * result_scale].
    """
    total = weight = None
    for tile in plan_tiles(height, width, tiling):
        rows = slice(tile.top * source_scale, tile.bottom * source_scale)
        columns = slice(tile.left * source_scale, tile.right * source_scale)
        result = run(source[..., rows, columns])
        mask = _ramp_mask(tile, height, width, tiling, result_scale).to(result)
        if total is None or weight is None:
            shape = (*result.shape[:3], height * result_scale, width * result_scale)
            total = result.new_zeros(shape)
            weight = result.new_zeros(shape[-2:])
        rows = slice(tile.top * result_scale, tile.bottom * result_scale)
        columns = slice(tile.left * result_scale, tile.right * result_scale)
        total[..., rows, columns] += result * mask
        weight[rows, columns] += mask
    assert total is not None, "a latent has at least one tile"
    assert weight is not None
    return total / weight


def _spans(length: int, size: int, stride: int) -> Iterator[tuple[int, int]]:
    for start in range(0, length, stride):
        reached_by_the_one_before = start >= stride and start - stride + size >= length
        if not reached_by_the_one_before:
            yield start, min(start + size, length)


def _ramp_mask(tile: Tile, height: int, width: int, tiling: Tiling, scale: int) -> Tensor:
    rows = _ramp(
        (tile.bottom - tile.top) * scale,
        border=(tiling.size[0] - tiling.stride[0]) * scale,
        first=tile.top == 0,
        last=tile.bottom >= height,
    )
    columns = _ramp(
        (tile.right - tile.left) * scale,
        border=(tiling.size[1] - tiling.stride[1]) * scale,
        first=tile.left == 0,
        last=tile.right >= width,
    )
    return torch.minimum(rows[:, None], columns[None, :])


def _ramp(length: int, *, border: int, first: bool, last: bool) -> Tensor:
    ramp = torch.ones(length)
    border = min(border, length)
    slope = torch.arange(1, border + 1) / border if border else ramp[:0]
    if not first:
        ramp[:border] = slope
    if not last and border:
        ramp[-border:] = slope.flip(0)
    return ramp

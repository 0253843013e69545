"""Cartoon presenters drawn in torch: signed distances, painted back to front with analytic edges.

What lies behind or below the head never moves, and is drawn once for all frames.
"""

# n presenters, t frames, h height, w width

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from omniavatar.nano.canvas import PITCH_SHIFT, YAW_SHIFT, Canvas, Pose, lift
from omniavatar.nano.face import paint_face, paint_glasses
from omniavatar.nano.figure import paint_figure
from omniavatar.nano.hair import paint_hair_behind, paint_hair_in_front, paint_headwear
from omniavatar.nano.hands import paint_hand
from omniavatar.nano.photographic import draw_photographic
from omniavatar.nano.presenters import Presenters, Traits, sample_presenters
from omniavatar.nano.scenery import paint_scenery

__all__ = ["Pose", "Presenters", "Regions", "Traits", "regions", "render", "sample_presenters"]

# A GPU likes long rows of work, a CPU what fits its cache. At 128 x 128.
_FRAMES_AT_ONCE = {"cuda": 2048}
_FRAMES_AT_ONCE_ELSEWHERE = 128

_Draw = Callable[[Presenters, Pose, int, int, float], Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class Regions:
    """Boxes in pixels, [n, t, 4] each: left, top, right, bottom, half-open, inside the picture."""

    mouth: Tensor
    eyes: Tensor
    head: Tensor


def render(
    presenters: Presenters, pose: Pose, *, height: int, width: int, as_bytes: bool = False
) -> Tensor:
    """Draw every presenter in every pose.

    Args:
        presenters: n of them, on the device to draw on.
        pose: t poses of each, on any device (on the CPU no device is waited for).
        height, width: the picture; heads are sized by its shorter side.
        as_bytes: give uint8 in 0..255, which takes a quarter of the memory.

    Returns:
        [n, t, 3, h, w] float32 in 0..1, or uint8.
    """
    device = presenters.numbers["size"].device
    reach = _reach(pose)
    pose = pose.map(lambda track: track.to(device, torch.float32))
    count, frames = pose.head_x.shape
    at_once = _FRAMES_AT_ONCE.get(device.type, _FRAMES_AT_ONCE_ELSEWHERE)
    at_once = max(1, at_once * 128 * 128 // (height * width))
    together = max(1, at_once // frames)
    dtype = torch.uint8 if as_bytes else torch.float32
    pictures = torch.empty(count, frames, 3, height, width, device=device, dtype=dtype)
    for row in range(0, count, together):
        rows = slice(row, min(row + together, count))
        people = presenters.take(range(rows.start, rows.stop))
        for start in range(0, frames, at_once):
            part = (rows, slice(start, start + at_once))
            for draw, who in _by_style(people):
                chosen = people.take(who) if len(who) < len(people) else people
                rows_of = torch.tensor(who, device=device)
                poses = pose.at(part).map(lambda track, rows_of=rows_of: track[rows_of])  # type: ignore[misc]
                drawn = draw(chosen, poses, height, width, reach)
                drawn = drawn.mul_(255).round_().to(dtype) if as_bytes else drawn
                pictures[rows_of + row, part[1]] = drawn
    return pictures


def _by_style(presenters: Presenters) -> Iterator[tuple[_Draw, list[int]]]:
    """Who is drawn by which function."""
    is_photographic = [one.style == "photographic" for one in presenters.traits]
    for draw, wanted in ((_draw, False), (draw_photographic, True)):
        who = [row for row, found in enumerate(is_photographic) if found == wanted]
        if who:
            yield draw, who


def _reach(pose: Pose) -> float:
    """How far anything drawn on the head can be from its place at rest, in units."""
    shift = torch.stack((pose.head_x, pose.head_y)).abs().max()
    turn = torch.stack((pose.yaw, pose.pitch)).abs().max()
    return float(shift + 2.6 * pose.roll.abs().max() + 0.4 * turn) + 0.05


def _draw(presenters: Presenters, pose: Pose, height: int, width: int, reach: float) -> Tensor:
    """[n, t, 3, h, w] of a few presenters, back to front."""
    count, frames = pose.head_x.shape
    device = pose.head_x.device
    still = Pose.at_rest(count, device=device)
    ground = torch.empty(count, 1, 3, height, width, device=device)
    paint_scenery(Canvas(ground, presenters, still, 0.0))
    pixels = ground.repeat(1, frames, 1, 1, 1)
    canvas = Canvas(pixels, presenters, pose, reach)
    paint_hair_behind(canvas)
    # On black a shape gives cover * colour, on white 1 - cover more: so the figure, drawn twice
    # and once for all frames, can be laid over hair that moves.
    black, white = torch.zeros_like(ground), torch.ones_like(ground)
    for plain in (black, white):
        paint_figure(Canvas(plain, presenters, still, 0.0))
    pixels.mul_(white - black).add_(black)
    paint_face(canvas)
    paint_hair_in_front(canvas)
    paint_glasses(canvas)
    paint_headwear(canvas)
    paint_hand(canvas)
    return pixels.clamp_(0, 1)


def regions(presenters: Presenters, pose: Pose, *, height: int, width: int) -> Regions:
    """Where mouth, eyes (a band with the brows) and head are in the pictures of `render`."""
    device = presenters.numbers["size"].device
    pose = pose.map(lambda track: track.to(device))
    number = {name: value[:, None] for name, value in presenters.numbers.items()}
    half = min(height, width) / 2
    unit = number["size"] * half

    def place(x: Tensor, y: Tensor, half_x: Tensor, above: Tensor, below: Tensor) -> Tensor:
        # The head turns about (0, 1) in its own frame.
        cos, sin = pose.roll.cos(), pose.roll.sin()
        moved_x = x * cos - (y - 1) * sin + pose.head_x
        moved_y = x * sin + (y - 1) * cos + 1 + pose.head_y
        middle_x = number["centre_x"] * half + width / 2 + moved_x * unit
        middle_y = (number["centre_y"] - lift(height, width)) * half + height / 2 + moved_y * unit
        edges = (
            (middle_x - half_x * unit).floor().clamp(0, width),
            (middle_y - above * unit).floor().clamp(0, height),
            (middle_x + half_x * unit).ceil().clamp(0, width),
            (middle_y + below * unit).ceil().clamp(0, height),
        )
        return torch.stack(edges, -1).long()

    one = torch.ones_like(pose.yaw)
    shift_x, shift_y = pose.yaw * YAW_SHIFT, pose.pitch * PITCH_SHIFT
    if "turn" in number:
        shift_x = (number["turn"] + shift_x).sin()
    eyes_half = number["eye_x"] + torch.maximum(number["eye_width"], number["brow_width"]) + 0.06
    length = number["length"]
    return Regions(
        mouth=place(
            shift_x,
            number["mouth_y"] + shift_y,
            number["mouth_width"] * 1.30 * one,
            0.30 * one,
            0.48 * one,
        ),
        eyes=place(
            shift_x,
            number["eye_y"] + shift_y,
            eyes_half * one,
            (number["brow_gap"] + 0.26) * one,
            0.24 * one,
        ),
        head=place(0 * one, 0 * one, 1.25 * one, (length + 0.15) * one, (length + 0.1) * one),
    )

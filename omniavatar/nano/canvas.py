"""Painting shapes on many pictures at once: distances, covers, and who is painted where.

Lengths are in half head widths ("units") with the head's middle at 0, x to the right, y down,
unless a name says pixels. A distance is negative inside its shape; half a pixel on each side of
the edge is blended. A shape is painted only on the presenters that have it, and only in the part
of the picture that it can reach.
"""

# n presenters, k presenters that have the shape at hand, t frames, h height, w width

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from omniavatar.nano.presenters import Presenters, Traits

YAW_SHIFT, PITCH_SHIFT = 0.28, 0.20
"""How far the features move for a turn of 1, in units."""

Box = tuple[float, float, float, float]
"""Left, right, top and bottom, in units."""

EVERYWHERE: Box = (-99.0, 99.0, -99.0, 99.0)
HEAD: Box = (-1.75, 1.75, -1.95, 1.75)
FACE: Box = (-1.25, 1.25, -1.3, 1.6)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pose:
    """What moves, each [n, t] except `mouth`.

    Attributes:
        head_x, head_y: shift in units.
        roll: radians, about the top of the neck.
        yaw, pitch: turn of the face, about -1..1.
        eyes_closed: 0 open to 1 closed.
        gaze_x, gaze_y: -1..1.
        brow: -1..1, up is positive.
        smile: -1 stern, 0 neutral, 1 smiling.
        sad: 0..1, brows that rise towards the middle over a mouth that falls.
        wave: how far a hand is raised, 0 out of the picture to 1 beside the head.
        swing: of the raised hand, -1..1.
        mouth: [n, t, 3] opening, width, rounding, each about 0..1.
    """

    head_x: Tensor
    head_y: Tensor
    roll: Tensor
    yaw: Tensor
    pitch: Tensor
    eyes_closed: Tensor
    gaze_x: Tensor
    gaze_y: Tensor
    brow: Tensor
    smile: Tensor
    sad: Tensor
    wave: Tensor
    swing: Tensor
    mouth: Tensor

    @classmethod
    def at_rest(cls, count: int, frames: int = 1, *, device: torch.device | str = "cpu") -> "Pose":
        """Straight heads, open eyes, closed mouths."""
        zero = torch.zeros(count, frames, device=device)
        tracks = {field.name: zero for field in fields(cls) if field.name != "mouth"}
        mouth = torch.tensor([0.0, 0.3, 0.0], device=device).expand(count, frames, 3)
        return cls(mouth=mouth, **tracks)

    def map(self, change: Callable[[Tensor], Tensor]) -> "Pose":
        """Every track changed by the same function, such as a slice or a move to a device."""
        return Pose(**{field.name: change(getattr(self, field.name)) for field in fields(self)})

    def at(self, part: tuple[slice, slice]) -> "Pose":
        """Some presenters in some frames."""
        return self.map(lambda track: track[part])


def ellipse(x: Tensor, y: Tensor, radius_x: Tensor | float, radius_y: Tensor | float) -> Tensor:
    """Distance to an ellipse at 0, exact to first order at the edge."""
    u, v = x / radius_x, y / radius_y
    length = (u * u + v * v).sqrt()
    slope = ((u / radius_x).square() + (v / radius_y).square()).sqrt()
    return length * (length - 1) / (slope + 1e-4)


def box(
    x: Tensor, y: Tensor, half_x: Tensor | float, half_y: Tensor | float, corner: float = 0.0
) -> Tensor:
    """Distance to a box at 0 with rounded corners."""
    u, v = x.abs() - (half_x - corner), y.abs() - (half_y - corner)
    outside = (u.clamp(min=0).square() + v.clamp(min=0).square()).sqrt()
    return outside + torch.maximum(u, v).clamp(max=0) - corner


def segment(x: Tensor, y: Tensor, start: tuple[float, float], end: tuple[float, float]) -> Tensor:
    """Distance to the line from start to end."""
    dx, dy = end[0] - start[0], end[1] - start[1]
    along = (((x - start[0]) * dx + (y - start[1]) * dy) / (dx * dx + dy * dy)).clamp(0, 1)
    return ((x - start[0] - along * dx).square() + (y - start[1] - along * dy).square()).sqrt()


def both(*distances: Tensor) -> Tensor:
    """Where all shapes are."""
    result = distances[0]
    for distance in distances[1:]:
        result = torch.maximum(result, distance)
    return result


def either(*distances: Tensor) -> Tensor:
    """Where one of the shapes is."""
    result = distances[0]
    for distance in distances[1:]:
        result = torch.minimum(result, distance)
    return result


def fixed(red: float, green: float, blue: float, *, like: Tensor) -> Tensor:
    """A colour that is the same for all, [1, 1, 3, 1, 1]."""
    return torch.tensor((red, green, blue), device=like.device)[None, None, :, None, None]


@dataclass(slots=True)
class Area:
    """Part of the picture of some presenters, being painted on."""

    pixels: Tensor  # [k, t, 3, h, w]
    x: Tensor  # [k, t, h, w], as are the next three
    y: Tensor
    face_x: Tensor  # moved by yaw and pitch
    face_y: Tensor
    body_x: Tensor  # not moved at all, [k, 1, h, w], as is the next
    body_y: Tensor
    pixels_per_unit: Tensor  # [k, 1, 1, 1]
    line: Tensor | None  # [k, 1, 1, 1] width of outlines, None when nobody has them
    traits: tuple[Traits, ...]  # k of them
    presenters: Presenters  # all, as is the pose
    pose: Pose
    index: Tensor | None  # [k] which of all, None when it is all
    surface: Tensor | None = None  # [k, t, h, w] brightness of what is painted, about 1

    def _chosen(self, values: Tensor) -> Tensor:
        return values if self.index is None else values[self.index]

    def number(self, name: str) -> Tensor:
        """[k, 1, 1, 1]."""
        return self._chosen(self.presenters.numbers[name])[:, None, None, None]

    def track(self, name: str) -> Tensor:
        """[k, t, 1, 1]."""
        return self._chosen(getattr(self.pose, name))[:, :, None, None]

    def mouth(self) -> tuple[Tensor, Tensor, Tensor]:
        """Opening, width and rounding, [k, t, 1, 1] each."""
        opening, width, rounding = self._chosen(self.pose.mouth)[..., None, None].unbind(2)
        return opening, width, rounding

    def per_presenter(self, value: Callable[[Traits], float]) -> Tensor:
        """[k, 1, 1, 1] a number that follows from what can be named."""
        values = [value(traits) for traits in self.traits]
        return torch.tensor(values, device=self.pixels.device)[:, None, None, None]

    def colour(self, name: str, shade: float = 1.0) -> Tensor:
        """[k, 1, 3, 1, 1]; a shade below 1 darkens, above 1 lightens."""
        colour = self._chosen(self.presenters.colours[name])[:, None, :, None, None]
        return colour * shade if shade <= 1 else colour + (1 - colour) * (shade - 1)

    def mix(self, colour: Tensor, cover: Tensor) -> None:
        """Lay a colour over the picture with a cover [k, t, h, w] of 0..1."""
        self.pixels.lerp_(colour.expand_as(self.pixels), cover[:, :, None])

    def paint(
        self, distance: Tensor, colour: Tensor, *, outline: bool = False, opacity: float = 1.0
    ) -> None:
        """Fill a shape, with a darker line inside its edge for those drawn with outlines."""
        cover = (0.5 - distance * self.pixels_per_unit).clamp_(0, 1)
        if opacity != 1:
            cover *= opacity
        if outline and self.line is not None:
            inner = 0.5 - (distance + self.line) * self.pixels_per_unit
            inner = torch.where(self.line > 0, inner.clamp_(0, 1), 1.0)
            colour = torch.lerp(colour * 0.32, colour, inner[:, :, None])
        if self.surface is not None:
            colour = colour * self.surface[:, :, None]
        self.mix(colour, cover)

    def paint_softly(
        self, distance: Tensor, colour: Tensor, *, soft: Tensor | float, opacity: float = 1.0
    ) -> None:
        """Fill a shape whose edge fades over `soft` units, half of them on each side."""
        cover = (0.5 - distance / soft).clamp_(0, 1)
        self.mix(colour, cover * cover * (3 - 2 * cover) * opacity)

    def shade(self, distance: Tensor, amount: Tensor | float) -> None:
        """Darken a shape by a share that may vary from pixel to pixel."""
        cover = (0.5 - distance * self.pixels_per_unit).clamp_(0, 1)
        self.pixels *= (1 - cover * amount)[:, :, None]


class Canvas:
    """Pictures of a few presenters in one size, [n, t, 3, h, w].

    `reach` is how far, in units, anything can be from its place at rest.
    """

    def __init__(self, pixels: Tensor, presenters: Presenters, pose: Pose, reach: float) -> None:
        self.pixels = pixels
        self.presenters = presenters
        self.surface: Callable[[Area], Tensor] | None = None
        self._pose = pose
        self._reach = reach
        height, width = pixels.shape[-2:]
        self.half = min(height, width) / 2
        self._lift = lift(height, width)
        numbers = presenters.numbers
        centre_y = numbers["centre_y"] - self._lift
        places = torch.stack((numbers["centre_x"], centre_y, numbers["size"]), 1)
        self._places = places[:, :, None]  # [n, 3, 1]
        self._tracks = torch.stack(
            (
                pose.head_x,
                pose.head_y,
                pose.roll.cos(),
                pose.roll.sin(),
                pose.yaw * YAW_SHIFT,
                pose.pitch * PITCH_SHIFT,
            ),
            2,
        )  # [n, t, 6]
        self.columns = (torch.arange(width, device=pixels.device) + 0.5 - width / 2) / self.half
        self.lines = (torch.arange(height, device=pixels.device) + 0.5 - height / 2) / self.half

    def areas(self, reached: Box, who: Callable[[Traits], bool] = lambda _: True) -> Iterator[Area]:
        """The one area with all presenters who have something; none when nobody has it."""
        rows = [row for row, traits in enumerate(self.presenters.traits) if who(traits)]
        if not rows:
            return
        vertical, horizontal = self._slices(rows, reached)
        view = self.pixels[..., vertical, horizontal]
        if len(rows) == len(self.presenters):
            yield self._area(view, rows, None, vertical, horizontal)
            return
        index = torch.tensor(rows, device=view.device)
        pixels = view[index]
        yield self._area(pixels, rows, index, vertical, horizontal)
        view[index] = pixels

    def paint_each(
        self,
        reached: Box,
        kind_of: Callable[[Traits], str],
        painters: Mapping[str, Callable[[Area], None]],
    ) -> None:
        """Let every presenter be painted on by the painter of its kind, if there is one."""
        for kind, painter in painters.items():
            for area in self.areas(reached, lambda traits, kind=kind: kind_of(traits) == kind):  # type: ignore[misc]
                painter(area)

    def _slices(self, rows: Sequence[int], reached: Box) -> tuple[slice, slice]:
        height, width = self.pixels.shape[-2:]
        left, right, top, bottom = width, 0, height, 0
        for row in rows:
            x, y, size = self.presenters.framing[row]
            middle_x = x * self.half + width / 2
            middle_y = (y - self._lift) * self.half + height / 2
            unit = size * self.half
            left = min(left, math.floor(middle_x + (reached[0] - self._reach) * unit) - 1)
            right = max(right, math.ceil(middle_x + (reached[1] + self._reach) * unit) + 1)
            top = min(top, math.floor(middle_y + (reached[2] - self._reach) * unit) - 1)
            bottom = max(bottom, math.ceil(middle_y + (reached[3] + self._reach) * unit) + 1)
        return slice(max(top, 0), min(bottom, height)), slice(max(left, 0), min(right, width))

    def _area(
        self,
        pixels: Tensor,
        rows: list[int],
        index: Tensor | None,
        vertical: slice,
        horizontal: slice,
    ) -> Area:
        def chosen(values: Tensor) -> Tensor:
            return (values if index is None else values[index])[..., None, None]

        centre_x, centre_y, size = chosen(self._places).unbind(1)  # [k, 1, 1, 1] each
        shift_x, shift_y, cos, sin, yaw, pitch = chosen(self._tracks).unbind(2)  # [k, t, 1, 1]
        body_x = (self.columns[horizontal] - centre_x) / size + 0 * self.lines[vertical, None]
        body_y = (self.lines[vertical, None] - centre_y) / size + 0 * self.columns[horizontal]
        x = body_x - shift_x
        y = body_y - shift_y - 1
        x, y = x * cos + y * sin, y * cos - x * sin + 1
        traits = tuple(self.presenters.traits[row] for row in rows)
        pixels_per_unit = size * self.half
        line = None
        if any(one.style == "outlined" for one in traits):
            width = max(1.0, self.half / 64 * 1.1)
            lines = [width * (one.style == "outlined") for one in traits]
            line = torch.tensor(lines, device=pixels.device)[:, None, None, None] / pixels_per_unit
            thickness = self._wide_number("line", index)
            line = line if thickness is None else line * thickness
        turn = self._wide_number("turn", index)
        # On a turned head the features lie on a cylinder, seen from its side.
        face_x = x if turn is None else x.clamp(-0.999, 0.999).asin() - turn
        area = Area(
            pixels=pixels,
            x=x,
            y=y,
            face_x=face_x - yaw,
            face_y=y - pitch,
            body_x=body_x,
            body_y=body_y,
            pixels_per_unit=pixels_per_unit,
            line=line,
            traits=traits,
            presenters=self.presenters,
            pose=self._pose,
            index=index,
        )
        if self.surface is not None:
            area.surface = self.surface(area)
        return area

    def _wide_number(self, name: str, index: Tensor | None) -> Tensor | None:
        """[k, 1, 1, 1], None for people of a look that does not know it."""
        values = self.presenters.numbers.get(name)
        if values is None:
            return None
        return (values if index is None else values[index])[:, None, None, None]


def lift(height: int, width: int) -> float:
    """How far a head is moved up, in halves of the shorter side.

    A tall picture shows more of the body, not more of the ceiling.
    """
    return 0.4 * (height / min(height, width) - 1)

"""Cartoon presenters drawn in torch: signed distances, painted back to front with analytic edges.

Lengths are in half head widths ("units") with the head's middle at 0, x to the right, y down,
unless a name says pixels. A distance is negative inside its shape; half a pixel on each side of
the edge is blended. A shape is drawn only on the presenters that have it, and only in the part of
the picture that it can reach. What lies behind or below the head never moves, and is drawn once
for all frames.
"""

# n presenters, k presenters that have the shape at hand, t frames, h height, w width

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from omniavatar.nano.presenters import Presenters, Traits, sample_presenters

__all__ = ["Pose", "Presenters", "Regions", "Traits", "regions", "render", "sample_presenters"]

_EVERYWHERE = (-9.0, 9.0, -9.0, 9.0)
_HEAD = (-1.75, 1.75, -1.95, 1.75)
_FACE = (-1.25, 1.25, -1.3, 1.6)
_EYES = (-0.98, 0.98, -0.55, 0.45)
_MOUTH = (-0.75, 0.75, 0.25, 1.35)
# A GPU likes long rows of work, a CPU what fits its cache.
_FRAMES_AT_ONCE = {"cuda": 2048}
_FRAMES_AT_ONCE_ELSEWHERE = 128
_YAW_SHIFT, _PITCH_SHIFT = 0.28, 0.20


@dataclass(frozen=True, slots=True, kw_only=True)
class Pose:
    """What moves, each [n, t] except `mouth`.

    Attributes:
        head_x, head_y: shift in units.
        roll: radians, about the top of the neck.
        yaw, pitch: turn of the face, about -1..1; 1 moves the features by 0.28 or 0.20 units.
        eyes_closed: 0 open to 1 closed.
        gaze_x, gaze_y: -1..1.
        brow: -1..1, up is positive.
        smile: -1 stern, 0 neutral, 1 smiling.
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
    mouth: Tensor

    @classmethod
    def at_rest(cls, count: int, frames: int = 1, *, device: torch.device | str = "cpu") -> "Pose":
        """Straight heads, open eyes, closed mouths."""
        zero = torch.zeros(count, frames, device=device)
        tracks = {f.name: zero for f in fields(cls) if f.name != "mouth"}
        mouth = torch.tensor([0.0, 0.3, 0.0], device=device).expand(count, frames, 3)
        return cls(mouth=mouth, **tracks)

    def map(self, change: Callable[[Tensor], Tensor]) -> "Pose":
        """Every track changed by the same function, such as a slice or a move to a device."""
        return Pose(**{f.name: change(getattr(self, f.name)) for f in fields(self)})


@dataclass(frozen=True, slots=True, kw_only=True)
class Regions:
    """Boxes in pixels, [n, t, 4] each: left, top, right, bottom, half-open, inside the picture."""

    mouth: Tensor
    eyes: Tensor
    head: Tensor


def _ellipse(x: Tensor, y: Tensor, radius_x: Tensor | float, radius_y: Tensor | float) -> Tensor:
    """Distance to an ellipse at 0, exact to first order at the edge."""
    u, v = x / radius_x, y / radius_y
    length = (u * u + v * v).sqrt()
    slope = ((u / radius_x).square() + (v / radius_y).square()).sqrt()
    return length * (length - 1) / (slope + 1e-4)


def _box(
    x: Tensor, y: Tensor, half_x: Tensor | float, half_y: Tensor | float, round_: float = 0.0
) -> Tensor:
    """Distance to a box at 0 with rounded corners."""
    u, v = x.abs() - (half_x - round_), y.abs() - (half_y - round_)
    outside = (u.clamp(min=0).square() + v.clamp(min=0).square()).sqrt()
    return outside + torch.maximum(u, v).clamp(max=0) - round_


def _segment(x: Tensor, y: Tensor, ax: float, ay: float, bx: float, by: float) -> Tensor:
    """Distance to the line from a to b."""
    dx, dy = bx - ax, by - ay
    along = (((x - ax) * dx + (y - ay) * dy) / (dx * dx + dy * dy)).clamp(0, 1)
    return ((x - ax - along * dx).square() + (y - ay - along * dy).square()).sqrt()


def _both(*distances: Tensor) -> Tensor:
    """Where all shapes are."""
    result = distances[0]
    for distance in distances[1:]:
        result = torch.maximum(result, distance)
    return result


def _any(*distances: Tensor) -> Tensor:
    """Where one of the shapes is."""
    result = distances[0]
    for distance in distances[1:]:
        result = torch.minimum(result, distance)
    return result


@dataclass(slots=True)
class _Area:
    """Part of the picture of some presenters, being painted on."""

    pixels: Tensor  # [k, t, 3, h, w]
    x: Tensor  # [k, t, h, w] in units of the head, as are y and what follows
    y: Tensor
    face_x: Tensor  # moved by yaw and pitch
    face_y: Tensor
    pixels_per_unit: Tensor  # [k, 1, 1, 1]
    line: Tensor | None  # [k, 1, 1, 1] width of outlines, None when nobody has them
    traits: tuple[Traits, ...]  # k of them
    presenters: Presenters  # all, as is the pose
    pose: Pose
    index: Tensor | None  # [k] which of all, None when it is all

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
        open_, width, round_ = self._chosen(self.pose.mouth)[..., None, None].unbind(2)
        return open_, width, round_

    def per_presenter(self, value: Callable[[Traits], float]) -> Tensor:
        """[k, 1, 1, 1] a number that follows from what can be named."""
        values = [value(traits) for traits in self.traits]
        return torch.tensor(values, device=self.pixels.device)[:, None, None, None]

    def colour(self, name: str, shade: float = 1.0) -> Tensor:
        """[k, 1, 3, 1, 1]; a shade below 1 darkens, above 1 lightens."""
        colour = self._chosen(self.presenters.colours[name])[:, None, :, None, None]
        return colour * shade if shade <= 1 else colour + (1 - colour) * (shade - 1)

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
        self.pixels.lerp_(colour.expand_as(self.pixels), cover[:, :, None])

    def shade(self, distance: Tensor, amount: Tensor) -> None:
        """Darken a shape by a share that may vary from pixel to pixel."""
        cover = (0.5 - distance * self.pixels_per_unit).clamp_(0, 1)
        self.pixels *= (1 - cover * amount)[:, :, None]


def _fixed(*values: float, like: Tensor) -> Tensor:
    """A colour that is the same for all, [1, 1, 3, 1, 1]."""
    return torch.tensor(values, device=like.device)[None, None, :, None, None]


class _Canvas:
    """Pictures of a few presenters in one size."""

    def __init__(self, pixels: Tensor, presenters: Presenters, pose: Pose, reach: float) -> None:
        self.pixels = pixels
        self.presenters = presenters
        self.pose = pose
        self.reach = reach
        height, width = pixels.shape[-2:]
        self.half = min(height, width) / 2
        # A tall picture shows more of the body, not more of the ceiling.
        self.lift = 0.4 * (height / (2 * self.half) - 1)
        numbers = presenters.numbers
        centre_y = numbers["centre_y"] - self.lift
        places = torch.stack((numbers["centre_x"], centre_y, numbers["size"]), 1)
        self.places = places[:, :, None]  # [n, 3, 1]
        self.tracks = torch.stack(
            (
                pose.head_x,
                pose.head_y,
                pose.roll.cos(),
                pose.roll.sin(),
                pose.yaw * _YAW_SHIFT,
                pose.pitch * _PITCH_SHIFT,
            ),
            2,
        )  # [n, t, 6]
        self.columns = (torch.arange(width, device=pixels.device) + 0.5 - width / 2) / self.half
        self.lines = (torch.arange(height, device=pixels.device) + 0.5 - height / 2) / self.half

    def _pixel_box(
        self, rows: Sequence[int], box: tuple[float, float, float, float]
    ) -> tuple[slice, slice]:
        height, width = self.pixels.shape[-2:]
        left, right, top, bottom = width, 0, height, 0
        for row in rows:
            x, y, size = self.presenters.framing[row]
            y -= self.lift
            middle_x, middle_y = x * self.half + width / 2, y * self.half + height / 2
            unit = size * self.half
            left = min(left, math.floor(middle_x + (box[0] - self.reach) * unit) - 1)
            right = max(right, math.ceil(middle_x + (box[1] + self.reach) * unit) + 1)
            top = min(top, math.floor(middle_y + (box[2] - self.reach) * unit) - 1)
            bottom = max(bottom, math.ceil(middle_y + (box[3] + self.reach) * unit) + 1)
        return slice(max(top, 0), min(bottom, height)), slice(max(left, 0), min(right, width))

    @contextmanager
    def area(
        self,
        box: tuple[float, float, float, float],
        who: Callable[[Traits], bool] = lambda _: True,
    ) -> Iterator[_Area | None]:
        """The presenters who have something, in a box; None when nobody has it."""
        rows = [row for row, traits in enumerate(self.presenters.traits) if who(traits)]
        if not rows:
            yield None
            return
        vertical, horizontal = self._pixel_box(rows, box)
        view = self.pixels[..., vertical, horizontal]
        if len(rows) == len(self.presenters):
            yield self._area(view, rows, None, vertical, horizontal)
            return
        index = torch.tensor(rows, device=view.device)
        pixels = view[index]
        yield self._area(pixels, rows, index, vertical, horizontal)
        view[index] = pixels

    def _area(
        self,
        pixels: Tensor,
        rows: list[int],
        index: Tensor | None,
        vertical: slice,
        horizontal: slice,
    ) -> _Area:
        def chosen(values: Tensor) -> Tensor:
            return (values if index is None else values[index])[..., None, None]

        centre_x, centre_y, size = chosen(self.places).unbind(1)  # [k, 1, 1, 1] each
        moved = chosen(self.tracks).unbind(2)  # [k, t, 1, 1] each
        shift_x, shift_y, cos, sin, yaw, pitch = moved
        x = (self.columns[horizontal] - centre_x) / size - shift_x
        y = (self.lines[vertical, None] - centre_y) / size - shift_y - 1
        x, y = x * cos + y * sin, y * cos - x * sin + 1
        traits = tuple(self.presenters.traits[row] for row in rows)
        pixels_per_unit = size * self.half
        line = None
        if any(one.style == "outlined" for one in traits):
            width = max(1.0, self.half / 64 * 1.1)
            lines = [width * (one.style == "outlined") for one in traits]
            line = torch.tensor(lines, device=pixels.device)[:, None, None, None] / pixels_per_unit
        return _Area(
            pixels=pixels,
            x=x,
            y=y,
            face_x=x - yaw,
            face_y=y - pitch,
            pixels_per_unit=pixels_per_unit,
            line=line,
            traits=traits,
            presenters=self.presenters,
            pose=self.pose,
            index=index,
        )


def _paint_wall(canvas: _Canvas) -> None:
    with canvas.area(_EVERYWHERE) as area:
        assert area is not None
        area.pixels.copy_(area.colour("wall").expand_as(area.pixels))
    x, y = canvas.columns[None, None, None, :], canvas.lines[None, None, :, None]
    kinds = ("gradient", "striped", "panelled", "dotted", "glowing", "curtain")
    for kind in kinds:
        with canvas.area(_EVERYWHERE, lambda traits, kind=kind: traits.wall == kind) as area:
            if area is None:
                continue
            angle, period = area.number("wall_angle"), area.number("wall_period")
            along = x * angle.cos() + y * angle.sin()
            wave = (along * 2 * math.pi / period + area.number("wall_phase")).sin()
            if kind == "gradient":
                cover = (along / 2.4 + 0.5).clamp(0, 1)
            elif kind == "striped":
                cover = (wave * period * canvas.half / 6 + 0.5).clamp(0, 1)
            elif kind == "panelled":
                cover = ((y - 0.15 - period / 2) * canvas.half + 0.5).clamp(0, 1) + 0 * x
            elif kind == "dotted":
                u = (x / period + 0.5).remainder(1) - 0.5
                v = (y / period + 0.5).remainder(1) - 0.5
                cover = ((0.24 - (u * u + v * v).sqrt()) * period * canvas.half + 0.5).clamp(0, 1)
            elif kind == "glowing":
                cover = (1 - (x.square() + (y + 0.1).square()).sqrt() / 1.3).clamp(0, 1)
            else:
                cover = (x * 2 * math.pi / period + area.number("wall_phase")).sin() / 2 + 0.5
                cover = cover + 0 * y
            strength = 1.0 if kind in ("gradient", "glowing", "panelled") else 0.6
            cover = cover * area.number("wall_contrast").clamp(max=1) * strength * 1.4
            other = area.colour("wall_other").expand_as(area.pixels)
            area.pixels.lerp_(other, cover.clamp(0, 1)[:, :, None])


def _paint_object(canvas: _Canvas, slot: int, name: str) -> None:
    for kind in ("picture", "window", "plant", "lamp", "shelf"):
        with canvas.area(
            _EVERYWHERE, lambda traits, kind=kind: traits.objects[slot] == kind
        ) as area:
            if area is None:
                continue
            size = area.number(f"{name}_size")
            # In pictures that are not square, objects keep to the sides.
            wide = canvas.pixels.shape[-1] / (2 * canvas.half)
            at_x = area.number(f"{name}_x") * wide
            u = (canvas.columns[None, None, None, :] - at_x) / size
            v = (canvas.lines[None, None, :, None] - area.number(f"{name}_y")) / size
            area.pixels_per_unit = size * canvas.half
            if area.line is not None:
                area.line = area.line * area.number("size") / size
            colour, white = area.colour(name), _fixed(0.93, 0.92, 0.88, like=u)
            if kind == "picture":
                area.paint(_box(u, v, 1.0, 1.15, 0.08), area.colour(name, 0.6), outline=True)
                area.paint(_box(u, v, 0.82, 0.97), white)
                area.paint(_ellipse(u, v - 0.1, 0.45, 0.5), colour)
            elif kind == "window":
                area.paint(_box(u, v, 1.1, 1.4, 0.05), white, outline=True)
                sky = _fixed(0.62, 0.80, 0.92, like=u)
                panes = _box(u.abs() - 0.5, (v.abs() - 0.64), 0.42, 0.56)
                area.paint(panes, sky)
            elif kind == "plant":
                green = _fixed(0.28, 0.52, 0.30, like=u)
                for lean, reach in ((-0.75, 0.8), (0.75, 0.8), (-0.3, 1.15), (0.3, 1.15)):
                    cos, sin = math.cos(lean), math.sin(lean)
                    a, b = u * cos + (v - 0.4) * sin, (v - 0.4) * cos - u * sin
                    area.paint(_ellipse(a, b + reach * 0.75, 0.24, reach * 0.75), green,
                               outline=True)  # fmt: skip
                pot = _box(u * (1 + 0.3 * (v - 0.8)), v - 0.8, 0.5, 0.5, 0.08)
                area.paint(pot, colour, outline=True)
            elif kind == "lamp":
                area.paint(_box(u, v + 3, 0.05, 2.6), colour * 0.4)
                shade = _both(v.abs() - 0.45, u.abs() - 0.75 - v * 0.6)
                area.paint(shade, colour, outline=True)
                area.paint(_ellipse(u, v - 0.55, 0.3, 0.16), _fixed(1.0, 0.95, 0.75, like=u))
            else:
                area.paint(_box(u, v - 1.0, 1.5, 0.10), area.colour("accent", 0.6), outline=True)
                for i, tall in enumerate((0.75, 0.6, 0.82, 0.5)):
                    book = _box(u + 0.9 - 0.45 * i, v - 0.9 + tall, 0.19, tall)
                    shade = (1.0, 0.7, 1.3, 0.85)[i]
                    area.paint(book, area.colour(name, shade), outline=True)


def _shoulders(area: _Area, grow: float = 0.0) -> Tensor:
    middle = area.number("shoulder_y") + 1.6
    v = (area.y - middle).clamp(max=0)
    u = area.x / (area.number("shoulder_width") + grow)
    v = v / (1.6 + grow)
    length = (u.abs().pow(2.6) + v.abs().pow(2.6)).pow(1 / 2.6)
    return (length - 1) * 1.5


def _paint_body(canvas: _Canvas) -> None:
    below = (-9.0, 9.0, 0.4, 9.0)
    with canvas.area(below) as area:
        assert area is not None
        x, y = area.x, area.y
        skin = area.colour("skin")
        neck = _box(x, y - 1.3, area.number("neck") + 0.10 * (y - 1.0).clamp(min=0).square(), 0.9,
                    0.05)  # fmt: skip
        area.paint(neck, skin, outline=True)
        chin = _ellipse(x, y - 0.22, 0.92, area.number("length"))
        area.shade(_both(neck, chin), torch.full_like(x, 0.20))
        body = _shoulders(area)
        area.paint(body, area.colour("clothes"), outline=True)
    for kind in ("t-shirt", "v-neck", "shirt", "jacket", "hoodie", "turtleneck", "striped shirt"):
        with canvas.area(below, lambda traits, kind=kind: traits.clothes == kind) as area:
            if area is not None:
                _paint_clothes(area, kind)
    with canvas.area(below, lambda traits: traits.style == "shaded") as area:
        if area is not None:
            side = (area.x * area.number("light").sign() * 0.14 + 0.05).clamp(0, 0.30)
            area.shade(_shoulders(area), side)


def _paint_clothes(area: _Area, kind: str) -> None:
    x, y = area.x, area.y
    body = _shoulders(area)
    v = y - area.number("shoulder_y")
    skin, neck = area.colour("skin"), area.number("neck")
    line = torch.full_like(x[:1, :1], 0.0)
    dark = area.colour("clothes", 0.72)
    if kind in ("t-shirt", "striped shirt"):
        if kind == "striped shirt":
            stripe = ((v * 2 * math.pi / 0.34).sin()) * 0.05
            area.paint(_both(body, stripe), area.colour("accent"))
        opening = _both(_ellipse(x, v, neck + 0.14, 0.26), body)
        area.paint(_both(body, opening - 0.07), dark)
        area.paint(opening, skin)
    elif kind == "v-neck":
        opening = _both((x.abs() + v * 0.62 - neck - 0.10) * 0.85, body)
        area.paint(_both(body, opening - 0.07), dark)
        area.paint(opening, skin)
    elif kind == "shirt":
        opening = _both((x.abs() + v * 1.2 - neck - 0.02) * 0.64, body)
        area.paint(opening, skin)
        collar = _both((x.abs() - neck - 0.30 + v * 0.25), (neck - 0.06 - x.abs() - v * 1.2) * 0.64,
                       v - 0.34, -v - 0.22)  # fmt: skip
        area.paint(collar, area.colour("clothes", 1.25), outline=True)
        area.paint(_both(x.abs() - 0.022, 0.30 - v), dark)
    elif kind == "jacket":
        inner = _both((x.abs() + v * 0.45 - neck - 0.16) * 0.9, body)
        area.paint(inner, area.colour("inner"))
        opening = _both((x.abs() + v * 1.1 - neck - 0.04) * 0.67, body)
        area.paint(opening, skin)
        tie = _both(x.abs() - 0.085 - 0.05 * v.clamp(0, 1), 0.28 - v)
        area.paint(_both(tie, inner), area.colour("accent"), outline=True)
        lapel = _both((neck + 0.16 - x.abs() - v * 0.45) * 0.9, x.abs() + v * 0.15 - neck - 0.42,
                      body)  # fmt: skip
        area.paint(lapel, area.colour("clothes", 0.82), outline=True)
    elif kind == "hoodie":
        hood = _ellipse(x, v - 0.02, neck + 0.46, 0.36)
        area.paint(hood, area.colour("clothes", 0.84), outline=True)
        area.paint(_ellipse(x, v - 0.02, neck + 0.16, 0.20), area.colour("clothes", 0.55))
        area.paint(_box(x, v + 0.22, neck, 0.30, 0.12), skin)
        for side in (-1.0, 1.0):
            string = _segment(x, v, side * 0.26, 0.22, side * 0.30, 0.75) - 0.028
            area.paint(string, area.colour("inner"))
    else:
        roll = _box(x, v + 0.04, neck + 0.06, 0.30, 0.10)
        area.paint(roll, area.colour("clothes", 0.90), outline=True)
        area.paint(_both(roll, (v + 0.02).abs() - 0.02 + line), dark)


def _bumps(x: Tensor, y: Tensor, count: int, high: float) -> Tensor:
    """A wavy rim around 0, to take from a distance."""
    return (torch.atan2(y, x) * count).cos() * high


def _is(*names: str) -> Callable[[Traits], bool]:
    """Has one of these hairs, not covered by a scarf."""
    return lambda traits: traits.hair in names and traits.headwear != "headscarf"


def _paint_back_hair(canvas: _Canvas) -> None:
    whole = (-2.0, 2.0, -2.2, 2.6)
    for kinds in (
        ("long",),
        ("wavy",),
        ("bob",),
        ("afro",),
        ("bun",),
        ("ponytail",),
        ("pigtails",),
    ):
        with canvas.area(whole, _is(*kinds)) as area:
            if area is None:
                continue
            kind = kinds[0]
            # Hair behind the head lags its turn.
            x, y = area.x + area.track("yaw") * 0.08, area.y
            volume, length = area.number("hair_volume"), area.number("hair_length")
            top = _ellipse(x, y + 0.1, 1.08 + volume, 1.18 + volume)
            if kind == "long":
                half = (length + 0.4) / 2
                shape = _any(top, _box(x, y - half + 0.4, 1.06 + volume, half, 0.25))
            elif kind == "wavy":
                half = (length + 0.4) / 2
                sway = 0.055 * (y * 7).sin()
                shape = _any(
                    top, _box(x + sway * x.sign(), y - half + 0.4, 1.12 + volume, half, 0.3)
                )
            elif kind == "bob":
                shape = _any(top, _box(x * (1.08 - 0.08 * y), y - 0.38, 1.14 + volume, 0.68, 0.22))
            elif kind == "afro":
                radius = 1.32 + volume
                shape = _ellipse(x, y + 0.34, radius, radius) - _bumps(x, y + 0.34, 17, 0.03)
            elif kind == "bun":
                high = area.number("length")
                shape = _ellipse(x, y + high + 0.20, 0.40, 0.36)
            elif kind == "ponytail":
                side = area.number("parting").sign()
                shape = _ellipse(x - side * 1.12, y - 0.25, 0.32, 0.95)
            else:
                shape = _ellipse(x.abs() - 1.22, y - 0.35, 0.30, 0.62)
                shape = shape - 0.03 * (y * 9).sin()
            area.paint(shape, area.colour("hair", 0.78), outline=True)


def _head_shape(area: _Area, grow: float = 0.0) -> Tensor:
    """Distance to the head: a rounded egg whose chin drops with the jaw."""
    open_ = area.mouth()[0]
    y = area.y
    below = y.clamp(min=0)
    length = area.number("length") + grow
    low = length + 0.075 * open_ * (below > 0)
    v = y / torch.where(y > 0, low, length)
    wide = 1 + grow - area.number("taper") * below.square() * 0.75
    u = area.x / wide
    power = area.number("square")
    radius = (u.abs().clamp(min=1e-3).pow(power) + v.abs().clamp(min=1e-3).pow(power)).pow(
        1 / power
    )
    return (radius - 1) * (0.98 + 0.1 * v.abs())


def _paint_head(canvas: _Canvas) -> None:
    has_ears = lambda traits: traits.headwear != "headscarf"  # noqa: E731
    with canvas.area(_HEAD, has_ears) as area:
        if area is not None:
            x, y = area.x + area.track("yaw") * 0.06, area.y - 0.08
            size = area.number("ear")
            ear = _ellipse(x.abs() - 1.0, y, size, size * 1.35)
            area.paint(ear, area.colour("skin", 0.94), outline=True)
            area.paint(_ellipse(x.abs() - 1.06, y, size * 0.45, size * 0.7),
                       area.colour("skin", 0.78))  # fmt: skip
    with canvas.area(_HEAD, lambda t: t.ears != "plain" and t.headwear != "headscarf") as area:
        if area is not None:
            hoop = area.per_presenter(lambda traits: traits.ears == "hoops")
            u, v = area.x.abs() - 1.08, area.y - 0.34
            ring = (_ellipse(u, v - 0.10, 0.11, 0.13)).abs() - 0.03
            stud = _ellipse(u, v, 0.06, 0.06)
            area.paint(torch.where(hoop, ring, stud), _fixed(0.93, 0.80, 0.42, like=u))
    with canvas.area(_FACE) as area:
        assert area is not None
        area.paint(_head_shape(area), area.colour("skin"), outline=True)
    with canvas.area(_FACE, lambda traits: traits.style == "shaded") as area:
        if area is not None:
            # Light from one side and above, and a soft rim.
            light = area.number("light").sign()
            x, y = area.x, area.y
            amount = (x * light * 0.13 + y * 0.06).clamp(0, 0.25)
            amount = amount + ((x.square() + (y / 1.2).square()) - 0.55).clamp(0, 1) * 0.16
            area.shade(_head_shape(area), amount)
    for kind in ("blush", "freckles"):
        with canvas.area(_FACE, lambda traits, kind=kind: traits.cheeks == kind) as area:
            if area is None:
                continue
            u, v = area.face_x.abs() - 0.58, area.face_y - 0.36
            if kind == "blush":
                pink = area.colour("skin") * _fixed(1.0, 0.72, 0.70, like=u)
                soft = (1 - (u.square() + (v * 1.4).square()).sqrt() / 0.24).clamp(0, 1) * 0.55
                area.pixels.lerp_(pink.expand_as(area.pixels), soft[:, :, None])
            else:
                spots = _any(*(_ellipse(u - a, v - b, 0.026, 0.026) for a, b in
                               ((-0.12, 0.0), (0.0, -0.05), (0.1, 0.02), (-0.04, 0.07))))  # fmt: skip
                area.paint(spots, area.colour("skin", 0.72))


def _mouth_middle(area: _Area) -> Tensor:
    """[k, t, 1, 1]: the lips move up a little for a smile."""
    return area.number("mouth_y") - 0.03 * area.track("smile")


def _paint_beard(canvas: _Canvas) -> None:
    for kind in ("stubble", "full", "goatee"):
        with canvas.area(_FACE, lambda traits, kind=kind: traits.beard == kind) as area:
            if area is None:
                continue
            x, y = area.face_x, area.face_y
            head, mouth = _head_shape(area), _mouth_middle(area)
            hole = _ellipse(x, y - mouth - 0.02, area.number("mouth_width") + 0.10, 0.20)
            if kind == "goatee":
                shape = _both(head, _ellipse(x, y - mouth - 0.30, 0.36, 0.36))
                shape = _both(shape, -hole, mouth + 0.05 - y)
            else:
                # The upper edge runs from the ears down over the cheeks.
                edge = mouth - 0.25 - 0.50 * (x.abs() - 0.45).clamp(min=0) ** 1.5
                shape = _both(head, (edge - y) * 0.85)
                if kind == "full":
                    shape = _both(shape, -hole)
            hair = area.colour("brows", 0.6) if kind == "stubble" else area.colour("hair", 0.9)
            area.paint(shape, hair, outline=kind != "stubble",
                       opacity=0.24 if kind == "stubble" else 1.0)  # fmt: skip


def _front_edge(area: _Area, kind: str) -> Tensor:
    """The hairline: hair is above it."""
    x = area.x - area.track("yaw") * 0.16
    base = area.number("hairline") + 0.08 * area.track("pitch")
    sides = 0.75 * x.abs().clamp(max=1.1).pow(5)
    part = area.number("parting")
    if kind == "fringe":
        return base + 0.24 + 0.30 * x.abs().clamp(max=1.1).pow(7) + 0.015 * (x * 24).sin()
    if kind == "parted":
        swoop = x - 0.55 * part.sign()
        return base - 0.10 + 0.34 * (swoop * part.sign()).abs().clamp(max=1.3) + 0.45 * sides
    if kind == "curtain":
        return base - 0.20 + 0.62 * (x - 0.25 * part).abs() + 0.25 * sides
    if kind == "curly":
        return base + 0.06 + 0.05 * (x * 15).sin() + 0.8 * sides
    return base + sides


_FRONTS = {
    "short": "plain", "buzzed": "plain", "parted": "parted", "fringe": "fringe", "curly": "curly",
    "afro": "curly", "bob": "fringe", "long": "curtain", "wavy": "curtain", "ponytail": "plain",
    "bun": "plain", "pigtails": "parted", "mohawk": "mohawk",
}  # fmt: skip


def _paint_front_hair(canvas: _Canvas) -> None:
    for front in ("plain", "parted", "fringe", "curly", "curtain", "mohawk"):
        kinds = tuple(hair for hair, own in _FRONTS.items() if own == front)
        with canvas.area(_HEAD, _is(*kinds)) as area:
            if area is None:
                continue
            x, y = area.x, area.y
            # Buzzed hair lies flat; the number of the others stands.
            stand = area.per_presenter(
                lambda traits: 0.25 if traits.hair in ("buzzed", "bun", "ponytail") else 1.0
            )
            volume = area.number("hair_volume") * stand + 0.03
            high = area.number("length") + volume - 0.06
            if front == "mohawk":
                crest = _ellipse(x, y + high - 0.1, 0.26, 0.52) - 0.03 * (y * 20).sin()
                area.paint(_both(crest, y - area.number("hairline")), area.colour("hair"),
                           outline=True)  # fmt: skip
                continue
            outer = _ellipse(x, y + 0.10, 1.03 + volume, high)
            if front == "curly":
                outer = outer - 0.05 - _bumps(x, y + 0.1, 15, 0.045)
            edge = _front_edge(area, front)
            shape = _both(outer, (y - edge) * 0.72)
            area.paint(shape, area.colour("hair"), outline=True)
            shine = _ellipse(x - 0.35 * area.number("light").sign(), y + 0.92, 0.42, 0.10)
            area.paint(_both(shape + 0.05, shine), area.colour("hair", 1.18))
    strands = (-1.45, 1.45, -0.9, 2.6)
    with canvas.area(strands, _is("long", "wavy", "bob")) as area:
        if area is not None:
            x, y = area.x, area.y
            short = area.per_presenter(lambda traits: traits.hair == "bob")
            low = torch.where(short, 0.95, area.number("hair_length") * 0.92)
            half = (low + 0.35) / 2
            bend = 0.10 * (y - 0.1).square().clamp(max=2) - 0.05
            shape = _box(x.abs() - 1.04 - bend * 0.6, y + 0.35 - half, 0.17, half, 0.16)
            area.paint(shape, area.colour("hair", 0.93), outline=True)


def _paint_brows(area: _Area) -> None:
    x = area.face_x.abs() - area.number("eye_x")
    stern = (-area.track("smile")).clamp(min=0)
    wide, thick = area.number("brow_width"), area.number("brow_thick")
    middle = area.number("eye_y") - area.number("brow_gap")
    middle = middle - 0.07 * area.track("brow") + 0.03 * stern
    tilt = area.number("brow_tilt") + 0.20 * stern
    inner = 1 - (x / wide).square()
    edge = middle - area.number("brow_arch") * inner - tilt * x
    thickness = thick * (0.55 + 0.45 * inner.clamp(min=0))
    distance = torch.maximum((area.face_y - edge).abs() - thickness, x.abs() - wide)
    area.paint(distance, area.colour("brows"))


def _paint_eyes(area: _Area, kind: str) -> None:
    side = area.face_x.sign()
    x = area.face_x.abs() - area.number("eye_x")
    y = area.face_y - area.number("eye_y")
    gaze_x, gaze_y = area.track("gaze_x"), area.track("gaze_y")
    closed = (area.track("eyes_closed") + 0.22 * area.track("smile").clamp(min=0)).clamp(0, 1)
    dark = _fixed(0.10, 0.08, 0.09, like=x)
    if kind == "dot":
        u, v = x - 0.035 * gaze_x * side, y - 0.03 * gaze_y
        high = 0.13 * (1 - closed) + 0.022
        area.paint(_ellipse(u, v - 0.02 * closed, 0.088 + 0.05 * closed, high), dark)
        glint = _ellipse(u + 0.03 * side, v + 0.045, 0.026, 0.03)
        open_only = (closed - 0.45).clamp(min=0) * 9
        area.paint(glint + open_only, _fixed(1.0, 1.0, 1.0, like=x))
        return
    tall = 1.34 if kind == "round" else 1.0
    wide, high = area.number("eye_width"), area.number("eye_height") * tall
    y = y + area.number("eye_slant") * 0.4 * x if kind == "almond" else y
    arch = (1 - (x / wide).square()).clamp(min=0)
    if kind == "round":
        arch = arch.sqrt()
    # The upper lid comes down to meet the lower one a little below the middle.
    meet = high * 0.42
    top = (-high * (1 - closed) + meet * closed) * arch
    low = (high * 0.88 * (1 - closed) + meet * closed) * arch
    beyond = x.abs() - wide
    opening = _both((top - y) * 0.85, (y - low) * 0.85, beyond)
    area.paint(opening + 0.8 * (closed > 0.93), _fixed(0.97, 0.96, 0.94, like=x))
    iris = area.number("iris") * (1.22 if kind == "round" else 1.0)
    u, v = x - 0.075 * gaze_x * side, y - 0.045 * gaze_y
    radius = (u.square() + v.square()).sqrt()
    inside = opening + 0.8 * (closed > 0.93)
    area.paint(_both(inside, radius - iris), area.colour("iris"))
    area.paint(_both(inside, radius - iris * 0.52), dark)
    glint = _ellipse(u + 0.035 * side, v + 0.04, 0.03, 0.03)
    area.paint(_both(inside, glint), _fixed(1.0, 1.0, 1.0, like=x))
    lash = _both((y - top).abs() - 0.030 * (0.35 + 0.65 * arch), beyond - 0.012)
    area.paint(lash, dark)


def _paint_nose(area: _Area, kind: str) -> None:
    # The nose stands out, so it moves further than the face when that turns.
    x = area.face_x - area.track("yaw") * 0.09
    y = area.face_y - area.number("nose_y") - area.track("pitch") * 0.06
    size = area.number("nose_size")
    dark = area.colour("skin", 0.70)
    if kind == "line":
        side = area.number("light").sign()
        bridge = _segment(x * side, y, 0.04, -0.30, 0.10, -0.02) - 0.022
        base = _segment(x * side, y, 0.10, -0.02, -0.05, 0.02) - 0.024
        area.paint(_any(bridge, base), dark)
    elif kind == "shadow":
        wedge = _both(y.abs() - 0.20, x.abs() - (y + 0.24) * 0.38 * size / 0.12)
        area.paint(wedge - 0.02, area.colour("skin", 0.86))
        area.paint(_ellipse(x, y - 0.17, size * 0.95, 0.045), area.colour("skin", 0.74))
    elif kind == "button":
        area.paint(_ellipse(x, y, size * 1.05, size * 0.85), area.colour("skin", 0.84),
                   outline=False)  # fmt: skip
        area.paint(_ellipse(x + 0.03, y + 0.03, size * 0.45, size * 0.32), area.colour("skin", 1.2))
    else:
        area.paint(_ellipse(x.abs() - size * 0.55, y, 0.042, 0.03), area.colour("skin", 0.48))
        curve = _both((y - 0.045 + x.square() * 1.6).abs() - 0.016, x.abs() - size * 0.8)
        area.paint(curve, dark)


def _paint_mouth(area: _Area) -> None:
    open_, width, round_ = area.mouth()
    smile = area.track("smile")
    x = area.face_x
    wide = area.number("mouth_width") * (1 + 0.20 * (width - 0.3) + 0.10 * smile - 0.40 * round_)
    u = (x / wide).clamp(-1, 1)
    bend = 1 - u.square()
    bow = bend.sqrt()
    # Corners rise with a smile and fall with a stern face; the middle does the opposite.
    curve = 0.13 * smile.clamp(min=0) + 0.085 * smile.clamp(max=0)
    y = area.face_y - _mouth_middle(area) - curve * (bend - 0.62)
    pout = round_ * (open_ * 5).clamp(0, 1)
    rise = 0.17 * open_ + 0.03 * pout
    drop = 0.34 * open_ + 0.05 * pout
    top, low = -rise * bow, drop * bow
    beyond = x.abs() - wide
    full = 1 + 0.45 * round_
    upper = area.number("lip_upper") * full * (1 - 0.25 * (-(u / 0.22).square()).exp())
    lower = area.number("lip_lower") * full
    lips = _both(top - upper * bend - y, y - low - lower * bend, beyond)
    area.paint(lips, area.colour("lips"), outline=True)
    shine = _ellipse(x, y - low - lower * 0.5, wide * 0.35, lower * 0.22)
    area.paint(shine, area.colour("lips", 1.22))
    hollow = _both(top - y, y - low, beyond)
    cavity = _fixed(0.24, 0.06, 0.08, like=x)
    # A closed mouth is a line; an open one a hollow with teeth above and the tongue below.
    line = _both((y - (top + low) / 2).abs() - 0.006 - 0.018 * bow, beyond + 0.01)
    area.paint(_any(hollow, line), cavity)
    tongue = _ellipse(x, y - drop - 0.02, wide * 0.62, 0.05 + 0.42 * drop)
    area.paint(_both(hollow + 0.012, tongue), _fixed(0.80, 0.36, 0.38, like=x))
    white = _fixed(0.97, 0.96, 0.93, like=x)
    edge = -rise + 0.05 + 0.085 * (open_ * 6).clamp(0, 1) - 0.06 * round_
    teeth = _both(hollow + 0.014, y - edge, x.abs() - wide * 0.86)
    area.paint(teeth, white)


def _paint_moustache(area: _Area) -> None:
    x = area.face_x
    middle = _mouth_middle(area) - 0.17 * area.mouth()[0] - 0.11
    wide = area.number("mouth_width") * 1.02
    droop = 0.14 * (x / wide).square() - 0.02 * (-(x / 0.1).square()).exp()
    bend = (1 - (x / wide).square()).clamp(min=0)
    shape = _both((area.face_y - middle - droop).abs() - 0.085 * bend.sqrt(), x.abs() - wide)
    area.paint(shape, area.colour("hair", 0.85), outline=True)


def _paint_glasses(area: _Area, kind: str) -> None:
    x = area.face_x.abs() - area.number("eye_x") - 0.01
    y = area.face_y - area.number("eye_y") - 0.02
    if kind == "round":
        rim = _ellipse(x, y, 0.315, 0.30)
    else:
        rim = _box(x, y, 0.33, 0.235, 0.09)
    area.paint(rim, _fixed(1.0, 1.0, 1.0, like=x), opacity=0.10)
    bridge = _both((y + 0.06 + 0.05 * (x + 0.42)).abs() - 0.026, area.face_x.abs() - 0.14)
    temple = _both((y + 0.06).abs() - 0.026, 0.31 - x, area.x.abs() - 0.98)
    area.paint(_any(rim.abs() - 0.033, bridge, temple), area.colour("frames"))


def _paint_features(canvas: _Canvas) -> None:
    with canvas.area(_MOUTH) as area:
        assert area is not None
        _paint_mouth(area)
    with canvas.area(_MOUTH, lambda t: t.beard in ("moustache", "full", "goatee")) as area:
        if area is not None:
            _paint_moustache(area)
    for kind in ("line", "shadow", "button", "nostrils"):
        nose = (-0.5, 0.5, -0.3, 0.85)
        with canvas.area(nose, lambda traits, kind=kind: traits.nose == kind) as area:
            if area is not None:
                _paint_nose(area, kind)
    for kind in ("almond", "round", "dot"):
        with canvas.area(_EYES, lambda traits, kind=kind: traits.eyes == kind) as area:
            if area is not None:
                _paint_eyes(area, kind)
    with canvas.area((-1.0, 1.0, -0.8, 0.3)) as area:
        assert area is not None
        _paint_brows(area)


def _paint_headwear(canvas: _Canvas) -> None:
    box = (-2.0, 2.0, -2.2, 2.2)
    names = ("beanie", "cap", "brimmed hat", "hard hat", "turban", "headband", "headphones",
             "headscarf")  # fmt: skip
    for kind in names:
        with canvas.area(box, lambda traits, kind=kind: traits.headwear == kind) as area:
            if area is None:
                continue
            x, y = area.x, area.y
            high = area.number("length")
            colour, dark = area.colour("headwear"), area.colour("headwear", 0.74)
            dome = _ellipse(x, y + 0.42, 1.13, high - 0.14)
            brow = area.number("eye_y") - area.number("brow_gap") - 0.10
            if kind == "beanie":
                area.paint(_both(dome, y - brow + 0.14), colour, outline=True)
                ribs = 0.02 * (x * 26).sin()
                band = _box(x, y - brow + 0.22 + 0.06 * x.square(), 1.14, 0.15, 0.08)
                area.paint(band, dark, outline=True)
                area.paint(_both(band + 0.03, ribs), area.colour("headwear", 0.86))
                area.paint(_ellipse(x, y + high + 0.32, 0.24, 0.22), area.colour("accent"),
                           outline=True)  # fmt: skip
            elif kind == "cap":
                area.paint(_both(dome, y - brow + 0.08), colour, outline=True)
                peak = _ellipse(x, y - brow + 0.08, 1.02, 0.17)
                area.paint(_both(peak, y - brow - 0.02), dark, outline=True)
            elif kind == "brimmed hat":
                crown = _box(x * (1 - 0.10 * (y + 1)), y + high - 0.02, 0.92, 0.62, 0.22)
                area.paint(_both(crown, y - brow + 0.1), colour, outline=True)
                area.paint(_both(crown, (y - brow + 0.30).abs() - 0.11), area.colour("accent"))
                area.paint(_ellipse(x, y - brow + 0.14, 1.62, 0.17), dark, outline=True)
            elif kind == "hard hat":
                area.paint(_both(dome - 0.04, y - brow + 0.12), colour, outline=True)
                area.paint(_both(_ellipse(x, y + 0.45, 0.24, high - 0.06), y - brow + 0.12),
                           area.colour("headwear", 1.25), outline=True)  # fmt: skip
                area.paint(_box(x, y - brow + 0.10, 1.30, 0.075, 0.06), dark, outline=True)
            elif kind == "turban":
                wrap = _both(_ellipse(x, y + 0.86, 1.22, 0.74), (y - brow - 0.1 * x.square()) * 0.9)
                area.paint(wrap, colour, outline=True)
                fold = (y + 0.85 + 0.55 * (x - 0.1)).remainder(0.34) - 0.17
                area.paint(_both(wrap + 0.04, fold.abs() - 0.022), dark)
            elif kind == "headband":
                outer = _ellipse(x, y + 0.10, 1.12, high + 0.02)
                arc = (y + 0.74 + 0.10 * x.square() - 0.25 * x.abs().pow(4)).abs() - 0.09
                area.paint(_both(outer, arc * 0.9), colour, outline=True)
            elif kind == "headphones":
                arc = _ellipse(x, y + 0.02, 1.20, high + 0.16)
                area.paint(_both(arc.abs() - 0.06, y), dark, outline=True)
                area.paint(_box(x.abs() - 1.12, y - 0.06, 0.17, 0.34, 0.13), colour, outline=True)
            else:
                # The scarf frames the face and falls over neck and shoulders.
                cover = _any(_ellipse(x, y + 0.05, 1.22, high + 0.20),
                             _both(_ellipse(x, y - 1.55, 1.05, 0.95), 0.2 - y))  # fmt: skip
                face = _ellipse(x, y - 0.16, 0.90, high - 0.06)
                area.paint(_both(cover, -face), colour, outline=True)
                fold = _both((face - 0.13).abs() - 0.022, cover + 0.05)
                area.paint(fold, dark)


def _draw(presenters: Presenters, pose: Pose, height: int, width: int, reach: float) -> Tensor:
    """[n, t, 3, h, w] of a few presenters, back to front."""
    count, frames = pose.head_x.shape
    device = pose.head_x.device
    still = Pose.at_rest(count, device=device)
    wall = _Canvas(torch.empty(count, 1, 3, height, width, device=device), presenters, still, 0.0)
    _paint_wall(wall)
    _paint_object(wall, 0, "object")
    _paint_object(wall, 1, "second")
    pixels = wall.pixels.repeat(1, frames, 1, 1, 1)
    canvas = _Canvas(pixels, presenters, pose, reach)
    _paint_back_hair(canvas)
    _lay_body(canvas, wall, still)
    _paint_head(canvas)
    _paint_beard(canvas)
    _paint_features(canvas)
    _paint_front_hair(canvas)
    for kind in ("round", "square"):
        glasses = (-1.15, 1.15, -0.55, 0.5)
        with canvas.area(glasses, lambda traits, kind=kind: traits.glasses == kind) as area:
            if area is not None:
                _paint_glasses(area, kind)
    _paint_headwear(canvas)
    return pixels.clamp_(0, 1)


def _lay_body(canvas: _Canvas, wall: _Canvas, still: Pose) -> None:
    """Draw the body once, on black and on white, and lay it over every frame."""
    black = torch.zeros_like(wall.pixels)
    white = torch.ones_like(wall.pixels)
    for ground in (black, white):
        _paint_body(_Canvas(ground, canvas.presenters, still, 0.0))
    # black = cover * colour and white = black + 1 - cover, so any ground shows through as it should.
    canvas.pixels.mul_(white - black).add_(black)


def _reach(pose: Pose) -> float:
    """How far anything drawn on the head can be from its place at rest, in units."""
    shift = torch.stack((pose.head_x, pose.head_y)).abs().max()
    turn = torch.stack((pose.yaw, pose.pitch)).abs().max()
    return float(shift + 2.6 * pose.roll.abs().max() + 0.4 * turn) + 0.05


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
    for first in range(0, count, together):
        some = range(first, min(first + together, count))
        people = presenters.take(some)
        for start in range(0, frames, at_once):
            stop = min(start + at_once, frames)
            part = pose.map(
                lambda track, a=start, b=stop, rows=some: track[rows.start : rows.stop, a:b]
            )
            drawn = _draw(people, part, height, width, reach)
            if as_bytes:
                drawn = drawn.mul_(255).round_()
            pictures[some.start : some.stop, start:stop] = drawn
    return pictures


def regions(presenters: Presenters, pose: Pose, *, height: int, width: int) -> Regions:
    """Where mouth, eyes (a band with the brows) and head are in the pictures of `render`."""
    device = presenters.numbers["size"].device
    pose = pose.map(lambda track: track.to(device))
    number = {name: value[:, None] for name, value in presenters.numbers.items()}
    half = min(height, width) / 2
    lift = 0.4 * (height / (2 * half) - 1)

    def box(x: Tensor, y: Tensor, half_x: Tensor, above: Tensor, below: Tensor) -> Tensor:
        # The head turns about (0, 1) in its own frame.
        cos, sin = pose.roll.cos(), pose.roll.sin()
        moved_x = x * cos - (y - 1) * sin + pose.head_x
        moved_y = x * sin + (y - 1) * cos + 1 + pose.head_y
        unit = number["size"] * half
        middle_x = number["centre_x"] * half + width / 2 + moved_x * unit
        middle_y = (number["centre_y"] - lift) * half + height / 2 + moved_y * unit
        edges = torch.stack(
            (
                (middle_x - half_x * unit).floor().clamp(0, width),
                (middle_y - above * unit).floor().clamp(0, height),
                (middle_x + half_x * unit).ceil().clamp(0, width),
                (middle_y + below * unit).ceil().clamp(0, height),
            ),
            -1,
        )
        return edges.long()

    shift_x, shift_y = pose.yaw * _YAW_SHIFT, pose.pitch * _PITCH_SHIFT
    one = torch.ones_like(shift_x)
    wide = number["mouth_width"]
    return Regions(
        mouth=box(shift_x, number["mouth_y"] + shift_y, wide * 1.22 * one, 0.30 * one, 0.48 * one),
        eyes=box(
            shift_x,
            number["eye_y"] + shift_y,
            (number["eye_x"] + number["eye_width"] + 0.08) * one,
            (number["brow_gap"] + 0.18) * one,
            0.24 * one,
        ),  # fmt: skip
        head=box(
            0 * one,
            0 * one,
            1.25 * one,
            (number["length"] + 0.15) * one,
            (number["length"] + 0.1) * one,
        ),  # fmt: skip
    )

"""What is behind a presenter: a wall and up to two things on it. None of it moves."""

import math
from functools import partial

from torch import Tensor

from omniavatar.nano.canvas import EVERYWHERE, Area, Canvas, both, box, ellipse, fixed


def paint_scenery(canvas: Canvas) -> None:
    """Fill the canvas with walls and hang things on them."""
    for area in canvas.areas(EVERYWHERE):
        area.pixels.copy_(area.colour("wall").expand_as(area.pixels))
    walls = ("gradient", "striped", "panelled", "dotted", "glowing", "curtain")
    canvas.paint_each(
        EVERYWHERE,
        lambda traits: traits.wall,
        {wall: partial(_paint_wall, canvas=canvas, wall=wall) for wall in walls},
    )
    things = {
        "picture": _paint_picture,
        "window": _paint_window,
        "plant": _paint_plant,
        "lamp": _paint_lamp,
        "shelf": _paint_shelf,
    }
    for slot, name in enumerate(("object", "second")):

        def at_place(area: Area, thing: str, name: str = name) -> None:
            u, v = _place(canvas, area, name)
            things[thing](area, u, v, area.colour(name))

        canvas.paint_each(
            EVERYWHERE,
            lambda traits, slot=slot: traits.objects[slot],  # type: ignore[misc]
            {thing: partial(at_place, thing=thing) for thing in things},
        )


def _paint_wall(area: Area, *, canvas: Canvas, wall: str) -> None:
    x, y = canvas.columns[None, None, None, :], canvas.lines[None, None, :, None]
    angle, period = area.number("wall_angle"), area.number("wall_period")
    along = x * angle.cos() + y * angle.sin()
    turns = 2 * math.pi / period
    strength = 1.4
    if wall == "gradient":
        cover = along / 2.4 + 0.5
    elif wall == "glowing":
        cover = 1 - (x.square() + (y + 0.1).square()).sqrt() / 1.3
    elif wall == "panelled":
        cover = (y - 0.15 - period / 2) * canvas.half + 0.5 + 0 * x
    else:
        strength = 0.84
        if wall == "striped":
            wave = (along * turns + area.number("wall_phase")).sin()
            cover = wave * period * canvas.half / 6 + 0.5
        elif wall == "curtain":
            cover = (x * turns + area.number("wall_phase")).sin() / 2 + 0.5 + 0 * y
        else:
            u = (x / period + 0.5).remainder(1) - 0.5
            v = (y / period + 0.5).remainder(1) - 0.5
            cover = (0.24 - (u * u + v * v).sqrt()) * period * canvas.half + 0.5
    cover = cover.clamp(0, 1) * area.number("wall_contrast") * strength
    area.mix(area.colour("wall_other"), cover.clamp(0, 1))


def _place(canvas: Canvas, area: Area, name: str) -> tuple[Tensor, Tensor]:
    """Coordinates of a thing, with its own size as unit."""
    size = area.number(f"{name}_size")
    # In pictures that are not square, things keep to the sides.
    wide = canvas.pixels.shape[-1] / (2 * canvas.half)
    u = (canvas.columns[None, None, None, :] - area.number(f"{name}_x") * wide) / size
    v = (canvas.lines[None, None, :, None] - area.number(f"{name}_y")) / size
    if area.line is not None:
        area.line = area.line * area.number("size") / size
    area.pixels_per_unit = size * canvas.half
    return u, v


def _paint_picture(area: Area, u: Tensor, v: Tensor, colour: Tensor) -> None:
    area.paint(box(u, v, 1.0, 1.15, 0.08), colour * 0.6, outline=True)
    area.paint(box(u, v, 0.82, 0.97), fixed(0.93, 0.92, 0.88, like=u))
    area.paint(ellipse(u, v - 0.1, 0.45, 0.5), colour)


def _paint_window(area: Area, u: Tensor, v: Tensor, colour: Tensor) -> None:
    white = fixed(0.93, 0.92, 0.88, like=u)
    area.paint(box(u, v, 1.1, 1.4, 0.05), white, outline=True)
    # Sky, with a little of the room's own colour.
    sky = fixed(0.62, 0.80, 0.92, like=u).lerp(colour, 0.12)
    area.paint(box(u.abs() - 0.5, v.abs() - 0.64, 0.42, 0.56), sky)


def _paint_plant(area: Area, u: Tensor, v: Tensor, colour: Tensor) -> None:
    green = fixed(0.28, 0.52, 0.30, like=u)
    for lean, length in ((-0.75, 0.8), (0.75, 0.8), (-0.3, 1.15), (0.3, 1.15)):
        cos, sin = math.cos(lean), math.sin(lean)
        across, along = u * cos + (v - 0.4) * sin, (v - 0.4) * cos - u * sin
        leaf = ellipse(across, along + length * 0.75, 0.24, length * 0.75)
        area.paint(leaf, green, outline=True)
    pot = box(u * (1 + 0.3 * (v - 0.8)), v - 0.8, 0.5, 0.5, 0.08)
    area.paint(pot, colour, outline=True)


def _paint_lamp(area: Area, u: Tensor, v: Tensor, colour: Tensor) -> None:
    area.paint(box(u, v + 3, 0.05, 2.6), colour * 0.4)
    area.paint(both(v.abs() - 0.45, u.abs() - 0.75 - v * 0.6), colour, outline=True)
    area.paint(ellipse(u, v - 0.55, 0.3, 0.16), fixed(1.0, 0.95, 0.75, like=u))


def _paint_shelf(area: Area, u: Tensor, v: Tensor, colour: Tensor) -> None:
    area.paint(box(u, v - 1.0, 1.5, 0.10), area.colour("accent", 0.6), outline=True)
    for place, tall, shade in ((0, 0.75, 1.0), (1, 0.6, 0.7), (2, 0.82, 0.9), (3, 0.5, 0.8)):
        book = box(u + 0.9 - 0.45 * place, v - 0.9 + tall, 0.19, tall)
        area.paint(book, colour * shade, outline=True)

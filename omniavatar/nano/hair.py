"""Hair, and what is worn on the head."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from omniavatar.nano.canvas import HEAD, Area, Box, Canvas, both, box, either, ellipse
from omniavatar.nano.face import head_shape
from omniavatar.nano.presenters import Traits

_ROUND_THE_HEAD: Box = (-2.0, 2.0, -2.2, 2.6)
_STRANDS: Box = (-1.45, 1.45, -0.9, 2.6)
_FRONTS = {
    "short": "plain",
    "buzzed": "plain",
    "ponytail": "plain",
    "bun": "plain",
    "parted": "parted",
    "pigtails": "parted",
    "fringe": "fringe",
    "bob": "fringe",
    "curly": "curly",
    "afro": "curly",
    "long": "curtain",
    "wavy": "curtain",
}
_LIE_FLAT = frozenset(("buzzed", "bun", "ponytail"))


def paint_hair_behind(canvas: Canvas) -> None:
    """Hair that is behind head and neck."""
    shapes: dict[str, Callable[[Area, Tensor, Tensor], Tensor]] = {
        "long": _long,
        "wavy": _wavy,
        "bob": _bob,
        "afro": _afro,
        "bun": _bun,
        "ponytail": _ponytail,
        "pigtails": _pigtails,
    }

    def paint(area: Area, shape: Callable[[Area, Tensor, Tensor], Tensor]) -> None:
        # Hair behind the head lags its turn.
        x = area.x + area.track("yaw") * 0.08
        area.paint(shape(area, x, area.y), area.colour("hair", 0.78), outline=True)

    painters = {hair: partial(paint, shape=shape) for hair, shape in shapes.items()}
    canvas.paint_each(_ROUND_THE_HEAD, _visible_hair, painters)


def paint_hair_in_front(canvas: Canvas) -> None:
    """Hair above the forehead, and strands beside the face."""
    fronts = ("plain", "parted", "fringe", "curly", "curtain")
    canvas.paint_each(
        HEAD,
        lambda traits: _FRONTS.get(_visible_hair(traits), ""),
        {front: partial(_paint_front, front=front) for front in fronts},
    )
    canvas.paint_each(HEAD, _visible_hair, {"mohawk": _paint_mohawk})
    for area in canvas.areas(_STRANDS, lambda t: _visible_hair(t) in ("long", "wavy", "bob")):
        x, y = area.x, area.y
        is_bob = area.per_presenter(lambda traits: traits.hair == "bob") > 0
        low = torch.where(is_bob, 0.95, area.number("hair_length") * 0.92)
        half = (low + 0.35) / 2
        bend = 0.06 * (y - 0.1).square().clamp(max=2) - 0.03
        strand = box(x.abs() - 1.04 - bend, y + 0.35 - half, 0.17, half, 0.16)
        area.paint(strand, area.colour("hair", 0.93), outline=True)


def paint_headwear(canvas: Canvas) -> None:
    """Hats, scarves and headphones."""
    canvas.paint_each(
        _ROUND_THE_HEAD,
        lambda traits: traits.headwear,
        {
            "beanie": _paint_beanie,
            "cap": _paint_cap,
            "brimmed hat": _paint_brimmed_hat,
            "hard hat": _paint_hard_hat,
            "turban": _paint_turban,
            "headband": _paint_headband,
            "headphones": _paint_headphones,
            "headscarf": _paint_headscarf,
        },
    )


def _visible_hair(traits: Traits) -> str:
    return "" if traits.headwear == "headscarf" else traits.hair


def _bumps(x: Tensor, y: Tensor, count: int, high: float) -> Tensor:
    """A wavy rim around 0, to take from a distance."""
    return (torch.atan2(y, x) * count).cos() * high


def _crown(area: Area, x: Tensor, y: Tensor) -> Tensor:
    volume = area.number("hair_volume")
    return ellipse(x, y + 0.1, 1.08 + volume, 1.18 + volume)


def _long(area: Area, x: Tensor, y: Tensor) -> Tensor:
    half = (area.number("hair_length") + 0.4) / 2
    wide = 1.06 + area.number("hair_volume")
    return either(_crown(area, x, y), box(x, y - half + 0.4, wide, half, 0.25))


def _wavy(area: Area, x: Tensor, y: Tensor) -> Tensor:
    half = (area.number("hair_length") + 0.4) / 2
    swing = 0.055 * (y * 7).sin() * x.sign()
    wide = 1.12 + area.number("hair_volume")
    return either(_crown(area, x, y), box(x + swing, y - half + 0.4, wide, half, 0.3))


def _bob(area: Area, x: Tensor, y: Tensor) -> Tensor:
    wide = 1.14 + area.number("hair_volume")
    return either(_crown(area, x, y), box(x * (1.08 - 0.08 * y), y - 0.38, wide, 0.68, 0.22))


def _afro(area: Area, x: Tensor, y: Tensor) -> Tensor:
    radius = 1.32 + area.number("hair_volume")
    return ellipse(x, y + 0.34, radius, radius) - _bumps(x, y + 0.34, 17, 0.03)


def _bun(area: Area, x: Tensor, y: Tensor) -> Tensor:
    return ellipse(x, y + area.number("length") + 0.20, 0.40, 0.36)


def _ponytail(area: Area, x: Tensor, y: Tensor) -> Tensor:
    return ellipse(x - area.number("parting").sign() * 1.12, y - 0.25, 0.32, 0.95)


def _pigtails(area: Area, x: Tensor, y: Tensor) -> Tensor:
    _ = area
    return ellipse(x.abs() - 1.22, y - 0.35, 0.30, 0.62) - 0.03 * (y * 9).sin()


def _hairline(area: Area, front: str) -> Tensor:
    """The y below which the forehead is free."""
    x = area.x - area.track("yaw") * 0.16
    line = area.number("hairline") + 0.08 * area.track("pitch")
    sides = 0.75 * x.abs().clamp(max=1.1).pow(5)
    part = area.number("parting")
    if front == "fringe":
        return line + 0.24 + 0.30 * x.abs().clamp(max=1.1).pow(7) + 0.015 * (x * 24).sin()
    if front == "parted":
        return line - 0.10 + 0.34 * (x * part.sign() - 0.55).abs().clamp(max=1.3) + 0.45 * sides
    if front == "curtain":
        return line - 0.20 + 0.62 * (x - 0.25 * part).abs() + 0.25 * sides
    if front == "curly":
        return line + 0.06 + 0.05 * (x * 15).sin() + 0.8 * sides
    return line + sides


def _paint_front(area: Area, *, front: str) -> None:
    x, y = area.x, area.y
    stand = area.per_presenter(lambda traits: 0.25 if traits.hair in _LIE_FLAT else 1.0)
    volume = area.number("hair_volume") * stand + 0.03
    cap = ellipse(x, y + 0.10, 1.03 + volume, area.number("length") + volume - 0.06)
    if front == "curly":
        cap = cap - 0.05 - _bumps(x, y + 0.1, 15, 0.045)
    shape = both(cap, (y - _hairline(area, front)) * 0.72)
    area.paint(shape, area.colour("hair"), outline=True)
    shine = ellipse(x - 0.35 * area.number("light").sign(), y + 0.92, 0.42, 0.10)
    area.paint(both(shape + 0.05, shine), area.colour("hair", 1.18))


def _paint_mohawk(area: Area) -> None:
    x, y = area.x, area.y
    high = area.number("length") + area.number("hair_volume") - 0.13
    crest = ellipse(x, y + high, 0.26, 0.52) - 0.03 * (y * 20).sin()
    area.paint(both(crest, y - area.number("hairline")), area.colour("hair"), outline=True)


def _brow_line(area: Area) -> Tensor:
    """[k, 1, 1, 1]: the y down to which a hat may come."""
    return area.number("eye_y") - area.number("brow_gap") - 0.10


def _dome(area: Area) -> Tensor:
    return ellipse(area.x, area.y + 0.42, 1.13, area.number("length") - 0.14)


def _paint_beanie(area: Area) -> None:
    x, y, line = area.x, area.y, _brow_line(area)
    area.paint(both(_dome(area), y - line + 0.14), area.colour("headwear"), outline=True)
    band = box(x, y - line + 0.22 + 0.06 * x.square(), 1.14, 0.15, 0.08)
    area.paint(band, area.colour("headwear", 0.74), outline=True)
    ribs = 0.02 * (x * 26).sin()
    area.paint(both(band + 0.03, ribs), area.colour("headwear", 0.86))
    pompom = ellipse(x, y + area.number("length") + 0.32, 0.24, 0.22)
    area.paint(pompom, area.colour("accent"), outline=True)


def _paint_cap(area: Area) -> None:
    x, y, line = area.x, area.y, _brow_line(area)
    area.paint(both(_dome(area), y - line + 0.08), area.colour("headwear"), outline=True)
    peak = both(ellipse(x, y - line + 0.08, 1.02, 0.17), y - line - 0.02)
    area.paint(peak, area.colour("headwear", 0.74), outline=True)


def _paint_brimmed_hat(area: Area) -> None:
    x, y, line = area.x, area.y, _brow_line(area)
    crown = box(x * (1 - 0.10 * (y + 1)), y + area.number("length") - 0.02, 0.92, 0.62, 0.22)
    area.paint(both(crown, y - line + 0.1), area.colour("headwear"), outline=True)
    area.paint(both(crown, (y - line + 0.30).abs() - 0.11), area.colour("accent"))
    brim = ellipse(x, y - line + 0.14, 1.62, 0.17)
    area.paint(brim, area.colour("headwear", 0.74), outline=True)


def _paint_hard_hat(area: Area) -> None:
    x, y, line = area.x, area.y, _brow_line(area)
    area.paint(both(_dome(area) - 0.04, y - line + 0.12), area.colour("headwear"), outline=True)
    ridge = both(ellipse(x, y + 0.45, 0.24, area.number("length") - 0.06), y - line + 0.12)
    area.paint(ridge, area.colour("headwear", 1.25), outline=True)
    brim = box(x, y - line + 0.10, 1.30, 0.075, 0.06)
    area.paint(brim, area.colour("headwear", 0.74), outline=True)


def _paint_turban(area: Area) -> None:
    x, y, line = area.x, area.y, _brow_line(area)
    wrap = both(ellipse(x, y + 0.86, 1.22, 0.74), (y - line - 0.1 * x.square()) * 0.9)
    area.paint(wrap, area.colour("headwear"), outline=True)
    fold = (y + 0.85 + 0.55 * (x - 0.1)).remainder(0.34) - 0.17
    area.paint(both(wrap + 0.04, fold.abs() - 0.022), area.colour("headwear", 0.74))


def _paint_headband(area: Area) -> None:
    x, y = area.x, area.y
    outer = ellipse(x, y + 0.10, 1.12, area.number("length") + 0.02)
    arc = (y + 0.74 + 0.10 * x.square() - 0.25 * x.abs().pow(4)).abs() - 0.09
    area.paint(both(outer, arc * 0.9), area.colour("headwear"), outline=True)


def _paint_headphones(area: Area) -> None:
    x, y = area.x, area.y
    arc = ellipse(x, y + 0.02, 1.20, area.number("length") + 0.16).abs() - 0.06
    area.paint(both(arc, y), area.colour("headwear", 0.74), outline=True)
    cups = box(x.abs() - 1.12, y - 0.06, 0.17, 0.34, 0.13)
    area.paint(cups, area.colour("headwear"), outline=True)


def _paint_headscarf(area: Area) -> None:
    x, y, length = area.x, area.y, area.number("length")
    # The scarf frames the face and falls over neck and shoulders.
    drape = both(ellipse(x, y - 1.55, 1.05, 0.95), 0.2 - y)
    cover = either(ellipse(x, y + 0.05, 1.22, length + 0.20), drape)
    face = both(ellipse(x, y - 0.16, 0.90, length - 0.06), head_shape(area, jaw_drops=False) + 0.02)
    area.paint(both(cover, -face), area.colour("headwear"), outline=True)
    fold = both((face - 0.13).abs() - 0.022, cover + 0.05)
    area.paint(fold, area.colour("headwear", 0.74))

"""Neck, shoulders and clothes. They stand still; only the head moves."""

import math

import torch
from torch import Tensor

from omniavatar.nano.canvas import Area, Box, Canvas, both, box, ellipse, segment

_BELOW_THE_CHIN: Box = (-99.0, 99.0, 0.4, 99.0)


def paint_figure(canvas: Canvas) -> None:
    """Draw everything below the head."""
    for area in canvas.areas(_BELOW_THE_CHIN):
        x, y = area.x, area.y
        wide = area.number("neck") + 0.10 * (y - 1.0).clamp(min=0).square()
        neck = box(x, y - 1.3, wide, 0.9, 0.05)
        area.paint(neck, area.colour("skin"), outline=True)
        chin = ellipse(x, y - 0.22, 0.92, area.number("length"))
        area.shade(both(neck, chin), 0.20)
        area.paint(_shoulders(area), area.colour("clothes"), outline=True)
    canvas.paint_each(
        _BELOW_THE_CHIN,
        lambda traits: traits.clothes,
        {
            "t-shirt": _paint_t_shirt,
            "striped shirt": _paint_striped_shirt,
            "v-neck": _paint_v_neck,
            "shirt": _paint_shirt,
            "jacket": _paint_jacket,
            "hoodie": _paint_hoodie,
            "turtleneck": _paint_turtleneck,
        },
    )
    for area in canvas.areas(_BELOW_THE_CHIN, lambda traits: traits.style == "shaded"):
        side = area.x * area.number("light").sign() * 0.14 + 0.05
        area.shade(_shoulders(area), side.clamp(0, 0.30))


def _shoulders(area: Area) -> Tensor:
    middle = area.number("shoulder_y") + 1.6
    u = (area.x / area.number("shoulder_width")).abs()
    v = ((area.y - middle).clamp(max=0) / 1.6).abs()
    length = (u.pow(2.6) + v.pow(2.6)).pow(1 / 2.6)
    return (length - 1) * 1.5


def _below_shoulder(area: Area) -> Tensor:
    return area.y - area.number("shoulder_y")


def _paint_t_shirt(area: Area) -> None:
    body, v = _shoulders(area), _below_shoulder(area)
    opening = both(ellipse(area.x, v, area.number("neck") + 0.14, 0.26), body)
    area.paint(both(body, opening - 0.07), area.colour("clothes", 0.72))
    area.paint(opening, area.colour("skin"))


def _paint_striped_shirt(area: Area) -> None:
    stripe = (_below_shoulder(area) * 2 * math.pi / 0.34).sin() * 0.05
    area.paint(both(_shoulders(area), stripe), area.colour("accent"))
    _paint_t_shirt(area)


def _paint_v_neck(area: Area) -> None:
    body, v = _shoulders(area), _below_shoulder(area)
    opening = both((area.x.abs() + v * 0.62 - area.number("neck") - 0.10) * 0.85, body)
    area.paint(both(body, opening - 0.07), area.colour("clothes", 0.72))
    area.paint(opening, area.colour("skin"))


def _paint_shirt(area: Area) -> None:
    x, v, neck = area.x, _below_shoulder(area), area.number("neck")
    opening = (x.abs() + v * 1.2 - neck - 0.02) * 0.64
    area.paint(both(opening, _shoulders(area)), area.colour("skin"))
    inner = (neck - 0.06 - x.abs() - v * 1.2) * 0.64
    collar = both(x.abs() - neck - 0.30 + v * 0.25, inner, v - 0.34, -v - 0.22)
    area.paint(collar, area.colour("clothes", 1.25), outline=True)
    area.paint(both(x.abs() - 0.022, 0.30 - v), area.colour("clothes", 0.72))


def _paint_jacket(area: Area) -> None:
    x, v, neck = area.x, _below_shoulder(area), area.number("neck")
    body = _shoulders(area)
    edge = (x.abs() + v * 0.45 - neck - 0.16) * 0.9
    area.paint(both(edge, body), area.colour("inner"))
    area.paint(both((x.abs() + v * 1.1 - neck - 0.04) * 0.67, body), area.colour("skin"))
    tie = both(x.abs() - 0.085 - 0.05 * v.clamp(0, 1), 0.28 - v, edge)
    area.paint(tie, area.colour("accent"), outline=True)
    lapel = both(-edge, x.abs() + v * 0.15 - neck - 0.42, body)
    area.paint(lapel, area.colour("clothes", 0.82), outline=True)


def _paint_hoodie(area: Area) -> None:
    x, v, neck = area.x, _below_shoulder(area), area.number("neck")
    area.paint(ellipse(x, v - 0.02, neck + 0.46, 0.36), area.colour("clothes", 0.84), outline=True)
    area.paint(ellipse(x, v - 0.02, neck + 0.16, 0.20), area.colour("clothes", 0.55))
    area.paint(box(x, v + 0.22, neck, 0.30, 0.12), area.colour("skin"))
    for side in (-1.0, 1.0):
        string = segment(x, v, (side * 0.26, 0.22), (side * 0.30, 0.75)) - 0.028
        area.paint(string, area.colour("inner"))


def _paint_turtleneck(area: Area) -> None:
    v = _below_shoulder(area)
    roll = box(area.x, v + 0.04, area.number("neck") + 0.06, 0.30, 0.10)
    area.paint(roll, area.colour("clothes", 0.90), outline=True)
    fold = torch.maximum(roll, (v + 0.02).abs() - 0.02)
    area.paint(fold, area.colour("clothes", 0.72))

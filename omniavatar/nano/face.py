"""Head and face: skin, beard, mouth, nose, eyes, brows and glasses."""

from functools import partial

import torch
from torch import Tensor

from omniavatar.nano.canvas import (
    FACE,
    HEAD,
    Area,
    Box,
    Canvas,
    both,
    box,
    either,
    ellipse,
    fixed,
    segment,
)

_EYES: Box = (-1.05, 1.05, -0.6, 0.6)
_BROWS: Box = (-1.05, 1.05, -0.85, 0.4)
_NOSE: Box = (-0.8, 0.8, -0.35, 0.85)
_MOUTH: Box = (-1.0, 1.0, 0.15, 1.35)
_GLASSES: Box = (-1.15, 1.15, -0.55, 0.5)


def paint_face(canvas: Canvas) -> None:
    """Draw the head and all that is on its front, but glasses and hair."""
    _paint_ears(canvas)
    _paint_skin(canvas)
    paint_beard(canvas)
    for area in canvas.areas(_MOUTH):
        _paint_mouth(area)
    paint_moustache(canvas)
    canvas.paint_each(
        _NOSE,
        lambda traits: traits.nose,
        {
            "line": _paint_line_nose,
            "shadow": _paint_shadow_nose,
            "button": _paint_button_nose,
            "nostrils": _paint_nostrils,
        },
    )
    canvas.paint_each(
        _EYES,
        lambda traits: traits.eyes,
        {
            "almond": _paint_eyes,
            "round": partial(_paint_eyes, round_ones=True),
            "dot": _paint_dot_eyes,
        },
    )
    for area in canvas.areas(_BROWS):
        _paint_brows(area)


def paint_beard(canvas: Canvas) -> None:
    """Draw what of a beard lies below and beside the mouth."""
    canvas.paint_each(
        FACE,
        lambda traits: traits.beard,
        {"stubble": _paint_stubble, "full": _paint_full_beard, "goatee": _paint_goatee},
    )


def paint_moustache(canvas: Canvas) -> None:
    """Draw what of a beard hangs over the mouth."""
    for area in canvas.areas(_MOUTH, lambda t: t.beard in ("moustache", "full", "goatee")):
        _paint_moustache(area)


def paint_glasses(canvas: Canvas) -> None:
    """Draw glasses, over the hair."""
    canvas.paint_each(
        _GLASSES,
        lambda traits: traits.glasses,
        {"round": _paint_round_glasses, "square": _paint_square_glasses},
    )


def head_shape(area: Area, *, jaw_drops: bool = True) -> Tensor:
    """Distance to the head: a rounded egg whose chin drops with the jaw."""
    y = area.y
    below = y.clamp(min=0)
    length = area.number("length")
    drop = 0.075 * area.mouth()[0] * jaw_drops
    v = y / torch.where(y > 0, length + drop, length)
    u = area.x / (1 - 0.75 * area.number("taper") * below.square())
    power = area.number("square")
    radius = u.abs().clamp(min=1e-3).pow(power) + v.abs().clamp(min=1e-3).pow(power)
    return (radius.pow(1 / power) - 1) * (0.98 + 0.1 * v.abs())


def _paint_ears(canvas: Canvas) -> None:
    for area in canvas.areas(HEAD, lambda traits: traits.headwear != "headscarf"):
        x, y = area.x + area.track("yaw") * 0.06, area.y - 0.08
        size = area.number("ear")
        ear = ellipse(x.abs() - 1.0, y, size, size * 1.35)
        area.paint(ear, area.colour("skin", 0.94), outline=True)
        hollow = ellipse(x.abs() - 1.06, y, size * 0.45, size * 0.7)
        area.paint(hollow, area.colour("skin", 0.78))
    ringed = {"hoops", "studs"}
    for area in canvas.areas(
        HEAD, lambda traits: traits.ears in ringed and traits.headwear != "headscarf"
    ):
        u, v = area.x.abs() - 1.08, area.y - 0.34
        hoop = ellipse(u, v - 0.10, 0.11, 0.13).abs() - 0.03
        has_hoops = area.per_presenter(lambda traits: traits.ears == "hoops") > 0
        ring = torch.where(has_hoops, hoop, ellipse(u, v, 0.06, 0.06))
        area.paint(ring, fixed(0.93, 0.80, 0.42, like=u))


def _paint_skin(canvas: Canvas) -> None:
    for area in canvas.areas(FACE):
        area.paint(head_shape(area), area.colour("skin"), outline=True)
    for area in canvas.areas(FACE, lambda traits: traits.style == "shaded"):
        # Light from one side and above, and a soft rim.
        x, y = area.x, area.y
        side = (x * area.number("light").sign() * 0.13 + y * 0.06).clamp(0, 0.25)
        rim = (x.square() + (y / 1.2).square() - 0.55).clamp(0, 1) * 0.16
        area.shade(head_shape(area), side + rim)
    canvas.paint_each(
        FACE, lambda traits: traits.cheeks, {"blush": _paint_blush, "freckles": _paint_freckles}
    )


def _paint_blush(area: Area) -> None:
    u, v = area.face_x.abs() - 0.58, area.face_y - 0.36
    pink = area.colour("skin") * fixed(1.0, 0.72, 0.70, like=u)
    area.mix(pink, (1 - (u.square() + (v * 1.4).square()).sqrt() / 0.24).clamp(0, 1) * 0.55)


def _paint_freckles(area: Area) -> None:
    u, v = area.face_x.abs() - 0.58, area.face_y - 0.36
    places = ((-0.12, 0.0), (0.0, -0.05), (0.1, 0.02), (-0.04, 0.07))
    spots = either(*(ellipse(u - a, v - b, 0.026, 0.026) for a, b in places))
    area.paint(spots, area.colour("skin", 0.72))


def _mouth_middle(area: Area) -> Tensor:
    """[k, t, 1, 1]: the lips move up a little for a smile."""
    return area.number("mouth_y") - 0.03 * area.track("smile")


def _beard_edge(area: Area) -> Tensor:
    """Distance to the part of the face below a line from the ears over the cheeks."""
    cheek = 0.50 * (area.face_x.abs() - 0.45).clamp(min=0) ** 1.5
    return both(head_shape(area), (_mouth_middle(area) - 0.25 - cheek - area.face_y) * 0.85)


def _paint_stubble(area: Area) -> None:
    area.paint(_beard_edge(area), area.colour("brows", 0.6), opacity=0.24)


def _paint_full_beard(area: Area) -> None:
    area.paint(_beard_edge(area), area.colour("hair", 0.9), outline=True)


def _paint_goatee(area: Area) -> None:
    below = area.face_y - _mouth_middle(area)
    chin = both(head_shape(area), ellipse(area.face_x, below - 0.30, 0.36, 0.36))
    area.paint(both(chin, 0.05 - below), area.colour("hair", 0.9), outline=True)


def _paint_moustache(area: Area) -> None:
    x = area.face_x
    middle = _mouth_middle(area) - 0.17 * area.mouth()[0] - 0.11
    wide = area.number("mouth_width") * 1.02
    droop = 0.14 * (x / wide).square() - 0.02 * (-(x / 0.1).square()).exp()
    bow = (1 - (x / wide).square()).clamp(min=0).sqrt()
    shape = both((area.face_y - middle - droop).abs() - 0.085 * bow, x.abs() - wide)
    area.paint(shape, area.colour("hair", 0.85), outline=True)


def _paint_mouth(area: Area) -> None:
    opening, width, rounding = area.mouth()
    smile = area.track("smile")
    x = area.face_x
    wide = area.number("mouth_width") * (1 + 0.30 * (width - 0.3) + 0.10 * smile - 0.40 * rounding)
    u = (x / wide).clamp(-1, 1)
    bend = 1 - u.square()
    bow = bend.sqrt()
    # Corners rise with a smile and fall with a stern face; the middle does the opposite.
    curve = 0.13 * smile.clamp(min=0) + 0.085 * smile.clamp(max=0) - 0.12 * area.track("sad")
    y = area.face_y - _mouth_middle(area) - curve * (bend - 0.62)
    pout = rounding * (opening * 5).clamp(0, 1)
    rise = 0.17 * opening + 0.03 * pout
    drop = 0.34 * opening + 0.05 * pout
    top, low = -rise * bow, drop * bow
    beyond = x.abs() - wide
    full = 1 + 0.45 * rounding
    upper = area.number("lip_upper") * full * (1 - 0.25 * (-(u / 0.22).square()).exp())
    lower = area.number("lip_lower") * full
    lips = both(top - upper * bend - y, y - low - lower * bend, beyond)
    area.paint(lips, area.colour("lips"), outline=True)
    shine = ellipse(x, y - low - lower * 0.5, wide * 0.35, lower * 0.22)
    area.paint(shine, area.colour("lips", 1.22))
    # A closed mouth is a line; an open one a hollow with the tongue below and teeth above.
    hollow = both(top - y, y - low, beyond)
    line = both((y - (top + low) / 2).abs() - 0.006 - 0.018 * bow, beyond + 0.01)
    area.paint(either(hollow, line), fixed(0.24, 0.06, 0.08, like=x))
    tongue = ellipse(x, y - drop - 0.02, wide * 0.62, 0.05 + 0.42 * drop)
    area.paint(both(hollow + 0.012, tongue), fixed(0.80, 0.36, 0.38, like=x))
    edge = -rise + 0.04 + 0.065 * (opening * 6).clamp(0, 1) - 0.05 * rounding
    teeth = both(hollow + 0.014, y - edge, x.abs() - wide * 0.86)
    area.paint(teeth, fixed(0.97, 0.96, 0.93, like=x))


def _nose_place(area: Area) -> tuple[Tensor, Tensor, Tensor]:
    """x, y and size. The nose stands out, so it moves further than the face when that turns."""
    x = area.face_x - area.track("yaw") * 0.09
    y = area.face_y - area.number("nose_y") - area.track("pitch") * 0.06
    return x, y, area.number("nose_size")


def _paint_line_nose(area: Area) -> None:
    x, y, _ = _nose_place(area)
    x = x * area.number("light").sign()
    bridge = segment(x, y, (0.04, -0.30), (0.10, -0.02)) - 0.022
    base = segment(x, y, (0.10, -0.02), (-0.05, 0.02)) - 0.024
    area.paint(either(bridge, base), area.colour("skin", 0.70))


def _paint_shadow_nose(area: Area) -> None:
    x, y, size = _nose_place(area)
    wedge = both(y.abs() - 0.20, x.abs() - (y + 0.24) * 3.2 * size)
    area.paint(wedge - 0.02, area.colour("skin", 0.86))
    area.paint(ellipse(x, y - 0.17, size * 0.95, 0.045), area.colour("skin", 0.74))


def _paint_button_nose(area: Area) -> None:
    x, y, size = _nose_place(area)
    area.paint(ellipse(x, y, size * 1.05, size * 0.85), area.colour("skin", 0.84))
    area.paint(ellipse(x + 0.03, y + 0.03, size * 0.45, size * 0.32), area.colour("skin", 1.2))


def _paint_nostrils(area: Area) -> None:
    x, y, size = _nose_place(area)
    area.paint(ellipse(x.abs() - size * 0.55, y, 0.042, 0.03), area.colour("skin", 0.48))
    wing = both((y - 0.045 + x.square() * 1.6).abs() - 0.016, x.abs() - size * 0.8)
    area.paint(wing, area.colour("skin", 0.70))


def _eye_place(area: Area) -> tuple[Tensor, Tensor, Tensor]:
    """Coordinates from the middle of the nearer eye, x growing outwards, and its side (-1, 1)."""
    x = area.face_x.abs() - area.number("eye_x")
    return x, area.face_y - area.number("eye_y"), area.face_x.sign()


def _eyes_closed(area: Area) -> Tensor:
    """[k, t, 1, 1]: a smile narrows the eyes."""
    squint = 0.22 * area.track("smile").clamp(min=0)
    return (area.track("eyes_closed") + squint).clamp(0, 1)


def _paint_dot_eyes(area: Area) -> None:
    x, y, side = _eye_place(area)
    closed = _eyes_closed(area)
    u, v = x - 0.035 * area.track("gaze_x") * side, y - 0.03 * area.track("gaze_y")
    tall = 0.13 * (1 - closed) + 0.022
    dot = ellipse(u, v - 0.02 * closed, 0.088 + 0.05 * closed, tall)
    area.paint(dot, fixed(0.10, 0.08, 0.09, like=x))
    gone = (closed - 0.45).clamp(min=0) * 9
    glint = ellipse(u + 0.03 * side, v + 0.045, 0.026, 0.03) + gone
    area.paint(glint, fixed(1.0, 1.0, 1.0, like=x))


def _paint_eyes(area: Area, *, round_ones: bool = False) -> None:
    x, y, side = _eye_place(area)
    closed = _eyes_closed(area)
    wide, tall = area.number("eye_width"), area.number("eye_height")
    iris = area.number("iris")
    arch = (1 - (x / wide).square()).clamp(min=0)
    if round_ones:
        tall, iris, arch = tall * 1.34, iris * 1.22, arch.sqrt()
    else:
        y = y + area.number("eye_slant") * 0.4 * x
    # The upper lid comes down to meet the lower one a little below the middle.
    meet = tall * 0.42
    top = (-tall * (1 - closed) + meet * closed) * arch
    low = (tall * 0.88 * (1 - closed) + meet * closed) * arch
    beyond = x.abs() - wide
    shut = 0.8 * (closed > 0.93)
    inside = both((top - y) * 0.85, (y - low) * 0.85, beyond) + shut
    dark = fixed(0.10, 0.08, 0.09, like=x)
    area.paint(inside, fixed(0.97, 0.96, 0.94, like=x))
    u, v = x - 0.075 * area.track("gaze_x") * side, y - 0.045 * area.track("gaze_y")
    radius = (u.square() + v.square()).sqrt()
    area.paint(both(inside, radius - iris), area.colour("iris"))
    area.paint(both(inside, radius - iris * 0.52), dark)
    glint = ellipse(u + 0.035 * side, v + 0.04, 0.03, 0.03)
    area.paint(both(inside, glint), fixed(1.0, 1.0, 1.0, like=x))
    lash = both((y - top).abs() - 0.030 * (0.35 + 0.65 * arch), beyond - 0.012)
    area.paint(lash, dark)


def _paint_brows(area: Area) -> None:
    x = area.face_x.abs() - area.number("eye_x")
    stern = (-area.track("smile")).clamp(min=0)
    wide = area.number("brow_width")
    middle = area.number("eye_y") - area.number("brow_gap")
    middle = middle - 0.07 * area.track("brow") + 0.03 * stern
    arch = 1 - (x / wide).square()
    sad = area.track("sad")
    middle = middle - 0.05 * sad
    tilt = area.number("brow_tilt") * (1 - sad) + 0.20 * stern - 0.42 * sad
    edge = middle - area.number("brow_arch") * arch - tilt * x
    thick = area.number("brow_thick") * (0.55 + 0.45 * arch.clamp(min=0))
    area.paint(both((area.face_y - edge).abs() - thick, x.abs() - wide), area.colour("brows"))


def _paint_round_glasses(area: Area) -> None:
    x, y, _ = _eye_place(area)
    _paint_frames(area, ellipse(x - 0.01, y - 0.02, 0.315, 0.30))


def _paint_square_glasses(area: Area) -> None:
    x, y, _ = _eye_place(area)
    _paint_frames(area, box(x - 0.01, y - 0.02, 0.33, 0.235, 0.09))


def _paint_frames(area: Area, rim: Tensor) -> None:
    x, y, _ = _eye_place(area)
    area.paint(rim, fixed(1.0, 1.0, 1.0, like=x), opacity=0.10)
    bridge = both((y + 0.04 + 0.05 * (x + 0.42)).abs() - 0.026, area.face_x.abs() - 0.14)
    temple = both((y + 0.04).abs() - 0.026, 0.32 - x, area.x.abs() - 0.98)
    area.paint(either(rim.abs() - 0.033, bridge, temple), area.colour("frames"))

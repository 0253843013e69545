"""People drawn as a camera would see them: rounded by light, textured, a little out of focus.

Not photographs, but with what sets photographs apart from cartoons: no lines, no flat colours, soft
edges, light from one side, skin, hair and cloth with a grain of their own, rooms out of focus,
heads turned away, and a lens and a sensor in front of it all.
"""

# n presenters, k presenters in an area, t frames, h height, w width

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from omniavatar.nano.canvas import (
    EVERYWHERE,
    FACE,
    HEAD,
    Area,
    Canvas,
    Pose,
    both,
    box,
    either,
    ellipse,
    fixed,
)
from omniavatar.nano.face import head_shape, paint_beard, paint_glasses, paint_moustache
from omniavatar.nano.figure import paint_figure
from omniavatar.nano.hair import paint_hair_behind, paint_hair_in_front, paint_headwear
from omniavatar.nano.hands import paint_hand
from omniavatar.nano.presenters import Presenters
from omniavatar.nano.scenery import paint_scenery

_WAVES = ((1.0, 0.3), (2.1, 1.9), (3.7, 4.0), (5.3, 0.9), (8.1, 2.6), (11.9, 5.2))
"""Frequency and angle of the sines whose sum stands for the grain of a surface."""

_BLOBS = 9


def draw_photographic(
    presenters: Presenters, pose: Pose, height: int, width: int, reach: float
) -> Tensor:
    """[n, t, 3, h, w] of a few presenters, back to front."""
    count, frames = pose.head_x.shape
    device = pose.head_x.device
    still = Pose.at_rest(count, device=device)
    room = torch.empty(count, 1, 3, height, width, device=device)
    behind = Canvas(room, presenters, still, 0.0)
    paint_scenery(behind)
    _paint_clutter(behind)
    room = _blurred(room, presenters.numbers["bokeh"])
    pixels = room.repeat(1, frames, 1, 1, 1)
    canvas = Canvas(pixels, presenters, pose, reach)
    canvas.surface = _hair_surface
    paint_hair_behind(canvas)
    # As in `drawing`: the figure over black and over white, drawn once for all frames.
    black, white = torch.zeros_like(room), torch.ones_like(room)
    for plain in (black, white):
        figure = Canvas(plain, presenters, still, 0.0)
        figure.surface = _cloth_surface
        paint_figure(figure)
    pixels.mul_(white - black).add_(black)
    canvas.surface = None
    _paint_head(canvas)
    canvas.surface = _hair_surface
    paint_beard(canvas)
    canvas.surface = None
    for area in canvas.areas(FACE):
        _paint_mouth(area)
    paint_moustache(canvas)
    for area in canvas.areas(FACE):
        _paint_nose(area)
        _paint_eyes(area)
        _paint_brows(area)
        _light(area)
    canvas.surface = _hair_surface
    paint_hair_in_front(canvas)
    canvas.surface = None
    paint_glasses(canvas)
    canvas.surface = _cloth_surface
    paint_headwear(canvas)
    paint_hand(canvas)
    return _through_camera(pixels, presenters)


def _waves(area: Area, x: Tensor, y: Tensor, *, scale: float) -> Tensor:
    """A grain of about -1..1 that belongs to the presenter and moves with x and y."""
    phase = area.number("phase")
    total = torch.zeros_like(x)
    for number, (frequency, angle) in enumerate(_WAVES):
        along = x * math.cos(angle) + y * math.sin(angle)
        across = y * math.cos(angle) - x * math.sin(angle)
        total = total + (
            scale * frequency * along + 1.3 * (frequency * across).sin() + phase * (number + 1)
        ).sin() / (1 + 0.5 * number)
    return total / 2.5


def _hair_surface(area: Area) -> Tensor:
    """Strands that fall from the crown, in locks, and a broad shine."""
    fan = area.x / (1 + 0.35 * (area.y + 0.9).abs())
    locks = _waves(area, fan * 2.2, area.y * 0.25, scale=2.2)
    strands = (47 * fan + 4.5 * locks + 1.5 * (3.1 * area.y).sin()).sin()
    fine = (113 * fan + 6 * locks - 2.3 * area.y).sin()
    shine = (-((area.y + 0.75 + 0.3 * area.x.square()) / 0.28).square()).exp()
    amount = area.number("hair_grain")
    level = 1 + amount * (0.7 * locks + 0.25 * strands + 0.2 * fine)
    return level + 0.28 * shine * area.number("light_level") * (1 + 0.5 * locks)


def _cloth_surface(area: Area) -> Tensor:
    """Folds, a weave, and light from the side."""
    folds = _waves(area, area.x * 0.8, area.y * 0.5, scale=1.4)
    weave = _waves(area, area.x, area.y, scale=11.0)
    side = area.x * area.number("light_x") * 0.12
    amount = area.number("cloth_grain")
    return (1 + amount * (0.8 * folds + 0.35 * weave) + side).clamp(0.25, 1.5)


def _paint_clutter(canvas: Canvas) -> None:
    """Shapes without names, as a room out of focus is full of."""
    for area in canvas.areas(EVERYWHERE):
        x = canvas.columns[None, None, None, :]
        y = canvas.lines[None, None, :, None]
        phase = area.number("phase")
        for number in range(_BLOBS):
            # Pseudo-random places that follow from the presenter's phase.
            a, b, c, d = (
                (phase * (3.1 + number) + 1.7 * (number + 1) * turn).sin() for turn in (1, 2, 3, 4)
            )
            shape = box(x - 1.25 * a, y - 1.1 * b, 0.12 + 0.3 * c.abs(), 0.10 + 0.45 * d.abs())
            name = ("object", "second", "accent", "wall_other")[number % 4]
            shade = (0.75 + 0.35 * c)[:, :, None]
            cover = (0.5 - shape * canvas.half).clamp(0, 1) * area.number("clutter")
            area.mix((area.colour(name) * shade).clamp(0, 1), cover * (0.5 + 0.5 * d.abs()))
        glow = _waves(area, x + 0 * y, y + 0 * x, scale=0.8)
        area.pixels.mul_((1 + 0.22 * glow)[:, :, None]).clamp_(0, 1)


def _paint_head(canvas: Canvas) -> None:
    for area in canvas.areas(HEAD, lambda traits: traits.headwear != "headscarf"):
        turn = area.number("turn")
        for side in (-1.0, 1.0):
            # The ear on the far side of a turned head is hidden, the other comes forward.
            seen = (1 + 2.2 * side * -turn).clamp(0, 1.5)
            x = area.x + area.track("yaw") * 0.06 - side * (1.0 - 0.55 * (side * -turn).clamp(0, 1))
            size = area.number("ear") * seen.clamp(min=0.05)
            ear = ellipse(x, area.y - 0.08, size * 0.8, area.number("ear") * 1.45)
            area.paint_softly(ear + 0.5 * (seen < 0.1), area.colour("skin", 0.86), soft=0.06)
            hollow = ellipse(x, area.y - 0.06, size * 0.38, area.number("ear") * 0.8)
            area.paint_softly(
                hollow + 0.5 * (seen < 0.1), area.colour("skin", 0.62), soft=0.12, opacity=0.7
            )
    for area in canvas.areas(FACE):
        area.paint_softly(head_shape(area), area.colour("skin"), soft=0.05)
        red = area.colour("skin") * fixed(1.0, 0.80, 0.76, like=area.x)
        cheeks = ellipse(area.face_x.abs() - 0.52, area.face_y - 0.38, 0.30, 0.26)
        area.paint_softly(both(cheeks, head_shape(area)), red, soft=0.5, opacity=0.55)
        grain = _waves(area, area.face_x, area.face_y, scale=6.0) * area.number("skin_grain")
        area.shade(head_shape(area), -grain)


def _light(area: Area) -> None:
    """Round the head: light from one side, and what light does not reach."""
    x, y = area.x, area.y / area.number("length")
    toward = (1 - x.square() * 0.92 - y.square() * 0.75).clamp(min=0.02).sqrt()
    light_x, light_y = area.number("light_x"), area.number("light_y")
    light_z = (1 - light_x.square() - light_y.square()).clamp(min=0.05).sqrt()
    lit = (x * light_x + y * light_y + toward * light_z).clamp(0, 1)
    ambient = area.number("ambient")
    level = (ambient + (1 - ambient) * lit) / (ambient + (1 - ambient) * light_z)
    u, v = area.face_x, area.face_y
    sockets = (
        -((u.abs() - area.number("eye_x")) / 0.26).square()
        - ((v - area.number("eye_y")) / 0.17).square()
    ).exp()
    under_nose = (-(u / 0.20).square() - ((v - area.number("nose_y") - 0.10) / 0.06).square()).exp()
    beside = (
        -((u - 0.17 * light_x.sign()) / 0.07).square()
        - ((v - area.number("nose_y") + 0.16) / 0.22).square()
    ).exp()
    under_lip = (-(u / 0.22).square() - ((v - area.number("mouth_y") - 0.24) / 0.07).square()).exp()
    dark = 0.20 * sockets + 0.16 * under_nose + 0.15 * under_lip
    dark = dark - 0.20 * beside * light_x.abs()
    forehead = (-(u / 0.45).square() - ((v + 0.55) / 0.22).square()).exp()
    shine = area.number("light_level") * (0.16 * forehead)
    area.shade(head_shape(area) - 0.04, 1 - (level * (1 - dark) + shine).clamp(0.15, 1.35))


def _mouth_middle(area: Area) -> Tensor:
    return area.number("mouth_y") - 0.03 * area.track("smile")


def _paint_mouth(area: Area) -> None:
    """The lips of `face`, without lines: they part over teeth that lie in their shadow."""
    opening, width, rounding = area.mouth()
    smile = area.track("smile")
    x = area.face_x
    wide = area.number("mouth_width") * (1 + 0.20 * (width - 0.3) + 0.12 * smile - 0.40 * rounding)
    u = (x / wide).clamp(-1, 1)
    bend = 1 - u.square()
    bow = bend.sqrt()
    curve = 0.12 * smile.clamp(min=0) + 0.075 * smile.clamp(max=0) - 0.11 * area.track("sad")
    y = area.face_y - _mouth_middle(area) - curve * (bend - 0.62)
    pout = rounding * (opening * 5).clamp(0, 1)
    rise, drop = 0.14 * opening + 0.03 * pout, 0.33 * opening + 0.05 * pout
    top, low = -rise * bow, drop * bow
    beyond = x.abs() - wide
    full = 1 + 0.45 * rounding
    cupid = 1 - 0.30 * (-(u / 0.20).square()).exp()
    upper, lower = area.number("lip_upper") * full * cupid, area.number("lip_lower") * full
    soft = 0.045
    upper_lip = both(top - upper * bend - y, y - top - 0.01, beyond)
    lower_lip = both(low - 0.01 - y, y - low - lower * bend, beyond)
    area.paint_softly(upper_lip, area.colour("lips", 0.86), soft=soft)
    area.paint_softly(lower_lip, area.colour("lips"), soft=soft)
    shine = ellipse(x - 0.05 * area.number("light_x"), y - low - lower * 0.45, wide * 0.4, 0.02)
    area.paint_softly(shine, area.colour("lips", 1.3), soft=0.08, opacity=0.55)
    hollow = both(top - y, y - low, beyond)
    line = both((y - (top + low) / 2).abs() - 0.004 - 0.010 * bow, beyond + 0.01)
    dark = area.colour("lips", 0.28) * fixed(0.9, 0.7, 0.7, like=x)
    area.paint_softly(either(hollow, line), dark, soft=0.03)
    tongue = ellipse(x, y - drop - 0.02, wide * 0.60, 0.04 + 0.38 * drop)
    area.paint_softly(both(hollow + 0.02, tongue), area.colour("lips", 0.8), soft=0.05, opacity=0.8)
    edge = -rise + 0.03 + 0.07 * (opening * 6).clamp(0, 1) - 0.05 * rounding
    teeth = both(hollow + 0.014, y - edge, x.abs() - wide * 0.80)
    # Towards the corners teeth lie in the shadow of the lips.
    shadow = (1 - 0.55 * u.square())[:, :, None]
    white = fixed(0.90, 0.87, 0.80, like=x) * shadow * area.number("teeth")[:, :, None]
    area.paint_softly(teeth, white, soft=0.03, opacity=0.95)
    gap = both(teeth + 0.01, ((x / 0.085).remainder(1) - 0.5).abs() - 0.06)
    area.paint_softly(gap, white * 0.8, soft=0.02, opacity=0.5)
    lower_teeth = both(hollow + 0.02, drop * 0.72 - y, x.abs() - wide * 0.6)
    area.paint_softly(lower_teeth, white * 0.85, soft=0.04, opacity=0.6)


def _paint_nose(area: Area) -> None:
    x = area.face_x - area.track("yaw") * 0.09 - 0.16 * area.number("turn")
    y = area.face_y - area.number("nose_y") - area.track("pitch") * 0.06
    size = area.number("nose_size")
    bridge = both((x.abs() - 0.05 - 0.06 * (y + 0.5)).abs() - 0.01, y, -0.55 - y)
    area.paint_softly(bridge, area.colour("skin", 0.80), soft=0.10, opacity=0.45)
    tip = ellipse(x - 0.02 * area.number("light_x"), y - 0.02, size * 0.5, size * 0.42)
    area.paint_softly(tip, area.colour("skin", 1.25), soft=0.12, opacity=0.55)
    wings = (ellipse(x.abs() - size * 1.0, y - 0.02, size * 0.42, size * 0.5)).abs() - 0.005
    area.paint_softly(both(wings, -y - 0.03), area.colour("skin", 0.62), soft=0.05, opacity=0.6)
    holes = ellipse(x.abs() - size * 0.52, y - size * 0.36, size * 0.30, 0.024)
    area.paint_softly(holes, area.colour("skin", 0.28), soft=0.04, opacity=0.85)


def _paint_eyes(area: Area) -> None:
    x, y, side = area.face_x.abs() - area.number("eye_x"), area.face_y, area.face_x.sign()
    y = y - area.number("eye_y") + area.number("eye_slant") * 0.3 * x
    closed = (area.track("eyes_closed") + 0.2 * area.track("smile").clamp(min=0)).clamp(0, 1)
    wide, tall = area.number("eye_width"), area.number("eye_height") * 0.72
    iris = area.number("iris") * 0.86
    arch = (1 - (x / wide).square()).clamp(min=0)
    meet = tall * 0.5
    top = (-tall * (1 - closed) + meet * closed) * arch.pow(0.8)
    low = (tall * 0.72 * (1 - closed) + meet * closed) * arch
    beyond = x.abs() - wide
    inside = both(top - y, y - low, beyond) + 0.5 * (closed > 0.95)
    white = fixed(0.86, 0.83, 0.80, like=x)
    area.paint_softly(inside, white, soft=0.025)
    u = x - 0.07 * area.track("gaze_x") * side
    v = y - 0.04 * area.track("gaze_y") + 0.01
    radius = (u.square() + v.square()).sqrt()
    area.paint_softly(both(inside, radius - iris), area.colour("iris", 0.85), soft=0.03)
    area.paint_softly(both(inside, radius - iris * 0.45), area.colour("iris", 0.12), soft=0.02)
    glint = ellipse(u + 0.03 * area.number("light_x").sign() * -side, v + 0.035, 0.02, 0.02)
    area.paint_softly(both(inside, glint), fixed(1.0, 1.0, 1.0, like=x), soft=0.015, opacity=0.9)
    under = both(inside, y - top - 0.03)
    area.paint_softly(under, area.colour("skin", 0.35), soft=0.04, opacity=0.5)
    lash = both((y - top).abs() - 0.012 * (0.4 + 0.6 * arch), beyond - 0.01)
    area.paint_softly(lash, area.colour("brows", 0.4), soft=0.025, opacity=0.85)
    crease = both((y - top + 0.055 * (1 - 0.6 * closed)).abs() - 0.006, beyond + 0.02)
    area.paint_softly(crease, area.colour("skin", 0.66), soft=0.03, opacity=0.6)


def _paint_brows(area: Area) -> None:
    x = area.face_x.abs() - area.number("eye_x")
    stern = (-area.track("smile")).clamp(min=0)
    wide = area.number("brow_width")
    middle = area.number("eye_y") - area.number("brow_gap") * 0.85
    middle = middle - 0.07 * area.track("brow") + 0.03 * stern
    arch = 1 - (x / wide).square()
    sad = area.track("sad")
    middle = middle - 0.05 * sad
    tilt = area.number("brow_tilt") * (0.5 - 0.5 * sad) + 0.20 * stern - 0.42 * sad
    edge = middle - area.number("brow_arch") * arch - tilt * x
    thick = area.number("brow_thick") * (0.35 + 0.65 * arch.clamp(min=0))
    brow = both((area.face_y - edge).abs() - thick, x.abs() - wide)
    hairs = 1 + 0.25 * (70 * x + 30 * area.face_y).sin()
    area.paint_softly(
        brow, (area.colour("brows") * hairs[:, :, None]).clamp(0, 1), soft=0.07, opacity=0.85
    )


def _through_camera(pixels: Tensor, presenters: Presenters) -> Tensor:
    """Exposure, colour, lens and sensor: the same in every frame of a clip."""
    _, _, _, height, width = pixels.shape

    def number(name: str) -> Tensor:
        return presenters.numbers[name][:, None, None, None, None]

    pixels = _blurred(pixels, presenters.numbers["blur"] * min(height, width) / 128)
    x = torch.linspace(-1, 1, width, device=pixels.device)
    y = torch.linspace(-1, 1, height, device=pixels.device)[:, None]
    falloff = x * number("light_x") * 0.10 + y * number("light_y") * 0.08
    corners = (x.square() + y.square()) * number("vignette")
    gain = (1 + falloff - corners) * number("exposure")
    warmth = number("warmth") * torch.tensor([1.0, 0.1, -1.0], device=pixels.device)[:, None, None]
    pixels = (pixels * gain * (1 + warmth)).clamp(1e-4, 1).pow(number("gamma"))
    grey = pixels.mean(2, keepdim=True)
    pixels = grey + (pixels - grey) * number("saturation").clamp(min=0)
    # The grain of a photograph stands still when the photograph is made to talk.
    colour = torch.arange(3, device=pixels.device)[:, None, None] * 37.7
    places = x * (width * 6.4949) + y * (height * 39.1165) + colour
    noise = (places + number("phase") * 91.7).sin() * 43758.5453
    noise = (noise - noise.floor() - 0.5) * 3.46  # unit variance
    return (pixels + noise * number("grain")).clamp(0, 1)


def _blurred(pixels: Tensor, sigma: Tensor) -> Tensor:
    """Every presenter's pictures with a blur of its own, sigma [n] in pixels."""
    count, frames, channels, height, width = pixels.shape
    reach = 9
    steps = torch.arange(-reach, reach + 1, device=pixels.device, dtype=torch.float32)
    kernel = (-(steps / sigma.clamp(0.05, 4.5)[:, None]).square() / 2).exp()
    kernel = kernel / kernel.sum(1, keepdim=True)  # [n, steps]
    flat = pixels.permute(1, 2, 0, 3, 4).reshape(frames * channels, count, height, width)
    flat = F.pad(flat, (reach, reach, reach, reach), mode="replicate")
    flat = F.conv2d(flat, kernel[:, None, None, :], groups=count)
    flat = F.conv2d(flat, kernel[:, None, :, None], groups=count)
    return flat.view(frames, channels, count, height, width).permute(2, 0, 1, 3, 4).contiguous()

"""An arm that comes up beside the head, and its hand, waving."""

from torch import Tensor

from omniavatar.nano.canvas import Area, Box, Canvas, box, either, segment

_BESIDE_THE_HEAD: Box = (-2.6, 2.6, -1.2, 99.0)

_ELBOW = (1.70, 3.1)
_LEFT_ROOM = 0.35
"""Between elbow and edge of the picture, of large heads, before whose cheek the hand then is."""

_FOREARM = 1.75
_FINGERS = ((-0.21, 0.40), (-0.075, 0.50), (0.065, 0.48), (0.20, 0.38))
"""Where each begins on the palm, and its length."""


def paint_hand(canvas: Canvas) -> None:
    """Draw the raised arms of those who wave."""
    for area in canvas.areas(_BESIDE_THE_HEAD, lambda traits: traits.waves):
        _paint_arm(area)


def _paint_arm(area: Area) -> None:
    side = area.number("hand_side").sign()
    swing = area.track("swing")
    # Coordinates from the elbow, y growing towards the hand; a lowered arm is out of the picture.
    edge = (1 - side * area.number("centre_x")) / area.number("size")
    x = area.body_x * side - (edge - _LEFT_ROOM).clamp(max=_ELBOW[0])
    y = _ELBOW[1] + 7.0 * (1 - area.track("wave")) - area.body_y
    lean = -0.06 + 0.24 * swing
    x, y = x * lean.cos() + y * lean.sin(), y * lean.cos() - x * lean.sin()
    sleeve = segment(x, y, (0.0, -0.6), (0.0, _FOREARM - 0.35)) - 0.27
    wrist = segment(x, y, (0.0, _FOREARM - 0.4), (0.0, _FOREARM)) - 0.16
    area.paint(wrist, area.colour("skin", 0.92), outline=True)
    area.paint(sleeve, area.colour("clothes", 0.9), outline=True)
    area.paint(_hand(x, y - _FOREARM), area.colour("skin"), outline=True)
    for start, length in _FINGERS[1:]:
        between = segment(
            x, y - _FOREARM, (start - 0.07, 0.42), (start * 1.2 - 0.07, 0.42 + length * 0.5)
        )
        area.paint(between - 0.006, area.colour("skin", 0.72), opacity=0.8)


def _hand(x: Tensor, y: Tensor) -> Tensor:
    palm = box(x, y - 0.24, 0.27, 0.27, 0.14)
    fingers = [
        segment(x, y, (start, 0.40), (start * 1.35, 0.40 + length)) - 0.068
        for start, length in _FINGERS
    ]
    thumb = segment(x, y, (-0.20, 0.12), (-0.43, 0.42)) - 0.075
    return either(palm, thumb, *fingers)

"""Where the faces in a picture are, found by three of the classifiers that OpenCV's wheel carries.

They are old, small and quick, need no download and no device, and find upright faces that look at
the camera. Where none is certain, the picture is softened and looked at again, and at last turned a
little to either side, for heads that are tilted. Measured before that on 60 turned, scaled and
darkened cuts of the photograph in `examples/`: all found, one false box. On 40 drawn presenters: 29
found, and 4 of 12 drawings in other styles, no false box; so that no face found does not mean that
there is none. Of 9 photographs 8 are found, 2 of them tilted; faces in profile, masked or upside
down are not.
"""

# n faces, h, w rows and columns of the picture

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import cv2.data
import numpy as np
from numpy.typing import NDArray

from omniavatar.media.image import CENTRE, Box

_SMALLEST = 20  # pixels of a face, at the size at which it is looked for
_SOFTNESS = 0.01  # blur of a soft look, of the longer side


@dataclass(frozen=True, slots=True)
class _Look:
    """One search through a picture.

    Attributes:
        classifier: name of OpenCV's file.
        certainty: on the file's own scale, from which a box counts.
        size: longer side in pixels at which faces are looked for.
        soft: whether the picture is blurred first, which turns the outlines and flat colours of a
            drawing into something like the shades that the classifiers learned.
    """

    classifier: str
    certainty: float
    size: int = 400
    soft: bool = False


_SHARP_LOOKS = (_Look("frontalface_alt2", 55.0), _Look("frontalface_default", 3.0))
_SOFT_LOOKS = (
    _Look("frontalface_alt2", 55.0, soft=True),
    _Look("frontalface_alt", 55.0, size=120, soft=True),
)
_TILTS = (15.0, -15.0)
"""Degrees by which the picture is turned where no upright face is certain."""

_SAME = 0.3
"""Boxes that share more of their union than this are of one face."""

_EYES_TO_MIDDLE = 0.15
"""A portrait has the face above its middle: by this share of the face's height."""

SMALL, CLOSE = 0.3, 0.42
"""Height of a face, of the frame's shorter side: up to which it is small, and in a close-up."""

_SPEAKING = ((0.82, 0.42), (0.38, 0.2))
"""Of mouth with jaw, and of the eyes: middle from the top, and reach up and down, of the face."""

_ACROSS, _EDGE = 0.48, 0.25
"""Their reach to the sides, of the face, and how much of them is edge."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Face:
    """A box around a face, from brows to chin.

    Attributes:
        left, top, right, bottom: 0 to 1 of the picture's width and height.
        score: 1 when two looks agree, 0.5 when one of them sees a face.
    """

    left: float
    top: float
    right: float
    bottom: float
    score: float

    @property
    def centre(self) -> tuple[float, float]:
        return (self.left + self.right) / 2, (self.top + self.bottom) / 2

    @property
    def area(self) -> float:
        return (self.right - self.left) * (self.bottom - self.top)

    def within(self, box: Box) -> "Face":
        """The same face in a part of the picture, given as shares of it."""
        left, top, right, bottom = box
        across, down = right - left, bottom - top
        return replace(
            self,
            left=(self.left - left) / across,
            top=(self.top - top) / down,
            right=(self.right - left) / across,
            bottom=(self.bottom - top) / down,
        )


def find_faces(image: NDArray[np.uint8]) -> tuple[Face, ...]:
    """Find faces of heads that are upright or a little tilted, in some tenths of a second.

    Args:
        image: [h, w, 3], RGB.

    Returns:
        The most certain first, of those the largest.
    """
    faces: list[Face] = []
    for looks in (_SHARP_LOOKS, _SOFT_LOOKS):
        faces = _with_looks(faces, image, looks)
        if any(face.score == 1 for face in faces):
            break
    else:
        for tilted in _tilted_faces(image):
            faces = [face for face in faces if _overlap(face, tilted) <= _SAME] + [tilted]
    return tuple(sorted(faces, key=lambda face: (face.score, face.area), reverse=True))


def focus_on(faces: Sequence[Face]) -> tuple[float, float]:
    """What a crop is to keep in the middle, (x, y): just below the first face, or the centre."""
    if not faces:
        return CENTRE
    x, y = faces[0].centre
    return x, min(y + _EYES_TO_MIDDLE * (faces[0].bottom - faces[0].top), 1.0)


def close_up_of(face: Face, *, height: int, width: int) -> tuple[int, int, int, int] | None:
    """Where to look closer at a face that is small in its frame, in the frame's proportions.

    Args:
        height, width: of the frame, in pixels.

    Returns:
        Left, top, right and bottom in pixels, or None if the face is large enough.
    """
    size = (face.bottom - face.top) * height / min(height, width)
    if size > SMALL:
        return None
    rows, columns = (max(round(side * size / CLOSE), 1) for side in (height, width))
    x, y = face.centre
    left = min(max(round(x * width - columns / 2), 0), width - columns)
    top = min(max(round(y * height - rows / 2), 0), height - rows)
    return left, top, left + columns, top + rows


def speaking_parts(face: Face, *, height: int, width: int) -> NDArray[np.float32]:
    """Where a face moves that speaks: 1 at mouth, jaw and eyes, 0 elsewhere, [height, width]."""
    x, y = (np.arange(width) + 0.5) / width, (np.arange(height) + 0.5) / height
    across, down = face.right - face.left, face.bottom - face.top
    aside = ((x - face.centre[0]) / (_ACROSS * across))[None]
    inside = [
        1 - np.hypot(aside, ((y - face.top) / down - middle)[:, None] / reach)
        for middle, reach in _SPEAKING
    ]
    return np.clip(0.5 + np.maximum(*inside) / _EDGE, 0, 1).astype(np.float32)


def _boxes(image: NDArray[np.uint8], look: _Look) -> Iterator[Face]:
    """What one look sees."""
    grey = cv2.cvtColor(_reduced(image, look.size), cv2.COLOR_RGB2GRAY)
    size = grey.shape[1], grey.shape[0]
    if min(grey.shape) < _SMALLEST:
        return
    if look.soft:
        grey = cv2.GaussianBlur(grey, (0, 0), look.size * _SOFTNESS)
    file = Path(cv2.data.haarcascades) / f"haarcascade_{look.classifier}.xml"
    boxes, _, certainties = cv2.CascadeClassifier(str(file)).detectMultiScale3(
        grey,
        scaleFactor=1.1,
        minNeighbors=3,
        minSize=(_SMALLEST, _SMALLEST),
        outputRejectLevels=True,
    )
    for (x, y, width, height), certainty in zip(boxes, certainties, strict=True):
        if certainty >= look.certainty:
            yield Face(
                left=float(x) / size[0],
                top=float(y) / size[1],
                right=float(x + width) / size[0],
                bottom=float(y + height) / size[1],
                score=0.5,
            )


def _reduced(image: NDArray[np.uint8], longer_side: int) -> NDArray[np.uint8]:
    """Reduced or enlarged."""
    rows, columns, _ = image.shape
    scale = longer_side / max(rows, columns)
    size = max(round(columns * scale), 1), max(round(rows * scale), 1)
    filter_ = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    return cv2.resize(image, size, interpolation=filter_).astype(np.uint8, copy=False)


def _tilted_faces(image: NDArray[np.uint8]) -> list[Face]:
    """Certain faces of heads that are tilted to one side: boxes around where their middles are."""
    small = _reduced(image, _SHARP_LOOKS[0].size)
    rows, columns, _ = small.shape
    for degrees in _TILTS:
        turn = cv2.getRotationMatrix2D((columns / 2, rows / 2), degrees, 1.0)
        turned = cv2.warpAffine(small, turn, (columns, rows), borderMode=cv2.BORDER_REPLICATE)
        certain = _certain_faces(turned.astype(np.uint8))
        if certain:
            back = np.asarray(cv2.invertAffineTransform(turn), np.float64)
            return [_moved(face, back, rows=rows, columns=columns) for face in certain]
    return []


def _moved(face: Face, change: NDArray[np.float64], *, rows: int, columns: int) -> Face:
    """The same box with its middle elsewhere, by a matrix [2, 3] of pixels."""
    x, y = face.centre
    to_x, to_y = map(float, change @ np.array([x * columns, y * rows, 1.0]))
    across, down = to_x / columns - x, to_y / rows - y
    return replace(
        face,
        left=max(face.left + across, 0.0),
        top=max(face.top + down, 0.0),
        right=min(face.right + across, 1.0),
        bottom=min(face.bottom + down, 1.0),
    )


def _certain_faces(image: NDArray[np.uint8]) -> list[Face]:
    """What both sharp looks see; the quicker one first, since what it misses can not be certain."""
    seen, again = reversed(_SHARP_LOOKS)
    faces = _with_looks([], image, (seen,))
    if faces:
        faces = _with_looks(faces, image, (again,))
    return [face for face in faces if face.score == 1]


def _with_looks(faces: list[Face], image: NDArray[np.uint8], looks: Sequence[_Look]) -> list[Face]:
    """The faces with all that some looks see."""
    for look in looks:
        for face in _boxes(image, look):
            faces = _with_box(faces, face)
    return faces


def _with_box(faces: list[Face], box: Face) -> list[Face]:
    """The faces with one more, which makes a face that is there certain."""
    for number, face in enumerate(faces):
        if _overlap(face, box) > _SAME:
            both = Face(
                left=(face.left + box.left) / 2,
                top=(face.top + box.top) / 2,
                right=(face.right + box.right) / 2,
                bottom=(face.bottom + box.bottom) / 2,
                score=1.0,
            )
            return [*faces[:number], both, *faces[number + 1 :]]
    return [*faces, box]


def _overlap(one: Face, other: Face) -> float:
    """The area that both share, of the area that either covers."""
    width = min(one.right, other.right) - max(one.left, other.left)
    height = min(one.bottom, other.bottom) - max(one.top, other.top)
    shared = max(width, 0) * max(height, 0)
    return shared / (one.area + other.area - shared)

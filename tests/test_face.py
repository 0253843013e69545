"""Faces in pictures: found where they are, and nothing made of what holds none."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from omniavatar.media.face import Face, find_faces, focus_on
from omniavatar.media.image import load_image

EXAMPLES = Path(__file__).parents[1] / "examples"
FACE = (0.44, 0.22)  # the middle of the astronaut's, from left and top


@pytest.fixture(scope="module")
def photograph():
    return load_image(EXAMPLES / "astronaut.jpg")


def assert_found(faces, x, y):
    (face,) = faces
    assert face.centre == pytest.approx((x, y), abs=0.04)
    assert 0 <= face.left < face.right <= 1
    assert 0 <= face.top < face.bottom <= 1


def test_face_of_a_photograph_is_found_with_certainty(photograph):
    faces = find_faces(photograph)
    assert_found(faces, *FACE)
    assert faces[0].score == 1
    assert 0.15 < faces[0].right - faces[0].left < 0.25


@pytest.mark.parametrize("change", ["mirrored", "dark", "small", "large", "wide"])
def test_face_is_found_however_the_picture_comes(photograph, change):
    x, y = FACE
    changed = {
        "mirrored": photograph[:, ::-1],
        "dark": photograph // 3,
        "small": photograph[::4, ::4],
        "large": photograph.repeat(4, 0).repeat(4, 1),
        "wide": photograph[:256],
    }[change]
    assert_found(find_faces(changed), 1 - x if change == "mirrored" else x, y * 512 / 256
                 if change == "wide" else y)  # fmt: skip


@pytest.mark.parametrize("degrees", [-25, 25])
def test_tilted_heads_are_found_where_they_are(photograph, degrees):
    tight = photograph[:256, 96:352]  # the face is in its middle
    turn = cv2.getRotationMatrix2D((128, 118), degrees, 1.0)
    turned = cv2.warpAffine(tight, turn, (256, 256), borderMode=cv2.BORDER_REPLICATE)
    face, *others = find_faces(turned)
    assert face.score == 1
    assert face.centre == pytest.approx((0.5, 118 / 256), abs=0.05)
    assert all(other.score < 1 for other in others)


@pytest.mark.parametrize(
    "shape", [(1, 1, 3), (3, 5000, 3), (5000, 3, 3), (300, 400, 3), (20, 20, 3)]
)
def test_pictures_without_a_face_give_none(shape):
    rows = np.linspace(0, 255, shape[0])[:, None, None]
    assert find_faces(np.broadcast_to(rows, shape).astype(np.uint8)) == ()
    assert find_faces(np.full(shape, 128, np.uint8)) == ()


@pytest.mark.parametrize("number", [1, 2, 3])
def test_drawn_presenters_are_never_taken_for_a_face_elsewhere(number):
    for face in find_faces(load_image(EXAMPLES / f"presenter-{number}.png")):
        assert face.centre == pytest.approx((0.5, 0.5), abs=0.15)


@pytest.mark.parametrize("number", [1, 2])
def test_drawn_face_is_found_once_its_lines_are_softened(number):
    (face,) = find_faces(load_image(EXAMPLES / f"presenter-{number}.png"))
    assert face.score == 1
    assert 0.35 < face.right - face.left < 0.6


def test_two_people_are_two_faces(photograph):
    both = np.concatenate([photograph[:300], photograph[:300, ::-1]], axis=1)
    assert len([face for face in find_faces(both) if face.score == 1]) == 2


def test_focus_is_just_below_the_first_face_and_else_the_centre():
    face = Face(left=0.2, top=0.1, right=0.4, bottom=0.3, score=1.0)
    x, y = focus_on([face, Face(left=0.7, top=0.7, right=0.9, bottom=0.9, score=0.5)])
    assert x == pytest.approx(0.3)
    assert 0.2 < y < 0.3
    assert focus_on([]) == (0.5, 0.5)

"""Of a photograph only the face moves easily, and a small one is made from near."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from omniavatar import AvatarPipeline, ChunkDone, GenerationRequest, StepDone
from omniavatar.checks import check_picture
from omniavatar.inputs import read_picture
from omniavatar.media.face import CLOSE, Face, close_up_of, find_faces, speaking_parts
from omniavatar.media.image import load_image
from omniavatar.stages.close_up import CloseUp
from omniavatar.stages.keep_portrait import CALM, PortraitKeeper, moving_share
from omniavatar.weights.catalog import CATALOG

EXAMPLES = Path(__file__).parent.parent / "examples"
PHOTOGRAPH = EXAMPLES / "astronaut.jpg"
NANO = CATALOG["nano"]


def face(*, size: float, x: float = 0.5, y: float = 0.5) -> Face:
    return Face(
        left=x - size / 2, top=y - size / 2, right=x + size / 2, bottom=y + size / 2, score=1
    )


def pictures() -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(1)
    return (
        random.random((3, 96, 128), dtype=np.float32),
        random.random((3, 96, 128), dtype=np.float32),
    )


def test_what_holds_still_is_the_picture_itself() -> None:
    picture, portrait = pictures()
    still = torch.from_numpy(portrait)[None, :, None].repeat(1, 1, 3, 1, 1)
    placed = CloseUp(picture, portrait, (40, 20, 104, 68)).place(still)
    assert torch.equal(placed, torch.from_numpy(picture)[None, :, None].expand_as(placed))


def test_changes_come_where_they_belong_and_fade_at_the_sides() -> None:
    picture, portrait = (
        np.full((3, 96, 128), 0.5, np.float32),
        np.full((3, 96, 128), 0.4, np.float32),
    )
    video = torch.full((1, 3, 2, 96, 128), 0.4)
    video[:, :, 1, 24:72, 32:96] = 0.8  # the middle half
    placed = CloseUp(picture, portrait, (40, 20, 104, 68)).place(video)
    assert torch.equal(placed[:, :, 0], torch.full((1, 3, 96, 128), 0.5))
    assert placed[0, :, 1, 32:56, 56:88] == pytest.approx(0.9)
    outside = torch.ones(96, 128, dtype=torch.bool)
    outside[32:56, 56:88] = False
    assert (placed[0, :, 1, outside] == 0.5).all()
    video[:] = 0.8
    rows = CloseUp(picture, portrait, (40, 0, 104, 48)).place(video)[0, 0, 1]
    assert rows[0, 72] == pytest.approx(0.9), "no fade at the edge of the picture"
    assert 0.5 < rows[47, 72] < 0.7
    assert rows[48, 72] == 0.5


def test_previews_show_all_of_the_picture() -> None:
    picture, portrait = pictures()
    preview = np.zeros((12, 16, 3), np.uint8)
    shown = CloseUp(picture, portrait, (40, 24, 104, 72)).place_preview(preview)
    assert shown.shape == (24, 32, 3)
    assert (shown[6:18, 10:26] == 0).all()
    assert (shown[:6] > 0).all()


@pytest.mark.parametrize(("height", "width"), [(192, 192), (256, 192), (192, 256)])
@pytest.mark.parametrize("x", [0.08, 0.5, 0.95])
def test_close_ups_are_in_the_frame_and_of_its_proportions(height, width, x) -> None:
    small = Face(left=x - 0.06, top=0.1, right=x + 0.06, bottom=0.22, score=1)
    left, top, right, bottom = close_up_of(small, height=height, width=width)
    assert 0 <= left < right <= width
    assert 0 <= top < bottom <= height
    assert (right - left) / (bottom - top) == pytest.approx(width / height, rel=0.03)
    size = 0.12 * height / (bottom - top) * height / min(height, width)
    assert size == pytest.approx(CLOSE, rel=0.05)


def test_large_faces_need_none() -> None:
    assert close_up_of(face(size=0.4), height=192, width=192) is None


def test_only_photographs_with_a_small_face_are_looked_at_closer(tmp_path) -> None:
    near = read_picture(PHOTOGRAPH, NANO)
    assert near.close_up is not None
    (seen,) = find_faces(np.rint(near.looked_at_closer().transpose(1, 2, 0) * 255).astype(np.uint8))
    assert seen.bottom - seen.top == pytest.approx(CLOSE, abs=0.06)
    assert seen.centre == pytest.approx((0.5, 0.45), abs=0.12)
    tight = tmp_path / "tight.png"
    Image.fromarray(load_image(PHOTOGRAPH)[:240, 104:344]).save(tight)
    large = read_picture(tight, NANO)
    assert large.speaker is not None
    assert large.close_up is None
    drawing = read_picture(EXAMPLES / "presenter-1.png", NANO)
    assert drawing.speaker is None
    assert read_picture(PHOTOGRAPH, CATALOG["1.3B"]).speaker is None
    assert read_picture(PHOTOGRAPH, NANO, fit="contain").close_up is None


def test_a_small_face_is_told_with_what_is_done_about_it() -> None:
    (warning,) = check_picture(PHOTOGRAPH, NANO).warnings
    assert "small face" in warning
    assert "no hands" in warning


def test_off_the_face_only_large_differences_move() -> None:
    decoded = torch.full((1, 3, 1, 64, 64), 0.5)
    lively = torch.from_numpy(speaking_parts(face(size=0.6), height=64, width=64))
    calm = CALM + (1 - CALM) * lively
    slight = decoded + 14 / 255
    share = moving_share(slight, decoded=decoded, portrait=decoded, calm=calm)[0, 0, 0]
    mouth, eyes, hair, wall = share[45, 32], share[27, 32], share[8, 32], share[32, 2]
    assert mouth == 1
    assert eyes > 0.9
    assert hair < 0.2
    assert wall < 0.2
    strong = moving_share(decoded + 0.4, decoded=decoded, portrait=decoded, calm=calm)
    assert (strong == 1).all()
    assert (moving_share(slight, decoded=decoded, portrait=decoded) == 1).all()
    keeper = PortraitKeeper(decoded, lively=lively)
    kept = keeper.keep(torch.cat([decoded, slight], 2))[0, 0, 1]
    assert kept[45, 32] == pytest.approx(0.5 + 14 / 255)
    assert kept[32, 2] < 0.5 + 4 / 255


def test_a_small_photographed_face_speaks(tmp_path) -> None:
    """The whole way: the mouth moves, and nothing outside the close-up, over two chunks."""
    pipeline = AvatarPipeline.from_pretrained("nano")
    request = GenerationRequest(
        image=PHOTOGRAPH, audio=EXAMPLES / "recording.flac", audio_seconds=4.0, steps=2
    )
    frames, previews = [], []
    for event in pipeline.stream(request, tmp_path / "film.mp4"):
        if isinstance(event, ChunkDone):
            frames.append(event.frames)
        elif isinstance(event, StepDone):
            previews.append(event.preview)
    video = np.concatenate(frames).astype(np.float32)
    picture = read_picture(PHOTOGRAPH, NANO)
    left, top, right, bottom = picture.close_up
    outside = np.ones(video.shape[1:3], dtype=bool)
    outside[top:bottom, left:right] = False
    portrait = np.rint(picture.framed("published").transpose(1, 2, 0) * 255)
    assert (np.abs(video - portrait)[:, outside] <= 1).all()
    motion = np.abs(np.diff(video, axis=0)).mean((0, 3))
    seen = picture.speaker
    height, width = motion.shape
    rows = slice(round((seen.top + 0.6 * (seen.bottom - seen.top)) * height), bottom)
    columns = slice(round(seen.left * width), round(seen.right * width))
    assert motion[rows, columns].sum() > 0.5 * motion.sum()
    assert motion[rows, columns].max() > 5
    assert all(preview.shape[0] > height // 8 for preview in previews)

"""Photographs are told from drawings, whatever a program or a camera did to the file."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from omniavatar.media.texture import is_photograph

ROOT = Path(__file__).parents[1]
PICTURES = ROOT / "omniavatar/nano/pictures"
DRAWINGS = [*PICTURES.glob("drawings/*"), *ROOT.glob("examples/presenter-*.png")]
PHOTOGRAPHS = [*PICTURES.glob("photographs/*"), ROOT / "examples/astronaut.jpg"]


def _as_jpeg(image: Image.Image) -> Image.Image:
    data = io.BytesIO()
    image.save(data, "JPEG", quality=90)
    return Image.open(data)


def _enlarged(image: Image.Image) -> Image.Image:
    return image.resize((3 * image.width, 3 * image.height), Image.Resampling.BICUBIC)


def _reduced(image: Image.Image) -> Image.Image:
    return image.resize((128, 128), Image.Resampling.LANCZOS)


@pytest.mark.parametrize("change", [Image.Image.copy, _as_jpeg, _enlarged, _reduced])
def test_photographs_are_told_from_drawings(change) -> None:
    def taken(path: Path) -> bool:
        return is_photograph(np.asarray(change(Image.open(path).convert("RGB"))))

    assert [path.name for path in DRAWINGS if taken(path)] == []
    assert [path.name for path in PHOTOGRAPHS if not taken(path)] == []


def test_the_smallest_picture_is_no_photograph() -> None:
    assert not is_photograph(np.zeros((1, 1, 3), np.uint8))

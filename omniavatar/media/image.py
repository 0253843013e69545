"""A picture file as an array, and an array at the planned size.

Reading is generous: what a phone, a browser or a drawing program saves either opens the way a
viewer shows it or is refused in one sentence, and its size is known from the header before any
pixel is decoded.
"""

# h, w rows and columns of the picture, n positions of one axis, t taps of the filter

import contextlib
import io
import math
import os
import warnings
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms, ImageFile, ImageFilter
from PIL.JpegImagePlugin import JpegImageFile

from omniavatar.errors import InputError

ACCEPTED = "JPEG, PNG, WebP, GIF, BMP, TIFF or AVIF"
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "JPEG2000", "PPM")
"""Pillow's names. Formats that start other programs, such as EPS, are left out."""

MAX_PIXELS = 50_000_000
MAX_JPEG_PIXELS = 220_000_000
"""JPEG can be decoded at a half, a quarter or an eighth of its size, so that the largest photos of
phones (200 megapixels) are still welcome."""

BACKDROP = (255, 255, 255)
"""What shows through transparent pixels. White, because that is the paper on which pages and
viewers show a cut-out; the colours stored under full transparency are left-overs that nobody has
seen."""

ICC_ROUNDING = 2
"""Levels by which profiles of the same colours differ."""

Box = tuple[float, float, float, float]
"""Left, top, right and bottom, 0 to 1 of a picture."""

CENTRE = (0.5, 0.5)
BLUR_SHARE = 0.05
"""How far the continued edges of "contain" take to be fully blurred, of the longer side."""

_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_EXIF_ORIENTATION = 0x0112


def load_image(path: str | os.PathLike[str]) -> NDArray[np.uint8]:
    """Read a picture as a viewer shows it: upright, first frame, transparency over white, sRGB.

    Returns:
        [h, w, 3], RGB. A JPEG of more than `MAX_PIXELS` comes at a half, quarter or eighth.

    Raises:
        InputError: the file is missing, empty, no picture, damaged, or larger than accepted.
    """
    path = Path(path)
    _check_file(path)
    with _open(path) as image:
        _check_size(path, image)
        image.draft(None, _draft_size(image.size))
        image.filename = ""  # else Pillow maps a plain TIFF by its turned size, which garbles it
        try:
            image.load()
            turn = _turn(image)  # a converted picture may have lost the note
            picture = _as_rgb(path, _as_srgb(image))
            return np.array(picture if turn is None else picture.transpose(turn))
        except InputError:
            raise
        except Exception as error:  # Pillow's decoders raise nearly anything on damaged files
            raise InputError(
                f"{path.name} is damaged or incomplete. Save the picture again, as JPEG or PNG.",
                field="image",
            ) from error


def fit_image(
    image: NDArray[np.uint8],
    height: int,
    width: int,
    *,
    border: Literal["published", "covered"] = "published",
    fit: Literal["cover", "contain"] = "cover",
    focus: tuple[float, float] = CENTRE,
) -> NDArray[np.float32]:
    """Scale a picture until it covers the size and crop it, or until it is within and continue it.

    Args:
        image: [h, w, 3].
        height, width: of the result.
        border: the published code rounds the scaled size down, which leaves the last row or column
            black for about one picture size in ten; "covered" rounds up in that case.
        fit: "contain" keeps the whole picture in the middle, and fills the rest with the colours
            of its edges, blurred the more the farther away: a plain background just goes on.
        focus: the point, from (left, top) 0 to (right, bottom) 1, that comes as near to the middle
            of the crop as the picture allows; nothing to "contain".

    Returns:
        [3, height, width], 0 to 1.

    Source: `resize_pad` of Omni-Avatar/OmniAvatar, Apache-2.0, for "cover" around the centre; the
    filter is torch's `interpolate(mode="bilinear", antialias=True)`, in its own precision.
    """
    rows, columns, _ = image.shape
    if fit == "contain":
        return _contain(image, height, width)
    scale = max(height / rows, width / columns)
    scaled_rows, scaled_columns = int(rows * scale), int(columns * scale)
    if border == "covered":
        scaled_rows, scaled_columns = max(scaled_rows, height), max(scaled_columns, width)
    top, bottom = _window(scaled_rows, height, focus[1])
    left, right = _window(scaled_columns, width, focus[0])
    fitted = _resample(image, (scaled_rows, top, bottom), (scaled_columns, left, right))
    black = ((0, height - (bottom - top)), (0, width - (right - left)), (0, 0))
    return np.ascontiguousarray(np.pad(fitted, black).transpose(2, 0, 1))


def crop_box(
    rows: int, columns: int, height: int, width: int, *, focus: tuple[float, float] = CENTRE
) -> Box:
    """The part of a picture that "cover" shows: left, top, right, bottom, 0 to 1 of the picture."""
    scale = max(height / rows, width / columns)
    scaled_rows, scaled_columns = (
        max(int(rows * scale), height),
        max(int(columns * scale), width),
    )
    top, bottom = _window(scaled_rows, height, focus[1])
    left, right = _window(scaled_columns, width, focus[0])
    return (
        left / scaled_columns,
        top / scaled_rows,
        right / scaled_columns,
        bottom / scaled_rows,
    )


def _contain(image: NDArray[np.uint8], height: int, width: int) -> NDArray[np.float32]:
    """The whole picture amid its own continued edges, [3, height, width], 0 to 1."""
    rows, columns, _ = image.shape
    scale = min(height / rows, width / columns)
    inner_rows = min(max(round(rows * scale), 1), height)
    inner_columns = min(max(round(columns * scale), 1), width)
    fitted = _resample(image, (inner_rows, 0, inner_rows), (inner_columns, 0, inner_columns))
    top, left = (height - inner_rows) // 2, (width - inner_columns) // 2
    around = (
        (top, height - inner_rows - top),
        (left, width - inner_columns - left),
        (0, 0),
    )
    spread = np.pad(fitted, around, mode="edge")  # [height, width, 3]
    reach = max(height, width) * BLUR_SHARE
    soft = Image.fromarray(np.rint(spread * 255).clip(0, 255).astype(np.uint8))
    blurred = np.asarray(soft.filter(ImageFilter.GaussianBlur(reach)), np.float32) / 255
    away = np.maximum(
        _distance(height, top, inner_rows)[:, None], _distance(width, left, inner_columns)[None]
    )
    weight = np.minimum(away / reach, 1).astype(np.float32)[..., None]  # 0 within the picture
    return np.ascontiguousarray(((1 - weight) * spread + weight * blurred).transpose(2, 0, 1))


def _distance(size: int, start: int, inner: int) -> NDArray[np.int64]:
    """How far each of `size` positions is from the `inner` ones that begin at `start`, [n]."""
    places = np.arange(size)
    return np.maximum(np.maximum(start - places, places - (start + inner - 1)), 0)


def _check_file(path: Path) -> None:
    """Refuse, in one sentence, what is not a readable file with something in it."""
    if not path.exists():
        raise InputError(f"There is no picture at {path}. Check the path.", field="image")
    if not path.is_file():
        raise InputError(f"{path} is not a file. Give the path of a picture.", field="image")
    if path.stat().st_size == 0:
        raise InputError(f"{path.name} is empty. Give a {ACCEPTED} file.", field="image")


def _open(path: Path) -> ImageFile.ImageFile:
    """Read the header."""
    try:
        with warnings.catch_warnings():
            # Our own limits follow, and are stricter for what would really be decoded.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            return Image.open(path, formats=FORMATS)
    except Image.DecompressionBombError as error:
        # Pillow's limit is one setting for the whole process, and ignores that JPEG can be decoded
        # smaller. Its reader of JPEG alone reads the header without it; `_check_size` follows.
        try:
            return JpegImageFile(path)
        except SyntaxError:
            raise _too_large(path, f"over {MAX_PIXELS // 10**6} megapixels") from error
    except PermissionError as error:
        raise InputError(
            f"{path.name} may not be read. Change its permissions.", field="image"
        ) from error
    except Exception as error:  # as above: nearly anything
        kind = "a HEIC photo, which is not" if _is_heic(path) else "not a picture that can be"
        raise InputError(
            f"{path.name} is {kind} read. Give a {ACCEPTED} file.", field="image"
        ) from error


def _is_heic(path: Path) -> bool:
    """Whether a file begins like those in which phones keep photos."""
    with path.open("rb") as file:
        head = file.read(12)
    return head[4:8] == b"ftyp" and head[8:] in (b"heic", b"heix")


def _check_size(path: Path, image: Image.Image) -> None:
    width, height = image.size
    limit = MAX_JPEG_PIXELS if image.format in ("JPEG", "MPO") else MAX_PIXELS
    if width * height > limit:
        raise _too_large(path, f"{width} × {height} pixels")


def _too_large(path: Path, size: str) -> InputError:
    return InputError(
        f"{path.name} is too large ({size}): up to {MAX_PIXELS // 10**6} megapixels are read, and "
        f"{MAX_JPEG_PIXELS // 10**6} as JPEG. Save it smaller; 2000 pixels a side are plenty.",
        field="image",
    )


def _draft_size(size: tuple[int, int]) -> tuple[int, int]:
    """The size to ask of a decoder that can decode smaller; the size itself for most pictures."""
    width, height = size
    divisor = 1
    while width * height > MAX_PIXELS * divisor**2:
        divisor *= 2
    return width // divisor, height // divisor


def _as_srgb(image: Image.Image) -> Image.Image:
    """Colours as sRGB, where the file says that they are others, as photos of phones do.

    A profile that cannot be used is ignored, as viewers do. So is one that is sRGB by any name: the
    picture then stays as it is to the last bit.
    """
    profile = image.info.get("icc_profile")
    if not profile:
        return image
    with contextlib.suppress(ImageCms.PyCMSError, OSError, ValueError):
        if image.has_transparency_data:  # it may be noted as one of the colours
            image = image.convert("RGBA")
        elif image.mode == "P":
            image = image.convert("RGB")
        mode = "RGBA" if image.mode == "RGBA" else "RGB"
        transform = ImageCms.buildTransform(
            ImageCms.ImageCmsProfile(io.BytesIO(profile)),
            ImageCms.createProfile("sRGB"),
            image.mode,
            mode,
        )
        if image.mode == mode and _changes_little(transform, mode):
            return image
        return ImageCms.applyTransform(image, transform) or image
    return image


def _changes_little(transform: ImageCms.ImageCmsTransform, mode: str) -> bool:
    """Whether no colour is moved by more than rounding."""
    levels = np.linspace(0, 255, 9).astype(np.uint8)
    colours = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(9, -1, 3)
    before = Image.fromarray(colours).convert(mode)
    after = ImageCms.applyTransform(before, transform)
    assert after is not None
    difference = np.asarray(after, np.int16) - np.asarray(before, np.int16)
    return int(np.abs(difference).max()) <= ICC_ROUNDING


def _as_rgb(path: Path, image: Image.Image) -> Image.Image:
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return _as_8_bit(path, image).convert("RGB")
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        backdrop = Image.new("RGBA", layer.size, (*BACKDROP, 255))
        return Image.alpha_composite(backdrop, layer).convert("RGB")
    return image.convert("RGB")


def _as_8_bit(path: Path, image: Image.Image) -> Image.Image:
    """Grey of 16 bits; Pillow's own conversion of its 32-bit modes clips at 255."""
    grey = np.asarray(image)
    if image.mode == "F" or grey.min() < 0 or grey.max() > 65535:
        raise InputError(
            f"{path.name} holds 32-bit values. Save it with 8 or 16 bits a channel.", field="image"
        )
    return Image.fromarray(((grey.astype(np.uint32) + 128) // 257).astype(np.uint8))


def _turn(image: Image.Image) -> Image.Transpose | None:
    """What makes it upright, as the camera noted; a damaged note is ignored, as viewers do."""
    with contextlib.suppress(Exception):
        return _UPRIGHT.get(image.getexif().get(_EXIF_ORIENTATION, 1))
    return None


def _window(scaled: int, wanted: int, focus: float) -> tuple[int, int]:
    """The positions of `scaled` that a crop to `wanted` around a focus of 0..1 keeps.

    For a focus in the middle the odd position goes first, as published.
    """
    start = math.floor(focus * scaled - wanted / 2 + 0.5)
    start = max(min(start, scaled - wanted), 0)
    return start, min(start + wanted, scaled)


def _resample(
    image: NDArray[np.uint8], rows: tuple[int, int, int], columns: tuple[int, int, int]
) -> NDArray[np.float32]:
    """Scale [h, w, 3] along both axes, each given as its new length and the part to compute."""
    shorter = _resample_rows(image, *rows)  # [n, w, 3]
    return _resample_rows(shorter.transpose(1, 0, 2), *columns).transpose(1, 0, 2)  # [n, n, 3]


def _resample_rows(
    values: NDArray[np.uint8] | NDArray[np.float32], scaled: int, start: int, stop: int
) -> NDArray[np.float32]:
    """Rows `start` to `stop` of `values` [n, ...] scaled to `scaled` rows; bytes become 0 to 1.

    Only the rows that are kept are computed, so the most extreme shapes cost no memory.
    """
    first, weights = _triangle_filter(len(values), scaled, start, stop)
    resampled = np.zeros((stop - start, *values.shape[1:]), np.float32)
    for tap, weight in enumerate(weights.T):
        rows = values[np.minimum(first + tap, len(values) - 1)]
        if rows.dtype == np.uint8:
            rows = rows.astype(np.float32) / np.float32(255)
        resampled += rows * weight[:, None, None]
    return resampled


def _triangle_filter(
    size: int, scaled: int, start: int, stop: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """For the positions `start` to `stop` of `scaled`: first row used [n], weights [n, t].

    The roundings are those of torch's float32 kernel. In exact arithmetic the weights of large
    pictures would differ from it by more than the fixtures allow.

    Source: `_compute_indices_min_size_weights_aa` of pytorch/pytorch UpSampleKernel.cpp, BSD-3.
    """
    single = np.float32
    scale = single(size) / single(scaled)
    support = max(scale, single(1))
    inverse = np.float64(single(1) / scale if scale >= 1 else single(1))
    centre = (np.float64(scale) * (np.arange(start, stop) + 0.5)).astype(single)  # [n]
    low, high = (centre - support).astype(np.float64), (centre + support).astype(np.float64)
    first = np.maximum((low + 0.5).astype(np.int64), 0)
    last = np.minimum((high + 0.5).astype(np.int64), size)
    taps = np.arange((last - first).max())  # [t]
    rows = (first[:, None] + taps).astype(single)  # [n, t]
    distance = (((rows - centre[:, None]).astype(np.float64) + 0.5) * inverse).astype(single)
    weights = np.maximum(single(1) - np.abs(distance), single(0))
    weights[taps >= (last - first)[:, None]] = 0
    return first, weights / weights.sum(axis=1, keepdims=True, dtype=single)

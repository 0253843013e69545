import io
import os
import struct
import tracemalloc
import warnings
import zlib

import numpy as np
import pytest
from media_files import ffmpeg
from PIL import Image, ImageCms

from omniavatar.errors import InputError
from omniavatar.media.image import MAX_PIXELS, crop_box, fit_image, load_image

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


def quarters(size=32):
    """A picture that shows which way is up: red, green over blue, white."""
    half = size // 2
    picture = np.empty((size, size + 16, 3), np.uint8)
    picture[:half, :half], picture[:half, half:] = RED, GREEN
    picture[half:, :half], picture[half:, half:] = BLUE, WHITE
    return picture


def refusal(path):
    """The sentence with which a file is refused."""
    with pytest.raises(InputError) as caught:
        load_image(path)
    assert caught.value.field == "image"
    message = str(caught.value)
    assert message.endswith(".")
    assert "\n" not in message
    assert len(message) < 200 + len(str(path))
    return message


@pytest.mark.parametrize(
    "name", ["a.png", "a.jpg", "a.webp", "a.gif", "a.bmp", "a.tiff", "a.avif", "a.jp2", "a.ppm"]
)
def test_common_formats_open_with_their_colours(tmp_path, name):
    Image.fromarray(quarters()).save(tmp_path / name, quality=100)
    picture = load_image(tmp_path / name)
    assert picture.dtype == np.uint8
    assert picture.shape == (32, 48, 3)
    inner = np.s_[4:12, 4:12], np.s_[4:12, 24:], np.s_[20:, 4:12], np.s_[20:, 24:]
    for place, colour in zip(inner, (RED, GREEN, BLUE, WHITE), strict=True):
        assert np.abs(picture[place].reshape(-1, 3).mean(0) - colour).max() < 8


def test_lossless_picture_is_read_bit_for_bit_and_may_be_changed(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (13, 17, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    picture = load_image(str(tmp_path / "a.png"))
    assert np.array_equal(picture, pixels)
    picture[:] = 0


@pytest.mark.parametrize(
    ("name", "mode"),
    [
        ("a.png", "RGBA"),
        ("a.png", "LA"),
        ("a.png", "I;16"),
        ("a.webp", "RGBA"),
        ("a.avif", "RGBA"),
        ("a.tiff", "RGBA"),
        ("a.tiff", "I;16"),
    ],
)
def test_picture_that_must_be_converted_is_turned_once(tmp_path, name, mode):
    grey = np.zeros((16, 8), np.uint8)
    grey[8:] = 255
    if mode == "I;16":
        image = Image.fromarray(grey.astype(np.uint16) * 257)
    else:
        image = Image.merge("LA", [Image.fromarray(grey), Image.fromarray(255 - grey)])
    exif = Image.Exif()
    exif[0x0112] = 6
    image.convert(mode).save(tmp_path / name, exif=exif, lossless=True)
    picture = load_image(tmp_path / name)
    assert picture.shape == (8, 16, 3)
    assert (picture[:, 9:] < 8).all()
    assert (picture[:, :7] > 247).all()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.webp"])
def test_photo_is_turned_as_the_camera_noted(tmp_path, name, orientation):
    stored = {  # what the sensor saw, for an upright picture that needs this note
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: np.rot90(a),
        7: lambda a: np.rot90(a, 2).transpose(1, 0, 2),
        8: lambda a: np.rot90(a, -1),
    }[orientation](quarters())
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.ascontiguousarray(stored)).save(tmp_path / name, exif=exif, quality=100)
    picture = load_image(tmp_path / name).astype(int)
    assert picture.shape == quarters().shape
    assert np.abs(picture - quarters()).mean() < 6


def test_damaged_camera_note_is_ignored(tmp_path):
    Image.fromarray(quarters()).save(tmp_path / "a.jpg", exif=b"Exif\0\0II*\0\xff\xff\xff\xff??")
    assert load_image(tmp_path / "a.jpg").shape == quarters().shape


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA"])
def test_transparency_shows_white(tmp_path, mode):
    layer = np.zeros((8, 8, 4), np.uint8)
    layer[:, 4:, 3] = 255
    layer[0, 0, 3] = 128
    image = Image.fromarray(layer).convert("LA" if mode == "LA" else "RGBA")
    if mode == "PA":
        image = image.quantize(4)
    image.save(tmp_path / "a.png")
    picture = load_image(tmp_path / "a.png")
    assert (picture[4:, :4] == 255).all()
    assert (picture[:, 4:] == 0).all()
    assert 110 < picture[0, 0, 0] < 145


@pytest.mark.parametrize("mode", ["RGB", "L", "P"])
def test_one_transparent_colour_shows_white(tmp_path, mode):
    image = Image.new("RGB", (8, 8), (10, 10, 10))
    image.paste((200, 200, 200), (0, 0, 4, 8))
    image = image.convert(mode, palette=Image.Palette.ADAPTIVE, colors=4)
    image.save(tmp_path / "a.png", transparency=image.getpixel((7, 0)))
    picture = load_image(tmp_path / "a.png")
    assert (picture[:, 4:] == 255).all()
    assert (picture[:, :4] == 200).all()


def test_colour_in_print_order_is_read(tmp_path):
    Image.new("CMYK", (16, 16), (0, 255, 255, 0)).save(tmp_path / "a.jpg", quality=100)
    assert np.abs(load_image(tmp_path / "a.jpg")[8, 8].astype(int) - RED).max() < 8


def colour_profile(*, swapped):
    """sRGB's, with red and green in each other's place or not."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    if swapped:
        for old, new in ((b"rXYZ", b"????"), (b"gXYZ", b"rXYZ"), (b"????", b"gXYZ")):
            profile = profile.replace(old, new)
    return profile


@pytest.mark.parametrize(
    ("name", "mode"),
    [("a.png", "RGB"), ("a.jpg", "RGB"), ("a.webp", "RGB"), ("a.tiff", "RGB"), ("a.png", "RGBA")],
)
def test_colours_of_another_profile_become_srgb(tmp_path, name, mode):
    image = Image.new(mode, (16, 16), (200, 60, 30))
    image.save(tmp_path / name, quality=100, icc_profile=colour_profile(swapped=True))
    assert np.abs(load_image(tmp_path / name)[8, 8].astype(int) - (60, 200, 30)).max() < 6


def test_transparent_colour_of_another_profile_stays_transparent(tmp_path):
    image = Image.new("P", (8, 8))
    image.putpalette([200, 60, 30, 10, 20, 30])
    image.paste(1, (4, 0, 8, 8))
    profile = colour_profile(swapped=True)
    image.save(tmp_path / "a.png", transparency=1, icc_profile=profile)
    picture = load_image(tmp_path / "a.png")
    assert np.abs(picture[:, :4].astype(int) - (60, 200, 30)).max() < 4
    assert (picture[:, 4:] == 255).all()


@pytest.mark.parametrize("profile", [colour_profile(swapped=False), b"damaged", b"\0" * 200])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_profile_that_says_nothing_changes_no_bit(tmp_path, profile, mode):
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    Image.fromarray(pixels).convert(mode).save(tmp_path / "plain.tiff")
    Image.fromarray(pixels).convert(mode).save(tmp_path / "a.tiff", icc_profile=profile)
    assert np.array_equal(load_image(tmp_path / "a.tiff"), load_image(tmp_path / "plain.tiff"))


@pytest.mark.parametrize("name", ["a.png", "a.tiff"])
def test_16_bit_grey_keeps_its_brightness(tmp_path, name):
    values = np.array([[0, 128, 257, 32768, 65279, 65535]], np.uint16)
    Image.fromarray(values).save(tmp_path / name)
    assert load_image(tmp_path / name)[0, :, 0].tolist() == [0, 0, 1, 128, 254, 255]


def test_16_bit_colour_keeps_its_brightness(tmp_path):
    values = np.array([[[0, 32768, 65535]] * 4] * 4, ">u2")
    ffmpeg(
        *("-f", "rawvideo", "-pix_fmt", "rgb48be", "-s", "4x4", "-i", "-"),
        *("-pix_fmt", "rgb48be", tmp_path / "a.png"),
        stdin=values.tobytes(),
    )
    assert load_image(tmp_path / "a.png")[0, 0].tolist() == [0, 128, 255]


def test_32_bit_picture_is_refused(tmp_path):
    Image.new("F", (4, 4), 0.5).save(tmp_path / "a.tiff")
    assert "32-bit" in refusal(tmp_path / "a.tiff")


@pytest.mark.parametrize(("mode", "white"), [("1", 1), ("L", 255)])
def test_grey_and_line_art_become_rgb(tmp_path, mode, white):
    Image.new(mode, (5, 3), white).save(tmp_path / "a.png")
    assert (load_image(tmp_path / "a.png") == 255).all()
    assert load_image(tmp_path / "a.png").shape == (3, 5, 3)


@pytest.mark.parametrize("name", ["a.gif", "a.webp", "a.png", "a.tiff"])
def test_first_frame_of_an_animation_is_taken(tmp_path, name):
    first, *more = [Image.new("RGB", (16, 16), colour) for colour in (RED, GREEN, BLUE)]
    options = {} if name == "a.tiff" else {"duration": 40}
    first.save(tmp_path / name, save_all=True, append_images=more, lossless=True, **options)
    assert np.abs(load_image(tmp_path / name)[8, 8].astype(int) - RED).max() < 8


def test_single_pixel_works(tmp_path):
    Image.new("RGB", (1, 1), BLUE).save(tmp_path / "a.png")
    picture = load_image(tmp_path / "a.png")
    assert picture.tolist() == [[list(BLUE)]]
    assert (fit_image(picture, 64, 48) == np.array([0, 0, 1])[:, None, None]).all()


@pytest.mark.parametrize(("width", "height"), [(12000, 8400), (16320, 12240)])
def test_photo_of_100_or_200_megapixels_is_read_at_half_its_size(tmp_path, width, height):
    image = Image.new("L", (width, height), 200)
    image.paste(40, (0, 0, width // 2, height))
    image.save(tmp_path / "a.jpg")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        picture = load_image(tmp_path / "a.jpg")
    assert picture.shape == (height // 2, width // 2, 3)
    assert (picture[2000, 1000, 0], picture[2000, 5000, 0]) == (40, 200)


def png_header(width, height):
    """A PNG that promises a size and holds next to nothing."""

    def chunk(kind, data):
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(100)))


@pytest.mark.parametrize(
    ("width", "height"), [(10000, 10000), (7072, 7072), (20000, 20000), (2**31 - 1, 2**31 - 1)]
)
def test_picture_beyond_the_limit_is_refused_by_its_header(tmp_path, width, height):
    assert width * height > MAX_PIXELS
    (tmp_path / "a.png").write_bytes(png_header(width, height))
    message = refusal(tmp_path / "a.png")
    assert "too large" in message
    assert "up to 50 megapixels are read" in message
    assert "limit of" not in message  # Pillow's own, of which nobody needs to hear


def test_jpeg_beyond_its_own_limit_is_refused_by_its_header(tmp_path):
    data = io.BytesIO()
    Image.new("L", (8, 8)).save(data, "JPEG")
    data = bytearray(data.getvalue())
    place = data.index(b"\xff\xc0") + 5
    data[place : place + 4] = struct.pack(">HH", 20000, 12000)
    (tmp_path / "a.jpg").write_bytes(data)
    assert "too large" in refusal(tmp_path / "a.jpg")


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp", "a.bmp", "a.tiff", "a.gif", "a.avif"])
@pytest.mark.parametrize("share", [0.05, 0.5, 0.9])
def test_truncated_picture_is_refused(tmp_path, name, share):
    pixels = np.random.default_rng(0).integers(0, 256, (100, 100, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / name)
    data = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(data[: int(len(data) * share)])
    assert name in refusal(tmp_path / name)


@pytest.mark.parametrize(
    "data", [b"hello", b"\0" * 5000, b"%!PS-Adobe-3.0 EPSF-3.0\n", b"<svg/>", b"\xff\xd8\xff"]
)
def test_what_is_no_picture_is_refused(tmp_path, data):
    (tmp_path / "a.jpg").write_bytes(data)
    assert "JPEG, PNG" in refusal(tmp_path / "a.jpg")


def test_photo_in_the_format_of_phones_is_called_by_its_name(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"\0\0\0\x24ftypheic\0\0\0\0mif1heic" + bytes(200))
    assert "HEIC" in refusal(tmp_path / "a.jpg")


def test_missing_empty_and_special_files_are_refused(tmp_path):
    (tmp_path / "empty.png").touch()
    os.mkfifo(tmp_path / "pipe.png")
    assert "no picture" in refusal(tmp_path / "missing.png")
    assert "is empty" in refusal(tmp_path / "empty.png")
    assert "not a file" in refusal(tmp_path)
    assert "not a file" in refusal(tmp_path / "pipe.png")


@pytest.mark.parametrize("name", ["-i.png", "a b'\"$(x).png", "bild ü 画像.png", "%d.png"])
def test_any_file_name_works(tmp_path, name):
    Image.fromarray(quarters()).save(tmp_path / name, "PNG")
    assert np.array_equal(load_image(tmp_path / name), quarters())


def test_picture_covers_the_size_and_is_cropped_around_its_centre():
    picture = np.zeros((40, 100, 3), np.uint8)
    picture[:, 30:70] = 255
    fitted = fit_image(picture, 80, 80)
    assert fitted.shape == (3, 80, 80)
    assert fitted.dtype == np.float32
    assert fitted.flags.c_contiguous
    assert (fitted == 1).mean() > 0.97
    assert (fitted[:, :, 40] == 1).all()


def test_same_size_changes_nothing():
    picture = np.random.default_rng(0).integers(0, 256, (48, 32, 3), np.uint8)
    expected = picture.transpose(2, 0, 1) / np.float32(255)
    assert np.array_equal(fit_image(picture, 48, 32), expected)


def test_last_line_is_black_where_the_published_code_rounds_down_unless_covered():
    picture = np.full((32, 47, 3), 255, np.uint8)
    published = fit_image(picture, 32, 48)
    assert (published[:, :, :47] == 1).all()
    assert (published[:, :, 47] == 0).all()
    assert (fit_image(picture, 32, 48, border="covered") == 1).all()


def test_covered_border_never_leaves_a_black_line():
    rng = np.random.default_rng(1)
    for rows, columns in rng.integers(1, 300, (200, 2)):
        picture = np.full((rows, columns, 3), 255, np.uint8)
        assert fit_image(picture, 64, 48, border="covered").min() > 0.999, (rows, columns)


def test_extreme_shape_needs_little_memory():
    picture = np.full((1, 20000, 3), 255, np.uint8)  # to cover the size it would grow to 60 GB
    tracemalloc.start()
    try:
        assert fit_image(picture, 512, 512).min() > 0.999
        assert tracemalloc.get_traced_memory()[1] < 1e9
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("size", [(64, 48), (48, 64), (40, 40)])
@pytest.mark.parametrize("focus", [(0.0, 0.0), (0.3, 0.9), (1.0, 1.0)])
def test_crop_box_is_what_the_crop_shows(size, focus):
    rows, columns = 80, 120
    picture = np.zeros((rows, columns, 3), np.uint8)
    picture[..., 0] = np.linspace(0, 255, columns)
    picture[..., 1] = np.linspace(0, 255, rows)[:, None]
    fitted = fit_image(picture, *size, border="covered", focus=focus)
    left, top, right, bottom = crop_box(rows, columns, *size, focus=focus)
    assert fitted[0, 0, 0] == pytest.approx(left, abs=0.02)
    assert fitted[0, 0, -1] == pytest.approx(right, abs=0.02)
    assert fitted[1, 0, 0] == pytest.approx(top, abs=0.02)
    assert fitted[1, -1, 0] == pytest.approx(bottom, abs=0.02)


def test_contain_shows_the_whole_picture_and_goes_on_with_its_edges():
    picture = np.full((100, 50, 3), 40, np.uint8)  # of one colour all around
    picture[10:90, 5:45] = np.random.default_rng(0).integers(0, 256, (80, 40, 3))
    fitted = fit_image(picture, 100, 160, fit="contain")
    assert fitted.shape == (3, 100, 160)
    assert fitted.flags.c_contiguous
    assert np.allclose(fitted[:, :, 55:105], picture.transpose(2, 0, 1) / 255)
    assert np.abs(fitted[:, :, :50] - 40 / 255).max() < 0.04
    assert np.abs(fitted[:, :, 110:] - 40 / 255).max() < 0.04


@pytest.mark.parametrize("shape", [(1, 1, 3), (1, 3000, 3), (3000, 1, 3), (64, 48, 3)])
def test_contain_takes_any_shape(shape):
    fitted = fit_image(np.full(shape, 255, np.uint8), 64, 48, fit="contain")
    assert fitted.shape == (3, 64, 48)
    assert fitted.min() > 0.99

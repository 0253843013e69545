"""Captions drawn into the picture of a video.

Pillow draws each caption, because its wheel shapes and orders every script and lets the font be
chosen by the text; what the ffmpeg at hand would do with a text depends on the fonts that it finds.
ffmpeg then lays the drawings over the frames. The sound and the settings are copied.
"""

# h, w rows and columns of the video in pixels

import os
import re
import sys
import tempfile
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont, features

from omniavatar.errors import InputError, OutputError
from omniavatar.media.captions import Caption
from omniavatar.media.ffmpeg import Ffmpeg, local_file, run
from omniavatar.media.video import check_output

Font = ImageFont.FreeTypeFont

VIDEO_FORMATS = ("mov", "matroska", "webm")
"""ffmpeg's names of the containers that are taken; the first is MP4's too."""

TEXT_SHARE = 0.06  # height of the letters, of the video's shorter side
LEAST_TEXT = 11  # pixels
MARGIN = 0.04
MOST_LINES = 3
WHITE, SHADE = (255, 255, 255, 255), (0, 0, 0, 150)

_PLAIN = str.maketrans(
    {0x2018: "'", 0x2019: "'", 0x201C: '"', 0x201D: '"', 0x2013: "-", 0x2014: "-", 0x2026: "..."}
)


def burn_captions(
    video: str | os.PathLike[str],
    captions: Sequence[Caption],
    output: str | os.PathLike[str],
    *,
    font: str | os.PathLike[str] | None = None,
) -> None:
    """Write a copy of a video with captions in its picture.

    White letters with a dark edge on a dark, half transparent ground, at the bottom; a caption
    that does not fit in three lines is shown in parts, one after the other.

    Args:
        output: an MP4; replaced if it is there, and not the video itself.
        font: file of a TrueType or OpenType font; None takes one of the system's that has all the
            letters, or the one in Pillow, which has those of English.

    Raises:
        InputError: the video can not be read, or there is no font for the text.
        OutputError: the MP4 can not be written.
    """
    video, output = Path(video), Path(output)
    width, height = _size(video)
    check_output(output, video)
    size = max(round(TEXT_SHARE * min(width, height)), LEAST_TEXT)
    text = "".join(caption.text for caption in captions)
    chosen, replaced = _choose_font(text, size, None if font is None else Path(font))
    shown = [
        part
        for caption in captions
        for part in _parts(
            Caption(
                caption.start_seconds,
                caption.stop_seconds,
                caption.text.translate(_PLAIN) if replaced else caption.text,
            ),
            chosen,
            round((1 - 2 * MARGIN) * width),
        )
    ]
    with tempfile.TemporaryDirectory(prefix=".omniavatar-", dir=output.parent) as work:
        folder = Path(work)
        listed = _draw(shown, chosen, width, height, folder)
        whole = folder / "whole.mp4"
        problem = run(
            *_video_input(video),
            *("-f", "concat", "-safe", "0", "-i", local_file(listed)),
            *("-filter_complex", "[0:v][1:v]overlay=eof_action=pass:format=auto,format=yuv420p[v]"),
            *("-map", "[v]", "-map", "0:a?", "-c:a", "copy", "-map_metadata", "0"),
            *("-c:v", "libx264", "-preset", "veryfast", "-crf", "18", "-profile:v", "high"),
            *("-movflags", "+faststart", "-f", "mp4", local_file(whole)),
        )
        if problem is not None:
            last = problem.strip().splitlines()[-1]
            raise OutputError(f"{output} could not be written: {last}")
        try:
            whole.replace(output)
        except OSError as error:
            raise OutputError(f"{output} could not be written: {error.strerror}.") from error


def _video_input(video: Path) -> list[str]:
    return [
        *("-protocol_whitelist", "file,pipe"),
        *("-format_whitelist", ",".join(VIDEO_FORMATS)),
        *("-i", local_file(video)),
    ]


def _size(video: Path) -> tuple[int, int]:
    """Width and height of a video as it is shown."""
    if not video.is_file():
        raise InputError(f"There is no video at {video}. Check the path.", field="video")
    first = ["-map", "0:v:0", "-frames:v", "1", "-c:v", "ppm", "-f", "image2pipe", "-"]
    with Ffmpeg(*_video_input(video), *first, stdout=True) as process:
        match = re.match(rb"P6\s+(\d+)\s+(\d+)\s", process.stdout.read(64))
    if match is None:
        raise InputError(
            f"{video.name} is not a video that can be read. Give an MP4.", field="video"
        )
    return int(match[1]), int(match[2])


# ---- the font


def _choose_font(text: str, size: int, path: Path | None) -> tuple[Font, bool]:
    """A font that has all letters of a text, and whether typographic marks have to be plain."""
    if any(unicodedata.bidirectional(c) in ("R", "AL") for c in text) and not features.check(
        "raqm"
    ):
        raise InputError(
            "The text is written from right to left, which needs Pillow with Raqm. Install it.",
            field="text",
        )
    if path is not None:
        font = _load(path, size)
        if font is None:
            what = "not a font that can be read" if path.exists() else "not there"
            raise InputError(f"{path} is {what}. Give a .ttf or .otf file.", field="font")
        fonts: Iterator[Font] = iter([font])
    else:
        fonts = _fonts(size)
    missing = ""
    for font in fonts:
        for plain in (False, True):
            lacking = _missing(font, text.translate(_PLAIN) if plain else text)
            if not lacking:
                return font, plain
        missing = missing or lacking
    raise InputError(
        f"No font here has the character {missing[0]!r} of the text. Install one that has it, "
        "such as fonts-noto, or name its file as font.",
        field="font",
    )


def _fonts(size: int) -> Iterator[Font]:
    """Fonts of the system, plain ones for the screen first, then Pillow's own."""
    folders = {
        "darwin": ["/System/Library/Fonts", "/Library/Fonts", "~/Library/Fonts"],
        "win32": [rf"{os.environ.get('WINDIR', 'C:/Windows')}\Fonts"],
    }.get(sys.platform, ["/usr/share/fonts", "/usr/local/share/fonts", "~/.local/share/fonts"])
    found = [
        path
        for folder in folders
        for path in Path(folder).expanduser().rglob("*")
        if path.suffix.lower() in (".ttf", ".otf", ".ttc")
    ]
    for path in sorted(found, key=_plainness):
        font = _load(path, size)
        if font is not None:
            yield font
    own = ImageFont.load_default(size)
    if isinstance(own, ImageFont.FreeTypeFont):
        yield own


def _plainness(path: Path) -> tuple[int, str]:
    """Sorts what reads well on a video to the front."""
    name = path.stem.lower()
    odd = ("italic", "oblique", "mono", "serif", "light", "thin", "condensed", "math", "emoji")
    wanted = ("dejavusans", "notosans", "liberationsans", "arial", "helvetica")
    fancy = sum(word in name.replace("sansserif", "") for word in odd)
    known = not name.startswith(wanted)
    return 2 * fancy + known - ("bold" in name and not known), path.name


def _load(path: Path, size: int) -> Font | None:
    try:
        return ImageFont.truetype(str(path), size)
    except (OSError, ValueError):
        return None


def _missing(font: Font, text: str) -> str:
    """The characters of a text for which a font has no picture."""
    absent = font.getmask("\U0010fffe")
    nothing = absent.size, bytes(absent)
    missing = ""
    for character in dict.fromkeys(text):
        if character.isspace() or unicodedata.category(character)[0] in "CMZ":
            continue
        drawn = font.getmask(character)
        if drawn.getbbox() is None or (drawn.size, bytes(drawn)) == nothing:
            missing += character
    return missing


# ---- the drawings


def _parts(caption: Caption, font: Font, width: int) -> Iterator[Caption]:
    """A caption in lines that fit a width; in several parts, if it takes too many lines."""
    lines = _lines(caption.text, font, width)
    count = -(-len(lines) // MOST_LINES)
    groups = [lines[i * MOST_LINES : (i + 1) * MOST_LINES] for i in range(count)]
    letters = [sum(map(len, group)) for group in groups]
    start, seconds = caption.start_seconds, caption.stop_seconds - caption.start_seconds
    for group, share in zip(groups, letters, strict=True):
        stop = start + seconds * share / sum(letters)
        yield Caption(start, stop, "\n".join(group))
        start = stop


def _lines(text: str, font: Font, width: int) -> list[str]:
    if all(font.getlength(line) <= width for line in text.split("\n")):
        return [line.strip() for line in text.split("\n") if line.strip()]
    lines = [""]
    for word in text.split():
        joined = f"{lines[-1]} {word}".strip()
        if font.getlength(joined) <= width:
            lines[-1] = joined
            continue
        if lines[-1]:
            lines.append("")
        for character in word:  # one that is too long itself is cut
            if lines[-1] and font.getlength(lines[-1] + character) > width:
                lines.append("")
            lines[-1] += character
    return lines


def _draw(captions: Sequence[Caption], font: Font, width: int, height: int, folder: Path) -> Path:
    """Draw each caption into a file, and list them with their times for ffmpeg."""
    empty = Image.new("RGBA", (width, height))
    empty.save(folder / "empty.png")
    entries, now = ["ffconcat version 1.0"], 0.0

    def show(name: str, stop: float) -> None:
        nonlocal now
        if stop > now:
            entries.append(f"file {name}\nduration {stop - now:.6f}")
            now = stop

    for number, caption in enumerate(captions):
        show("empty.png", caption.start_seconds)
        name = f"{number:06}.png"
        _draw_one(caption.text, font, width, height).save(folder / name, compress_level=1)
        show(name, caption.stop_seconds)
    entries.append("file empty.png\nduration 0.04\nfile empty.png")
    listed = folder / "captions.txt"
    listed.write_text("\n".join(entries) + "\n", encoding="utf-8")
    return listed


def _draw_one(text: str, font: Font, width: int, height: int) -> Image.Image:
    layer = Image.new("RGBA", (width, height))
    draw = ImageDraw.Draw(layer)
    edge = max(round(font.size / 14), 1)
    style: dict[str, Any] = {
        "font": font,
        "align": "center",
        "stroke_width": edge,
        "spacing": font.size * 0.2,
    }
    foot = height * (1 - MARGIN)
    box = draw.multiline_textbbox((width / 2, foot), text, anchor="md", **style)
    pad = font.size * 0.3
    shift = min(foot - box[3] - pad, 0.0)
    ground = (
        max(box[0] - pad, 0.0),
        max(box[1] - pad / 2 + shift, 0.0),
        min(box[2] + pad, width - 1.0),
        min(box[3] + pad / 2 + shift, height - 1.0),
    )
    draw.rounded_rectangle(ground, radius=pad, fill=SHADE)
    draw.multiline_text(
        (width / 2, foot + shift), text, anchor="md", fill=WHITE, stroke_fill=SHADE[:3], **style
    )
    return layer

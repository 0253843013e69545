"""What the page draws of a picture and a recording: the part that the video shows, the waveform.

HTML in the colours of the page, so that it is right in light and dark and at any width.
"""

import base64
import io
from collections.abc import Sequence
from html import escape

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Box = tuple[float, float, float, float]
"""Left, top, right, bottom, 0 to 1 of a picture."""

LONGEST_SIDE = 640
BARS = 160


def framing(picture: NDArray[np.uint8], *, crop: Box, faces: Sequence[Box], words: str) -> str:
    """A picture on which what the video leaves out is dimmed, and faces are marked.

    Args:
        picture: [h, w, 3].
        crop: what the video shows of it.
        faces: where faces were found.
        words: one line about it.
    """
    marks = "".join(f"<i class='face' style='{_place(face)}'></i>" for face in faces)
    return (
        f"<div class='picture'><img src='{_data_url(picture)}' alt='{escape(words)}'>"
        f"<i class='crop' style='{_place(crop)}'></i>{marks}</div><p>{escape(words)}</p>"
    )


def frame(picture: NDArray[np.uint8], *, words: str) -> str:
    """A picture as the video shows it, [h, w, 3], with one line about it."""
    return (
        f"<div class='picture'><img src='{_data_url(picture)}' alt='{escape(words)}'></div>"
        f"<p>{escape(words)}</p>"
    )


def fault(sentence: str) -> str:
    """Why there is nothing to draw."""
    return f"<p class='error' role='alert'>{escape(sentence)}</p>"


def warnings(sentences: Sequence[str]) -> str:
    """What should be known before a video is made; said aloud by screen readers."""
    items = "".join(f"<li>{escape(sentence)}</li>" for sentence in sentences)
    return f"<div role='status'><ul>{items}</ul></div>"


def waveform(
    samples: NDArray[np.float32], *, start: float, stop: float, cuts: Sequence[float], words: str
) -> str:
    """A recording as bars; those that the video uses are in colour, its parts set apart by lines.

    Args:
        samples: the whole recording, [n].
        start, stop: what is used of it, 0 to 1 of its length.
        cuts: where a new part of the video begins, 0 to 1 of the recording.
        words: one line about it.
    """
    bars = []
    for number, height in enumerate(_heights(samples)):
        used = start <= (number + 0.5) / BARS <= stop
        bars.append(
            f"<rect class='{'used' if used else 'rest'}' x='{number + 0.2:.1f}' width='0.6' "
            f"y='{16 - height * 15:.2f}' height='{height * 30:.2f}' rx='0.3'/>"
        )
    lines = "".join(
        f"<line x1='{cut * BARS:.2f}' x2='{cut * BARS:.2f}' y1='0' y2='32'/>" for cut in cuts
    )
    return (
        f"<svg viewBox='0 0 {BARS} 32' preserveAspectRatio='none' role='img' "
        f"aria-label='{escape(words)}'>{''.join(bars)}{lines}</svg><p>{escape(words)}</p>"
    )


def _heights(samples: NDArray[np.float32]) -> NDArray[np.float32]:
    """The loudest of each bar's samples, as a share of the loudest of all, [BARS]."""
    edges = np.linspace(0, len(samples), BARS + 1).astype(int)[:-1]
    peaks = np.maximum.reduceat(np.abs(samples), np.minimum(edges, len(samples) - 1))
    shown: NDArray[np.float32] = np.maximum(peaks / max(peaks.max(), 1e-6), 0.04)
    return shown


def _place(box: Box) -> str:
    left, top, right, bottom = box
    return f"left:{left:.2%};top:{top:.2%};width:{right - left:.2%};height:{bottom - top:.2%}"


def _data_url(picture: NDArray[np.uint8]) -> str:
    image = Image.fromarray(picture)
    image.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
    file = io.BytesIO()
    image.save(file, "JPEG", quality=85)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"

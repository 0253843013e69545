"""The files of a request read, its defaults filled in and its video planned: all checks, no model.

What the pipeline makes a video of and what `preflight` tells beforehand come from here, so that
both see the same picture, speech and crop.
"""

# h, w rows and columns of the picture, n samples

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from omniavatar.errors import InputError
from omniavatar.media.image import CENTRE, Box, crop_box, fit_image, load_image
from omniavatar.media.speech import load_speech
from omniavatar.media.texture import is_photograph
from omniavatar.plan import VideoPlan, choose_size, plan_video
from omniavatar.request import GenerationRequest
from omniavatar.weights.catalog import CATALOG, ModelSpec

if TYPE_CHECKING:
    from omniavatar.media.face import Face

WHOLE = (0.0, 0.0, 1.0, 1.0)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Picture:
    """A portrait, and how it is brought to the size of a video.

    Attributes:
        image: as it was read, [h, w, 3].
        height, width: of the video, in pixels.
        fit: as in the request.
        focus: what a crop keeps in the middle, (x, y), 0 to 1.
        is_cut: whether something is cut off at the sides, and at top or bottom.
        crop: what is shown of the picture: left, top, right, bottom, 0 to 1.
        faces: those that were found; None where nobody had to look for any.
        speaker: the face of a photograph in the video's frame, where the model has to know it.
        close_up: left, top, right and bottom of what is made of the frame, in its pixels, if only
            that is: see `media.face.close_up_of`.
    """

    image: NDArray[np.uint8]
    height: int
    width: int
    fit: Literal["cover", "contain"]
    focus: tuple[float, float]
    is_cut: tuple[bool, bool]
    crop: Box
    faces: "tuple[Face, ...] | None" = None
    speaker: "Face | None" = None
    close_up: tuple[int, int, int, int] | None = None

    def framed(self, border: Literal["published", "covered"]) -> NDArray[np.float32]:
        """What the video begins with, [3, height, width], 0 to 1; see `fit_image`."""
        return fit_image(
            self.image, self.height, self.width, border=border, fit=self.fit, focus=self.focus
        )

    def looked_at_closer(self) -> NDArray[np.float32]:
        """The close-up at the size of the video, from all pixels that the picture has there.

        Returns:
            [3, height, width], 0 to 1.
        """
        assert self.close_up is not None
        left, top, right, bottom = self.crop
        rows, columns, _ = self.image.shape
        (x0, y0, x1, y1), across, down = self.close_up, right - left, bottom - top
        x = [round((left + across * x / self.width) * columns) for x in (x0, x1)]
        y = [round((top + down * y / self.height) * rows) for y in (y0, y1)]
        part = self.image[y[0] : y[1], x[0] : x[1]]
        return fit_image(part, self.height, self.width, border="covered")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Inputs:
    """A request that can be carried out.

    Attributes:
        request: the model's defaults are filled in, and the focus where something is cut off.
        plan: size and chunks of the video.
        picture: the portrait.
        samples: mono speech at the model's rate, silence in front included, [n].
    """

    request: GenerationRequest
    plan: VideoPlan
    picture: Picture
    samples: NDArray[np.float32]


def read_inputs(
    request: GenerationRequest, spec: ModelSpec, *, last_picture: "LastPicture | None" = None
) -> Inputs:
    """Read the files of a request and plan its video for one checkpoint.

    Args:
        last_picture: whose reader remembers the picture of the request before; None reads anew.

    Raises:
        InputError: the picture, the recording or a setting can not be used.
    """
    spec = spec.at_resolution(request.resolution)
    request = request.with_defaults(
        prompt=spec.prompt,
        negative_prompt=spec.negative_prompt,
        steps=spec.steps,
        guidance=spec.guidance,
        overlap_frames=spec.overlap_frames,
        max_tokens=spec.max_tokens,
    )
    if request.chunk_length == "model":
        request = replace(request, chunk_length="fitted" if spec.fit_chunks else "full")
    if spec.preset is not None:
        request = replace(request, **spec.preset.built_in)
    cache_coefficients(request, spec)
    assert request.max_tokens is not None
    assert request.overlap_frames is not None
    picture = (last_picture or LastPicture()).read(
        request.image,
        spec,
        aspect=request.aspect,
        fit=request.fit,
        focus=(request.focus_x, request.focus_y),
    )
    samples = read_samples(
        request.audio,
        spec,
        audio_start=request.audio_start,
        audio_seconds=request.audio_seconds,
        silence_seconds=request.silence_seconds,
    )
    plan = plan_video(
        image_height=picture.image.shape[0],
        image_width=picture.image.shape[1],
        samples=len(samples),
        sizes=sizes_of_aspect(spec, request.aspect),
        max_tokens=request.max_tokens,
        overlap_frames=request.overlap_frames,
        fps=spec.fps,
        sample_rate=spec.sample_rate,
        exact=request.frame_count == "exact",
        fitted=request.chunk_length == "fitted",
    )
    used = dict(zip(("focus_x", "focus_y"), picture.focus, strict=True))
    cut = {name: used[name] for name, is_cut in zip(used, picture.is_cut, strict=True) if is_cut}
    return Inputs(request=request.with_defaults(**cut), plan=plan, picture=picture, samples=samples)


def read_picture(
    path: str | os.PathLike[str],
    spec: ModelSpec,
    *,
    aspect: str = "auto",
    fit: Literal["cover", "contain"] = "cover",
    focus: tuple[float | None, float | None] = (None, None),
) -> Picture:
    """Read a portrait and choose the size of its video, and what a crop keeps.

    Args:
        focus: None is looked for: the face, if something is cut off in that direction.

    Raises:
        InputError: the picture can not be used, or there is no size of such an aspect.
    """
    sizes = sizes_of_aspect(spec, aspect)
    image = load_image(path)
    rows, columns, _ = image.shape
    height, width = choose_size(rows, columns, sizes)
    left, top, right, bottom = crop_box(rows, columns, height, width)
    is_cut = fit == "cover" and right - left < 1, fit == "cover" and bottom - top < 1
    is_blind = any(cut and given is None for cut, given in zip(is_cut, focus, strict=True))
    is_calm = spec.calm_photographs and fit == "cover" and is_photograph(image)
    faces, found = None, CENTRE
    if is_blind or is_calm:
        from omniavatar.media.face import find_faces, focus_on  # takes OpenCV, which most do not

        faces = find_faces(image)
        found = focus_on(faces)
    x, y = (
        given if given is not None else round(place, 4) if cut else 0.5
        for given, place, cut in zip(focus, found, is_cut, strict=True)
    )
    crop = crop_box(rows, columns, height, width, focus=(x, y)) if fit == "cover" else WHOLE
    picture = Picture(
        image=image,
        height=height,
        width=width,
        fit=fit,
        focus=(x, y),
        is_cut=is_cut,
        crop=crop,
        faces=faces,
    )
    return _with_speaker(picture) if is_calm else picture


class LastPicture:
    """Reads pictures and keeps the last one, for the next video of the same portrait.

    To look for a face in a photograph takes some tenths of a second, and longer where there is
    none.
    """

    def __init__(self) -> None:
        self._last: tuple[object, Picture] | None = None

    def read(
        self,
        path: str | os.PathLike[str],
        spec: ModelSpec,
        *,
        aspect: str,
        fit: Literal["cover", "contain"],
        focus: tuple[float | None, float | None],
    ) -> Picture:
        """See `read_picture`. A file that has changed since is read again."""
        key = (_state_of(path), spec.sizes, spec.calm_photographs, aspect, fit, focus)
        last = self._last
        if last is None or last[0] != key:
            picture = read_picture(path, spec, aspect=aspect, fit=fit, focus=focus)
            last = self._last = (key, picture)
        return last[1]


def _state_of(path: str | os.PathLike[str]) -> tuple[str, int, int, int] | None:
    """Which file it is and when it was written; None if there is none, which is told elsewhere."""
    try:
        place = Path(path).resolve()
        found = place.stat()
    except (OSError, ValueError):
        return None
    return str(place), found.st_ino, found.st_mtime_ns, found.st_size


def _with_speaker(picture: Picture) -> Picture:
    """The same, where it is known whose face it is and how closely to look at it."""
    from omniavatar.media.face import close_up_of  # as above

    certain = [face.within(picture.crop) for face in picture.faces or () if face.score == 1]
    speaker = next((face for face in certain if all(0 < place < 1 for place in face.centre)), None)
    if speaker is None:
        return picture
    close_up = close_up_of(speaker, height=picture.height, width=picture.width)
    return replace(picture, speaker=speaker, close_up=close_up)


def read_samples(
    path: str | os.PathLike[str],
    spec: ModelSpec,
    *,
    audio_start: float = 0.0,
    audio_seconds: float | None = None,
    silence_seconds: float = 0.0,
) -> NDArray[np.float32]:
    """Read the part of a recording that a request asks for, behind its silence, [n].

    Raises:
        InputError: the recording can not be used.
    """
    speech = load_speech(
        path, sample_rate=spec.sample_rate, start_seconds=audio_start, seconds=audio_seconds
    )
    silence = np.zeros(round(silence_seconds * spec.sample_rate), dtype=np.float32)
    return np.concatenate([silence, speech.samples])


def cache_coefficients(request: GenerationRequest, spec: ModelSpec) -> Sequence[float]:
    """How the step cache weighs changes of its input; none where there are none to weigh by.

    Raises:
        InputError: the step cache is asked for and not calibrated for the checkpoint.
    """
    own = request.cache_coefficients == "model"
    coefficients = (spec if own else CATALOG["14B"]).cache_coefficients
    if request.step_cache and coefficients is None:
        raise InputError(
            f"step_cache is {request.step_cache:g}, but it is not calibrated for {spec.name}. "
            "Use 0, which turns it off.",
            field="step_cache",
        )
    return coefficients or ()


def sizes_of_aspect(spec: ModelSpec, aspect: str) -> Sequence[tuple[int, int]]:
    """The (height, width) of a checkpoint that have a shape.

    Raises:
        InputError: it has none.
    """
    if aspect == "auto":
        return spec.sizes
    sizes = tuple(size for size in spec.sizes if _aspect_of(*size) == aspect)
    if not sizes:
        offered = dict.fromkeys(["auto", *(_aspect_of(*size) for size in spec.sizes)])
        raise InputError(
            f"aspect is {aspect!r}, but {spec.name} makes only: {', '.join(offered)}.",
            field="aspect",
        )
    return sizes


def _aspect_of(height: int, width: int) -> str:
    if height == width:
        return "square"
    return "portrait" if height > width else "landscape"

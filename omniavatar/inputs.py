"""The files of a request read, its defaults filled in and its video planned: all checks, no model.

What the pipeline makes a video of and what `preflight` tells beforehand come from here, so that
both see the same picture, speech and crop.
"""

# h, w rows and columns of the picture, n samples

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from omniavatar.errors import InputError
from omniavatar.media.image import crop_box, load_image
from omniavatar.media.speech import load_speech
from omniavatar.plan import VideoPlan, plan_video
from omniavatar.request import GenerationRequest
from omniavatar.weights.catalog import ModelSpec

WHOLE = (0.0, 0.0, 1.0, 1.0)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Inputs:
    """A request that can be carried out.

    Attributes:
        request: the model's defaults are filled in, and the focus where something is cut off.
        plan: size and chunks of the video.
        image: the picture as it is, [h, w, 3].
        samples: mono speech at the model's rate, silence in front included, [n].
        crop: what is shown of the picture: left, top, right, bottom, 0 to 1.
    """

    request: GenerationRequest
    plan: VideoPlan
    image: NDArray[np.uint8]
    samples: NDArray[np.float32]
    crop: tuple[float, float, float, float]

    @property
    def focus(self) -> tuple[float, float]:
        """For `fit_image`."""
        x, y = self.request.focus_x, self.request.focus_y
        return 0.5 if x is None else x, 0.5 if y is None else y


def read_inputs(request: GenerationRequest, spec: ModelSpec) -> Inputs:
    """Read the files of a request and plan its video for one checkpoint.

    Raises:
        InputError: the picture, the recording or a setting can not be used.
    """
    request = request.with_defaults(
        prompt=spec.prompt,
        negative_prompt=spec.negative_prompt,
        steps=spec.steps,
        guidance=spec.guidance,
        overlap_frames=spec.overlap_frames,
        max_tokens=spec.max_tokens,
    )
    if spec.preset is not None:
        request = replace(request, **spec.preset.built_in)
    assert request.max_tokens is not None
    assert request.overlap_frames is not None
    sizes = sizes_of_aspect(spec, request.aspect)
    image = load_image(request.image)
    speech = load_speech(
        request.audio,
        sample_rate=spec.sample_rate,
        start_seconds=request.audio_start,
        seconds=request.audio_seconds,
    )
    silence = np.zeros(round(request.silence_seconds * spec.sample_rate), dtype=np.float32)
    samples = np.concatenate([silence, speech.samples])
    plan = plan_video(
        image_height=image.shape[0],
        image_width=image.shape[1],
        samples=len(samples),
        sizes=sizes,
        max_tokens=request.max_tokens,
        overlap_frames=request.overlap_frames,
        fps=spec.fps,
        sample_rate=spec.sample_rate,
        exact=request.frame_count == "exact",
    )
    request, crop = _framed(request, image, plan)
    return Inputs(request=request, plan=plan, image=image, samples=samples, crop=crop)


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


def _framed(
    request: GenerationRequest, image: NDArray[np.uint8], plan: VideoPlan
) -> tuple[GenerationRequest, tuple[float, float, float, float]]:
    """The request with a focus for each side that is cut, and what is shown of the picture."""
    if request.fit == "contain":
        return request, WHOLE
    rows, columns, _ = image.shape
    left, top, right, bottom = crop_box(rows, columns, plan.height, plan.width)
    cut = {"focus_x": right - left < 1, "focus_y": bottom - top < 1}
    missing = [name for name, is_cut in cut.items() if is_cut and getattr(request, name) is None]
    if missing:
        from omniavatar.media.face import find_faces, focus_on  # takes OpenCV, which most do not

        found = dict(zip(cut, focus_on(find_faces(image)), strict=True))
        request = replace(request, **{name: round(found[name], 4) for name in missing})
    focus = request.focus_x, request.focus_y
    centred = 0.5 if focus[0] is None else focus[0], 0.5 if focus[1] is None else focus[1]
    return request, crop_box(rows, columns, plan.height, plan.width, focus=centred)

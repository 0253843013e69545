"""What a video will be like, told before it is made: size, parts, framing, and warnings in words.

Warnings are about what a model can use but people may not want. What it can not use at all is an
`InputError`, as when the video is made. The measures are simple on purpose, and none of them
refuses anything.
"""

# h, w rows and columns of the picture, n samples, f windows of 20 ms

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from omniavatar.inputs import Picture, read_inputs, read_picture, read_samples
from omniavatar.media.image import Box
from omniavatar.media.texture import is_photograph
from omniavatar.plan import count_audio_frames
from omniavatar.request import GenerationRequest
from omniavatar.weights.catalog import Bundled, ModelSpec

if TYPE_CHECKING:
    from omniavatar.media.face import Face

SMALL_FACE = 0.15
"""Height of a face in the frame under which lips are a few pixels."""
LEAST_DETAIL = 0.7
"""Pixels of the picture for one of the video, a side, under which it looks soft."""

SILENT = 1e-3  # -60 dBFS, as are the next three: of the loudest window, or of single samples
QUIET = 1e-2
CLIPPED = 0.985
CLIPPED_SHARE = 0.002
LEAST_PAUSES = 0.26
"""Share of windows at under half of the mean level: 0.31 to 0.40 in speech, 0.00 to 0.25 in chords
and noise. Speech over soft music is not told from speech, and drums are not told at all."""
LONG_SILENCE_SECONDS = 1.5
KEPT_SILENCE_SECONDS = 0.3
LONG_VIDEO_SECONDS = 120.0
SHORT_SECONDS = 0.5


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PictureCheck:
    """How a portrait will be shown.

    Attributes:
        width, height: of the video.
        picture: as it was read, [h, w, 3].
        framing: what the video begins with, [height, width, 3].
        crop: the part of the picture that is shown.
        focus: the point of the picture that is kept in the middle as far as possible, (x, y).
        faces: the most certain first.
        warnings: a sentence each.
    """

    width: int
    height: int
    picture: NDArray[np.uint8]
    framing: NDArray[np.uint8]
    crop: Box
    focus: tuple[float, float]
    faces: "tuple[Face, ...]"
    warnings: tuple[str, ...]

    @property
    def is_whole(self) -> bool:
        """Whether nothing of the picture is cut off, but for a rounding's worth."""
        left, top, right, bottom = self.crop
        return right - left > 0.995 and bottom - top > 0.995


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SpeechCheck:
    """What will be heard.

    Attributes:
        samples: the part of the recording that is used, mono at the model's rate, [n].
        speech_seconds: its length.
        video_seconds: how long the video will be, silence in front included.
        warnings: a sentence each.
    """

    samples: NDArray[np.float32]
    speech_seconds: float
    video_seconds: float
    warnings: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Preflight:
    """What a request would make.

    Attributes:
        picture, speech: by themselves.
        fps: frames a second.
        chunks: parts that are made one after the other.
        cuts_seconds: where in the recording each chunk after the first begins to show.
    """

    picture: PictureCheck
    speech: SpeechCheck
    fps: int
    chunks: int
    cuts_seconds: tuple[float, ...]

    @property
    def warnings(self) -> tuple[str, ...]:
        return (*self.picture.warnings, *self.speech.warnings)

    def to_mapping(self) -> dict[str, Any]:
        """All of it that JSON can hold; pictures and samples are left out."""
        picture, speech = self.picture, self.speech
        names = ("left", "top", "right", "bottom")
        return {
            "width": picture.width,
            "height": picture.height,
            "fps": self.fps,
            "chunks": self.chunks,
            "video_seconds": round(speech.video_seconds, 3),
            "speech_seconds": round(speech.speech_seconds, 3),
            "crop": dict(zip(names, (round(edge, 4) for edge in picture.crop), strict=True)),
            "focus": {"x": picture.focus[0], "y": picture.focus[1]},
            "faces": [
                {name: round(getattr(face, name), 4) for name in (*names, "score")}
                for face in picture.faces
            ],
            "warnings": list(self.warnings),
        }


def preflight(request: GenerationRequest, spec: ModelSpec) -> Preflight:
    """Look at a request as a checkpoint would; its files are read, no weights are needed.

    Raises:
        InputError: the picture, the recording or a setting can not be used.
    """
    inputs = read_inputs(request, spec)
    plan = inputs.plan
    frames = plan.frames - (request.lead_frame == "drop")
    # A frame of the speech is one later in the plan, which begins with the portrait itself.
    offset = request.audio_start - request.silence_seconds - 1 / plan.fps
    cuts = (offset + (chunk.start + chunk.known) / plan.fps for chunk in plan.chunks[1:])
    return Preflight(
        picture=_look(inputs.picture, spec),
        speech=_listen(inputs.samples, spec, request, video_seconds=frames / plan.fps),
        fps=plan.fps,
        chunks=len(plan.chunks),
        cuts_seconds=tuple(max(cut, request.audio_start) for cut in cuts),
    )


def check_picture(
    path: str | os.PathLike[str],
    spec: ModelSpec,
    *,
    aspect: str = "auto",
    fit: Literal["cover", "contain"] = "cover",
    focus: tuple[float | None, float | None] = (None, None),
) -> PictureCheck:
    """Look at a portrait alone, while there is no recording yet.

    Args:
        aspect, fit, focus: as in the request.

    Raises:
        InputError: the picture can not be used.
    """
    return _look(read_picture(path, spec, aspect=aspect, fit=fit, focus=focus), spec)


def check_speech(
    path: str | os.PathLike[str],
    spec: ModelSpec,
    *,
    audio_start: float = 0.0,
    audio_seconds: float | None = None,
    silence_seconds: float = 0.0,
) -> SpeechCheck:
    """Listen to a recording alone, while there is no picture yet.

    Args:
        audio_start, audio_seconds, silence_seconds: as in the request.

    Raises:
        InputError: the recording can not be used.
    """
    part: dict[str, Any] = {
        "audio_start": audio_start,
        "audio_seconds": audio_seconds,
        "silence_seconds": silence_seconds,
    }
    samples = read_samples(path, spec, **part)
    frames = count_audio_frames(len(samples), sample_rate=spec.sample_rate, fps=spec.fps)
    request = GenerationRequest(image=Path("none"), audio=Path(path), **part)
    return _listen(samples, spec, request, video_seconds=frames / spec.fps)


# ---- the picture


def _look(picture: Picture, spec: ModelSpec) -> PictureCheck:
    from omniavatar.media.face import find_faces  # takes OpenCV, which a command line can wait for

    faces = find_faces(picture.image) if picture.faces is None else picture.faces
    framing = picture.framed("covered").transpose(1, 2, 0)
    return PictureCheck(
        width=picture.width,
        height=picture.height,
        picture=picture.image,
        framing=np.rint(framing * 255).astype(np.uint8),
        crop=picture.crop,
        focus=picture.focus,
        faces=faces,
        warnings=tuple(_about_picture(picture, faces, spec)),
    )


def _about_picture(picture: Picture, faces: "Sequence[Face]", spec: ModelSpec) -> Iterator[str]:
    rows, columns, _ = picture.image.shape
    left, top, right, bottom = picture.crop
    choose = min if picture.fit == "contain" else max
    scale = choose(picture.height / rows, picture.width / columns)
    drawings = isinstance(spec.source, Bundled)
    if drawings and is_photograph(picture.image):
        yield (
            f"This looks like a photograph with a small face. {spec.name} moves the face and "
            "nothing else, no hands either, and draws lips and teeth as in a cartoon. Cut the "
            "picture closer, or use another model or a drawing."
            if picture.close_up is not None
            else f"This looks like a photograph. {spec.name} keeps the person, but draws lips and "
            "teeth as in a cartoon, keeps the head calm, and hardly moves turned faces. "
            "Use another model, or a drawing."
        )
    if not faces:
        yield (
            "No face was found, which is fine for a drawn character that looks at the camera. "
            "Otherwise use a picture of one upright, well lit face."
            if drawings
            else "No face was found in the picture. Use one of an upright, well lit face that "
            "looks at the camera."
        )
    else:
        face = faces[0]
        others = sum(other.score == 1 for other in faces[1:])
        if others:
            yield (
                f"There are {others + 1} faces in the picture, and any of them may start to speak. "
                "Cut it to one person."
            )
        if face.left < left or face.right > right or face.top < top or face.bottom > bottom:
            yield (
                "The framing cuts off a part of the face. Move the focus, choose another shape, "
                "or set the fit to contain."
            )
        share = (face.bottom - face.top) * rows * scale / picture.height
        if share < SMALL_FACE and picture.close_up is None:
            yield (
                f"The face is small, {share:.0%} of the video's height: lips and eyes will be "
                "blurred. Cut the picture closer."
            )
    if 1 / scale < LEAST_DETAIL:
        yield (
            f"The picture is small, {columns} × {rows} pixels, and is enlarged to fill "
            f"{picture.width} × {picture.height}: it will look soft. Use a larger one."
        )


# ---- the speech


def _listen(
    samples: NDArray[np.float32],
    spec: ModelSpec,
    request: GenerationRequest,
    *,
    video_seconds: float,
) -> SpeechCheck:
    speech = samples[round(request.silence_seconds * spec.sample_rate) :]
    return SpeechCheck(
        samples=speech,
        speech_seconds=len(speech) / spec.sample_rate,
        video_seconds=video_seconds,
        warnings=(
            *_about_speech(speech, spec.sample_rate, request),
            *_about_length(video_seconds),
        ),
    )


def _about_speech(
    speech: NDArray[np.float32], sample_rate: int, request: GenerationRequest
) -> Iterator[str]:
    level = _levels(speech, sample_rate // 50)
    loudest = float(np.percentile(level, 95))
    if float(level.max()) < SILENT:
        yield (
            "The recording is silent: the mouth will stay closed. Check the microphone, or the "
            "part that is used."
        )
        return
    if loudest < QUIET:
        yield (
            "The recording is very quiet, and it will be as quiet in the video. Record it louder, "
            "or raise its volume."
        )
    peak = float(np.abs(speech).max())
    if peak >= CLIPPED and float((np.abs(speech) >= CLIPPED * min(peak, 1)).mean()) > CLIPPED_SHARE:
        yield (
            "The recording is distorted: it was too loud for the microphone and is cut off at "
            "the top. Record it again, at a lower level."
        )
    elif len(level) >= 50 and float((level < 0.5 * level.mean()).mean()) < LEAST_PAUSES:
        yield (
            "The sound hardly pauses, as music or noise does. Lips follow best a voice on its "
            "own; music is better added afterwards."
        )
    heard = np.flatnonzero(level > max(SILENT, 0.03 * loudest)) / 50
    before, after = float(heard[0]), len(level) / 50 - float(heard[-1])
    start = max(before - KEPT_SILENCE_SECONDS, 0) if before > LONG_SILENCE_SECONDS else 0.0
    if start or after > LONG_SILENCE_SECONDS:
        named = [
            f"the {place} {seconds:.1f}"
            for place, seconds in (("first", before), ("last", after))
            if seconds > LONG_SILENCE_SECONDS
        ]
        advice = [f"audio_start {request.audio_start + start:.1f}"] if start else []
        if after > LONG_SILENCE_SECONDS:
            stop = len(level) / 50 - after + KEPT_SILENCE_SECONDS
            advice.append(f"audio_seconds {stop - start:.1f}")
        yield (
            f"In the recording {' and '.join(named)} seconds are silent. To leave them out, use "
            f"{' and '.join(advice)}."
        )
    if len(speech) < SHORT_SECONDS * sample_rate:
        yield (
            f"Only {len(speech) / sample_rate:.2f} seconds of sound are used: the video is over "
            "at once. Use a longer part."
        )


def _levels(samples: NDArray[np.float32], window: int) -> NDArray[np.float32]:
    """Root mean square of each window, [n] -> [f]; the last may be short."""
    padded = np.pad(samples, (0, -len(samples) % window))
    return np.sqrt(np.square(padded.reshape(-1, window)).mean(axis=1))


def _about_length(seconds: float) -> Iterator[str]:
    if seconds > LONG_VIDEO_SECONDS:
        yield (
            f"The video will be {seconds / 60:.1f} minutes long: it takes long to make, and face "
            "and colours may drift. Shorter videos can be cut together."
        )

"""Frames and the user's own recording as an MP4 that plays everywhere, and its settings read back.

Frames are encoded as they come, so the host's memory does not grow with the video. They collect in
a hidden folder beside the output. When the last frame is in, a second and quick run of ffmpeg
copies them, adds sound and settings and puts the index first, and the result is renamed into place:
what stands at the output is always a complete video.
"""

# n frames, h, w rows and columns in pixels

import contextlib
import json
import logging
import os
import re
import struct
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import numpy as np
from numpy.typing import NDArray

from omniavatar.errors import InputError, OutputError
from omniavatar.media.ffmpeg import Ffmpeg, local_file, run, sound_input

logger = logging.getLogger(__name__)

AUDIO_RATE = 48000
"""What every player supports; recordings at other rates are resampled."""


class Mp4Writer:
    """Write an MP4 (H.264 and AAC) frame by frame; to be used with `with`.

    When the block is left by an exception, which is how a cancelled generator and Ctrl-C leave it,
    the frames that were written become a complete video whose sound ends with them. Without any
    frame nothing is left behind, and a file that was there before stays.

    Args:
        path: the MP4; replaced if it is there.
        width, height: of the frames in pixels, even numbers.
        fps: frames a second.
        audio: recording that is heard, complete and not shifted; None for a silent video.
        settings: what `read_settings` gives back; values that JSON can hold.
        silence_seconds: silence in front of the recording.

    Raises:
        OutputError: the video can not be written to `path`; when the block is entered, when frames
            are written, or when the video is finished.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        width: int,
        height: int,
        fps: int,
        audio: str | os.PathLike[str] | None,
        settings: Mapping[str, Any],
        silence_seconds: float = 0.0,
    ) -> None:
        assert (width % 2, height % 2) == (0, 0), "the plan's sizes are multiples of 16"
        self.path = Path(path)
        self.frames = 0
        self._width, self._height, self._fps = width, height, fps
        self._audio = None if audio is None else Path(audio)
        self._settings = json.dumps(settings)
        self._silence_seconds = silence_seconds
        self._resources = contextlib.ExitStack()
        self._finished = False

    def __enter__(self) -> Self:
        check_output(self.path, self._audio)
        with contextlib.ExitStack() as resources:
            try:
                folder = tempfile.TemporaryDirectory(
                    prefix=".omniavatar-", dir=self.path.parent, ignore_cleanup_errors=True
                )
            except OSError as error:
                raise OutputError(
                    f"Nothing can be written to the folder {self.path.parent} "
                    f"({error.strerror}). Use another one."
                ) from error
            self._folder = Path(resources.enter_context(folder))
            self._encoder = resources.enter_context(Ffmpeg(*self._encoder_arguments(), stdin=True))
            self._resources = resources.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with self._resources:
            if self._finished or not self.frames or isinstance(error, OutputError):
                return
            if error is None:
                self.finish()
                return
            try:
                self.finish()
            except OutputError as second:  # the one that ended the block is the one to tell
                logger.warning("The finished part of the video is lost. %s", second)

    def write(self, frames: NDArray[np.uint8]) -> None:
        """Append frames, [n, h, w, 3]; returns when the encoder has taken them."""
        assert frames.dtype == np.uint8, frames.dtype
        assert frames.shape[1:] == (self._height, self._width, 3), frames.shape
        for frame in frames:
            try:
                self._encoder.stdin.write(np.ascontiguousarray(frame).data)
            except OSError as error:  # ffmpeg has ended; its log says why
                self._encoder.wait()
                raise self._failure(self._encoder.log) from error
            self.frames += 1

    def finish(self) -> None:
        """Add sound and settings, and put the video at its place."""
        assert self.frames, "a video has at least one frame"
        if not self._encoder.wait():
            raise self._failure(self._encoder.log)
        whole = self._folder / "whole.mp4"
        problem = run(*self._mux_arguments(whole, self._audio))
        silent = problem is not None and self._audio is not None and not _is_full(problem)
        if silent:  # hours of work are not thrown away with a recording that was deleted meanwhile
            problem = run(*self._mux_arguments(whole, None))
        if problem is not None:
            raise self._failure(problem)
        try:
            whole.replace(self.path)
        except OSError as error:
            raise self._failure(str(error)) from error
        self._finished = True
        if silent:
            raise OutputError(
                f"{self.path} was written without sound, because {self._audio} can no longer be "
                "read. Keep the recording in place until the video is finished."
            )

    @property
    def _frames_file(self) -> Path:
        return self._folder / "frames.mp4"

    def _encoder_arguments(self) -> list[str]:
        convert = "scale=out_color_matrix=bt709:out_range=tv:flags=accurate_rnd+bicubic"
        tag = "setparams=colorspace=bt709:color_primaries=bt709:color_trc=bt709:range=tv"
        return [
            *("-f", "rawvideo", "-pix_fmt", "rgb24"),
            *("-s", f"{self._width}x{self._height}", "-r", str(self._fps), "-i", "pipe:"),
            # Players take the tags at their word, so the conversion has to agree with them.
            *("-vf", f"{convert},format=yuv420p,{tag}"),
            *("-c:v", "libx264", "-preset", "veryfast", "-crf", "18", "-profile:v", "high"),
            *("-g", str(2 * self._fps)),  # a key frame every two seconds, to jump to
            *("-movflags", "+frag_keyframe+empty_moov+default_base_moof"),
            *("-f", "mp4", local_file(self._frames_file)),
        ]

    def _mux_arguments(self, output: Path, audio: Path | None) -> list[str]:
        notes = self._folder / "settings.txt"  # a file, as arguments are limited and public
        notes.write_text(f";FFMETADATA1\ncomment={_escape(self._settings)}\n", encoding="utf-8")
        inputs = ["-i", local_file(self._frames_file), "-f", "ffmetadata", "-i", local_file(notes)]
        streams = ["-map", "0:v:0", "-c:v", "copy"]
        if audio is not None:
            inputs += sound_input(audio)
            streams += ["-map", "2:a:0", "-c:a", "aac", "-b:a", "192k", "-af", self._sound_filter()]
        return [
            *inputs,
            *streams,
            *("-map_metadata", "1", "-map_metadata:s", "-1", "-map_chapters", "-1"),
            *("-movflags", "+faststart", "-f", "mp4", local_file(output)),
        ]

    def _sound_filter(self) -> str:
        """The recording's samples one after another, as `load_speech` hears them, as long as the
        video. A file's own time stamps are not used: its gaps and offsets would shift the lips."""
        length = round(self.frames * AUDIO_RATE / self._fps)
        silence = round(self._silence_seconds * AUDIO_RATE)
        return ",".join(
            [
                "asetpts=N/SR/TB",
                f"aformat=sample_rates={AUDIO_RATE}:channel_layouts=mono|stereo",
                f"adelay=delays={silence}S:all=1",
                f"apad=whole_len={length}",
                f"atrim=end_sample={length}",
            ]
        )

    def _failure(self, reason: str) -> OutputError:
        if _is_full(reason):
            return OutputError(
                f"The disk of {self.path.parent} is full. Free some space, or use another folder."
            )
        last = reason.strip().splitlines()[-1:] or ["the video encoder was stopped"]
        return OutputError(f"{self.path} could not be written: {last[0]}")


def read_settings(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read the settings with which `Mp4Writer` made a video.

    Raises:
        InputError: the file is missing, is no MP4, or was not made here.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"There is no video at {path}. Check the path.")
    try:
        with path.open("rb") as file:
            settings = json.loads(_read_comment(file))
    except OSError as error:
        raise InputError(f"{path.name} can not be read: {error.strerror}.") from error
    except (LookupError, ValueError, RecursionError, struct.error) as error:
        settings = error
    if not isinstance(settings, dict):
        raise InputError(
            f"{path.name} holds no settings. Give an MP4 that omniavatar made; "
            "programs that convert or cut a video may drop them."
        )
    return settings


def check_output(path: Path, audio: Path | None) -> None:
    """Refuse a place where no video can be written, before any work.

    Raises:
        OutputError: it is a folder, no MP4, in no folder, or the recording itself.
    """
    if path.is_dir():
        raise OutputError(f"{path} is a folder. Give the name of an MP4 file.")
    if path.suffix.lower() != ".mp4":
        raise OutputError(f"{path} does not end in .mp4, the one format that is written. Add it.")
    if not path.parent.is_dir():
        raise OutputError(f"The folder {path.parent} does not exist. Make it, or use another.")
    if audio is not None and path.exists() and audio.exists() and path.samefile(audio):
        raise OutputError(f"{path} is the recording itself. Give the video another name.")


def _is_full(reason: str) -> bool:
    return "No space left" in reason or "File too large" in reason or "quota" in reason


def _escape(text: str) -> str:
    """As ffmpeg's metadata files have it."""
    return re.sub(r"([=;#\\\n])", r"\\\1", text)


def _read_comment(file: IO[bytes]) -> bytes:
    """The comment tag of an MP4.

    Raises:
        LookupError: a box on the way to it is missing.
        struct.error: the file ends within a box.
    """
    end = file.seek(0, os.SEEK_END)
    start = 0
    for kind in (b"moov", b"udta", b"meta", b"ilst", b"\xa9cmt", b"data"):
        start, end = next(
            ((start, end) for name, start, end in _boxes(file, start, end) if name == kind),
            (-1, -1),
        )
        if start < 0:
            raise LookupError(kind)
        start += {b"meta": 4, b"data": 8}.get(kind, 0)  # version and flags; type and language
    file.seek(start)
    return file.read(end - start)


def _boxes(file: IO[bytes], start: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Yield the name and the half-open extent of the contents of each box between two places."""
    while start + 8 <= end:
        file.seek(start)
        size, name = struct.unpack(">I4s", file.read(8))
        header = 8
        if size == 1:  # the size is too large for 32 bits and follows
            (size,), header = struct.unpack(">Q", file.read(8)), 16
        elif size == 0:  # to the end
            size = end - start
        if size < header or start + size > end:
            raise LookupError(name)
        yield name, start + header, start + size
        start += size

"""Frames and the user's own recording as an MP4 that plays everywhere, and its settings read back.

Frames are encoded as they come, so the host's memory does not grow with the video. They collect as
pieces, in a hidden folder beside the output or in one that is kept. When the last frame is in, a
second and quick run of ffmpeg copies them, adds sound and settings and puts the index first, and
the result is renamed into place: what stands at the output is always a complete video. A kept
folder survives the process, and `recover_video` makes a video of what it holds.
"""

# n frames, h, w rows and columns in pixels

import contextlib
import json
import logging
import os
import re
import struct
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
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

_SOUND = ("-c:a", "aac", "-b:a", "192k")
_PLAYABLE = ("-map_metadata:s", "-1", "-map_chapters", "-1", "-movflags", "+faststart", "-f", "mp4")
_RECORD_NAME = "video.json"
_PIECE_NAME = "piece-{number:05}.mp4"
_FRAMES_NAME = "frames-{number:05}-{count}.mp4"
_FRAMES_PATTERN = re.compile(r"frames-\d{5,}-(\d+)\.mp4")


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
        audio_start, audio_seconds: part of the recording that is heard; None is up to its end.
        pieces: folder that is kept, made if it is missing, in which each piece that `cut` ends is
            at once a playable MP4 with its sound; None takes a hidden one that goes with the block.

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
        audio_start: float = 0.0,
        audio_seconds: float | None = None,
        pieces: Path | None = None,
    ) -> None:
        assert (width % 2, height % 2) == (0, 0), "the plan's sizes are multiples of 16"
        self.path = Path(path)
        self.frames = 0
        self._width, self._height = width, height
        self._audio = None if audio is None else Path(audio)
        self._track = _Track(
            fps=fps,
            settings=json.dumps(settings),
            silence_seconds=silence_seconds,
            audio_start=audio_start,
            audio_seconds=audio_seconds,
        )
        self._kept = pieces
        self._pieces: list[tuple[Path, int]] = []
        self._encoder: Ffmpeg | None = None
        self._resources = contextlib.ExitStack()
        self._finished = False

    def __enter__(self) -> Self:
        check_output(self.path, self._audio)
        with contextlib.ExitStack() as resources:
            place = self.path.parent
            try:
                folder = tempfile.TemporaryDirectory(
                    prefix=".omniavatar-", dir=place, ignore_cleanup_errors=True
                )
                self._folder = Path(resources.enter_context(folder))
                if self._kept is not None:
                    place = self._kept
                    place.mkdir(parents=True, exist_ok=True)
                    _write_record(place, self._track, self._audio)
            except OSError as error:
                raise OutputError(
                    f"Nothing can be written to the folder {place} ({error.strerror}). Use another "
                    "one."
                ) from error
            self._start_encoder(resources)  # at once, for its faults to show before any work
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
        if self._encoder is None:
            self._start_encoder(self._resources)
        assert self._encoder is not None
        for frame in frames:
            try:
                self._encoder.stdin.write(np.ascontiguousarray(frame).data)
            except OSError as error:  # ffmpeg has ended; its log says why
                self._encoder.wait()
                raise self._failure(self._encoder.log) from error
            self.frames += 1

    def cut(self) -> None:
        """End a piece: what was written up to here is on disk, whatever happens to the process."""
        first = sum(count for _, count in self._pieces)
        count = self.frames - first
        if not count:
            return
        assert self._encoder is not None
        if not self._encoder.wait():
            raise self._failure(self._encoder.log)
        self._encoder = None
        whole = self._place / _FRAMES_NAME.format(number=len(self._pieces) + 1, count=count)
        try:
            self._growing.replace(whole)
        except OSError as error:
            raise self._failure(str(error)) from error
        self._pieces.append((whole, count))
        if self._kept is not None:
            self._keep(whole, first=first, count=count)

    def finish(self) -> None:
        """Add sound and settings, and put the video at its place."""
        assert self.frames, "a video has at least one frame"
        self.cut()
        problem = _join(self._pieces, self.path, self._folder, self._track, self._audio)
        silent = problem is not None and self._audio is not None and not _is_full(problem)
        if silent:  # hours of work are not thrown away with a recording that was deleted meanwhile
            problem = _join(self._pieces, self.path, self._folder, self._track, None)
        if problem is not None:
            raise self._failure(problem)
        self._finished = True
        if silent:
            raise OutputError(
                f"{self.path} was written without sound, because {self._audio} can no longer be "
                "read. Keep the recording in place until the video is finished."
            )

    @property
    def _place(self) -> Path:
        return self._kept or self._folder

    @property
    def _growing(self) -> Path:
        return self._folder / "growing.mp4"

    def _start_encoder(self, resources: contextlib.ExitStack) -> None:
        self._encoder = resources.enter_context(Ffmpeg(*self._encoder_arguments(), stdin=True))

    def _encoder_arguments(self) -> list[str]:
        fps = self._track.fps
        convert = "scale=out_color_matrix=bt709:out_range=tv:flags=accurate_rnd+bicubic"
        tag = "setparams=colorspace=bt709:color_primaries=bt709:color_trc=bt709:range=tv"
        return [
            *("-f", "rawvideo", "-pix_fmt", "rgb24"),
            *("-s", f"{self._width}x{self._height}", "-r", str(fps), "-i", "pipe:"),
            # Players take the tags at their word, so the conversion has to agree with them.
            *("-vf", f"{convert},format=yuv420p,{tag}"),
            *("-c:v", "libx264", "-preset", "veryfast", "-crf", "18", "-profile:v", "high"),
            *("-g", str(2 * fps)),  # a key frame every two seconds, to jump to
            *("-movflags", "+frag_keyframe+empty_moov+default_base_moof"),
            *("-f", "mp4", local_file(self._growing)),
        ]

    def _keep(self, frames: Path, *, first: int, count: int) -> None:
        """Put a piece with its own part of the sound beside its frames, to be played at once.

        Without it the video would still be whole, so that a recording which can no longer be read
        is a matter of `finish`.
        """
        made = self._folder / "piece.mp4"
        inputs, streams = ["-i", local_file(frames)], ["-map", "0:v:0", "-c:v", "copy"]
        if self._audio is not None:
            inputs += sound_input(self._audio)
            sound = self._track.sound_filter(first, first + count)
            streams += ["-map", "1:a:0", *_SOUND, "-af", sound]
        problem = run(*inputs, *streams, *_PLAYABLE, local_file(made))
        if problem is not None:
            logger.warning("A finished part can not be shown yet. %s", problem)
            return
        with contextlib.suppress(OSError):
            made.replace(self._place / _PIECE_NAME.format(number=len(self._pieces)))

    def _failure(self, reason: str) -> OutputError:
        return _output_error(self.path, reason)


def kept_pieces(folder: Path) -> list[Path]:
    """The finished pieces of a video in a folder that `Mp4Writer` keeps: playable MP4s, in order.

    Each was renamed into place, so that another process may read them while more are made.
    """
    return sorted(folder.glob(_PIECE_NAME.format(number=0).replace("00000", "*")))


def recover_video(folder: Path, path: Path) -> int:
    """Make a video of the pieces that a process which is no more has left in its kept folder.

    Args:
        folder: `pieces` of the `Mp4Writer`.
        path: the MP4; replaced if it is there.

    Returns:
        The number of its frames; 0 when no piece was finished, and nothing was written.

    Raises:
        OutputError: the video can not be written to `path`.
    """
    found = (_FRAMES_PATTERN.fullmatch(file.name) for file in sorted(folder.glob("frames-*.mp4")))
    pieces = [(folder / match[0], int(match[1])) for match in found if match]
    if not pieces:
        return 0
    track, audio = _read_record(folder)
    with tempfile.TemporaryDirectory(prefix=".omniavatar-", dir=path.parent) as work:
        problem = _join(pieces, path, Path(work), track, audio)
        if problem is not None and audio is not None and not _is_full(problem):
            problem = _join(pieces, path, Path(work), track, None)
    if problem is not None:
        raise _output_error(path, problem)
    return sum(count for _, count in pieces)


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


def check_output(path: Path, audio: Path | None, *, suffix: str = ".mp4") -> None:
    """Refuse a place where nothing can be written, before any work.

    Args:
        audio: what is read meanwhile, and must not be written over.
        suffix: of the format.

    Raises:
        OutputError: it is a folder, of another format, in no folder, or the recording itself.
    """
    if path.is_dir():
        raise OutputError(f"{path} is a folder. Give the name of an {suffix[1:].upper()} file.")
    if path.suffix.lower() != suffix:
        raise OutputError(
            f"{path} does not end in {suffix}, the one format that is written. Add it."
        )
    if not path.parent.is_dir():
        raise OutputError(f"The folder {path.parent} does not exist. Make it, or use another.")
    if audio is not None and path.exists() and audio.exists() and path.samefile(audio):
        raise OutputError(f"{path} is the recording itself. Give the video another name.")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Track:
    """What goes into an MP4 beside its frames, apart from the place of the recording.

    Attributes:
        settings: as JSON.
    """

    fps: int
    settings: str
    silence_seconds: float
    audio_start: float
    audio_seconds: float | None

    def sound_filter(self, first: int, stop: int) -> str:
        """The recording's samples one after another, as `load_speech` hears them, under the frames
        `first` to `stop`. A file's own time stamps are not used: its gaps and offsets would shift
        the lips."""
        silence, start = _samples(self.silence_seconds), _samples(self.audio_start)
        begin, end = (round(frame * AUDIO_RATE / self.fps) for frame in (first, stop))
        part = f"atrim=start_sample={start}"
        if self.audio_seconds is not None:
            part += f":end_sample={start + _samples(self.audio_seconds)}"
        return ",".join(
            [
                "asetpts=N/SR/TB",
                f"aformat=sample_rates={AUDIO_RATE}:channel_layouts=mono|stereo",
                f"{part},asetpts=N/SR/TB",
                f"adelay=delays={silence}S:all=1",
                f"apad=whole_len={end}",
                f"atrim=start_sample={begin}:end_sample={end},asetpts=N/SR/TB",
            ]
        )


def _samples(seconds: float) -> int:
    return round(seconds * AUDIO_RATE)


def _join(
    pieces: Sequence[tuple[Path, int]], path: Path, folder: Path, track: _Track, audio: Path | None
) -> str | None:
    """Copy pieces into one MP4 with sound and settings; None for success, or what went wrong."""
    # Files, as arguments are limited and public; names in a list are those of its own folder.
    parts = pieces[0][0].with_name("parts.txt")
    notes, whole = folder / "settings.txt", folder / "whole.mp4"
    listed = (f"file {piece.name}\nduration {count / track.fps:.9f}\n" for piece, count in pieces)
    try:
        parts.write_text("ffconcat version 1.0\n" + "".join(listed), encoding="utf-8")
        notes.write_text(f";FFMETADATA1\ncomment={_escape(track.settings)}\n", encoding="utf-8")
    except OSError as error:
        return str(error)
    inputs = ["-f", "concat", "-safe", "0", "-i", local_file(parts)]
    inputs += ["-f", "ffmetadata", "-i", local_file(notes)]
    streams = ["-map", "0:v:0", "-c:v", "copy", "-map_metadata", "1"]
    if audio is not None:
        inputs += sound_input(audio)
        frames = sum(count for _, count in pieces)
        streams += ["-map", "2:a:0", *_SOUND, "-af", track.sound_filter(0, frames)]
    problem = run(*inputs, *streams, *_PLAYABLE, local_file(whole))
    if problem is not None:
        return problem
    try:
        whole.replace(path)
    except OSError as error:
        return str(error)
    return None


def _write_record(folder: Path, track: _Track, audio: Path | None) -> None:
    place = None if audio is None else str(audio.absolute())
    record = json.dumps({**asdict(track), "audio": place})
    (folder / _RECORD_NAME).write_text(record, encoding="utf-8")


def _read_record(folder: Path) -> tuple[_Track, Path | None]:
    record = json.loads((folder / _RECORD_NAME).read_text(encoding="utf-8"))
    audio = record.pop("audio")
    return _Track(**record), None if audio is None else Path(audio)


def _output_error(path: Path, reason: str) -> OutputError:
    if _is_full(reason):
        return OutputError(
            f"The disk of {path.parent} is full. Free some space, or use another folder."
        )
    last = reason.strip().splitlines()[-1:] or ["the video encoder was stopped"]
    return OutputError(f"{path} could not be written: {last[0]}")


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

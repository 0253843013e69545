"""ffmpeg as a child process: the binary that imageio-ffmpeg ships, lists of arguments, pipes.

No shell is involved, and no name of a file is ever read as anything but a file: names are made
absolute behind `file:`, no other protocol is open, and what a user sends can not make ffmpeg open
other files (playlists and scripts are not among the accepted formats).
"""

import contextlib
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType
from typing import IO, Self

import imageio_ffmpeg

SOUND_FORMATS = (
    "aac", "ac3", "aiff", "amr", "ape", "asf", "au", "avi", "caf", "dts", "eac3", "flac", "flv",
    "matroska", "mov", "mp3", "mpeg", "mpegts", "ogg", "tta", "w64", "wav", "webm", "wv",
)  # fmt: skip
"""ffmpeg's names of containers that hold sound themselves."""

_LOG_BYTES = 1 << 16


def local_file(path: Path) -> str:
    """Name a file so that ffmpeg reads nothing else into it: `concat:`, `-i` and `%d` included."""
    return f"file:{path.absolute()}"


def sound_input(path: Path) -> list[str]:
    """Arguments that open a user's recording, or a video with sound."""
    return [
        *("-protocol_whitelist", "file,pipe"),
        *("-format_whitelist", ",".join(SOUND_FORMATS)),
        *("-i", local_file(path)),
    ]


class Ffmpeg:
    """One run of ffmpeg, which has ended when its `with` block is left, however that happens.

    Attributes:
        stdin, stdout: the pipes that were asked for.
    """

    def __init__(
        self,
        *arguments: str,
        stdin: bool = False,
        stdout: bool = False,
        log_level: str = "error",
    ) -> None:
        # A file takes all that ffmpeg says about a damaged input, where a pipe would fill up.
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 (closed in `__exit__`)
        try:
            self._process = subprocess.Popen(
                [
                    *(imageio_ffmpeg.get_ffmpeg_exe(), "-hide_banner", "-v", log_level, "-y"),
                    *(() if stdin else ("-nostdin",)),
                    *arguments,
                ],
                stdin=subprocess.PIPE if stdin else subprocess.DEVNULL,
                stdout=subprocess.PIPE if stdout else subprocess.DEVNULL,
                stderr=self._log,
                # Ctrl-C is for Python, which then decides how ffmpeg ends.
                start_new_session=True,
            )
        except BaseException:
            self._log.close()
            raise

    @property
    def stdin(self) -> IO[bytes]:
        assert self._process.stdin is not None
        return self._process.stdin

    @property
    def stdout(self) -> IO[bytes]:
        assert self._process.stdout is not None
        return self._process.stdout

    @property
    def log(self) -> str:
        """The beginning of what ffmpeg said; complete after `wait`."""
        self._log.seek(0)
        return self._log.read(_LOG_BYTES).decode(errors="replace")

    def wait(self) -> bool:
        """Close stdin, let ffmpeg finish, and tell whether it succeeded."""
        if self._process.stdin is not None:
            with contextlib.suppress(OSError):  # it ended early: its exit status says why
                self._process.stdin.close()
        return self._process.wait() == 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._log):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()


def run(*arguments: str) -> str | None:
    """Run ffmpeg to its end: None for success, or what it said."""
    with Ffmpeg(*arguments) as process:
        return None if process.wait() else process.log or "no reason given"

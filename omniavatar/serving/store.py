"""Jobs on disk: what was asked, how far it came and what was made, for longer than the process.

    jobs/ID/request.json    what was asked, written once
    jobs/ID/status.json     how far it came, replaced as a whole
    jobs/ID/inputs/         copies of the picture and the recording
    files/ID/               what the page may show: video.mp4, poster.jpg, previews, finished parts,
                            captions
    batches/ID.json         the rows of a batch and their jobs; its zip is in files/ID
    servers/NAME            locked by the process that works on a job, for as long as it lives

An ID can not be guessed, and only `files` is served, so that who knows the address of a video does
not come to the picture and the voice that it was made of.
"""

import errno
import json
import logging
import os
import re
import secrets
import shutil
import sys
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields, replace
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal, Self

from omniavatar import InputError, OmniAvatarError, OutputError, recover_video

logger = logging.getLogger(__name__)

State = Literal["queued", "running", "finished", "stopped", "failed", "interrupted"]

GIGABYTE = 1_000_000_000
SECONDS_TO_WATCH_PARTS = 600.0  # how long a page may go on playing the parts of a whole video
_ID = re.compile(r"[0-9a-f]{32}")


def _variable(name: str, default: Any, help: str) -> Any:
    return field(default=default, metadata={"variable": name, "help": help})


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreSettings:
    """What a server keeps and lets visitors ask for; each field says its environment variable."""

    data: Path | None = _variable(  # noqa: RUF009 (it makes a `field`)
        "OMNIAVATAR_DATA", None, "folder of jobs and videos; empty: the user's own data folder"
    )
    keep_hours: float = _variable(
        "OMNIAVATAR_KEEP_HOURS", 168.0, "age at which a video is deleted, in hours"
    )
    keep_gigabytes: float = _variable(
        "OMNIAVATAR_KEEP_GB", 20.0, "size of all jobs at which the oldest are deleted"
    )
    waiting: int = _variable(
        "OMNIAVATAR_WAITING_JOBS", 8, "jobs that one visitor may have in the queue"
    )
    waiting_together: int = _variable(
        "OMNIAVATAR_QUEUE", 256, "jobs that may wait in the queue together"
    )
    batch_rows: int = _variable("OMNIAVATAR_BATCH_ROWS", 50, "most videos of one batch")

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Self:
        """Read the variables; one that is empty is not set.

        Raises:
            InputError: a value is no number above 0; `field` is the variable.
        """
        values: dict[str, Any] = {}
        for entry in fields(cls):
            variable = entry.metadata["variable"]
            text = environment.get(variable, "").strip()
            if not text:
                continue
            if entry.name == "data":
                values["data"] = Path(text)
                continue
            try:
                number = float(text)
                values[entry.name] = int(number) if isinstance(entry.default, int) else number
            except (ValueError, OverflowError):
                values[entry.name] = 0
            if not 0 < values[entry.name] < 1e9:
                raise InputError(f"{variable} is {text!r}. Use a number above 0.", field=variable)
        return cls(**values)


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What was asked, as `request.json` holds it.

    Attributes:
        visitor: whose it is, not to be turned back into what the visitor's browser holds.
        settings: of the request, apart from its files.
        image, audio: names of the copied files, within `inputs`.
        options: what the page needs to know again, such as that it is a draft.
        consent: what the visitor confirmed about the people in it, and when; None without.
        created: seconds since 1970.
        memory: how the networks are to be arranged; None as the server has it.
    """

    id: str
    visitor: str
    model: str
    settings: Mapping[str, Any]
    image: str
    audio: str
    options: Mapping[str, Any]
    consent: Mapping[str, Any] | None
    created: float
    memory: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """How far a job came, as `status.json` holds it.

    Attributes:
        server: name of the process that holds it.
        started, ended: seconds since 1970.
        chunks_done, chunks: finished parts, and all.
        error: a sentence for the visitor.
        field: the setting at fault.
        used: the settings that made the video, defaults filled in, as its metadata has them.
        timings: seconds of work by stage.
        notices: what the visitor should know beside it.
    """

    state: State
    server: str
    started: float | None = None
    ended: float | None = None
    chunks_done: int = 0
    chunks: int = 0
    error: str | None = None
    field: str | None = None
    used: Mapping[str, Any] | None = None
    timings: Mapping[str, float] | None = None
    notices: tuple[str, ...] = ()


class Store:
    """The folder of one server, or of several that take turns or live side by side.

    Args:
        folder: made if it is missing.

    Raises:
        OutputError: nothing can be written there.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()
        self.served = self.folder / "files"
        self._jobs = self.folder / "jobs"
        self._batches = self.folder / "batches"
        self._servers = self.folder / "servers"
        self.server = secrets.token_hex(8)
        try:
            for place in (self._jobs, self.served, self._batches, self._servers):
                place.mkdir(parents=True, exist_ok=True)
            # Held open, and so locked, until the process ends.
            lock = os.open(self._servers / self.server, os.O_RDWR | os.O_CREAT)
        except OSError as error:
            raise OutputError(
                f"Nothing can be written to the folder {self.folder} ({error.strerror}). Set "
                "OMNIAVATAR_DATA to another one."
            ) from error
        _lock(lock)

    @staticmethod
    def new_id() -> str:
        """A name that cannot be guessed."""
        return secrets.token_hex(16)

    # ---- one job

    def create(
        self,
        *,
        visitor: str,
        model: str,
        memory: str | None = None,
        settings: Mapping[str, Any],
        image: Path,
        audio: Path,
        options: Mapping[str, Any],
        consent: Mapping[str, Any] | None,
    ) -> tuple[Asked, Status]:
        """Write a new job that waits, with copies of its files.

        Raises:
            OutputError: it can not be written.
        """
        asked = Asked(
            id=self.new_id(),
            visitor=whose(visitor),
            model=model,
            memory=memory,
            settings=dict(settings),
            image=f"image/{image.name}",
            audio=f"audio/{audio.name}",
            options=dict(options),
            consent=consent,
            created=time.time(),
        )
        folder = self._jobs / asked.id
        try:
            for source, name in ((image, asked.image), (audio, asked.audio)):
                target = folder / "inputs" / name
                target.parent.mkdir(parents=True)
                shutil.copyfile(source, target)
            self.files(asked.id).mkdir()
            _write(folder / "request.json", asdict(asked))
            status = Status(state="queued", server=self.server)
            self.save(asked.id, status)
        except OSError as error:
            self.delete(asked.id)
            raise OutputError(
                f"The job can not be kept ({error.strerror}). Try again later."
            ) from error
        return asked, status

    def save(self, job: str, status: Status) -> None:
        """Replace the status of a job; a full disk is told in the log and not to the job."""
        try:
            _write(self._jobs / job / "status.json", asdict(status))
        except OSError as error:
            logger.warning("the status of a job could not be written: %s", error)

    def load(self, job: str) -> tuple[Asked, Status] | None:
        """A job by its ID; None when there is none, or what is there can not be read."""
        if not _ID.fullmatch(job):
            return None
        folder = self._jobs / job
        try:
            asked = Asked(**json.loads((folder / "request.json").read_text(encoding="utf-8")))
            status = Status(**json.loads((folder / "status.json").read_text(encoding="utf-8")))
            return asked, replace(status, notices=tuple(status.notices))
        except (OSError, ValueError, TypeError):
            return None

    def load_all(self) -> Iterator[tuple[Asked, Status]]:
        """Every job that can be read."""
        for folder in self._jobs.iterdir():
            if job := self.load(folder.name):
                yield job

    def files(self, job: str) -> Path:
        """The folder of what a job has made."""
        return self.served / job

    def video(self, job: str) -> Path:
        return self.files(job) / "video.mp4"

    def poster(self, job: str) -> Path:
        return self.files(job) / "poster.jpg"

    def pieces(self, job: str) -> Path:
        return self.files(job) / "parts"

    def inputs(self, asked: Asked) -> tuple[Path, Path]:
        """The copies of picture and recording."""
        folder = self._jobs / asked.id / "inputs"
        return folder / asked.image, folder / asked.audio

    def delete(self, job: str) -> None:
        assert _ID.fullmatch(job), job
        for folder in (self._jobs / job, self.files(job)):
            shutil.rmtree(folder, ignore_errors=True)
        (self._batches / f"{job}.json").unlink(missing_ok=True)

    # ---- batches

    def save_batch(self, batch: str, content: Mapping[str, Any]) -> None:
        """Keep the rows of a batch.

        Raises:
            OutputError: they can not be written.
        """
        try:
            _write(self._batches / f"{batch}.json", content)
        except OSError as error:
            raise OutputError(
                f"The batch can not be kept ({error.strerror}). Try again later."
            ) from error

    def load_batch(self, batch: str) -> dict[str, Any] | None:
        """What `save_batch` has kept; None when there is none, or it has no rows."""
        if not _ID.fullmatch(batch):
            return None
        try:
            content = json.loads((self._batches / f"{batch}.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        rows = content.get("rows") if isinstance(content, dict) else None
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            return None
        return content

    def archive(self, batch: str) -> Path:
        return self.files(batch) / "videos.zip"

    def drop_archive(self, batch: str) -> None:
        """Delete the zip of a batch, one of whose videos is gone."""
        try:
            self.archive(batch).unlink(missing_ok=True)
        except OSError as error:
            logger.warning("the zip of a batch could not be deleted: %s", error)

    # ---- all jobs

    def recover(self) -> None:
        """Close the jobs of servers that are no more: their finished parts become a video."""
        alive = self._living()
        for asked, status in self.load_all():
            if status.state in ("queued", "running") and status.server not in alive:
                self.rescue_video(asked.id)
                status = replace(status, state="interrupted", ended=time.time())
                self.save(asked.id, status)

    def rescue_video(self, job: str) -> bool:
        """Make the finished parts of a job its video, if it has none; whether it has one now."""
        video = self.video(job)
        try:
            for left in video.parent.glob(".omniavatar-*"):
                shutil.rmtree(left, ignore_errors=True)
            if not video.exists():
                recover_video(self.pieces(job), video)
        except (OmniAvatarError, OSError, ValueError, TypeError, LookupError):
            logger.exception("the finished parts of a job could not be joined")
        return video.exists()

    def drop_work(self, job: str) -> None:
        """Delete what a video was made from; pages may load previews and parts for a while yet."""
        for path in self.pieces(job).glob("frames-*"):
            path.unlink(missing_ok=True)

    def expire(self, settings: StoreSettings, *, busy: Collection[str] = ()) -> list[str]:
        """Delete what is too old, then the oldest until the rest is small enough.

        A job that can not be read, as a newer version may have written it, is as old as its folder.

        Args:
            busy: jobs that are not touched, whatever their age.

        Returns:
            The jobs that are gone.
        """
        now, found, gone = time.time(), [], []
        for path in self._batches.glob("*.json"):
            content = self.load_batch(path.stem) or {"rows": []}
            if not any(row.get("job") in busy for row in content["rows"]):
                found.append((_changed(path), _size(self.files(path.stem)), path.stem))
        for folder in self._jobs.iterdir():
            job = folder.name
            if job in busy or not _ID.fullmatch(job):
                continue
            ended = _changed(folder)
            if kept := self.load(job):
                asked, status = kept
                if status.state in ("queued", "running"):
                    continue
                ended = status.ended or asked.created
                if now - ended > SECONDS_TO_WATCH_PARTS:
                    shutil.rmtree(self.pieces(job), ignore_errors=True)
                    for path in self.files(job).glob("preview-*"):
                        path.unlink(missing_ok=True)
            found.append((ended, _size(folder) + _size(self.files(job)), job))
        found.sort()
        total = sum(size for _, size, _ in found)
        for ended, size, job in found:
            old = now - ended > settings.keep_hours * 3600
            if old or total > settings.keep_gigabytes * GIGABYTE:
                self.delete(job)
                gone.append(job)
                total -= size
        self._drop_strays(busy)
        return gone

    def _drop_strays(self, busy: Collection[str]) -> None:
        """Delete folders without a job, which a crash between two writes can leave."""
        for folder in (*self._jobs.iterdir(), *self.served.iterdir()):
            if folder.name in busy or not _ID.fullmatch(folder.name):
                continue
            with suppress(OSError):
                old = time.time() - folder.stat().st_mtime > 3600
                if old and not self._is_kept(folder.name):
                    self.delete(folder.name)

    def _is_kept(self, name: str) -> bool:
        """Whether there is a job or a batch of this name, be it one that can not be read.

        Raises:
            OSError: that can not be told.
        """
        for path in (self._jobs / name / "request.json", self._batches / f"{name}.json"):
            with suppress(FileNotFoundError):
                path.stat()
                return True
        return False

    def _living(self) -> set[str]:
        """Names of the servers whose process lives; files of the others are deleted."""
        alive = {self.server}
        for path in self._servers.iterdir():
            if path.name == self.server:
                continue
            try:
                with path.open("a") as file:
                    free = _lock(file.fileno())
            except OSError:
                free = False
            if free:
                path.unlink(missing_ok=True)
            else:
                alive.add(path.name)
        return alive


def data_folder(settings: StoreSettings, environment: Mapping[str, str]) -> Path:
    """Where jobs are kept: what is asked for, the disk of a Space, or the user's own folder."""
    if settings.data is not None:
        return settings.data
    disk = Path("/data")
    if "SPACE_ID" in environment and disk.is_dir() and os.access(disk, os.W_OK):
        return disk / "omniavatar"
    if sys.platform == "win32":
        home = environment.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local"
    elif sys.platform == "darwin":
        home = Path.home() / "Library" / "Application Support"
    else:
        home = environment.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(home) / "omniavatar"


def whose(visitor: str) -> str:
    """What the disk knows a visitor by: it says nothing about the token in the visitor's browser,
    which opens the history."""
    return sha256(visitor.encode()).hexdigest()


def _write(path: Path, content: Any) -> None:
    """Replace a file as a whole: who reads it, whenever that is, finds one version or the next."""
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        draft.write_text(json.dumps(content), encoding="utf-8")
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def _changed(path: Path) -> float:
    """When something last changed, in seconds since 1970; now, if it has just gone."""
    try:
        return path.stat().st_mtime
    except OSError:
        return time.time()


def _size(folder: Path) -> int:
    size = 0
    for path in folder.rglob("*"):
        with suppress(OSError):
            size += path.stat().st_size if path.is_file() else 0
    return size


def _lock(file: int) -> bool:
    """Lock an open file until this process ends; whether nobody else holds it."""
    try:
        import fcntl
    except ImportError:  # Windows: a second server there would close the first one's jobs
        return True
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:  # any other error than these: a disk without locks
        return error.errno not in (errno.EACCES, errno.EAGAIN)
    return True

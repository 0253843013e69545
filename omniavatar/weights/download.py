"""Hub to disk: the files of a published checkpoint that are not there yet.

Address, token, session and lock are those of huggingface_hub. The bytes are received here, because
its `hf_hub_download` throws half a file away when the process ends: here it stays, as
`NAME.DIGEST.incomplete`, and the next attempt, in this process or another, goes on where it ends. A
file gets its own name only when its digest is that of the hub.
"""

import logging
import shutil
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from httpx2 import HTTPError
from huggingface_hub import constants, get_session, is_offline_mode
from huggingface_hub.utils import WeakFileLock, build_hf_headers, hf_raise_for_status

from omniavatar.errors import WeightsError
from omniavatar.weights.catalog import HubFile, HubLayout, ModelSpec, Published, Repository
from omniavatar.weights.files import (
    PLACE_VARIABLE,
    describe_bytes,
    find_damage,
    find_faults,
    find_folder,
    find_shards,
    is_readable,
)
from omniavatar.weights.hub import (
    QUIET_SECONDS,
    RemoteFile,
    explain,
    is_final,
    link_twin,
    list_files,
    take_from_cache,
)

logger = logging.getLogger(__name__)

CONNECTIONS = 4
"""Files that are received at a time."""

WAITS_SECONDS = (1, 2, 5, 15, 30, 60)
"""Before each new attempt, when the last one brought nothing; then the download is given up."""

LOCK = ".download.lock"

LARGE_BYTES = 2**26
"""Configurations and tokenizers are smaller, all weights are larger."""

RESERVE_BYTES = 2**28
"""What is left free on the disk."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DownloadProgress:
    """How far the download of a checkpoint is.

    Attributes:
        model: its name in the catalog.
        folder: where its files go.
        file: the last one that received something, by its name.
        done_bytes, total_bytes: of all files together; what was there before does not count, half
            files of an earlier attempt do.
        bytes_per_second: over the last seconds.
        remaining_seconds: None as long as nothing is known about the speed.
    """

    model: str
    folder: Path
    file: str
    done_bytes: int
    total_bytes: int
    bytes_per_second: float
    remaining_seconds: float | None


Report = Callable[[DownloadProgress], None]


def fetch(
    spec: ModelSpec,
    *,
    folder: Path | str | None = None,
    report: Report | None = None,
    layout: HubLayout | None = None,
) -> Path:
    """Download what is missing of a checkpoint, and return the folder of its files.

    Several processes may do so at once: one downloads, the others wait for it.

    Args:
        folder: None is what `find_folder` finds.
        report: told several times a second, by the thread that called, how far it is; the download
            stops when it raises.
        layout: of the base on the hub. None takes the original one, and of it only the parts that
            are in the folder in no layout at all.

    Raises:
        WeightsError: the files cannot be had: there is no connection, no room or no such file; the
            message says what is missing, how large it is and where it belongs.
    """
    place = find_folder(spec, folder)
    if not isinstance(spec.source, Published) or not _missing(spec, place, layout):
        return place
    for repository, wanted in _missing(spec, place, layout):
        for file in wanted:
            take_from_cache(repository, file, place)
    missing = _missing(spec, place, layout)
    if missing and is_offline_mode():
        raise WeightsError(
            " ".join(
                [
                    f"{_needs(spec, missing, place)}, but HF_HUB_OFFLINE forbids to download.",
                    *find_damage(spec, place),
                    f"Put {_names(missing, place)} there, or name another folder with "
                    f"{PLACE_VARIABLE}.",
                ]
            )
        )
    _check_folder(place)
    with _alone_in(place):
        missing = _missing(spec, place, layout)
        purpose = _needs(spec, missing, place)
        entries = [
            entry
            for repository, wanted in missing
            for entry in list_files(repository, wanted, place, purpose=purpose)
        ]
        files = [entry for entry in entries if not _is_there(entry) and not link_twin(entry)]
        if files:
            for damage in find_damage(spec, place):  # a file by another name can be moved instead
                logger.warning("%s", damage)
            _check_room(spec, files, place)
            _receive_all(spec, files, place, report)
    return place


def missing_bytes(spec: ModelSpec, folder: Path | str | None = None) -> int:
    """How much `fetch` would download, or 0 when all files are there."""
    if not isinstance(spec.source, Published):
        return 0
    place = find_folder(spec, folder)
    return _size(_missing(spec, place, None), place)


def check_files(
    spec: ModelSpec, *, folder: Path | str | None = None, layout: HubLayout | None = None
) -> tuple[str, ...]:
    """Compare the files of a checkpoint with the hub's, byte by byte; change nothing.

    Offline, only what the files themselves tell is checked.

    Returns:
        A sentence for each file that is missing or damaged.

    Raises:
        WeightsError: the hub does not answer.
    """
    place = find_folder(spec, folder)
    faults = list(find_faults(spec, place).values())
    if not isinstance(spec.source, Published):
        return tuple(faults)
    if is_offline_mode():
        logger.warning("HF_HUB_OFFLINE is set: only whether all files are there and whole is seen")
        return tuple(faults)
    known = " ".join(faults)
    for repository in _repositories(spec.source, place, layout):
        purpose = f"{spec.name} is to be checked in {place}"
        for entry in list_files(repository, repository.files, place, purpose=purpose):
            if not entry.place.is_file():
                if layout is not None:
                    faults.append(f"{entry.place} is missing.")
            elif str(entry.place) not in known and not entry.is_at(entry.place):
                faults.append(
                    f"{entry.place} is not what {repository.name} has on the hub. Delete it, and "
                    f"download {spec.name} again."
                )
    return tuple(faults)


# ---- what is missing


Missing = Sequence[tuple[Repository, Sequence[HubFile]]]
"""Files by repository."""


def _missing(spec: ModelSpec, folder: Path, layout: HubLayout | None) -> Missing:
    """What is not in a folder, by repository."""
    assert isinstance(spec.source, Published)
    parts = find_faults(spec, folder).keys()
    chosen = [
        (
            repository,
            [
                file
                for file in repository.files
                if (file.part in parts if layout is None else not _has(folder, repository, file))
            ],
        )
        for repository in spec.source.repositories(layout or "original")
    ]
    return [(repository, files) for repository, files in chosen if files]


def _has(folder: Path, repository: Repository, file: HubFile) -> bool:
    """Whether a file is there, or all of several."""
    if "*" in file.path:
        place = folder / repository.folder / file.path
        try:
            found = list(find_shards(place.parent, place.name.partition("*")[0]))
        except WeightsError:
            return False
        return bool(found) and all(map(is_readable, found))
    paths = [folder / repository.folder / path for path in (file.path, file.stand_in) if path]
    return any(path.is_file() and is_readable(path) for path in paths)


def _repositories(
    source: Published, folder: Path, layout: HubLayout | None
) -> Iterator[Repository]:
    """Those of a layout, or those of which there is anything."""
    if layout is not None:
        yield from source.repositories(layout)
        return
    for repository in (*source.repositories(), source.diffusers):
        if (folder / repository.folder).is_dir():
            yield repository


def _is_there(entry: RemoteFile) -> bool:
    """Whether a file needs no download; one that is cut, or a web page in its place, does.

    Raises:
        WeightsError: another file, which is whole, has its name.
    """
    if not entry.place.is_file():
        return False
    size = entry.place.stat().st_size
    readable = is_readable(entry.place)
    if readable and (size == entry.size or entry.place.suffix == ".json"):
        return True
    if readable and entry.place.suffix in (".safetensors", ".pt", ".pth", ".bin"):
        raise WeightsError(
            f"{entry.place} has {size} bytes, but the hub's has {entry.size}: it is another file. "
            "Move it away, or name another folder."
        )
    logger.warning("%s is damaged or incomplete; it is downloaded again", entry.place)
    return False


# ---- bytes


@dataclass(slots=True)
class _Meter:
    """What has come of all files, counted by several threads."""

    done: int
    file: str
    stopped: threading.Event = field(default_factory=threading.Event)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, count: int, file: str) -> None:
        with self._lock:
            self.done += count
            self.file = file
        if self.stopped.is_set():
            raise _StoppedError


class _StoppedError(Exception):
    """The download was ended by the thread that began it."""


def _receive_all(
    spec: ModelSpec, files: Sequence[RemoteFile], folder: Path, report: Report | None
) -> None:
    total = sum(entry.size for entry in files)
    meter = _Meter(sum(entry.begun_bytes for entry in files), files[0].place.name)
    recent = deque([(time.monotonic(), meter.done)], maxlen=40)

    def tell() -> None:
        now, done = time.monotonic(), meter.done
        began, before = recent[0]
        speed = (done - before) / (now - began) if now > began else 0.0
        recent.append((now, done))
        if report is not None:
            report(
                DownloadProgress(
                    model=spec.name,
                    folder=folder,
                    file=meter.file,
                    done_bytes=done,
                    total_bytes=total,
                    bytes_per_second=speed,
                    remaining_seconds=(total - done) / speed if speed > 0 else None,
                )
            )

    logger.info(
        "downloading %s: %s of %s files from %s to %s, where %s are free",
        spec.name,
        describe_bytes(total - meter.done),
        len(files),
        constants.ENDPOINT,
        folder,
        describe_bytes(_free_bytes(folder)),
    )
    tell()
    with ThreadPoolExecutor(CONNECTIONS) as pool:
        pending = {pool.submit(_receive, entry, meter) for entry in sorted(files, key=_turn)}
        try:
            while pending:
                finished, pending = wait(pending, timeout=0.25, return_when=FIRST_EXCEPTION)
                for future in finished:
                    future.result()
                tell()
        finally:
            meter.stopped.set()
            pool.shutdown(wait=False, cancel_futures=True)
    logger.info("%s is complete in %s", spec.name, folder)


def _turn(entry: RemoteFile) -> tuple[bool, int]:
    """Small files first, so that no part looks whole without its own; then what takes longest."""
    large = entry.size >= LARGE_BYTES
    return large, -entry.size if large else entry.size


def _receive(entry: RemoteFile, meter: _Meter) -> None:
    """Bring one file to its place, in as many attempts as it takes.

    Raises:
        WeightsError: no attempt brings anything any more, or what comes is not what it should be.
    """
    name = entry.place.name
    entry.place.parent.mkdir(parents=True, exist_ok=True)
    waits, damaged = iter(WAITS_SECONDS), 0
    while True:
        begun = entry.begun_bytes
        error: Exception | None = None
        try:
            if begun < entry.size:
                _append(entry, meter)
        except (HTTPError, OSError) as caught:
            error = caught
        has = entry.begun_bytes
        if error is None and has == entry.size and entry.is_at(entry.partial):
            break
        if has >= entry.size:
            entry.partial.unlink()
            meter.add(-has, name)
            damaged += 1
        elif has > begun:
            waits = iter(WAITS_SECONDS)
        seconds = next(waits, None)
        if damaged > 1:
            raise WeightsError(f"{name} came damaged twice from {entry.url}. Try again later.")
        if error is not None and (seconds is None or is_final(error)):
            raise _given_up(entry, error) from error
        if seconds is None:
            raise WeightsError(f"{name} does not come whole from {entry.url}. Try again later.")
        logger.warning("%s stopped at %s of %s bytes; going on", name, has, entry.size)
        if meter.stopped.wait(seconds):
            raise _StoppedError
    entry.partial.replace(entry.place)
    for old in entry.place.parent.glob(f"{name}.*.incomplete"):
        old.unlink(missing_ok=True)


def _append(entry: RemoteFile, meter: _Meter) -> None:
    """Receive what is missing at the end of a half file."""
    begun = entry.begun_bytes
    headers = {**build_hf_headers(), "Accept-Encoding": "identity"}
    if begun:
        headers["Range"] = f"bytes={begun}-"
    with get_session().stream("GET", entry.url, headers=headers, timeout=QUIET_SECONDS) as response:
        hf_raise_for_status(response)
        goes_on = response.status_code == 206
        if begun and not goes_on:
            meter.add(-begun, entry.place.name)
        with entry.partial.open("ab" if goes_on else "wb") as file:
            for block in response.iter_bytes():
                file.write(block)
                meter.add(len(block), entry.place.name)


def _given_up(entry: RemoteFile, error: Exception) -> WeightsError:
    if isinstance(error, OSError) and error.errno is not None:
        return WeightsError(f"{entry.partial} cannot be written: {error.strerror}.")
    return WeightsError(f"{entry.place.name} is not complete: {explain(error, entry.url)}")


# ---- the place


def _check_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / LOCK).touch()
    except OSError as error:
        raise WeightsError(
            f"{folder} cannot be written: {error.strerror}. Name another folder with "
            f"{PLACE_VARIABLE}."
        ) from error


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Wait until no other process downloads to a folder."""
    with ExitStack() as stack:
        try:
            stack.enter_context(WeakFileLock(folder / LOCK, timeout=1))
        except TimeoutError:
            logger.warning("another process downloads to %s; waiting for it", folder)
            stack.enter_context(WeakFileLock(folder / LOCK))
        yield


def _check_room(spec: ModelSpec, files: Sequence[RemoteFile], folder: Path) -> None:
    needed = sum(entry.size - entry.begun_bytes for entry in files)
    free = _free_bytes(folder)
    if needed + RESERVE_BYTES > free:
        names = ", ".join(entry.place.name for entry in files)
        raise WeightsError(
            f"{spec.name} needs {describe_bytes(needed)} more in {folder} ({names}), but only "
            f"{describe_bytes(free)} are free there. Make room, or name another folder with "
            f"{PLACE_VARIABLE}."
        )


def _free_bytes(folder: Path) -> int:
    return shutil.disk_usage(folder).free


def _needs(spec: ModelSpec, missing: Missing, folder: Path) -> str:
    size = _size(missing, folder)
    return f"{spec.name} needs {describe_bytes(size)} more in {folder.absolute()}"


def _size(missing: Missing, folder: Path) -> int:
    return sum(file.size for _, file in _lacking(missing, folder))


def _names(missing: Missing, folder: Path) -> str:
    return ", ".join(
        f"{repository.folder}/{file.path}" for repository, file in _lacking(missing, folder)
    )


def _lacking(missing: Missing, folder: Path) -> Iterator[tuple[Repository, HubFile]]:
    """Those files of incomplete parts that are not there whole themselves."""
    for repository, files in missing:
        for file in files:
            if not _has(folder, repository, file):
                yield repository, file

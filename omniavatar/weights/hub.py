"""What the model hub has of a checkpoint's files, and what is on this machine of it already.

The hub is asked through huggingface_hub, so that its variables HF_ENDPOINT, HF_TOKEN and
HF_HUB_OFFLINE mean here what they mean to every program.
"""

import hashlib
import logging
import os
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from httpx2 import HTTPError
from huggingface_hub import constants, hf_hub_url, model_info, try_to_load_from_cache
from huggingface_hub.errors import HfHubHTTPError

from omniavatar.errors import WeightsError
from omniavatar.weights.catalog import HubFile, Repository
from omniavatar.weights.files import is_readable

logger = logging.getLogger(__name__)

QUIET_SECONDS = 20.0
"""A connection that brings nothing for so long is given up for a new one."""

REFUSALS = (400, 401, 403, 404, 410)
"""Answers of the hub that another attempt would not change."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteFile:
    """A file on the hub, and its place here.

    Attributes:
        url: of its content, at a fixed commit.
        path: within its repository.
        size: bytes.
        digest: sha256 of a large file, git's own sha1 of a small one.
        folder: its repository's, here.
    """

    url: str
    path: str
    size: int
    digest: str
    folder: Path

    @property
    def place(self) -> Path:
        return self.folder / self.path

    @property
    def partial(self) -> Path:
        """Where its bytes are before all have come; another version has another name."""
        return self.place.with_name(f"{self.place.name}.{self.digest[:12]}.incomplete")

    @property
    def is_large(self) -> bool:
        return len(self.digest) == hashlib.sha256().digest_size * 2

    @property
    def begun_bytes(self) -> int:
        """What an earlier attempt has left."""
        return self.partial.stat().st_size if self.partial.is_file() else 0

    def is_at(self, file: Path) -> bool:
        """Whether a file has this content; reads all of it."""
        if file.stat().st_size != self.size:
            return False
        with file.open("rb") as content:
            if self.is_large:
                return hashlib.file_digest(content, "sha256").hexdigest() == self.digest
            blob = hashlib.sha1(b"blob %d\0" % self.size, usedforsecurity=False)
            blob.update(content.read())
            return blob.hexdigest() == self.digest


def list_files(
    repository: Repository, files: Sequence[HubFile], folder: Path, *, purpose: str
) -> list[RemoteFile]:
    """What the hub has of some files of a repository.

    Args:
        purpose: what they are needed for, the beginning of a sentence.

    Raises:
        WeightsError: the hub does not answer, or has no such file.
    """
    for seconds in (1, 3, None):
        try:
            info = model_info(repository.name, files_metadata=True, timeout=QUIET_SECONDS)
            break
        except (HTTPError, OSError) as error:
            if seconds is None or is_final(error):
                raise WeightsError(f"{purpose}, but {explain(error, repository.name)}") from error
            time.sleep(seconds)
    known = {sibling.rfilename: sibling for sibling in info.siblings or ()}
    found = []
    for file in files:
        paths = [path for path in known if _fits(path, file.path)]
        if not paths and file.stand_in in known:
            paths = [file.stand_in]
        if not paths:
            raise WeightsError(
                f"{purpose}, but {repository.name} on the hub has no {file.path}. Put the "
                f"{file.part} into {folder / repository.folder} yourself."
            )
        for path in paths:
            large, small, size = known[path].lfs, known[path].blob_id, known[path].size
            assert size is not None
            found.append(
                RemoteFile(
                    url=hf_hub_url(repository.name, path, revision=info.sha),
                    path=path,
                    size=size,
                    digest=large.sha256 if large else str(small),
                    folder=folder / repository.folder,
                )
            )
    return found


def _fits(path: str, pattern: str) -> bool:
    return path.count("/") == pattern.count("/") and fnmatch(path, pattern)


def explain(error: Exception, name: str) -> str:
    """Why the hub gives nothing, and what to do."""
    endpoint = constants.ENDPOINT
    status = error.response.status_code if isinstance(error, HfHubHTTPError) else None
    if status in (401, 403, 404):
        return (
            f"{endpoint} answers {status} for {name}: there is no such repository, or it asks for "
            "a token. Set HF_TOKEN, or put the files there yourself."
        )
    words = f"answers {status}" if status else f"cannot be reached ({type(error).__name__})"
    return f"{endpoint} {words}. Try again; what has come so far is kept."


def is_final(error: Exception) -> bool:
    """Whether another attempt would end in the same way."""
    if isinstance(error, HfHubHTTPError):
        return error.response.status_code in REFUSALS
    return isinstance(error, OSError) and error.errno is not None


def take_from_cache(repository: Repository, file: HubFile, folder: Path) -> None:
    """Link a file that another program has downloaded to the hub's own cache, if one has."""
    for path in filter(None, (file.path, file.stand_in)):
        cached = try_to_load_from_cache(repository.name, path)
        place = folder / repository.folder / path
        if isinstance(cached, str) and not place.exists() and is_readable(Path(cached)):
            with suppress(OSError):  # a system that allows no links
                place.parent.mkdir(parents=True, exist_ok=True)
                place.symlink_to(cached)
                logger.info("taking %s from %s", place.name, cached)


def link_twin(entry: RemoteFile) -> bool:
    """Use the same file of another checkpoint: both published ones have one text encoder."""
    if not entry.is_large:
        return False
    for twin in entry.folder.parent.glob(f"*/{entry.path}"):
        if twin != entry.place and entry.is_at(twin):
            entry.place.parent.mkdir(parents=True, exist_ok=True)
            entry.place.unlink(missing_ok=True)
            with suppress(OSError):  # a file system without links
                os.link(twin, entry.place)
                logger.info("%s is the same as %s", entry.place, twin)
                return True
    return False

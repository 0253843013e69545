"""Downloads on a terminal: the command `download`, and what is seen while one goes on."""

import argparse
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import omniavatar
from omniavatar import CATALOG, InputError, WeightsError
from omniavatar.serving import wording

if TYPE_CHECKING:
    from omniavatar import DownloadProgress


def beginning(progress: "DownloadProgress") -> str:
    """What is going to happen: "Downloading 14B: 71.9 GB to /home/me/.cache/omniavatar/models"."""
    size = omniavatar.describe_bytes(progress.total_bytes - progress.done_bytes)
    return f"Downloading {progress.model}: {size} to {progress.folder}"


def phase(progress: "DownloadProgress") -> str:
    """How far it is: "5.1 GB of 71.9 GB, 45 MB/s, about 24:45 left"."""
    size = omniavatar.describe_bytes
    words = f"{size(progress.done_bytes)} of {size(progress.total_bytes)}"
    if progress.remaining_seconds is None:
        return words
    speed = size(round(progress.bytes_per_second))
    return f"{words}, {speed}/s, about {wording.clock(progress.remaining_seconds)} left"


def preparing(progress: "DownloadProgress") -> str:
    """What a job does meanwhile: "downloading 14B: 5.1 GB of 71.9 GB, ..."."""
    return f"downloading {progress.model}: {phase(progress)}"


class DownloadScreen:
    """Tells of a download: one line that is rewritten on a terminal, elsewhere one every tenth."""

    def __init__(self, *, shown: bool = True) -> None:
        self._shown = shown
        self._live = shown and sys.stderr.isatty()
        self._tenths = -1

    def __call__(self, progress: "DownloadProgress") -> None:
        """Show how far a download is; see `fetch`."""
        fraction = progress.done_bytes / max(progress.total_bytes, 1)
        finished = progress.done_bytes >= progress.total_bytes
        if self._shown and self._tenths < 0:
            self._write(beginning(progress), end="\n")
        if self._live:
            done = int(fraction * 24)
            bar = f"[{'#' * done}{'-' * (24 - done)}] {fraction:4.0%}  "
            self._write(bar + phase(progress), end="\n" if finished else "")
        elif self._shown and int(fraction * 10) > max(self._tenths, 0):
            self._write(f"{fraction:4.0%}  {phase(progress)}", end="\n")
        self._tenths = int(fraction * 10)

    def _write(self, words: str, *, end: str) -> None:
        if self._live:
            width = shutil.get_terminal_size().columns - 1
            words = f"\r{words[:width]:<{width}}"
        print(words, end=end, file=sys.stderr, flush=True)


def add_options(parser: argparse.ArgumentParser) -> None:
    """What comes after `python -m omniavatar download`."""
    parser.add_argument("model", metavar="MODEL", choices=tuple(CATALOG), help="checkpoint")
    parser.add_argument(
        "--to",
        metavar="FOLDER",
        type=Path,
        help="where its files go (default: $OMNIAVATAR_WEIGHTS, or a folder in your cache)",
    )
    parser.add_argument(
        "--layout",
        choices=("original", "diffusers"),
        help="which of the two repositories of Wan2.1 to take (default: original, "
        "and nothing that the folder has in the other layout)",
    )
    parser.add_argument(
        "--check",
        action="store_true",
        help="download nothing, but compare every byte that is there with the hub's",
    )
    parser.add_argument("--quiet", action="store_true", help="show no progress")


def run(options: argparse.Namespace) -> None:
    """Download a checkpoint, or check the files of one."""
    if not CATALOG[options.model].download_bytes:
        raise InputError(f"{options.model} comes with the package: there is nothing to download.")
    if options.check:
        if not options.quiet:
            print("Comparing every byte with the hub's, which takes a while", file=sys.stderr)
        faults = omniavatar.check_files(
            CATALOG[options.model], folder=options.to, layout=options.layout
        )
        for fault in faults:
            print(fault, file=sys.stderr)
        if faults:
            count = "1 fault" if len(faults) == 1 else f"{len(faults)} faults"
            raise WeightsError(f"{options.model} is not complete: {count}.")
        print(f"{options.model} is complete.")
        return
    folder = omniavatar.fetch(
        CATALOG[options.model],
        folder=options.to,
        layout=options.layout,
        report=DownloadScreen(shown=not options.quiet),
    )
    print(folder)

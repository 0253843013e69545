"""The command `convert`: a checkpoint, its adapter and further LoRAs as one set of weights."""

import argparse
import sys
from pathlib import Path

import omniavatar
from omniavatar import CATALOG
from omniavatar.serving import loras


def add_options(parser: argparse.ArgumentParser) -> None:
    """What comes after `python -m omniavatar convert`."""
    parser.add_argument("model", metavar="MODEL", choices=tuple(CATALOG), help="checkpoint")
    parser.add_argument(
        "--to", metavar="FOLDER", type=Path, required=True, help="the folder to make"
    )
    parser.add_argument(
        "--weights",
        dest="folder",
        metavar="FOLDER",
        type=Path,
        help="where the checkpoint's files are (default: where `download` puts them)",
    )
    parser.add_argument(
        "--precision",
        choices=("bf16", "fp8"),
        default="bf16",
        help="fp8 stores the transformer's large layers in 8 bits: half the size, a little less "
        "exact (default: %(default)s)",
    )
    loras.add_options(parser)
    parser.add_argument("--quiet", action="store_true", help="show no progress")


def run(options: argparse.Namespace) -> None:
    """Convert a checkpoint; what it takes is read from the disk only, never downloaded."""
    size = omniavatar.describe_bytes

    def tell(progress: omniavatar.ConvertProgress) -> None:
        done = progress.done_bytes / progress.total_bytes
        print(
            f"{done:4.0%}  {size(progress.done_bytes)} of {size(progress.total_bytes)}  "
            f"{progress.file}",
            file=sys.stderr,
            flush=True,
        )

    spec, further = CATALOG[options.model], loras.chosen(options)
    loras.warn_of_missing_preset(
        omniavatar.settle_spec(spec, folder=options.folder, loras=further), further
    )
    folder = omniavatar.convert(
        spec,
        options.to,
        folder=options.folder,
        precision=options.precision,
        loras=further,
        report=None if options.quiet else tell,
    )
    print(folder)

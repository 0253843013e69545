"""The command `doctor`: what this machine would do with each model, and what it lacks."""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from omniavatar import AUTO, CATALOG, MEMORY_TIERS, OmniAvatarError

if TYPE_CHECKING:
    from omniavatar import Diagnosis


class UnhealthyError(OmniAvatarError):
    """Something that was asked about can not make a video here."""


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model",
        choices=tuple(CATALOG),
        action="append",
        help="a checkpoint that has to work (default: look at all; one that works is enough)",
    )
    parser.add_argument("--weights", metavar="FOLDER", type=Path, help="where their files are")
    parser.add_argument("--device", help="cuda, cuda:1, cpu, ... (default: the best)")
    parser.add_argument(
        "--memory", choices=(AUTO, *MEMORY_TIERS), default=AUTO, help="as for this card"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(options: argparse.Namespace) -> None:
    """Print what was found.

    Raises:
        UnhealthyError: no model works, or one that was named does not.
    """
    from omniavatar import examine

    found = examine(
        tuple(options.model or CATALOG),
        folder=options.weights,
        device=options.device,
        memory=options.memory,
    )
    if options.json:
        print(json.dumps(found.to_mapping(), indent=2))
    else:
        print(_words(found, options.memory))
    ready = {prospect.model for prospect in found.prospects if prospect.ready}
    if absent := set(options.model or ()) - ready:
        raise UnhealthyError(f"{', '.join(sorted(absent))} can not make a video here yet.")
    if not found.healthy:
        raise UnhealthyError("No model can make a video here yet; see above for what to do.")


def _words(found: "Diagnosis", memory: str) -> str:
    lines = []
    for finding in found.findings:
        lines.append(f"{finding.name:<16} {finding.found}")
        if finding.advice:
            lines.append(f"{'':<16} -> {finding.advice}")
    for prospect in found.prospects:
        lines += ["", f"{prospect.model}: {'ready' if prospect.ready else 'not ready'}"]
        if prospect.arrangement:
            lines += [f"  {prospect.arrangement}", f"  because {prospect.reason}"]
        if prospect.on_card:
            lines.append(f"  on a card of {memory}: {prospect.on_card}")
        lines += [f"  files in {prospect.folder}"]
        lines += [f"  {sentence}" for sentence in prospect.missing]
        if prospect.advice:
            lines.append(f"  -> {prospect.advice}")
    return "\n".join(lines)

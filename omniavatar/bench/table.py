"""Reports as JSON files to tables in Markdown."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omniavatar.errors import InputError

GIB = 2**30


def write_tables(folder: Path) -> Path:
    """Write `README.md` with a table of each kind of report in a folder.

    Args:
        folder: of JSON files that `--json` wrote.

    Returns:
        The file.

    Raises:
        InputError: a file is no report, or one of another version.
    """
    reports = [_report(file) for file in sorted(folder.glob("*.json"))]
    parts = [_HEAD]
    for kind, draw in (("chunk", _chunks), ("tiers", _tiers), ("accuracy", _accuracy)):
        chosen = [report for report in reports if report.get("kind") == kind]
        try:
            if chosen:
                parts.append(draw(chosen))
        except KeyError as error:
            raise InputError(
                f"A report in {folder} has no {error}: it is of another version. Write it again, "
                "with `bench --json`."
            ) from error
    target = folder / "README.md"
    target.write_text("\n".join(parts), encoding="utf-8")
    return target


def _report(file: Path) -> dict[str, Any]:
    try:
        report = json.loads(file.read_text("utf-8"))
    except ValueError:
        report = None
    if not isinstance(report, dict):
        raise InputError(f"{file} is not a report. Write it again, with `bench --json`.")
    return report


_HEAD = """# Measured speed and memory

Written by `python -m omniavatar bench --table docs/bench` from the JSON files here, which
`bench --json` wrote. Weights are random and of full size, so the speed is that of the published
models and the pictures are noise. A step is one denoising step with guidance, two forwards.
"""


def _chunks(reports: Sequence[Mapping[str, Any]]) -> str:
    rows = []
    for report in reports:
        other = report["comparison"]
        rows.append(
            [
                _where(report),
                report["model"],
                f"{report['tokens']:,}",
                f"{report['step_seconds']:.3f}",
                f"{other['step_seconds']:.3f} ({other['ratio']:.3f})" if other else "",
                f"{report['rate'] / 1e12:.0f}, {report['share']:.0%}",
                f"{report['attention']}",
                f"{report['compile_seconds']:.0f}" if report["compiled"] else "not compiled",
                _decode(report["stages"]),
                _gib(report["reserved_bytes"]),
                f"{report['seconds_per_second']:.1f}",
            ]
        )
    columns = [
        "card, date",
        "model",
        "tokens",
        "s per step",
        "compiled diffusers (ratio)",
        "TF/s, share of matrix product",
        "attention",
        "compile s",
        "VAE decode s (compiled)",
        "peak GiB, all resident",
        "s per s of new video",
    ]
    return "## A chunk, everything on the device\n\n" + _table(columns, rows)


def _tiers(reports: Sequence[Mapping[str, Any]]) -> str:
    rows = [
        [
            _where(report),
            report["model"],
            tier["memory"],
            "; ".join(filter(None, (tier["placement"], tier["problem"]))),
            _gib(tier["peak_bytes"]),
            _gib(tier["limit_bytes"]),
            _step(tier),
            f"{tier['rate'] / 1e12:.0f}" if tier["rate"] else "",
            _number(tier["stages"].get("text"), 2),
            _number(tier["stages"].get("decode"), 2),
        ]
        for report in reports
        for tier in report["tiers"]
    ]
    columns = [
        "card, date",
        "model",
        "tier",
        "placement",
        "peak GiB",
        "held to GiB",
        "s per step",
        "TF/s",
        "text s",
        "VAE decode s",
    ]
    title = "## Memory tiers, torch held to the tier's memory\n\n"
    return title + _table(columns, rows)


def _accuracy(reports: Sequence[Mapping[str, Any]]) -> str:
    rows = [
        [
            _where(report),
            report["model"],
            f"{report['forward']:.2e}",
            f"{report['published_forward']:.2e}",
            f"{report['latents']:.2e}",
            f"{report['published_latents']:.2e}",
        ]
        for report in reports
    ]
    columns = [
        "card, date",
        "model",
        "one forward",
        "one forward, published order",
        "latents",
        "latents, published order",
    ]
    return "## Error of bfloat16 against float32\n\n" + _table(columns, rows)


def _where(report: Mapping[str, Any]) -> str:
    machine = report["machine"]
    return f"{machine['device']}, {machine['date']}"


def _decode(stages: Mapping[str, float]) -> str:
    compiled = stages.get("decode, compiled")
    return f"{stages['decode']:.2f}" + (f" ({compiled:.2f})" if compiled is not None else "")


def _step(tier: Mapping[str, Any]) -> str:
    if tier["step_seconds"] is None:
        return ""
    return f"{tier['step_seconds']:.3f}{'' if tier['compiled'] else ' (uncompiled)'}"


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def _gib(count: int | None) -> str:
    return "" if count is None else f"{count / GIB:.1f}"


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)

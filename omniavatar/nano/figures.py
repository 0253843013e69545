"""Measures beside their ceilings and bars: as a table for people, as mappings for programs."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One measure.

    Attributes:
        value: of the generated videos; None where nothing could be measured, `note` says why.
        true: of true drawings, where that means something.
        decoded: of true drawings, or of the picture itself, after the VAE.
        bar: what it is held to.
        at_least: whether the bar is a floor or a ceiling.
        upper: with a floor as `bar`, a ceiling too.
        note: what to know when reading it.
    """

    name: str
    value: float | None
    true: float | None = None
    decoded: float | None = None
    bar: float | None = None
    at_least: bool = True
    upper: float | None = None
    note: str | None = None

    @property
    def is_met(self) -> bool | None:
        """None where there is no bar; what could not be measured is not met."""
        if self.bar is None:
            return None
        if self.value is None:
            return False
        if self.upper is not None and self.value > self.upper:
            return False
        return self.value >= self.bar if self.at_least else self.value <= self.bar


def as_table(figures: Sequence[Figure]) -> str:
    """The figures for people."""
    wide = max([34, *(len(figure.name) + 1 for figure in figures)])
    lines = [f"{'':<{wide}}{'generated':>10}{'true':>9}{'VAE':>9}   bar"]
    for figure in figures:
        line = f"{figure.name:<{wide}}"
        line += f"{'-':>10}" if figure.value is None else f"{figure.value:>10.3f}"
        for ceiling in (figure.true, figure.decoded):
            line += " " * 9 if ceiling is None else f"{ceiling:>9.3f}"
        if figure.bar is not None:
            sign = ">=" if figure.at_least else "<="
            bar = f"{sign} {figure.bar:g}"
            if figure.upper is not None:
                bar = f"{figure.bar:g} to {figure.upper:g}"
            line += f"   {bar} {'met' if figure.is_met else 'MISSED'}"
        if figure.note is not None:
            line += f"   ({figure.note})"
        lines.append(line)
    return "\n".join(lines)


def to_mapping(figures: Sequence[Figure]) -> dict[str, dict[str, Any]]:
    """The figures for programs, by name."""
    return {figure.name: {**asdict(figure), "met": figure.is_met} for figure in figures}


def from_mapping(values: Mapping[str, Mapping[str, Any]]) -> list[Figure]:
    """What `to_mapping` gave."""
    return [
        Figure(**{name: value for name, value in figure.items() if name != "met"})
        for figure in values.values()
    ]

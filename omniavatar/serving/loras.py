"""Further LoRAs: the options of the command line and the environment of an app or a worker."""

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from omniavatar import CATALOG, PRESETS, InputError, LoraChoice, settle_spec, suggest_preset

if TYPE_CHECKING:
    from omniavatar import ModelSpec

LORAS_VARIABLE = "OMNIAVATAR_LORAS"
"""FILE[:STRENGTH], several of them with commas between."""

PRESET_VARIABLE = "OMNIAVATAR_PRESET"


def add_options(parser: "argparse.ArgumentParser | argparse._ArgumentGroup") -> None:
    """What every command that loads a model or converts one takes."""
    parser.add_argument(
        "--lora",
        metavar="FILE[:STRENGTH]",
        action="append",
        default=[],
        help="a LoRA for Wan2.1 text-to-video to merge, 1 times or STRENGTH times; "
        "may be given several times",
    )
    parser.add_argument(
        "--preset",
        choices=tuple(PRESETS),
        help="settings that go with a distilled LoRA: "
        + "; ".join(f"{preset.name}: {preset.description}" for preset in PRESETS.values()),
    )


def chosen(options: argparse.Namespace) -> tuple[LoraChoice, ...]:
    """The LoRAs that the options of a command name."""
    return _choices(options.lora, options.preset, preset_option="--preset", lora_option="--lora")


def from_environment(
    model: str, environment: Mapping[str, str] = os.environ
) -> tuple[LoraChoice, ...]:
    """The LoRAs that the environment names for the published models.

    With a preset for another checkpoint, they are for that one, and none for this.

    Raises:
        InputError: a preset is named without a LoRA, or one that there is not.
    """
    preset = PRESETS.get(environment.get(PRESET_VARIABLE, ""))
    if not CATALOG[model].download_bytes or (preset and model not in preset.models):
        return ()
    entries = [entry.strip() for entry in environment.get(LORAS_VARIABLE, "").split(",")]
    return _choices(
        [entry for entry in entries if entry],
        environment.get(PRESET_VARIABLE) or None,
        preset_option=PRESET_VARIABLE,
        lora_option=LORAS_VARIABLE,
    )


def spec_of(model: str, environment: Mapping[str, str] = os.environ) -> "ModelSpec":
    """A checkpoint as an app or a worker runs it: with the preset of its LoRAs or of its copy.

    Raises:
        InputError, WeightsError: as `from_environment` and `settle_spec` do.
    """
    return settle_spec(CATALOG[model], loras=from_environment(model, environment))


def warn_of_missing_preset(spec: "ModelSpec", loras: Sequence[LoraChoice]) -> None:
    """Tell of a distilled LoRA that is used with the settings of a model that is not."""
    for lora in loras if spec.preset is None else ():
        preset = suggest_preset(lora.path, spec.name)
        if preset is not None:
            print(
                f"omniavatar: {lora.path} looks like a distilled LoRA, which wants its own steps "
                f"and guidance; add --preset {preset.name}.",
                file=sys.stderr,
            )


def _choices(
    entries: Sequence[str], preset: str | None, *, preset_option: str, lora_option: str
) -> tuple[LoraChoice, ...]:
    if preset is not None and not entries:
        raise InputError(
            f"{preset_option} {preset} goes with a LoRA. Name its file with {lora_option}.",
            field="preset",
        )
    parsed = [_parse(entry) for entry in entries]
    return tuple(
        LoraChoice(path, strength, preset=preset if number == 0 else None)
        for number, (path, strength) in enumerate(parsed)
    )


def _parse(entry: str) -> tuple[str, float]:
    """FILE or FILE:STRENGTH; a colon within a path is part of it."""
    path, colon, strength = entry.rpartition(":")
    try:
        return (path, float(strength)) if colon and path else (entry, 1.0)
    except ValueError:
        return entry, 1.0

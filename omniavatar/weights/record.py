"""What a converted copy remembers of how it was made, and what follows for its checkpoint."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from omniavatar.errors import InputError, WeightsError
from omniavatar.weights.catalog import ModelSpec
from omniavatar.weights.files import find_folder
from omniavatar.weights.presets import PRESETS, LoraChoice

RECORD_FILE = "omniavatar.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """How a converted copy was made.

    Attributes:
        model: name of its checkpoint.
        precision: "bf16" or "fp8".
        loras: file name and strength of each LoRA in its weights.
        preset: name of the settings that go with them.
    """

    model: str
    precision: str
    loras: tuple[Mapping[str, Any], ...] = ()
    preset: str | None = None

    def write(self, folder: Path) -> None:
        (folder / RECORD_FILE).write_text(json.dumps(asdict(self), indent=2) + "\n")


def read_record(folder: Path) -> Record | None:
    """The record of a converted copy; None for a folder that is none.

    Raises:
        WeightsError: it is damaged.
    """
    file = folder / RECORD_FILE
    if not file.is_file():
        return None
    try:
        content = json.loads(file.read_text())
        return Record(**{**content, "loras": tuple(content.get("loras", ()))})
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise WeightsError(f"{file} is damaged. Convert the checkpoint again.") from error


def settle_spec(
    spec: ModelSpec, *, folder: Path | str | None = None, loras: Sequence[LoraChoice] = ()
) -> ModelSpec:
    """A checkpoint with the preset of the LoRAs over it, and of those in a converted copy.

    Checks what can be told before anything is downloaded or read.

    Args:
        folder: where its files are or will be; None is what `weights.files.find_folder` finds.
        loras: further ones, that are to be merged.

    Raises:
        InputError: there is more than one preset, or it is for another checkpoint.
        WeightsError: a LoRA is not there, or the copy is of another checkpoint, or has a preset
            that is not known.
    """
    for choice in loras:
        if not Path(choice.path).exists():
            raise WeightsError(f"There is no LoRA at {choice.path}.")
    folder = find_folder(spec, folder)
    record = read_record(folder)
    names = {choice.preset for choice in loras}
    if record is not None:
        if record.model != spec.name:
            raise WeightsError(
                f"{folder} is a converted copy of {record.model}, and not of {spec.name}. Choose "
                "that model, or another folder."
            )
        if record.preset is not None and record.preset not in PRESETS:
            raise WeightsError(
                f"{folder} was converted with the preset {record.preset}, which this version does "
                "not know. Convert the checkpoint again."
            )
        names.add(record.preset)
    presets = [PRESETS[name] for name in sorted(name for name in names if name is not None)]
    if not presets:
        return spec
    if len(presets) > 1:
        raise InputError(
            f"There are presets for {' and '.join(preset.name for preset in presets)}. Use one.",
            field="preset",
        )
    (preset,) = presets
    if spec.name not in preset.models:
        raise InputError(
            f"The preset {preset.name} is for {', '.join(preset.models)}, and not for {spec.name}.",
            field="preset",
        )
    return spec.with_preset(preset)

"""Which further LoRAs a person chose, and the settings that go with one of step distillation.

A distilled model needs few steps and no guidance.

Sources of the numbers: ModelTC/LightX2V configs/distill/wan21 (Apache-2.0) for the 4-step LoRA;
kijai/ComfyUI-WanVideoWrapper for the time steps of CausVid; deepbeepmeep/Wan2GP profiles for
FusionX and for CausVid on 1.3B. None of them was trained together with the OmniAvatar adapter.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from omniavatar.errors import InputError


@dataclass(frozen=True, slots=True, kw_only=True)
class Preset:
    """How to sample with one distilled LoRA.

    Attributes:
        name: what people call it by; its key in `PRESETS`.
        family: a word in the names of its files.
        description: one line, for people.
        models: names of the checkpoints over whose base it was trained.
        steps: default number of denoising steps.
        shift: of the noise schedule.
        guidance: built into the weights by the distillation, so that it is no choice any more.
        timesteps: 1000 sigma of each step, when they follow no shift; then `steps` is no choice.
    """

    name: str
    family: str
    description: str
    models: tuple[str, ...]
    steps: int
    shift: float = 5.0
    guidance: float = 1.0
    timesteps: tuple[float, ...] | None = None

    @property
    def built_in(self) -> Mapping[str, Any]:
        """Settings that are no choice with this LoRA; the steps are too few to skip any."""
        steps = {} if self.timesteps is None else {"steps": self.steps}
        return {**steps, "guidance": self.guidance, "step_cache": 0.0}


PRESETS: Mapping[str, Preset] = MappingProxyType(
    {
        preset.name: preset
        for preset in (
            Preset(
                name="lightx2v",
                family="lightx2v",
                description="LightX2V step and guidance distillation: 4 steps, shift 5",
                models=("14B",),
                steps=4,
            ),
            Preset(
                name="fusionx",
                family="fusionx",
                description="FusionX: 8 steps, shift 2",
                models=("14B",),
                steps=8,
                shift=2.0,
            ),
            Preset(
                name="causvid",
                family="causvid",
                description="CausVid for 14B: 9 steps at times of its own",
                models=("14B",),
                steps=9,
                timesteps=(999.0, 934.0, 862.0, 756.0, 603.0, 410.0, 250.0, 140.0, 74.0),
            ),
            Preset(
                name="causvid-small",
                family="causvid",
                description="CausVid for 1.3B: 8 steps, shift 2",
                models=("1.3B",),
                steps=8,
                shift=2.0,
            ),
        )
    }
)
"""Presets by their names."""


@dataclass(frozen=True, slots=True)
class LoraChoice:
    """A LoRA file to put over a checkpoint.

    Attributes:
        path: the file, in any of the common formats; see `weights.lora_files`.
        strength: how many times its change counts.
        preset: name of the settings that go with it, a key of `PRESETS`.

    Raises:
        InputError: there is no such preset, or the strength is no number.
    """

    path: Path | str
    strength: float = 1.0
    preset: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", Path(self.path))
        if not math.isfinite(self.strength):
            raise InputError(
                f"The strength of a LoRA is {self.strength}. Use a number, as a rule from 0 to 1."
            )
        if self.preset is not None and self.preset not in PRESETS:
            raise InputError(
                f"The preset is {self.preset!r}. Use one of: {', '.join(PRESETS)}.",
                field="preset",
            )


def suggest_preset(file: Path | str, model: str) -> Preset | None:
    """The preset that a LoRA's file name speaks of, for one checkpoint."""
    name = Path(file).name.lower()
    return next(
        (preset for preset in PRESETS.values() if model in preset.models and preset.family in name),
        None,
    )

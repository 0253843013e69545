"""Settings that go with a LoRA of step distillation: such a model needs few steps and no guidance.

Sources of the numbers: ModelTC/LightX2V configs/distill/wan21 (Apache-2.0) for the 4-step LoRA;
kijai/ComfyUI-WanVideoWrapper for the time steps of CausVid; deepbeepmeep/Wan2GP profiles for
FusionX and for CausVid on 1.3B. None of them was trained together with the OmniAvatar adapter.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True, slots=True, kw_only=True)
class Preset:
    """How to sample with one distilled LoRA.

    Attributes:
        name: what people call it by; its key in `PRESETS`.
        description: one line, for people.
        models: names of the checkpoints over whose base it was trained.
        steps: default number of denoising steps.
        shift: of the noise schedule.
        guidance: built into the weights by the distillation, so that it is no choice any more.
        timesteps: 1000 sigma of each step, when they follow no shift; then `steps` is no choice.
    """

    name: str
    description: str
    models: tuple[str, ...]
    steps: int
    shift: float = 5.0
    guidance: float = 1.0
    timesteps: tuple[float, ...] | None = None


PRESETS: Mapping[str, Preset] = MappingProxyType(
    {
        preset.name: preset
        for preset in (
            Preset(
                name="lightx2v",
                description="LightX2V step and guidance distillation: 4 steps, shift 5",
                models=("14B",),
                steps=4,
            ),
            Preset(
                name="fusionx",
                description="FusionX: 8 steps, shift 2",
                models=("14B",),
                steps=8,
                shift=2.0,
            ),
            Preset(
                name="causvid",
                description="CausVid for 14B: 9 steps at times of its own",
                models=("14B",),
                steps=9,
                timesteps=(999.0, 934.0, 862.0, 756.0, 603.0, 410.0, 250.0, 140.0, 74.0),
            ),
            Preset(
                name="causvid-small",
                description="CausVid for 1.3B: 8 steps, shift 2",
                models=("1.3B",),
                steps=8,
                shift=2.0,
            ),
        )
    }
)
"""Presets by their names."""

"""Steps and shift to a diffusers scheduler with this model's sigmas."""

from collections.abc import Sequence

import numpy as np
from diffusers import FlowMatchEulerDiscreteScheduler


def make_schedule(
    steps: int, *, shift: float, timesteps: Sequence[float] | None = None
) -> FlowMatchEulerDiscreteScheduler:
    """A flow-matching Euler scheduler, ready for its first step.

    Sigmas are shift s / (1 + (shift - 1) s) for s = linspace(1, 0, steps + 1) without its end; the
    last step goes to 0. Timesteps are 1000 sigma.

    Args:
        timesteps: of each step, instead of those that follow from `shift`.

    Source: Omni-Avatar/OmniAvatar flow_match.py (sigma_min 0, extra_one_step), Apache-2.0.
    """
    if timesteps is not None:
        scheduler = FlowMatchEulerDiscreteScheduler(shift=1.0)
        scheduler.set_timesteps(sigmas=[time / 1000 for time in timesteps])
        return scheduler
    scheduler = FlowMatchEulerDiscreteScheduler(shift=shift)
    unshifted = np.linspace(1, 0, steps + 1, dtype=np.float32)[:-1]
    scheduler.set_timesteps(sigmas=unshifted.tolist())
    return scheduler

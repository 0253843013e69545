"""Sigmas of the published schedule and of distilled LoRAs, which step to 0 in the same way."""

import pytest
import torch

from omniavatar import CATALOG, PRESETS
from omniavatar.stages.schedule import make_schedule


def schedule_of(preset):
    spec = CATALOG[preset.models[0]].with_preset(preset)
    return make_schedule(spec.steps, shift=spec.shift, timesteps=preset.timesteps)


def test_four_steps_of_lightx2v_are_those_of_its_own_sampler():
    """Its list 1000, 750, 500, 250 counts into a table of 1000 times with shift 5."""
    found = schedule_of(PRESETS["lightx2v"]).timesteps
    table = torch.linspace(1, 0, 1001, dtype=torch.float64)[[0, 250, 500, 750]]
    torch.testing.assert_close(found.double(), 1000 * 5 * table / (1 + 4 * table))


def test_times_of_its_own_are_kept():
    preset = PRESETS["causvid"]
    schedule = schedule_of(preset)
    assert schedule.timesteps.tolist() == pytest.approx(list(preset.timesteps))
    assert schedule.sigmas.tolist() == pytest.approx([t / 1000 for t in preset.timesteps] + [0])


@pytest.mark.parametrize("preset", PRESETS.values(), ids=lambda preset: preset.name)
def test_perfect_velocity_reaches_the_video_in_every_preset(preset):
    """Along a straight line from noise to video, Euler steps make no error."""
    torch.manual_seed(0)
    schedule = schedule_of(preset)
    assert len(schedule.timesteps) == preset.steps
    video, noise = torch.randn(2, 3), torch.randn(2, 3)
    first = schedule.sigmas[0]
    sample = first * noise + (1 - first) * video
    for time in schedule.timesteps:
        sample = schedule.step(noise - video, time, sample, return_dict=False)[0]
    torch.testing.assert_close(sample, video, rtol=0, atol=1e-5)

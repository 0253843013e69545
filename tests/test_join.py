import dataclasses

import pytest
import torch

from omniavatar.plan import VideoPlan
from omniavatar.stages.join import Joiner, crossfade
from omniavatar.stages.render import ChunkVideo

PLAN = VideoPlan(
    height=16,
    width=16,
    fps=25,
    audio_frames=50,
    padded_audio_frames=52,
    chunk_frames=21,
    overlap_frames=13,
)


def render(plan, *, shift=0.0):
    """Chunks whose every frame shows its own number, each chunk brighter by `shift`."""
    for number, chunk in enumerate(plan.chunks):
        numbers = torch.arange(chunk.start, chunk.stop, dtype=torch.float32) + number * shift
        video = numbers.view(1, 1, -1, 1, 1).expand(1, 3, -1, 16, 16)
        yield ChunkVideo(chunk=number, latents=torch.zeros(()), video=video)


def join(plan, *, shift=0.0, **options):
    joiner = Joiner(plan, **options)
    parts = [joiner.new_frames(piece) for piece in render(plan, shift=shift)]
    assert joiner.take_held() is None
    return torch.cat(parts, dim=2)[0, 0, :, 0, 0]


@pytest.mark.parametrize("fade", [True, False])
@pytest.mark.parametrize(("length", "overlap"), [(21, 13), (13, 1), (9, 5), (17, 13)])
def test_every_frame_is_shown_once_and_in_order(fade, length, overlap):
    step = length - overlap
    plan = dataclasses.replace(
        PLAN,
        chunk_frames=length,
        overlap_frames=overlap,
        padded_audio_frames=length - 1 + step * -(-(50 - length + 1) // step),
    )
    assert join(plan, fade=fade, keep_lead=True).tolist() == pytest.approx(range(51))
    assert join(plan, fade=fade, keep_lead=False).tolist() == pytest.approx(range(1, 51))


def test_a_fade_spreads_the_difference_that_a_cut_shows_at_once():
    cut = join(PLAN, shift=0.5, fade=False, keep_lead=True).diff() - 1
    faded = join(PLAN, shift=0.5, fade=True, keep_lead=True).diff() - 1
    assert cut.max() == 0.5
    assert faded.max() < 0.12


def test_a_job_that_ends_early_loses_no_finished_frame():
    joiner = Joiner(PLAN, fade=True, keep_lead=True)
    first = joiner.new_frames(next(render(PLAN)))
    held = joiner.take_held()
    assert first.shape[2] + held.shape[2] == PLAN.chunk_frames
    assert joiner.take_held() is None


def test_equal_renderings_fade_to_themselves():
    frames = torch.rand(1, 3, 8, 4, 4)
    torch.testing.assert_close(crossfade(frames, frames), frames)

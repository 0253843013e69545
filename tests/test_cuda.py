"""What only a card does: `python -m pytest -m gpu tests/test_cuda.py` where there is one."""

import dataclasses
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import torch
from test_placement import name_of, render

from omniavatar import AvatarPipeline, Finished, FullMemoryError, GenerationRequest, Notice
from omniavatar.memory import TRANSFORMER, Placement, arrangements
from omniavatar.placement import place, release

pytestmark = pytest.mark.gpu

CUDA = Placement(device=torch.device("cuda"), dtype=torch.float32)
ARRANGEMENTS = [placement for placement in arrangements(CUDA) if not placement.vae_tiled]
EXAMPLES = Path(__file__).parents[1] / "examples"
SAME, IN_8_BITS = 2e-3, 1e-2  # mean change of a pixel, 0..1


def asked(seconds=1.0, **settings):
    return GenerationRequest(
        image=EXAMPLES / "presenter-1.png",
        audio=EXAMPLES / "speech-1.wav",
        audio_seconds=seconds,
        **settings,
    )


def make_pipeline(device="cuda", **options):
    return AvatarPipeline.from_pretrained("nano", device=device, dtype=torch.float32, **options)


def difference(video, other):
    return (video.cpu() - other.cpu()).abs().mean().item() / 2


@pytest.fixture(scope="module")
def of_cpu():
    return render(make_pipeline("cpu"), asked())


@pytest.mark.parametrize("placement", ARRANGEMENTS, ids=name_of)
def test_every_arrangement_gives_the_video_of_the_cpu(of_cpu, placement):
    pipeline = make_pipeline()
    place(pipeline.models, placement)
    bound = IN_8_BITS if placement.fp8 else SAME
    assert difference(render(pipeline, asked()), of_cpu) < bound


def test_memory_grows_in_place_for_weights_that_are_streamed():
    pipeline = make_pipeline()
    place(pipeline.models, dataclasses.replace(CUDA, offloaded=frozenset({TRANSFORMER})))
    render(pipeline, asked())
    assert any(segment["is_expandable"] for segment in torch.cuda.memory_snapshot())


@contextmanager
def held_to(limit):
    """No more of the card's memory than so many bytes."""
    release(CUDA.device)
    torch.cuda.set_per_process_memory_fraction(limit / torch.cuda.mem_get_info()[1])
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


@pytest.mark.parametrize(("share", "is_enough"), [(0.9, True), (0.4, False)])
def test_after_memory_ran_out_the_next_video_is_made(of_cpu, tmp_path, share, is_enough):
    pipeline, events = make_pipeline(), []
    release(CUDA.device)
    torch.cuda.reset_peak_memory_stats()
    render(pipeline, asked())
    with held_to(share * torch.cuda.max_memory_allocated()), suppress(FullMemoryError):
        events.extend(pipeline.stream(asked(), tmp_path / "a.mp4"))
    notices = [event.what for event in events if isinstance(event, Notice)]
    assert "memory ran out" in notices[0]
    assert isinstance(events[-1], Finished) is is_enough
    bound = IN_8_BITS if pipeline.placement.fp8 else SAME
    assert difference(render(pipeline, asked()), of_cpu) < bound


def test_a_model_that_does_not_fit_is_streamed(of_cpu):
    release(CUDA.device)
    before = torch.cuda.memory_reserved()
    whole = make_pipeline()
    taken = torch.cuda.memory_reserved() - before
    whole.close()
    release(CUDA.device)
    with held_to(torch.cuda.memory_reserved() + 0.7 * taken):
        pipeline = make_pipeline()
    assert pipeline.placement.offloaded
    assert difference(render(pipeline, asked()), of_cpu) < SAME


@pytest.mark.timeout(300)
def test_compiled_blocks_take_chunks_of_any_length(tmp_path):
    pipeline, plain = make_pipeline(compile="on"), make_pipeline(compile="off")
    pipeline.generate(asked(), tmp_path / "a.mp4")
    assert pipeline.models.transformer.blocks[0]._compiled_call_impl is not None
    for seconds in (0.6, 1.0, 1.4, 1.8, 2.2, 2.6, 3.0, 1.0):
        request = asked(seconds, chunk_length="fitted")
        assert difference(render(pipeline, request), render(plain, request)) < SAME

"""When people blink who are not asked for it."""

import dataclasses
from pathlib import Path

import torch

from omniavatar import AvatarPipeline, GenerationRequest
from omniavatar.plan import Chunk, plan_video
from omniavatar.stages.blinks import MOMENT_LATENTS, SECONDS_BETWEEN, Blinks
from omniavatar.stages.render import ChunkVideo
from omniavatar.weights.catalog import CATALOG

EXAMPLES = Path(__file__).parents[1] / "examples"


def minute():
    return plan_video(
        image_height=192,
        image_width=192,
        samples=60 * 16000,
        sizes=[(192, 192)],
        sample_rate=16000,
        fps=25,
        max_tokens=3264,
        overlap_frames=13,
    )


def starts(frames):
    """Latent frames that begin a moment."""
    return (torch.nn.functional.pad(frames.int(), (1, 0)).diff() > 0).nonzero().flatten()


def test_a_seed_gives_the_same_moments_whatever_was_made_before():
    plan = minute()
    whole = [Blinks(plan, 7).frames(chunk) for chunk in plan.chunks]
    again = Blinks(plan, 7)
    for chunk, frames in list(zip(plan.chunks, whole, strict=True))[::-1]:
        assert torch.equal(again.frames(chunk), frames)
    other = [Blinks(plan, 8).frames(chunk) for chunk in plan.chunks]
    assert any(not torch.equal(one, two) for one, two in zip(whole, other, strict=True))


def test_moments_come_as_often_as_people_blink():
    plan = minute()
    everything = Chunk(start=0, stop=1 + 4 * 374, known=1)
    counts = []
    for seed in range(20):
        frames = Blinks(plan, seed).frames(everything)
        begun = starts(frames)
        gaps = begun.diff() * 4 / 25
        assert frames.sum() <= MOMENT_LATENTS * len(begun)
        assert gaps.min() >= SECONDS_BETWEEN[0] - 0.16
        assert gaps.max() <= SECONDS_BETWEEN[1] + 0.16
        counts.append(len(begun))
    assert 15 < sum(counts) / len(counts) < 22


def test_chunks_that_overlap_agree_on_a_moment():
    plan = minute()
    blinks = Blinks(plan, 3)
    for before, after in zip(plan.chunks, plan.chunks[1:], strict=False):
        shared = (before.stop - after.start + 3) // 4
        end = blinks.frames(before)[-shared + 1 :]
        # The first latent frame of a chunk is one video frame, every other one four.
        assert (end != blinks.frames(after)[1:shared]).sum() <= 1


def test_published_models_get_the_prompt_of_their_request_alone():
    assert [name for name, spec in CATALOG.items() if spec.blink_prompt] == ["nano"]


def eyes(pipeline, seed):
    """How light the rows of a presenter's eyes are in each frame of the first chunk, [t]."""
    request = GenerationRequest(
        image=EXAMPLES / "presenter-2.png", audio=EXAMPLES / "speech-1.wav", seed=seed
    )
    job = pipeline.prepare(request)
    pieces = pipeline.render(job, pipeline.condition(job))
    frames = next(piece for piece in pieces if isinstance(piece, ChunkVideo)).video[0, 0, 1:]
    height = frames.shape[1]
    return frames[:, int(0.38 * height) : int(0.46 * height)].mean((1, 2)), job.plan


def test_nano_closes_its_eyes_in_a_moment():
    pipeline = AvatarPipeline.from_pretrained("nano", device="cpu")
    blinking, plan = eyes(pipeline, seed=11)
    pipeline.spec = dataclasses.replace(pipeline.spec, blink_prompt=None)
    usual, _ = eyes(pipeline, seed=11)
    moment = Blinks(plan, 11).frames(plan.chunks[0])[1:].repeat_interleave(4)
    assert moment.any()
    change = (blinking - usual).abs()
    assert change[moment].max() > 5 * change[~moment].mean()

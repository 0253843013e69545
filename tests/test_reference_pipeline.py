"""The whole pipeline against the public OmniAvatar implementation, commit 1536bf3, case by case.

The request goes in as files, as a user's does; only the noise is the recorded one. Cases are read
from the JSON beside the numbers.
"""

import dataclasses
import json

import pytest
import soundfile
import torch
from PIL import Image
from reference_models import (
    build_lora_transformer,
    build_speech_encoder,
    build_text_encoder,
    build_vae,
    make_tokenizer,
    write_prompt,
)
from safetensors.torch import load_file

from omniavatar import CATALOG, AvatarPipeline, GenerationRequest
from omniavatar.memory import choose_placement
from omniavatar.models import Models
from omniavatar.stages.join import Joiner
from omniavatar.stages.render import ChunkStep
from omniavatar.stages.schedule import make_schedule
from omniavatar.stages.step_cache import plan_skips

LATENT_TOLERANCE = 1e-3
PIXEL_TOLERANCE = 2e-3


def pytest_generate_tests(metafunc):
    folder = metafunc.config.getoption("--reference-dir")
    info = json.loads((folder / "pipeline.json").read_text())
    cases = info["cases"]
    if "cached_case" in metafunc.fixturenames:
        cached = [case for case in cases if "skipped_steps" in case]
        assert cached, "the set has no case with a step cache"
        metafunc.parametrize("cached_case", cached, ids=lambda case: case["name"])
    else:
        metafunc.parametrize("case", cases, ids=lambda case: case["name"])


def relative_error(value, reference):
    assert value.shape == reference.shape
    return ((value - reference).abs().max() / reference.abs().max()).item()


@pytest.fixture(scope="module")
def models(reference_dir):
    return Models(
        transformer=build_lora_transformer(reference_dir),
        vae=build_vae(reference_dir),
        text_encoder=build_text_encoder(reference_dir),
        tokenizer=make_tokenizer(reference_dir),
        speech_encoder=build_speech_encoder(reference_dir),
    )


@torch.inference_mode()
def test_pipeline_equals_the_reference(case, models, reference_dir, tmp_path):
    info = json.loads((reference_dir / "pipeline.json").read_text())["models"]
    values = load_file(reference_dir / case["file"])
    Image.fromarray(values["image_u8"].numpy()).save(tmp_path / "portrait.png")
    soundfile.write(
        tmp_path / "speech.wav", values["audio_16k"].numpy(), info["sample_rate"], subtype="FLOAT"
    )
    coefficients = case.get("tea_coefficients")
    spec = dataclasses.replace(
        CATALOG["1.3B"],
        sizes=tuple(map(tuple, case["image_sizes"])),
        fps=info["fps"],
        sample_rate=info["sample_rate"],
        text_tokens=info["text_len"],
        cache_coefficients=tuple(coefficients) if coefficients else None,
    )
    pipeline = AvatarPipeline(models, spec, choose_placement(device="cpu", dtype=torch.float32))
    request = GenerationRequest(
        image=tmp_path / "portrait.png",
        audio=tmp_path / "speech.wav",
        prompt=write_prompt(values["prompt_ids"], values["prompt_mask"]),
        negative_prompt=write_prompt(values["negative_ids"], values["negative_mask"]),
        steps=case["num_steps"],
        guidance=case["guidance_scale"],
        audio_guidance=case["audio_scale"],
        overlap_frames=case["overlap_frame"],
        max_tokens=case["max_tokens"],
        step_cache=case.get("tea_cache_l1_thresh", 0.0),
    ).as_published()
    # the case's own coefficients, which for one of them are not the ones of 14B
    request = dataclasses.replace(request, cache_coefficients="model")

    job = pipeline.prepare(request)
    plan = job.plan
    assert [plan.height, plan.width] == case["select_size"]
    assert plan.audio_frames == case["audio_frames"]
    assert len(plan.chunks) == case["n_chunks"]
    conditions = pipeline.condition(job)
    assert relative_error(conditions.prompt, values["context_pos"]) <= 1e-4
    if case["guidance_scale"] != 1:  # without guidance the reference encodes no negative prompt
        assert relative_error(conditions.negative_prompt, values["context_neg"]) <= 1e-4

    calls = []
    hook = models.transformer.blocks[0].register_forward_hook(lambda *_: calls.append(1))
    noises = iter([values[f"chunk{n}/noise"] for n in range(len(plan.chunks))])
    joiner = Joiner(plan, fade=False, keep_lead=True)
    frames, step_latents, predictions = [], [], []
    for piece in pipeline.render(job, conditions, draw_noise=lambda _: next(noises)):
        if isinstance(piece, ChunkStep):
            step_latents.append(piece.step.latents)
            predictions.append(piece.step.prediction)
            continue
        prefix = f"chunk{piece.chunk}/"
        chunk = plan.chunks[piece.chunk]
        rows = conditions.speech.rows(chunk.audio_start, chunk.audio_stop)
        assert relative_error(rows, values[prefix + "audio_emb"][0]) <= 1e-4
        assert relative_error(piece.latents, values[prefix + "latents_out"]) <= LATENT_TOLERANCE
        assert relative_error(torch.stack(step_latents), values[prefix + "step_latents"]) <= (
            LATENT_TOLERANCE
        )
        if prefix + "noise_pred" in values:
            assert relative_error(torch.stack(predictions), values[prefix + "noise_pred"]) <= (
                LATENT_TOLERANCE
            )
        step_latents, predictions = [], []
        frames.append(joiner.new_frames(piece))
    hook.remove()

    video = torch.cat(frames, dim=2).transpose(1, 2)  # [1, frames, 3, h, w]
    assert list(video.shape) == case["video_shape"]
    assert (video - values["video"]).abs().max() <= PIXEL_TOLERANCE
    assert len(calls) == _forwards_that_run_blocks(case)


@torch.inference_mode()
def test_step_cache_skips_the_reference_steps(cached_case, models):
    case = cached_case
    schedule = make_schedule(case["num_steps"], shift=5.0)
    skips = plan_skips(
        [models.transformer.time_modulation(time[None]) for time in schedule.timesteps],
        threshold=case["tea_cache_l1_thresh"],
        coefficients=case["tea_coefficients"],
    )
    skipped = [step for step, skip in enumerate(skips) if skip]
    for branches in case["skipped_steps"].values():
        assert branches["pos"] == branches["neg"] == skipped


def _forwards_that_run_blocks(case):
    """Forwards of the whole case, less those of them that the reference skipped."""
    chunks = case.get("skipped_steps", {}).values()
    skipped = sum(len(steps) for branches in chunks for steps in branches.values())
    return sum(chunk["dit_calls"] for chunk in case["chunks"]) - skipped

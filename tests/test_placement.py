"""Every arrangement of the networks gives what they give when all of them are on the device."""

import copy
import dataclasses
import json
from functools import cache

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image
from reference_models import build_models

from omniavatar import CATALOG, AvatarPipeline, GenerationRequest
from omniavatar.memory import PARTS, TEXT_ENCODER, TRANSFORMER, Placement, arrangements
from omniavatar.placement import place
from omniavatar.stages.latents import decode_latents
from omniavatar.weights.storage import is_stored_as_fp8

CPU = Placement(device=torch.device("cpu"), dtype=torch.float32)
ARRANGEMENTS = [placement for placement in arrangements(CPU) if not placement.vae_tiled]

FP8_BOUND = 0.1
"""Largest mean change of a pixel, 0..1, by networks of random weights in 8 bits."""


@pytest.fixture(scope="module")
def job_files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("job")
    generator = np.random.default_rng(0)
    picture = generator.integers(0, 255, (40, 60, 3), dtype=np.uint8)
    Image.fromarray(picture).save(folder / "portrait.png")
    samples = generator.normal(0, 0.1, 9600).astype(np.float32)
    soundfile.write(folder / "speech.wav", samples, 16000)
    return GenerationRequest(
        image=folder / "portrait.png", audio=folder / "speech.wav", prompt="t1 t2", steps=1
    )


def make_pipeline(folder):
    info = json.loads((folder / "pipeline.json").read_text())["models"]
    spec = dataclasses.replace(
        CATALOG["1.3B"], sizes=((32, 48),), text_tokens=info["text_len"], max_tokens=32
    )
    return AvatarPipeline(copy.deepcopy(_models(folder)), spec, CPU)


@cache
def _models(folder):
    return build_models(folder)


@torch.no_grad()
def render(pipeline, request):
    """The video of one chunk, [1, 3, t, h, w]."""
    job = pipeline.prepare(request)
    *_, last = pipeline.render(job, pipeline.condition(job))
    return last.video


@pytest.fixture(scope="module")
def resident(reference_dir, job_files):
    return render(make_pipeline(reference_dir), job_files)


def name_of(placement):
    moved, small = (
        "+".join(sorted(parts)) or "nothing" for parts in (placement.offloaded, placement.fp8)
    )
    return f"{moved} offloaded, {small} in fp8"


@pytest.mark.parametrize("placement", ARRANGEMENTS, ids=name_of)
def test_every_arrangement_gives_the_same_video(reference_dir, job_files, resident, placement):
    pipeline = make_pipeline(reference_dir)
    place(pipeline.models, placement)
    video = render(pipeline, job_files)
    if placement.fp8:
        assert 0 < (video - resident).abs().mean() < FP8_BOUND
    else:
        assert torch.equal(video, resident)
    assert is_stored_as_fp8(pipeline.models.transformer) is (TRANSFORMER in placement.fp8)
    assert is_stored_as_fp8(pipeline.models.text_encoder) is (TEXT_ENCODER in placement.fp8)


def test_networks_are_placed_anew_any_number_of_times(reference_dir, job_files, resident):
    pipeline = make_pipeline(reference_dir)
    offloaded = dataclasses.replace(CPU, offloaded=PARTS)
    for placement in (dataclasses.replace(offloaded, vae_tiled=True), CPU, offloaded):
        place(pipeline.models, placement)
        assert pipeline.models.vae.use_tiling is placement.vae_tiled
        assert torch.allclose(render(pipeline, job_files), resident, atol=1e-5)
    assert torch.equal(render(pipeline, job_files), resident)


def test_a_network_that_broke_off_in_the_middle_is_placed_anew(reference_dir, job_files, resident):
    pipeline = make_pipeline(reference_dir)
    offloaded = dataclasses.replace(CPU, offloaded=PARTS)
    place(pipeline.models, offloaded)

    def fail(*_arguments):
        raise torch.OutOfMemoryError("out of memory")

    hook = pipeline.models.transformer.blocks[1].register_forward_pre_hook(fail)
    with pytest.raises(torch.OutOfMemoryError):
        render(pipeline, job_files)
    hook.remove()
    place(pipeline.models, offloaded)
    assert torch.equal(render(pipeline, job_files), resident)


def test_tiles_change_a_picture_little():
    pipeline = AvatarPipeline.from_pretrained("nano", device="cpu")
    vae, generator = pipeline.models.vae, torch.Generator().manual_seed(0)
    z = torch.randn(1, vae.config.z_dim, 2, 16, 16, generator=generator)
    latents = torch.nn.functional.avg_pool3d(z, (1, 3, 3), stride=1, padding=(0, 1, 1))
    with torch.no_grad():
        whole = decode_latents(vae, latents)
        vae.enable_tiling(
            tile_sample_min_height=96,
            tile_sample_min_width=96,
            tile_sample_stride_height=64,
            tile_sample_stride_width=64,
        )
        tiled = decode_latents(vae, latents)
    assert 0 < (whole - tiled).abs().mean() < 0.02


def test_weights_come_in_8_bits_from_the_start():
    pipeline = AvatarPipeline.from_pretrained("nano", device="cpu", dtype=torch.float32)
    small = dataclasses.replace(CPU, fp8=PARTS)
    place(pipeline.models, small)
    from omniavatar.weights.load import load_models

    loaded = load_models(
        pipeline.spec, device=CPU.device, dtype=CPU.dtype, waiting=PARTS, fp8=PARTS
    )
    for part in PARTS:
        stored, made = (getattr(models, part).state_dict() for models in (loaded, pipeline.models))
        assert all(torch.equal(stored[name].float(), made[name].float()) for name in made)
        assert {tensor.dtype for tensor in stored.values()} == {
            tensor.dtype for tensor in made.values()
        }

"""Each network against numbers computed with the public OmniAvatar implementation, commit 1536bf3.

Cases, configurations and shapes are read from the JSON beside the numbers, so that another set in
the same format is tested by the same code.
"""

import json

import numpy as np
import pytest
import torch
from reference_models import (
    build_lora_transformer,
    build_speech_encoder,
    build_text_encoder,
    build_transformer,
    build_vae,
)
from safetensors.torch import load_file

from omniavatar.stages.conditions import SpeechRows, clean_prompt, embed_tokens
from omniavatar.stages.latents import decode_latents, encode_video
from omniavatar.stages.schedule import make_schedule
from omniavatar.stages.tiles import (
    PUBLISHED_DECODE,
    PUBLISHED_ENCODE,
    Tiling,
    plan_tiles,
)

TOLERANCE = 1e-4


def assert_close(value, reference):
    assert value.shape == reference.shape
    error = (value - reference).abs().max() / reference.abs().max()
    assert error <= TOLERANCE, f"relative error {error:.2e}"


def read(folder, name):
    return json.loads((folder / f"{name}.json").read_text())


@pytest.fixture(autouse=True)
def _no_gradients():
    with torch.inference_mode():
        yield


@pytest.mark.parametrize("name", ["wan_dit", "wan_dit_lora"])
def test_transformer_equals_the_reference(name, reference_dir):
    info = read(reference_dir, name)
    model = (
        build_lora_transformer(reference_dir)
        if "lora" in info
        else build_transformer(reference_dir, name)
    )
    values = load_file(reference_dir / f"{name}.cases.safetensors")
    assert info["cases"]
    for entry in info["cases"]:
        case = {
            key.split("/", 1)[1]: value
            for key, value in values.items()
            if key.startswith(entry["case"] + "/")
        }
        terms = model.encode_audio(case["audio_emb"])
        velocity = model(
            hidden_states=torch.cat([case["x"], case["y"]], dim=1),
            timestep=case["timestep"],
            encoder_hidden_states=case["context"],
            audio_conditioning=terms,
        ).sample
        assert_close(velocity, case["out"])
        if "mid_time_projection" in case:
            assert_close(
                model.time_modulation(case["timestep"]), case["mid_time_projection"].flatten(1)
            )
            assert_close(model.audio_proj(case["audio_emb"]), case["mid_audio_pack"])
            assert_close(terms, case["mid_audio_cond"])


def test_rotary_tables_equal_the_reference(reference_dir):
    model = build_transformer(reference_dir, "wan_dit")
    values = load_file(reference_dir / "wan_dit.cases.safetensors")
    for part in ("cos", "sin"):
        table = getattr(model.rope, f"freqs_{part}")[:, ::2]  # each angle stands twice
        reference = torch.cat([values[f"rope/{axis}_{part}"] for axis in "fhw"], dim=1)
        assert_close(table[: len(reference)], reference)


def test_speech_encoder_equals_the_reference(reference_dir):
    info = read(reference_dir, "wav2vec")
    model = build_speech_encoder(reference_dir)
    values = load_file(reference_dir / "wav2vec.cases.safetensors")
    assert info["cases"]
    for entry in info["cases"]:
        case, frames = entry["case"], entry["seq_len"]
        speech = SpeechRows(
            model,
            values[f"{case}/normalised"],
            padded_frames=frames,
            samples_per_frame=640,
            window_frames=frames,
            context_frames=0,
            device=torch.device("cpu"),
            dtype=torch.float32,
        )
        embedding = speech.rows(0, frames + 1)
        assert embedding[0].abs().max() == 0
        assert_close(embedding[1:], values[f"{case}/audio_embeddings"])


def test_windows_of_speech_with_enough_context_are_close_to_one_pass(reference_dir):
    info = read(reference_dir, "wav2vec")
    model = build_speech_encoder(reference_dir)
    values = load_file(reference_dir / "wav2vec.cases.safetensors")
    case = max(info["cases"], key=lambda entry: entry["seq_len"])
    frames = case["seq_len"]

    def rows(window, context):
        speech = SpeechRows(
            model,
            values[f"{case['case']}/normalised"],
            padded_frames=frames,
            samples_per_frame=640,
            window_frames=window,
            context_frames=context,
            device=torch.device("cpu"),
            dtype=torch.float32,
        )
        # as chunks ask for them: overlapping, in order
        return torch.cat([speech.rows(0, 9), speech.rows(5, frames + 1)[4:]])

    whole, windowed = rows(frames, 0), rows(8, frames)
    torch.testing.assert_close(windowed, whole, rtol=0, atol=1e-4 * float(whole.abs().max()))


def test_text_encoder_equals_the_reference(reference_dir):
    info = read(reference_dir, "text_encoder")
    model = build_text_encoder(reference_dir)
    values = load_file(reference_dir / "text_encoder.cases.safetensors")
    assert info["cases"]
    for entry in info["cases"]:
        case = entry["case"]
        embedding = embed_tokens(model, values[f"{case}/ids"], values[f"{case}/mask"])
        assert_close(embedding, values[f"{case}/prompt_emb"])


def test_prompts_are_cleaned_like_the_reference(reference_dir):
    pairs = read(reference_dir, "text_encoder")["text_clean"]["pairs"]
    assert pairs
    for text, cleaned in pairs:
        assert clean_prompt(text) == cleaned


def test_vae_equals_the_reference(reference_dir):
    info = read(reference_dir, "wan_vae")
    vae = build_vae(reference_dir)
    values = load_file(reference_dir / "wan_vae.cases.safetensors")
    tiles = info["tiny_tiling"]
    tiny = Tiling(size=tuple(tiles["tile_size"]), stride=tuple(tiles["tile_stride"]))
    assert info["cases"]
    for entry in info["cases"]:
        case = entry["case"]
        run, source, result = (
            (encode_video, "video", "latent")
            if case.startswith("enc")
            else (decode_latents, "latent", "video")
        )
        assert_close(run(vae, values[f"{case}/{source}"]), values[f"{case}/{result}"])
        tiled = f"{case}/{result}_tiled"
        if tiled in values:
            assert_close(run(vae, values[f"{case}/{source}"], tiling=tiny), values[tiled])


def test_tiles_equal_the_reference(reference_dir):
    info = read(reference_dir, "wan_vae")
    scale = info["config"]["upsampling_factor"]
    groups = [
        (info["size_px"], info["tiny_tiling"]),
        *((info["real_tiling"]["size_px"], info["real_tiling"][k]) for k in ("encode", "decode")),
    ]
    for (height, width), group in groups:
        tiling = Tiling(size=tuple(group["tile_size"]), stride=tuple(group["tile_stride"]))
        tiles = plan_tiles(height // scale, width // scale, tiling)
        assert [[t.top, t.bottom, t.left, t.right] for t in tiles] == group["tiles"]


def test_vae_with_the_published_tiles_equals_the_reference(reference_dir):
    info = read(reference_dir, "wan_vae")["real_tiling"]
    vae = build_vae(reference_dir)
    values = load_file(reference_dir / "wan_vae.cases.safetensors")
    for tiling, kind in ((PUBLISHED_ENCODE, "encode"), (PUBLISHED_DECODE, "decode")):
        assert list(tiling.size) == info[kind]["tile_size"]
        assert list(tiling.stride) == info[kind]["tile_stride"]
    small = values["real/image_u8_small"]
    height, width = info["size_px"]
    picture = small.repeat_interleave(height // small.shape[1], 1)
    picture = picture.repeat_interleave(width // small.shape[2], 2).float() / 127.5 - 1
    latent = encode_video(vae, picture[None, :, None], tiling=PUBLISHED_ENCODE)
    assert_close(latent, values[info["latent_key"]])
    video_key = info["video_key"].split(" ")[0]
    stride = int(video_key.rsplit("every", 1)[1])
    video = decode_latents(vae, values[info["latent_key"]], tiling=PUBLISHED_DECODE)
    assert_close(video[..., ::stride, ::stride], values[video_key])


def test_schedule_equals_the_reference(reference_dir):
    info = read(reference_dir, "scheduler")
    values = load_file(reference_dir / "scheduler.safetensors")
    assert info["info"]
    for entry in info["info"]:
        steps = entry["steps"]
        schedule = make_schedule(steps, shift=5.0)
        assert_close(schedule.sigmas[:-1], values[f"steps{steps}/sigmas"])
        assert schedule.sigmas[-1] == 0
        assert_close(schedule.timesteps, values[f"steps{steps}/timesteps"])
        rounded = schedule.timesteps.to(torch.bfloat16).float()
        assert_close(rounded, values[f"steps{steps}/timesteps_bf16"])


def test_euler_steps_equal_the_reference(reference_dir):
    values = load_file(reference_dir / "scheduler.safetensors")
    trajectories = {key.split("/")[0] for key in values if key.startswith("traj")}
    assert trajectories
    for name in trajectories:
        velocities = values[f"{name}/model_output"]
        schedule = make_schedule(len(velocities), shift=float(name.rsplit("shift", 1)[1]))
        sample = values[f"{name}/start"]
        for time, velocity, reference in zip(
            schedule.timesteps, velocities, values[f"{name}/samples"], strict=True
        ):
            sample = schedule.step(velocity, time, sample, return_dict=False)[0]
            np.testing.assert_allclose(sample, reference, rtol=0, atol=1e-5)

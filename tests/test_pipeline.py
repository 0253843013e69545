"""Behaviour of the pipeline as a whole, on the reference set's tiny random networks."""

import dataclasses
import json
import tracemalloc
from importlib.metadata import version

import imageio.v3 as iio
import numpy as np
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
)

from omniavatar import (
    CATALOG,
    PRESETS,
    AvatarPipeline,
    ChunkDone,
    Finished,
    GenerationRequest,
    InputError,
    OutputError,
    Preparing,
    StepDone,
    read_settings,
)
from omniavatar.inputs import LastPicture
from omniavatar.memory import choose_placement
from omniavatar.models import Models

FRAMES_PER_CHUNK = 21
NEW_FRAMES = 8


@pytest.fixture(scope="module")
def pipeline():
    from conftest import REFERENCE

    info = json.loads((REFERENCE / "pipeline.json").read_text())["models"]
    models = Models(
        transformer=build_lora_transformer(REFERENCE),
        vae=build_vae(REFERENCE),
        text_encoder=build_text_encoder(REFERENCE),
        tokenizer=make_tokenizer(REFERENCE),
        speech_encoder=build_speech_encoder(REFERENCE),
    )
    spec = dataclasses.replace(
        CATALOG["1.3B"],
        sizes=((32, 48), (48, 32)),
        text_tokens=info["text_len"],
        max_tokens=32,  # 21 frames at 32 x 48
        steps=2,
    )
    return AvatarPipeline(models, spec, choose_placement(device="cpu", dtype=torch.float32))


@pytest.fixture
def make_request(tmp_path):
    def make(seconds=1.0, **settings):
        generator = np.random.default_rng(0)
        picture = generator.integers(0, 255, (40, 60, 3), dtype=np.uint8)
        Image.fromarray(picture).save(tmp_path / "portrait.png")
        samples = generator.normal(0, 0.1, round(seconds * 16000)).astype(np.float32)
        soundfile.write(tmp_path / "speech.wav", samples, 16000)
        return GenerationRequest(
            image=tmp_path / "portrait.png", audio=tmp_path / "speech.wav", **settings
        )

    return make


def frames_of(pipeline, request, output):
    events = list(pipeline.stream(request, output))
    return np.concatenate([event.frames for event in events if isinstance(event, ChunkDone)])


def test_events_come_in_order_and_count_everything(pipeline, make_request, tmp_path):
    events = list(pipeline.stream(make_request(), tmp_path / "out.mp4"))
    assert isinstance(events[0], Preparing)
    assert isinstance(events[-1], Finished)
    work = [event for event in events if isinstance(event, StepDone | ChunkDone)]
    kinds = [(type(event).__name__, event.chunk) for event in work]
    assert kinds == [
        (kind, chunk) for chunk in (1, 2) for kind in ("StepDone", "StepDone", "ChunkDone")
    ]
    assert [event.step for event in work if isinstance(event, StepDone)] == [1, 2, 1, 2]
    fractions = [event.fraction for event in work]
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1
    assert work[0].preview.shape == (4, 6, 3)


def test_the_video_lasts_as_long_as_the_speech(pipeline, make_request, tmp_path):
    for seconds in (0.04, 0.5, 1.0, 1.7):
        finished = pipeline.generate(make_request(seconds), tmp_path / "out.mp4")
        decoded = iio.imread(finished.path, plugin="FFMPEG")
        assert len(decoded) == finished.frames
        assert abs(finished.frames - seconds * 25) <= 1


def test_chunks_that_fit_the_recording_take_less_and_last_as_long(pipeline, make_request, tmp_path):
    made = {}
    for length in ("full", "fitted", "model"):
        request = make_request(0.5, chunk_length=length)
        widths = []
        hook = pipeline.models.transformer.register_forward_pre_hook(
            lambda _, __, given, seen=widths: seen.append(given["hidden_states"].shape[2]),
            with_kwargs=True,
        )
        made[length] = pipeline.generate(request, tmp_path / "out.mp4").frames, set(widths)
        hook.remove()
    frames, latents = zip(*made.values(), strict=True)
    assert len(set(frames)) == 1
    assert max(latents[1]) < min(latents[0])
    assert latents[2] == latents[0], "published models make whole chunks unless told otherwise"
    assert CATALOG["nano"].fit_chunks


def test_the_same_request_gives_the_same_frames_whatever_ran_before(
    pipeline, make_request, tmp_path
):
    request = make_request()
    first = frames_of(pipeline, request, tmp_path / "a.mp4")
    torch.manual_seed(99)
    other = frames_of(pipeline, dataclasses.replace(request, seed=7), tmp_path / "b.mp4")
    assert not np.array_equal(first, other)
    assert np.array_equal(first, frames_of(pipeline, request, tmp_path / "c.mp4"))


def test_a_portrait_that_was_changed_is_read_again(pipeline, make_request):
    request = make_request()
    first = pipeline.prepare(request).picture
    assert np.array_equal(first, pipeline.prepare(request).picture)
    image = Image.open(request.image)
    image.transpose(Image.Transpose.ROTATE_180).save(request.image)
    assert not np.array_equal(first, pipeline.prepare(request).picture)
    upright = pipeline.prepare(dataclasses.replace(request, aspect="portrait")).picture
    assert upright.shape != first.shape
    request.image.unlink()
    with pytest.raises(InputError, match="no picture"):
        pipeline.prepare(request)


def test_an_unchanged_portrait_is_read_once(make_request):
    last, image = LastPicture(), make_request().image

    def read():
        return last.read(image, CATALOG["nano"], aspect="auto", fit="cover", focus=(None, None))

    assert read() is read()


def test_each_chunk_adds_its_new_frames(pipeline, make_request, tmp_path):
    request = make_request(2.0, join="published")
    events = pipeline.stream(request, tmp_path / "out.mp4")
    chunks = [event.frames for event in events if isinstance(event, ChunkDone)]
    assert len(chunks[0]) == FRAMES_PER_CHUNK - 1
    assert all(len(frames) == NEW_FRAMES for frames in chunks[1:-1])
    assert sum(map(len, chunks)) == 50


def test_a_faded_join_changes_only_frames_that_both_chunks_show(pipeline, make_request, tmp_path):
    request = make_request(1.0)  # two chunks, which share frames 8 to 20
    faded = frames_of(pipeline, request, tmp_path / "out.mp4")
    cut = frames_of(pipeline, dataclasses.replace(request, join="published"), tmp_path / "out.mp4")
    changed = [n for n in range(len(cut)) if not np.array_equal(cut[n], faded[n])]
    assert changed
    assert set(changed) <= set(
        range(12, 20)
    )  # the last eight of them, counted without the portrait


def test_closing_the_stream_leaves_the_finished_chunks_as_a_video(pipeline, make_request, tmp_path):
    stream = pipeline.stream(make_request(2.0), tmp_path / "out.mp4")
    for event in stream:
        if isinstance(event, StepDone) and event.chunk == 3:
            break
    stream.close()
    decoded = iio.imread(tmp_path / "out.mp4", plugin="FFMPEG")
    assert len(decoded) == FRAMES_PER_CHUNK - 1 + NEW_FRAMES
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "out.mp4",
        "portrait.png",
        "speech.wav",
    ]


def test_closing_the_stream_before_the_first_chunk_leaves_nothing(pipeline, make_request, tmp_path):
    stream = pipeline.stream(make_request(), tmp_path / "out.mp4")
    for event in stream:
        if isinstance(event, StepDone):
            break
    stream.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["portrait.png", "speech.wav"]


def test_settings_are_stored_in_the_video(pipeline, make_request, tmp_path):
    request = make_request(prompt='A "man" says: naïve; 50% = half\nreally', seed=7)
    finished = pipeline.generate(request, tmp_path / "out.mp4")
    stored = read_settings(finished.path)
    assert stored == json.loads(json.dumps(dict(finished.settings)))
    assert stored["prompt"] == request.prompt
    assert stored["seed"] == 7
    assert stored["steps"] == 2
    assert stored["image"] == "portrait.png"  # the name, not the place on somebody's disk
    assert stored["versions"]["torch"] == version("torch")


def test_memory_does_not_grow_with_the_recording(pipeline, make_request, tmp_path):
    def peak(seconds):
        tracemalloc.start()
        held = 0
        for event in pipeline.stream(make_request(seconds, steps=1), tmp_path / "out.mp4"):
            if isinstance(event, ChunkDone):
                held = max(held, tracemalloc.get_traced_memory()[0])
        tracemalloc.stop()
        return held

    peak(1.0)  # what the first run loads stays
    short, long = peak(2.0), peak(20.0)
    waveform = 18 * 16000 * 4 * 2
    assert long - short < waveform + 2**20


def test_separate_audio_guidance_and_step_cache_run_through_the_public_door(
    pipeline, make_request, tmp_path
):
    request = make_request(0.5, audio_guidance=2.0, guidance=3.0, step_cache=0.1, steps=4)
    assert pipeline.generate(request, tmp_path / "out.mp4").frames == 13


def test_step_cache_decides_from_the_times_that_the_steps_are_told(
    pipeline, make_request, monkeypatch
):
    """As published they are rounded to the latents' precision."""
    decided = []
    embed = pipeline.models.transformer.time_modulation

    def time_modulation(time):
        decided.append(time.item())
        return embed(time)

    monkeypatch.setattr(pipeline.models.transformer, "time_modulation", time_modulation)
    rounded = dataclasses.replace(pipeline.placement, dtype=torch.bfloat16)
    monkeypatch.setattr(pipeline, "placement", rounded)
    request = make_request(0.5, step_cache=0.1, sample_dtype="model", steps=9)
    sampler = pipeline._sampler(pipeline.prepare(request).request)
    assert decided == sampler.schedule.timesteps.to(torch.bfloat16).tolist()
    assert decided != sampler.schedule.timesteps.tolist()


@pytest.mark.parametrize("name", ["lightx2v", "causvid"])
def test_preset_decides_what_its_distillation_has_built_in(
    name, pipeline, make_request, tmp_path, monkeypatch
):
    """What a request says of it changes nothing, and the video remembers what was used."""
    monkeypatch.setattr(pipeline, "spec", pipeline.spec.with_preset(PRESETS[name]))
    forwards = []
    hook = pipeline.models.transformer.register_forward_hook(lambda *_: forwards.append(1))
    try:
        plain = frames_of(pipeline, make_request(0.5), tmp_path / "plain.mp4")
        count = len(forwards)
        vain = make_request(0.5, guidance=4.5, audio_guidance=3.0, step_cache=0.2)
        told = frames_of(pipeline, vain, tmp_path / "told.mp4")
    finally:
        hook.remove()
    assert np.array_equal(plain, told)
    assert len(forwards) == 2 * count
    assert count == PRESETS[name].steps
    settings = read_settings(tmp_path / "told.mp4")
    assert (settings["guidance"], settings["step_cache"]) == (1.0, 0.0)
    assert (settings["steps"], settings["preset"]) == (PRESETS[name].steps, name)


@pytest.mark.parametrize(
    ("settings", "field", "hint"),
    [
        ({"max_tokens": 20}, "max_tokens", "Use at least"),
        ({"aspect": "square"}, "aspect", "landscape"),
    ],
)
def test_what_the_model_cannot_do_is_refused_before_any_work(
    pipeline, make_request, tmp_path, settings, field, hint
):
    request = make_request(**settings)
    with pytest.raises(InputError, match=hint) as caught:
        pipeline.check(request)
    assert caught.value.field == field
    with pytest.raises(InputError):
        next(pipeline.stream(request, tmp_path / "out.mp4"))
    assert not (tmp_path / "out.mp4").exists()


def test_an_uncalibrated_step_cache_is_refused(pipeline, make_request):
    spec = dataclasses.replace(pipeline.spec, cache_coefficients=None)
    plain = AvatarPipeline(pipeline.models, spec, pipeline.placement)
    with pytest.raises(InputError, match="not calibrated"):
        plain.check(make_request(step_cache=0.1))


def test_an_output_that_cannot_be_written_is_refused_before_any_work(
    pipeline, make_request, tmp_path
):
    for output in (tmp_path, tmp_path / "missing" / "out.mp4"):
        with pytest.raises(OutputError):
            next(pipeline.stream(make_request(), output))


def test_an_unknown_model_is_refused_with_the_known_ones():
    with pytest.raises(InputError, match=r"nano, 1\.3B, 14B"):
        AvatarPipeline.from_pretrained("7B")

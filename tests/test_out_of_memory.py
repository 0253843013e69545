"""Memory that runs out in the middle of a job: the job goes on from its last finished chunk."""

import copy
import dataclasses
import gc
import json
import weakref

import imageio.v3 as iio
import numpy as np
import pytest
import soundfile
import torch
from app_process import ROOT
from PIL import Image
from reference_models import build_models

import omniavatar.pipeline as pipeline_module
from omniavatar import (
    CATALOG,
    AvatarPipeline,
    ChunkDone,
    Finished,
    FullMemoryError,
    GenerationRequest,
    InputError,
    Notice,
    StepDone,
)
from omniavatar.memory import PARTS, TRANSFORMER, Placement
from omniavatar.serving import cli
from omniavatar.stages.render import ChunkVideo
from omniavatar.tiers import GIGABYTE

CPU = Placement(device=torch.device("cpu"), dtype=torch.float32)
STEPS, CHUNKS = 2, 3


@pytest.fixture(scope="module")
def request_of_three_chunks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    generator = np.random.default_rng(0)
    picture = generator.integers(0, 255, (40, 60, 3), dtype=np.uint8)
    Image.fromarray(picture).save(folder / "portrait.png")
    samples = generator.normal(0, 0.1, round(1.4 * 16000)).astype(np.float32)
    soundfile.write(folder / "speech.wav", samples, 16000)
    return GenerationRequest(
        image=folder / "portrait.png", audio=folder / "speech.wav", prompt="t1 t2", guidance=1
    )


@pytest.fixture(scope="module")
def models(reference_dir):
    return build_models(reference_dir)


@pytest.fixture(scope="module")
def spec(reference_dir):
    info = json.loads((reference_dir / "pipeline.json").read_text())["models"]
    return dataclasses.replace(
        CATALOG["1.3B"],
        sizes=((32, 48),),
        text_tokens=info["text_len"],
        max_tokens=32,  # 21 frames
        steps=STEPS,
    )


@pytest.fixture
def pipeline(models, spec):
    return AvatarPipeline(copy.deepcopy(models), spec, CPU)


@pytest.fixture(scope="module")
def uninterrupted(models, spec, request_of_three_chunks, tmp_path_factory):
    output = tmp_path_factory.mktemp("whole") / "avatar.mp4"
    pipeline = AvatarPipeline(copy.deepcopy(models), spec, CPU)
    return frames_of(list(pipeline.stream(request_of_three_chunks, output)))


def frames_of(events):
    return np.concatenate([event.frames for event in events if isinstance(event, ChunkDone)])


class FullMemory:
    """Lets a network's forward fail as a full device does, at some of its calls."""

    def __init__(self, network, calls):
        self.count, self.left = 0, set(calls)
        self.seen = []
        self._hook = network.register_forward_pre_hook(self._fail)

    def _fail(self, _network, _arguments):
        self.count += 1
        if self.count in self.left:
            large = torch.zeros(1000)
            self.seen.append(weakref.ref(large))
            raise torch.OutOfMemoryError("CUDA out of memory")


def kinds(events):
    short = {StepDone: "s", ChunkDone: "C", Notice: "!", Finished: "F"}
    return "".join(short.get(type(event), "") for event in events)


# Which call of which network fails, and how the events then come; one chunk takes two steps.
FAILURES = {
    "text encoder": (lambda models: models.text_encoder, [1], "!ssCssCssCF"),
    "first step of chunk 2": (lambda models: models.transformer, [3], "ssC!ssCssCF"),
    "second step of chunk 2": (lambda models: models.transformer, [4], "ssCs!ssCssCF"),
    "twice in chunk 2, in chunk 3": (
        lambda models: models.transformer.blocks[1],
        [4, 6, 10],
        "ssCs!s!ssCs!ssCF",
    ),
    "decoding of chunk 2": (lambda models: models.vae.post_quant_conv, [2], "ssCss!ssCssCF"),
    "encoding for chunk 2": (lambda models: models.vae.quant_conv, [2], "ssC!ssCssCF"),
    "speech": (lambda models: models.speech_encoder.feature_extractor, [1], "!ssCssCssCF"),
}


@pytest.mark.parametrize("failure", FAILURES.values(), ids=FAILURES.keys())
def test_a_job_goes_on_from_its_last_finished_chunk(
    pipeline, request_of_three_chunks, uninterrupted, tmp_path, failure
):
    network_of, calls, expected = failure
    full = FullMemory(network_of(pipeline.models), calls)
    events = list(pipeline.stream(request_of_three_chunks, tmp_path / "avatar.mp4"))
    assert kinds(events) == expected
    assert not [made for made in full.seen if made() is not None], "the failed work is let go"
    fractions = [event.fraction for event in events if isinstance(event, StepDone | ChunkDone)]
    assert max(fractions) == fractions[-1] == 1
    made = frames_of(events)
    if pipeline.placement.fp8:
        assert made.shape == uninterrupted.shape
    else:
        assert np.array_equal(made, uninterrupted)
    notices = [event.what for event in events if isinstance(event, Notice)]
    assert all("memory ran out" in what for what in notices)
    assert len(set(notices)) == len(notices)


def test_the_last_arrangement_ends_the_job_and_keeps_what_is_finished(
    pipeline, request_of_three_chunks, tmp_path
):
    FullMemory(pipeline.models.transformer, range(3, 100))
    output, events = tmp_path / "avatar.mp4", []
    with pytest.raises(FullMemoryError, match=r"too small for 1\.3B.* Close .* or use") as caught:
        events.extend(pipeline.stream(request_of_three_chunks, output))
    assert isinstance(caught.value.__cause__, torch.OutOfMemoryError)
    assert kinds(events).startswith("ssC!")
    assert kinds(events).count("C") == 1
    assert pipeline.placement.offloaded == PARTS
    assert TRANSFORMER in pipeline.placement.fp8
    assert len(iio.imread(output, plugin="FFMPEG")) == 20


@pytest.mark.parametrize(
    ("error", "goes_on"),
    [
        (RuntimeError("CUDA error: out of memory"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), True),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), False),
    ],
)
def test_only_full_memory_is_a_reason_to_go_on(
    pipeline, request_of_three_chunks, tmp_path, error, goes_on
):
    def fail(*_arguments):
        hook.remove()
        raise error

    hook = pipeline.models.transformer.register_forward_pre_hook(fail)
    work = pipeline.stream(request_of_three_chunks, tmp_path / "avatar.mp4")
    if goes_on:
        assert kinds(list(work)).startswith("!ssC")
    else:
        with pytest.raises(RuntimeError, match="illegal"):
            list(work)


class FullAtSecond:
    """A close-up whose second chunk finds no memory to be put back."""

    def __init__(self):
        self.calls = 0

    def place(self, video):
        self.calls += 1
        if self.calls == 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return video

    def place_preview(self, preview):
        return preview


def test_a_chunk_that_could_not_be_put_back_is_made_again(
    pipeline, request_of_three_chunks, uninterrupted, tmp_path, monkeypatch
):
    framed = pipeline_module._animated
    monkeypatch.setattr(
        pipeline_module, "_animated", lambda *given: (framed(*given)[0], FullAtSecond())
    )
    events = list(pipeline.stream(request_of_three_chunks, tmp_path / "avatar.mp4"))
    assert kinds(events) == "ssCss!ssCssCF"
    assert np.array_equal(frames_of(events), uninterrupted)


class FullWhilePlacing:
    """Lets placing the networks fail at its first calls, when they are half moved."""

    def __init__(self, monkeypatch, failures):
        self.calls, self._failures, self._place = 0, failures, pipeline_module.place
        monkeypatch.setattr(pipeline_module, "place", self)

    def __call__(self, models, placement):
        self.calls += 1
        if self.calls <= self._failures:
            raise torch.OutOfMemoryError("CUDA out of memory")
        self._place(models, placement)


def test_memory_that_runs_out_while_placing_for_a_job_steps_down(
    models, spec, request_of_three_chunks, tmp_path, monkeypatch
):
    tiled = dataclasses.replace(CPU, vae_tiled=True)
    pipeline = AvatarPipeline(copy.deepcopy(models), spec, tiled)
    placing = FullWhilePlacing(monkeypatch, failures=1)
    events = list(pipeline.stream(request_of_three_chunks, tmp_path / "avatar.mp4"))
    assert kinds(events) == "!" + "ssC" * CHUNKS + "F"
    assert placing.calls == 2


def test_networks_that_were_not_placed_are_placed_for_the_next_job(
    pipeline, request_of_three_chunks, tmp_path, monkeypatch
):
    FullMemory(pipeline.models.transformer, [1])
    placing = FullWhilePlacing(monkeypatch, failures=100)
    with pytest.raises(FullMemoryError):
        list(pipeline.stream(request_of_three_chunks, tmp_path / "avatar.mp4"))
    before, placing._failures = placing.calls, 0
    events = list(pipeline.stream(request_of_three_chunks, tmp_path / "again.mp4"))
    assert kinds(events).endswith("ssC" * CHUNKS + "F")
    assert placing.calls == before + 1


def test_what_was_learnt_is_kept_for_the_next_job(
    pipeline, request_of_three_chunks, uninterrupted, tmp_path
):
    FullMemory(pipeline.models.transformer, [3, 4])
    list(pipeline.stream(request_of_three_chunks, tmp_path / "avatar.mp4"))
    placement = pipeline.placement
    assert placement.offloaded == PARTS
    events = list(pipeline.stream(request_of_three_chunks, tmp_path / "again.mp4"))
    assert kinds(events) == "ssC" * CHUNKS + "F"
    assert pipeline.placement == placement
    assert np.array_equal(frames_of(events), uninterrupted)


def test_a_prompt_that_was_read_needs_its_encoder_no_more(
    pipeline, request_of_three_chunks, tmp_path
):
    calls = FullMemory(pipeline.models.text_encoder, [])
    for _ in range(2):
        list(pipeline.stream(request_of_three_chunks, tmp_path / "avatar.mp4"))
    assert calls.count == 2, "the prompt and the negative prompt, once each"


def test_a_job_that_never_fits_is_refused_before_any_work(models, spec, request_of_three_chunks):
    pipeline = AvatarPipeline(copy.deepcopy(models), spec, CPU, budget=GIGABYTE)
    assert pipeline.check(request_of_three_chunks).chunks
    endless = dataclasses.replace(request_of_three_chunks, max_tokens=1_000_000)
    with pytest.raises(InputError, match="lower max_tokens") as caught:
        pipeline.check(endless)
    assert caught.value.field == "max_tokens"


def test_a_finished_chunk_is_let_go_before_the_next_is_made(
    pipeline, request_of_three_chunks, tmp_path
):
    held = []

    def look(*_arguments):
        held.extend(each for each in gc.get_objects() if type(each) is ChunkVideo)

    pipeline.models.transformer.register_forward_pre_hook(look)
    list(pipeline.stream(request_of_three_chunks, tmp_path / "avatar.mp4"))
    assert not held


def test_the_command_line_tells_that_memory_ran_out(
    pipeline, request_of_three_chunks, tmp_path, monkeypatch, capsys
):
    FullMemory(pipeline.models.transformer, [3])
    monkeypatch.setattr(AvatarPipeline, "from_pretrained", lambda *_, **__: pipeline)
    files = [str(request_of_three_chunks.image), str(request_of_three_chunks.audio)]
    output = tmp_path / "avatar.mp4"
    assert cli.main(["generate", *files, "--guidance", "1", "--output", str(output)]) == 0
    told = capsys.readouterr().err.splitlines()
    (notice,) = (line for line in told if line.startswith("Memory ran out"))
    assert "streamed from host memory" in notice
    assert told.index(notice) < told.index(next(line for line in told if "Part 2" in line))


def fail_to_place(monkeypatch, times):
    """Somebody else takes the device's memory while the networks come."""
    real, calls = pipeline_module.place, []

    def place(models, placement):
        calls.append(placement)
        if len(calls) <= times:
            raise torch.OutOfMemoryError("CUDA out of memory")
        real(models, placement)

    monkeypatch.setattr(pipeline_module, "place", place)
    return calls


def test_memory_that_runs_out_while_loading_steps_down(monkeypatch, caplog):
    calls = fail_to_place(monkeypatch, 2)
    pipeline = AvatarPipeline.from_pretrained("nano", device="cpu")
    assert len(calls) == 3
    assert pipeline.placement == calls[2] != calls[0]
    assert caplog.text.count("memory ran out; loading nano with") == 2


def test_memory_that_runs_out_in_every_arrangement_is_a_sentence(monkeypatch, capsys):
    fail_to_place(monkeypatch, 100)
    files = ["examples/presenter-1.png", "examples/speech-1.wav"]
    assert cli.main(["generate", *(str(ROOT / file) for file in files)]) != 0
    said = capsys.readouterr().err.splitlines()[-1]
    assert "too small to load nano with" in said
    assert "Close what else runs" in said

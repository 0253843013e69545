"""Training of the bundled model: shortcuts equal the plain way, and it goes on where it left."""

import itertools
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from omniavatar.errors import InputError
from omniavatar.models.audio_encoder import encode_batch, encode_speech
from omniavatar.nano import train_vae, training
from omniavatar.nano.architecture import (
    AUDIO_HIDDEN,
    CHUNK_FRAMES,
    SIZE,
    build_speech_encoder,
    build_tokenizer,
    build_transformer,
    build_vae,
)
from omniavatar.nano.attunement import LAYER as PACK
from omniavatar.nano.audio_code import IdealCode, code_of, mouths_around
from omniavatar.nano.banks import read_speech, write_speech
from omniavatar.nano.changes import FIRST as FIRST_CHANGES
from omniavatar.nano.changes import FURTHER, changes_file, read_changes, write_changes
from omniavatar.nano.clips import SpeechWindows, sample_clips, sample_speech
from omniavatar.nano.course import FIRST, Shape
from omniavatar.nano.emphasis import Emphasis, emphasise, stronger
from omniavatar.nano.export import export
from omniavatar.nano.generator import Generator, given_latents
from omniavatar.nano.linear_code import LinearCode, to_blocks
from omniavatar.nano.prompts import VOCABULARY
from omniavatar.nano.regions import inside, to_latent_cells
from omniavatar.nano.speech import SpeechBank, speech_bank
from omniavatar.nano.train_speech_encoder import (
    SpeechReader,
    correlation,
    draw_silence,
    end_in_silence,
    fit_heads,
    normalise,
    play_in,
    train_speech_encoder,
)
from omniavatar.nano.train_transformer import velocity_loss
from omniavatar.nano.train_vae import pixel_weights, prepare_weights
from omniavatar.nano.training import (
    Recipe,
    Trainer,
    read_average,
    read_records,
    train,
    write_records,
)
from omniavatar.nano.windows import (
    KNOWN_LATENTS,
    LEAD_FRAMES,
    Latents,
    encode_takes,
    take_clips,
    tokenize,
)
from omniavatar.stages.conditions import encode_prompt, without_padding


@pytest.fixture(scope="module")
def bank() -> SpeechBank:
    return speech_bank(2, 8.0, seed=3)


def test_a_batch_of_speech_is_encoded_as_each_clip_alone() -> None:
    torch.manual_seed(0)
    encoder = build_speech_encoder().eval().requires_grad_(False)
    waveform = torch.randn(2, 20 * 640)
    together = encode_batch(encoder, waveform, frames=20)
    for alone, found in zip(waveform, together, strict=True):
        wanted = encode_speech(encoder, alone, frames=20)
        assert (found - wanted).abs().max() <= 1e-5 * wanted.abs().max()


@torch.no_grad()
def test_few_rows_of_text_equal_all_512() -> None:
    torch.manual_seed(0)
    network = Generator().eval()
    nn.init.normal_(network.transformer.proj_out.weight)
    tokenizer = build_tokenizer(VOCABULARY)
    hidden, audio, sigma = torch.randn(1, 33, 2, 4, 4), torch.randn(1, 5, 768), torch.tensor([0.5])
    for prompt in ("A woman with long hair is talking, and nods.", ""):
        few = network.encode_prompt(tokenize(tokenizer, (prompt,)))
        found = network(hidden, sigma, few, audio)
        whole = encode_prompt(network.text_encoder, tokenizer, prompt, tokens=512)
        wanted = network(hidden, sigma, whole, audio)
        rows, left_away = without_padding(whole)
        assert rows.shape[1] < 48
        assert rows.shape[1] + left_away == 512
        for short in (found, network(hidden, sigma, rows, audio)):
            assert (short - wanted).abs().max() <= 1e-5 * wanted.abs().max()


def test_the_tokenizer_drops_punctuation_and_case(tmp_path: Path) -> None:
    build_tokenizer(VOCABULARY).save_pretrained(tmp_path)
    tokenizer = type(build_tokenizer(VOCABULARY)).from_pretrained(tmp_path)
    assert tokenizer("A Woman, smiling!")["input_ids"] == tokenizer("a woman smiling")["input_ids"]
    assert tokenizer("")["input_ids"] == [1]
    assert tokenizer("zyzzyva")["input_ids"] == [2, 1]


def test_windows_hold_what_the_pipeline_would_give(bank: SpeechBank) -> None:
    torch.manual_seed(0)
    clips = sample_clips(
        bank,
        count=3,
        frames=CHUNK_FRAMES + LEAD_FRAMES,
        height=SIZE,
        width=SIZE,
        generator=torch.Generator().manual_seed(1),
        device="cpu",
        continuation_share=0.5,
    )
    windows = encode_takes(take_clips(clips, build_tokenizer(VOCABULARY)), Latents(build_vae()))
    windows = windows.hear(build_speech_encoder().eval())
    assert windows.latents.shape == (3, 16, (CHUNK_FRAMES + 3) // 4, SIZE // 8, SIZE // 8)
    assert set(windows.known.tolist()) == {1, KNOWN_LATENTS}
    for number, is_continuation in enumerate(clips.is_continuation.tolist()):
        first = windows.audio[number, 0]
        assert bool(first.any()) == is_continuation  # the portrait's own frame hears nothing
        if not is_continuation:
            gap = windows.latents[number, :, 0].float() - windows.reference[number].float()
            assert gap.abs().max() < 0.05
    kept = given_latents(windows, noise=0.0)[:, :, :KNOWN_LATENTS]
    later = windows.known > 1
    assert torch.equal(kept[later], windows.prefix[later].float())

    loss = velocity_loss(Generator(), windows)
    assert loss.isfinite()


def test_the_linear_code_gives_back_what_it_holds() -> None:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.rand(4, 3, 5, 2, 2, generator=generator)  # in squares of 8 x 8, each even
    video = pixels.repeat_interleave(8, dim=3).repeat_interleave(8, dim=4)
    blocks = to_blocks(video).flatten(0, 3)
    code = LinearCode.fit(blocks, torch.ones(len(blocks)))
    latents = code.encode(video)
    assert latents.shape == (4, 16, 2, 2, 2)
    # Twelve colours in time need no more than the sixteen components there are.
    assert torch.allclose(code.decode(latents), video, atol=1e-2)


def test_the_vae_starts_by_passing_images_on_through_time() -> None:
    vae = build_vae()
    prepare_weights(vae)
    conv = vae.decoder.up_blocks[0].upsamplers[0].time_conv
    hidden = torch.randn(1, conv.in_channels, 3, 2, 2)
    assert torch.allclose(conv(hidden)[:, : conv.in_channels], hidden, atol=1e-6)


def test_mouth_and_eyes_weigh_more() -> None:
    mouth, eyes = torch.tensor([[[2, 2, 4, 4]]]), torch.tensor([[[0, 0, 8, 1]]])
    weights = pixel_weights(mouth, eyes, 8)[0, 0, 0]
    assert weights[3, 3] > weights[0, 5] > weights[6, 6] == 1


def test_latent_cells_cover_four_frames_after_the_first() -> None:
    boxes = torch.zeros(1, 5, 4)
    boxes[0, 4] = torch.tensor([9, 0, 10, 1])
    cells = to_latent_cells(inside(boxes, height=16, width=16))
    assert cells.tolist() == [[[[False] * 2] * 2, [[False, True], [False] * 2]]]


def test_clips_cut_short_end_in_zeros() -> None:
    torch.manual_seed(0)
    said = torch.randn(8, 10 * 640) + 3
    silent = draw_silence(said, share=1.0)
    waveform = end_in_silence(said, silent)
    rows = waveform.unflatten(1, (10, 640))
    assert silent.any(1).all()
    assert not rows[silent].any()
    kept = waveform[0][waveform[0] != 0]
    assert abs(kept.mean()) < 1e-3
    assert abs(kept.std() - 1) < 1e-2


def test_correlation_of_a_still_track_is_zero() -> None:
    moving = torch.linspace(0, 1, 9)
    assert correlation(moving, 5 - 2 * moving) == pytest.approx(-1)
    assert correlation(moving, torch.ones(9)) == 0


def test_speech_survives_the_disk(bank: SpeechBank, tmp_path: Path) -> None:
    write_speech(bank, tmp_path, held_out=False)
    again = read_speech(tmp_path, held_out=False)
    assert (again.samples - bank.samples).abs().max() < 1e-4
    assert torch.equal(again.classes, bank.classes)
    with pytest.raises(FileNotFoundError, match="nano speech"):
        read_speech(tmp_path, held_out=True)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every look at the clock takes a twentieth of a second."""
    ticks = itertools.count()
    monkeypatch.setattr(training.time, "monotonic", lambda: next(ticks) / 20)


def _trainer(folder: Path, *, deadline: float | None = None, **settings: Any) -> Trainer[nn.Linear]:
    torch.manual_seed(0)
    recipe = Recipe(learning_rate=0.1, decay=0.5)
    network = nn.Linear(3, 1)
    return Trainer(
        "line", network, recipe, folder=folder, seconds=20, deadline=deadline, settings=settings
    )


@pytest.mark.usefixtures("clock")
def test_training_goes_on_where_it_left(tmp_path: Path) -> None:
    x = torch.randn(32, 3, generator=torch.Generator().manual_seed(1))
    y = x @ torch.tensor([1.0, -2.0, 3.0])

    def fit(trainer: Trainer[nn.Linear]) -> None:
        train(trainer, lambda: (trainer.network(x)[:, 0] - y).square().mean())

    first = _trainer(tmp_path, deadline=8)
    fit(first)
    assert 0 < first.progress < 1
    second = _trainer(tmp_path)
    assert second.record.steps == first.record.steps
    assert torch.equal(second.network.weight, first.network.weight)
    fit(second)
    assert second.progress == 1
    assert second.record.steps > first.record.steps
    result = read_average(tmp_path / "line.pt", nn.Linear(3, 1))
    assert torch.allclose(result.weight, torch.tensor([[1.0, -2.0, 3.0]]), atol=0.2)
    assert (tmp_path / "line.json").exists()


def test_a_checkpoint_of_other_settings_is_refused(tmp_path: Path) -> None:
    _trainer(tmp_path, rank=4, weights=(1.0, 2.0), clips=100).save()
    again = _trainer(tmp_path, rank=4, weights=(1.0, 2.0), clips=200, new="setting")
    assert again.record.settings["clips"] == 100  # as it began
    with pytest.raises(InputError, match=r"line\.pt was made with rank 4, and 8 is asked for"):
        _trainer(tmp_path, rank=8)


@pytest.mark.usefixtures("clock")
def test_a_checkpoint_is_as_old_as_is_said_whenever_losses_are_told(tmp_path: Path) -> None:
    trainer = _trainer(tmp_path)
    for _ in range(30):
        trainer.step(trainer.network.weight.square().sum(), log_every=1000, save_every_seconds=1)
    assert 10 < _trainer(tmp_path).record.steps <= 30


def test_what_is_kept_for_a_run_comes_back_with_its_checkpoint(tmp_path: Path) -> None:
    first = _trainer(tmp_path)
    first.kept = {"target": torch.arange(3.0)}
    first.save()
    assert torch.equal(_trainer(tmp_path).kept["target"], torch.arange(3.0))


def test_a_vae_goes_on_towards_the_code_that_it_began_with(
    bank: SpeechBank, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = torch.Generator().manual_seed(12)
    video = torch.randint(256, (2, 17, 3, SIZE, SIZE), generator=generator, dtype=torch.uint8)
    frames = train_vae.Frames(video, torch.zeros(2, 17, 4), torch.zeros(2, 17, 4))
    monkeypatch.setattr(train_vae, "draw_bank", lambda *_, **__: frames)
    monkeypatch.setattr(train_vae, "score", lambda *_: {})
    monkeypatch.setattr(train_vae, "_measure_latents", lambda *_, **__: None)
    course = replace(FIRST, shapes=(Shape(32, 32, 17),), decoder_width=8)
    codes = []
    for _ in range(2):
        train_vae.train_vae(
            bank,
            bank,
            folder=tmp_path,
            seconds=1,
            deadline=0,
            clips=2,
            batch=1,
            course=course,
            device=torch.device("cpu"),
        )
        codes.append(torch.load(tmp_path / "vae.pt", weights_only=True)["kept"])
        frames.video.copy_(255 - frames.video.flip(1))  # other clips
    assert codes[0].keys() == {"mean", "components"}
    assert all(torch.equal(codes[0][name], codes[1][name]) for name in codes[0])


def test_the_learning_rate_rises_and_falls() -> None:
    recipe = Recipe(learning_rate=1.0, warm_up=0.1, final_share=0.05)
    rates = [recipe.rate(progress / 100) for progress in range(101)]
    assert max(rates) == pytest.approx(1)
    assert rates[1] < rates[9]
    assert rates[-1] == pytest.approx(0.05)


def test_a_part_that_was_not_trained_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nano vae"):
        read_average(tmp_path / "vae.pt", nn.Linear(1, 1))
    with pytest.raises(FileNotFoundError, match="nano vae"):
        train_vae.read_vae(tmp_path)
    with pytest.raises(FileNotFoundError, match="nano lips --further"):
        read_average(tmp_path / "lips-further.pt", nn.Linear(1, 1))


# ---- the speech encoder, trained further


def test_speech_that_is_played_faster_keeps_its_mouth(bank: SpeechBank) -> None:
    windows = sample_speech(
        bank, count=3, rows=100, generator=torch.Generator().manual_seed(2), device="cpu"
    )
    faster = play_in(windows, 80)
    assert faster.waveform.shape == (3, 80 * 640)
    assert faster.mouth.shape == (3, 80, 3)
    rows = ((torch.arange(80) + 0.5) * 100 / 80).long()
    assert torch.equal(faster.classes, windows.classes[:, rows])
    assert (correlation(faster.mouth[..., 0], windows.mouth[:, rows, 0]) > 0.97).all()

    def loudness(of: SpeechWindows) -> Tensor:
        return of.waveform.unflatten(1, (-1, 640)).square().mean(2).sqrt()

    played = loudness(windows)[:, rows]
    assert (correlation(loudness(faster), played) > 0.8).all()
    assert play_in(windows, 100) is windows


def test_a_mouth_has_the_code_that_came_with_it(bank: SpeechBank) -> None:
    torch.manual_seed(3)
    generator = torch.Generator().manual_seed(4)
    transformer, encoder = build_transformer().eval(), build_speech_encoder().eval()
    windows = sample_speech(bank, count=8, rows=65, generator=generator, device="cpu")
    windows = replace(windows, waveform=normalise(windows.waveform))
    ideal = IdealCode.fit(transformer, encoder, windows, generator=generator, steps=200)
    with torch.no_grad():
        features = encode_batch(encoder, windows.waveform, frames=65)
        code = code_of(transformer.audio_proj, features)
    assert code.shape == (8, 14, AUDIO_HIDDEN)  # 17 latent frames, without the first two and last
    own = ideal.loss(code, windows.mouth).item()
    assert own < 0.7 * ideal.loss(code, windows.mouth.roll(1, dims=0)).item()
    exact = ideal.network(mouths_around(windows.mouth))
    assert ideal.loss(exact, windows.mouth) == 0
    # What blocks do not take does not count.
    ideal.taken.zero_()
    assert ideal.loss(code, windows.mouth) == 0


def test_rows_of_the_mouth_stand_where_the_code_hears_them() -> None:
    mouth = torch.arange(18.0)[None, :, None].expand(1, 18, 3)
    heard = IdealCode.mouth_of(mouth)[0, :, 0]
    # 17 rows are five latent frames: row 0, rows 1 to 4, and so on; the third and fourth have
    # neighbours that stand for four rows.
    assert heard.tolist() == [5, 6, 7, 8, 9, 10, 11, 12]
    around = mouths_around(mouth)[0, 0].unflatten(0, (12, 3))[:, 0]
    assert around.tolist() == list(range(1, 13))


def test_an_encoder_and_its_pack_are_exported_into_the_transformer(
    bank: SpeechBank, tmp_path: Path
) -> None:
    weights, runs = tmp_path / "weights", tmp_path / "runs"
    torch.manual_seed(9)
    build_transformer().half().save_pretrained(weights / "transformer")
    build_speech_encoder().half().save_pretrained(weights / "speech_encoder")
    before = load_file(weights / "transformer" / "diffusion_pytorch_model.safetensors")
    # Changes of the pack that was there before are for that one.
    changes = {
        layer: (torch.ones(1, 8), torch.ones(8, 1)) for layer in (PACK, "blocks.0.ffn.net.2")
    }
    write_changes(changes, weights, FIRST_CHANGES)
    write_changes({PACK: changes[PACK]}, weights, FURTHER)
    write_records(weights, {"emphasis": {}, "attunement": {}})
    train_speech_encoder(
        bank,
        bank,
        folder=runs,
        seconds=3,
        deadline=math.inf,
        batch=2,
        course=FIRST,
        from_weights=weights,
        ideal_steps=20,
        device=torch.device("cpu"),
    )
    export(runs, weights, speech=bank, only=("speech-encoder",))
    after = load_file(weights / "transformer" / "diffusion_pytorch_model.safetensors")
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert before.keys() == after.keys()
    assert "audio_proj.proj.weight" in changed
    assert all(name.startswith("audio_proj.") for name in changed)
    assert read_changes(weights, FIRST_CHANGES).keys() == changes.keys() - {PACK}
    assert not changes_file(weights, FURTHER).exists()
    assert read_records(weights).keys() == {"emphasis", "speech-encoder"}
    probe = json.loads((weights / "training.json").read_text())["speech-encoder"]["probes"][-1]
    assert {"opening", "code opening"} <= probe.keys()


def test_what_the_code_says_of_the_mouth_is_emphasised() -> None:
    generator = torch.Generator().manual_seed(10)
    mouths = torch.rand(500, 12, generator=generator)
    writing = torch.randn(12, AUDIO_HIDDEN, generator=generator)
    centre = torch.randn(AUDIO_HIDDEN, generator=generator)
    code = centre + (mouths - mouths.mean(0)) @ writing
    projections = {
        "0.weight": torch.randn(5, AUDIO_HIDDEN, generator=generator),
        "0.bias": torch.randn(5, generator=generator),
    }

    def taken(said: Tensor, by: dict[str, Tensor]) -> Tensor:
        return said @ by["0.weight"].T + by["0.bias"]

    emphasis = Emphasis(mean=(1.2, 1.0, 1.5), change=(1.5, 2.0, 1.0))
    found = taken(code, stronger(projections, code, mouths, emphasis))
    each = (mouths - mouths.mean(0)).unflatten(1, (4, 3))
    mean = each.mean(1, keepdim=True)
    more = mean * torch.tensor(emphasis.mean) + (each - mean) * torch.tensor(emphasis.change)
    wanted = taken(centre + more.flatten(1) @ writing, projections)
    assert torch.allclose(found, wanted, atol=1e-3)


def test_a_transformer_is_emphasised_once(bank: SpeechBank, tmp_path: Path) -> None:
    torch.manual_seed(11)
    build_transformer().half().save_pretrained(tmp_path / "transformer")
    build_speech_encoder().half().save_pretrained(tmp_path / "speech_encoder")
    before = load_file(tmp_path / "transformer" / "diffusion_pytorch_model.safetensors")
    emphasise(tmp_path, bank, windows=8)
    after = load_file(tmp_path / "transformer" / "diffusion_pytorch_model.safetensors")
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {name for name in before if name.startswith("audio_cond_projs.")}
    with pytest.raises(InputError, match="already"):
        emphasise(tmp_path, bank, windows=8)
    # One that is exported after it is another one.
    torch.save({"average": Generator().state_dict()}, tmp_path / "fold.pt")
    (tmp_path / "fold.json").write_text("{}")
    export(tmp_path, tmp_path, speech=bank, only=("fold",))
    emphasise(tmp_path, bank, windows=8)


def test_heads_are_fitted_to_an_exported_encoder(bank: SpeechBank) -> None:
    torch.manual_seed(6)
    reader = SpeechReader(build_speech_encoder())
    windows = sample_speech(
        bank, count=4, rows=125, generator=torch.Generator().manual_seed(7), device="cpu"
    )
    wanted = (windows.mouth - reader.mouth_mean) / reader.mouth_std

    def error() -> float:
        with torch.no_grad():
            tracks, _ = reader(normalise(windows.waveform), 125)
        return (tracks - wanted).square().mean().item()

    first = error()
    fit_heads(reader, bank, generator=torch.Generator().manual_seed(8), clips=8)
    assert error() < 0.7 * first

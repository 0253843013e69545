"""Low-rank changes of the bundled transformer: trained on what is seen, kept small, merged."""

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from einops import rearrange
from safetensors.torch import load_file
from torch import Tensor, nn

from omniavatar.nano import train_lips, training
from omniavatar.nano.architecture import build_tokenizer, weights_folder
from omniavatar.nano.changes import (
    FIRST,
    FURTHER,
    PROMPTS,
    changes_file,
    read_changes,
    write_changes,
)
from omniavatar.nano.clips import sample_clips
from omniavatar.nano.course import Course, Shape
from omniavatar.nano.export import export
from omniavatar.nano.face_view import cut_out, face_view, faces_of
from omniavatar.nano.flite import _phonemes
from omniavatar.nano.generator import Generator
from omniavatar.nano.observer import load_observer
from omniavatar.nano.prompts import VOCABULARY
from omniavatar.nano.reader import SIDE, load_reader
from omniavatar.nano.speech import SpeechBank, mouth_track
from omniavatar.nano.train_lips import (
    ADAPTER,
    FURTHER_PART,
    LORA,
    PART,
    Experts,
    add_changes,
    anchor_loss,
    behaviour_loss,
    changes_of,
    colour_loss,
    decode_segment,
    detail_loss,
    lips_loss,
    mouth_loss,
    teach,
)
from omniavatar.nano.training import Record, Trainer
from omniavatar.nano.windows import (
    LEAD_FRAMES,
    MOUTH_WEIGHT,
    Latents,
    Windows,
    encode_takes,
    take_clips,
)
from omniavatar.weights.catalog import CATALOG
from omniavatar.weights.load import load_models

CPU = torch.device("cpu")
SHORT = Shape(64, 64, 9)
TRANSFORMER = "transformer/diffusion_pytorch_model.safetensors"


@pytest.fixture
def network() -> Generator:
    return Generator.load(weights_folder())


def some_matrices() -> dict[str, tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return {
        f"blocks.{number}.ffn.net.2": (
            scale * torch.randn(3, 1024, generator=generator),
            torch.randn(256, 3, generator=generator),
        )
        for number, scale in enumerate((1e-4, 1.0, 300.0))
    }


def test_changes_survive_eight_bits(tmp_path: Path) -> None:
    matrices = some_matrices()
    assert read_changes(tmp_path) == {}
    write_changes(matrices, tmp_path)
    found = read_changes(tmp_path)
    assert found.keys() == matrices.keys()
    for layer, (down, up) in matrices.items():
        wanted, kept = up @ down, found[layer][1] @ found[layer][0]
        assert (kept - wanted).norm() < 0.1 * wanted.norm()
    assert changes_file(tmp_path).stat().st_size < 1.5 * 3 * 3 * (1024 + 256)


def test_the_bundled_changes_are_merged_when_it_is_loaded(tmp_path: Path) -> None:
    spec = CATALOG["nano"]
    alone = load_file(weights_folder() / TRANSFORMER)
    changes = [read_changes(weights_folder(), name) for name in (FIRST, FURTHER, PROMPTS)]
    assert [len(each) for each in changes] == [67, 68, 34]
    found = load_models(spec, device=CPU, dtype=torch.float32).transformer.state_dict()
    wanted = {name: tensor.float() for name, tensor in alone.items()}
    for each in changes:
        for layer, (down, up) in each.items():
            wanted[f"{layer}.weight"] = wanted[f"{layer}.weight"] + up @ down
    for name, tensor in wanted.items():
        assert torch.allclose(found[name], tensor, atol=1e-5), name
    others = alone.keys() - {f"{layer}.weight" for each in changes for layer in each}
    assert all(torch.equal(found[name], alone[name].float()) for name in others)

    shutil.copytree(weights_folder(), tmp_path / "weights")
    shutil.rmtree(changes_file(tmp_path / "weights").parent)
    bare = load_models(spec, folder=tmp_path / "weights", device=CPU, dtype=torch.float32)
    state = bare.transformer.state_dict()
    assert all(torch.equal(state[name], alone[name].float()) for name in alone)


def test_changes_that_are_begun_with_nothing_change_nothing(network: Generator) -> None:
    before = network.transformer.state_dict()["blocks.0.ffn.net.2.weight"].clone()
    add_changes(network, LORA, ADAPTER)
    found = changes_of(network.state_dict(), ADAPTER)
    assert found.keys() == {*read_changes(weights_folder()), "audio_proj.proj"}
    assert all(not up.any() for _, up in found.values())
    trained = [name for name, p in network.named_parameters() if p.requires_grad]
    assert all("lora_" in name for name in trained)
    kept = network.transformer.state_dict()["blocks.0.ffn.net.2.base_layer.weight"]
    assert torch.equal(kept, before)


def test_what_is_trained_further_is_exported_beside_what_was_first(
    network: Generator, nano_bank: SpeechBank, tmp_path: Path
) -> None:
    write_changes(some_matrices(), tmp_path)
    first = read_changes(tmp_path)
    add_changes(network, LORA, ADAPTER)
    for name, parameter in network.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    trained = changes_of(network.state_dict(), ADAPTER)
    for part in (PART, FURTHER_PART):
        torch.save({"average": network.state_dict()}, tmp_path / f"{part}.pt")
        (tmp_path / f"{part}.json").write_text("{}")
    (tmp_path / "training.json").write_text('{"lips": {}, "attunement": {}}')
    export(tmp_path, tmp_path, speech=nano_bank, only=(FURTHER_PART,))
    again = read_changes(tmp_path, FURTHER)
    assert again.keys() == trained.keys()
    for layer, (down, up) in trained.items():
        wanted = up @ down
        assert (again[layer][1] @ again[layer][0] - wanted).norm() < 0.1 * wanted.norm()
    assert read_changes(tmp_path).keys() == first.keys()
    assert all(
        map(torch.equal, first["blocks.1.ffn.net.2"], read_changes(tmp_path)["blocks.1.ffn.net.2"])
    )

    assert json.loads((tmp_path / "training.json").read_text()).keys() == {"lips", "lips, further"}

    # Changes over others that are not there any more would spoil the next ones.
    export(tmp_path, tmp_path, speech=nano_bank, only=(PART,))
    assert read_changes(tmp_path).keys() == trained.keys()
    assert read_changes(tmp_path, FURTHER) == {}
    assert json.loads((tmp_path / "training.json").read_text()).keys() == {"lips"}
    torch.save({"average": Generator().state_dict()}, tmp_path / "fold.pt")
    (tmp_path / "fold.json").write_text("{}")
    export(tmp_path, tmp_path, speech=nano_bank, only=("fold",))
    assert read_changes(tmp_path) == {}


def test_first_changes_are_merged_before_others_are_trained(
    network: Generator,
    nano_bank: SpeechBank,
    nano_latents: Latents,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class NoProbe:
        def __init__(self, *_: object, **__: object) -> None: ...

        def score(self, *_: object, **__: object) -> dict[str, float]:
            return {"opening": 0.5}

    monkeypatch.setattr(train_lips, "Probe", NoProbe)
    # So large a step that what was trained is not lost in eight bits.
    recipe = replace(train_lips.RECIPE, learning_rate=0.1, final_share=1.0)
    monkeypatch.setattr(train_lips, "RECIPE", recipe)
    runs, weights = tmp_path / "runs", tmp_path / "weights"
    shutil.copytree(weights_folder(), weights)
    runs.mkdir()
    torch.save({"average": load_reader(weights / "reader").state_dict()}, runs / "expert.pt")
    clips = sample_clips(
        nano_bank,
        count=2,
        frames=SHORT.frames + LEAD_FRAMES,
        height=SHORT.height,
        width=SHORT.width,
        generator=torch.Generator().manual_seed(9),
        device=CPU,
        continuation_share=0.0,
        context_rows=10,
    )
    takes = take_clips(clips, build_tokenizer(VOCABULARY))
    encode_takes(takes, nano_latents).write(runs / f"windows-{SHORT.name}-0.pt")
    bare = {name: tensor.clone() for name, tensor in network.transformer.state_dict().items()}
    for part in (PART, FURTHER_PART):
        further = part == FURTHER_PART
        first = read_changes(weights) if further else {}
        train_lips.train_lips(
            nano_bank,
            weights,
            folder=runs,
            seconds=1e-3,  # one step
            deadline=math.inf,
            course=Course(name="short", look="drawn", shapes=(SHORT,), tokens=SHORT.tokens),
            observer=weights / "observer",
            further=further,
            device=CPU,
        )
        state = torch.load(runs / f"{part}.pt", weights_only=True)["network"]
        for layer in changes_of(state, ADAPTER):
            base = state[f"transformer.{layer}.base_layer.weight"]
            added = base - bare[f"{layer}.weight"]
            wanted = first[layer][1] @ first[layer][0] if further else torch.zeros(1)
            assert torch.allclose(added, wanted, atol=1e-6), layer
        export(runs, weights, speech=nano_bank, only=(part,))
    assert first["blocks.0.attn1.to_q"][1].any()
    kept = read_changes(weights)["blocks.0.attn1.to_q"]
    assert all(map(torch.equal, first["blocks.0.attn1.to_q"], kept))
    assert read_changes(weights, FURTHER).keys() == first.keys()
    records = json.loads((weights / "training.json").read_text())
    assert [records[name]["settings"]["further"] for name in ("lips", "lips, further")] == [0, 1]
    assert [records[name]["steps"] for name in ("lips", "lips, further")] == [1, 1]


def test_what_is_probed_before_training_takes_none_of_its_time(
    nano_windows: Windows, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr(training.time, "monotonic", lambda: now[0])
    network = nn.Linear(1, 1)

    class SlowProbe:
        def score(self, *_: object, **__: object) -> dict[str, float]:
            now[0] += 50
            return {"opening": 0.5}

    def loss(_: Windows) -> Tensor:
        now[0] += 6
        return network.weight.square().sum()

    def begin() -> Record:
        trainer = Trainer(PART, network, train_lips.RECIPE, folder=tmp_path, seconds=30)
        teach(
            trainer,
            loss,
            banks={SHORT: nano_windows},
            course=Course(name="short", look="drawn", shapes=(SHORT,)),
            batch=lambda _: 1,
            probe=SlowProbe(),
            seconds=30,
            seed=1,
        )
        return trainer.record

    record = begin()
    assert record.preparation_seconds == 50
    assert [(probe["seconds"], probe["step"]) for probe in record.probes[:2]] == [(0, 0), (62, 2)]
    # What goes on was probed when it was left.
    assert len(begin().probes) == len(record.probes) + 1


def test_the_loss_teaches_the_changes_alone(
    network: Generator, nano_windows: Windows, nano_latents: Latents
) -> None:
    before = Generator.load(weights_folder()).eval().requires_grad_(False)
    add_changes(network, LORA, ADAPTER)
    weights = weights_folder()
    experts = Experts(
        nano_latents, load_reader(weights / "reader"), load_observer(weights / "observer")
    )
    torch.manual_seed(5)
    lips_loss(network, before, nano_windows, experts).backward()
    taught = {name for name, p in network.named_parameters() if p.grad is not None and p.grad.any()}
    # While all is zero, only the second matrix of each pair feels anything.
    layers = {*read_changes(weights), "audio_proj.proj"}
    assert taught == {f"transformer.{layer}.lora_B.lips.weight" for layer in layers}


def test_a_segment_is_what_is_decoded_of_the_whole(
    nano_windows: Windows, nano_latents: Latents
) -> None:
    made = nano_windows.latents
    whole = rearrange(nano_latents.decode(made), "b c t h w -> b t c h w")
    starts = set()
    for seed in range(6):
        torch.manual_seed(seed)
        frames, at = decode_segment(made, nano_latents)
        starts.add(int(at[0]))
        # What was forgotten before the segment is forgotten after its lead, nearly.
        assert (frames - whole[:, at]).abs().mean() < 0.01
        assert frames.shape[1] == len(at) == 28
    assert len(starts) > 1


def test_heads_are_cut_out_with_a_gradient_as_without(nano_bank: SpeechBank) -> None:
    clips = sample_clips(
        nano_bank,
        count=2,
        frames=2,
        height=64,
        width=96,
        generator=torch.Generator().manual_seed(6),
        device=CPU,
        context_rows=10,
    )
    frames = clips.frames.float().requires_grad_()
    found = cut_out(frames, faces_of(clips.presenters))
    found.sum().backward()
    assert found.shape == (2, 2, 3, SIDE, SIDE)
    assert (found - face_view(clips.frames, clips.presenters)).abs().max() <= 0.5
    assert frames.grad is not None
    assert frames.grad.any()


def test_what_is_seen_right_costs_nothing() -> None:
    generator = torch.Generator().manual_seed(7)
    mouth, seen = (torch.rand(2, 28, n, generator=generator) for n in (3, 7))
    frames = torch.rand(2, 28, 3, 32, 32, generator=generator) * 2 - 1
    heads = torch.tensor([8.0, 8.0, 24.0, 24.0]).expand(2, 28, -1)
    weights = torch.ones(2, 8, 4, 4)
    weights[:, :, 1, 1], weights[:, :, 2, 2] = MOUTH_WEIGHT, 2.5
    made = torch.randn(2, 16, 8, 4, 4, generator=generator)

    assert mouth_loss(mouth, mouth) < 0.02
    assert behaviour_loss(seen, seen) == 0
    assert detail_loss(frames, frames, heads) == 0
    assert anchor_loss(made, made, weights) == 0
    assert colour_loss(frames, frames, frames, weights) == 0

    assert mouth_loss(mouth * 0.5, mouth) > mouth_loss(mouth * 0.9, mouth)
    lazy, eager = (mouth.mean(1, keepdim=True).lerp(mouth, share) for share in (0.6, 1.4))
    assert mouth_loss(lazy, mouth) > 1.2 * mouth_loss(eager, mouth)
    assert mouth_loss(mouth.flip(1), mouth) > 0.5
    assert behaviour_loss(seen * 0.2, seen) > 0
    soft = frames * 0.5
    assert detail_loss(soft, frames, heads) == pytest.approx(math.log(4) ** 2, rel=0.01)
    assert detail_loss(frames, soft, heads) == 0  # sharper is not held against it


def test_the_mouth_is_the_freest() -> None:
    weights = torch.ones(1, 2, 3, 3)
    weights[:, :, 1, 1], weights[:, :, 2, 2] = MOUTH_WEIGHT, 2.5
    usual = torch.zeros(1, 16, 2, 3, 3)

    def changed(row: int, column: int) -> float:
        made = usual.clone()
        made[..., row, column] += 1
        return anchor_loss(made, usual, weights).item()

    still, mouth, moving = changed(0, 0), changed(1, 1), changed(2, 2)
    assert still > 3 * moving > 50 * mouth > 0


def test_skin_around_a_mouth_may_not_glow() -> None:
    weights = torch.ones(1, 2, 4, 4)
    weights[:, :, 1:3, 1:3] = MOUTH_WEIGHT
    usual, true = torch.zeros(1, 6, 3, 32, 32), torch.full((1, 6, 3, 32, 32), 0.1)

    def wrong(**changes: float) -> float:
        made = usual.clone()
        made[..., 8:24, 8:24] = 0.1
        made[..., 8:24, 8:24] += changes.get("mouth", 0.0)
        made[..., :8, :] += changes.get("hair", 0.0)
        # Comes and goes: in the mean of all frames it would not be seen.
        made[:, ::2, :, 8:24, 8:24] += changes.get("flicker", 0.0)
        made[:, 1::2, :, 8:24, 8:24] -= changes.get("flicker", 0.0)
        return colour_loss(made, usual, true, weights).item()

    assert wrong() == pytest.approx(0, abs=1e-9)
    assert wrong(mouth=0.2) == pytest.approx(0.04, rel=0.01)
    assert wrong(flicker=0.2) == pytest.approx(0.04, rel=0.01)
    assert wrong(hair=0.2) == pytest.approx(0.04 / 3, rel=0.01)


def test_flites_lips_close_where_it_says_that_a_stop_begins() -> None:
    spoken = _phonemes("pau:0.2 aa:0.6 p:0.8 aa:1.2 pau:1.4")
    opening = mouth_track(spoken, 35)[0][:, 0]
    at = [round(second * 25) for second in (0.5, 0.7, 1.0)]
    assert opening[at[0]] > 0.5
    assert opening[at[1]] < 0.05
    assert opening[at[2]] > 0.5
    # Half way: not closed by the 50 ms by which espeak's stops begin before they burst.
    assert opening[round(0.56 * 25)] > 0.4

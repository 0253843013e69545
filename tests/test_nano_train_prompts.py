"""Training of how nano reads prompts: what is taught, by what, and how it is shipped."""

import copy
import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from omniavatar.nano.architecture import weights_folder
from omniavatar.nano.behaviours import load_judge
from omniavatar.nano.changes import FURTHER, PROMPTS, read_changes, write_changes
from omniavatar.nano.clips import sample_clips
from omniavatar.nano.export import export
from omniavatar.nano.generator import Generator
from omniavatar.nano.observer import load_observer
from omniavatar.nano.reader import load_reader
from omniavatar.nano.speech import SpeechBank
from omniavatar.nano.train_lips import Experts, add_changes
from omniavatar.nano.train_prompts import (
    LORA,
    PART,
    change_loss,
    judged_loss,
    kept,
    prompts_loss,
    tint_loss,
)
from omniavatar.nano.windows import Latents, Windows

CPU = torch.device("cpu")
LAYERS = {
    *(f"condition_embedder.text_embedder.linear_{number}" for number in (1, 2)),
    *(
        f"blocks.{block}.attn2.{name}"
        for block in range(8)
        for name in ("to_q", "to_k", "to_v", "to_out.0")
    ),
}


def changed_network() -> Generator:
    network = Generator.load(weights_folder())
    add_changes(network, LORA, PART)
    return network


def test_only_how_prompts_are_read_is_taught(nano_windows: Windows, nano_latents: Latents) -> None:
    network, weights = changed_network(), weights_folder()
    before = Generator.load(weights).eval().requires_grad_(False)
    experts = Experts(
        nano_latents, load_reader(weights / "reader"), load_observer(weights / "observer")
    )
    judge = load_judge(weights / "observer").requires_grad_(False)
    torch.manual_seed(5)
    prompts_loss(network, before, nano_windows, experts, judge).backward()
    taught = {name for name, p in network.named_parameters() if p.grad is not None and p.grad.any()}
    assert taught == {f"transformer.{layer}.lora_B.prompts.weight" for layer in LAYERS}
    assert sum(p.numel() for p in network.parameters() if p.requires_grad) < 32_000


def test_what_does_not_move_is_judged_as_it_is_shown() -> None:
    generator = torch.Generator().manual_seed(1)
    portrait = torch.rand(1, 3, 1, 32, 32, generator=generator) * 2 - 1
    frames = portrait[:, :, 0][:, None].repeat(1, 2, 1, 1, 1)
    frames[:, 1] += 0.03  # four of 255: shimmer
    frames[:, 1, :, 8:24, 8:24] = 1.0
    shown = kept(frames.requires_grad_(), portrait)
    assert torch.equal(shown[:, 0], portrait[:, :, 0])
    assert torch.allclose(shown[:, 1, :, :2], portrait[:, :, 0, :2])
    assert torch.allclose(shown[:, 1, :, 12:20, 12:20], torch.ones(1, 3, 8, 8))
    shown.sum().backward()
    assert frames.grad is not None
    assert (frames.grad[:, 1, :, 12:20, 12:20] == 1).all()


def test_other_behaviour_than_the_true_clips_costs(nano_bank: SpeechBank) -> None:
    weights = weights_folder() / "observer"
    judge, observer = load_judge(weights), load_observer(weights)

    def observed(behaviour: str) -> Tensor:
        clips = sample_clips(
            nano_bank,
            count=1,
            frames=64,
            height=96,
            width=96,
            generator=torch.Generator().manual_seed(6),
            device=CPU,
            behaviours=(behaviour,),
            continuation_share=0.0,
            look="drawn",
        )
        heads = clips.regions.head[:, 0]
        return observer.observe(clips.frames, clips.reference, heads)

    nodding, still = observed("nodding"), observed("still")
    assert judged_loss(judge, nodding, nodding) < 0.7
    assert judged_loss(judge, still, nodding) > 2


def test_what_is_to_stay_costs_when_it_changes() -> None:
    made, weights = torch.zeros(1, 16, 3, 4, 4), torch.ones(1, 3, 4, 4)
    weights[..., 2:] = 4.0
    moved = made.clone()
    moved[..., 2:] = 1.0
    assert change_loss(moved, made, weights) == 0
    assert change_loss(moved + 1, made, weights) > 0.4
    frames = torch.zeros(1, 4, 3, 32, 32)
    swaying = frames + torch.tensor([1.0, -1.0, 1.0, -1.0]).view(1, 4, 1, 1, 1)
    assert tint_loss(swaying, frames) == 0
    assert tint_loss(frames + 0.1, frames) == pytest.approx(0.01, rel=1e-4)


def test_they_are_exported_beside_the_lips_and_go_when_those_are_replaced(
    nano_bank: SpeechBank, tmp_path: Path
) -> None:
    network = changed_network()
    for name, parameter in network.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    torch.save({"average": network.state_dict()}, tmp_path / "prompts.pt")
    (tmp_path / "prompts.json").write_text('{"seconds": 1}')
    lips = {"blocks.0.attn1.to_q": (torch.ones(1, 256), torch.ones(256, 1))}
    write_changes(lips, tmp_path, FURTHER)
    (tmp_path / "training.json").write_text('{"lips, further": {}, "attunement": {}}')
    export(tmp_path, tmp_path, speech=nano_bank, only=("prompts",))
    assert read_changes(tmp_path, PROMPTS).keys() == LAYERS
    assert read_changes(tmp_path, FURTHER).keys() == lips.keys()
    records = json.loads((tmp_path / "training.json").read_text())
    assert records == {"lips, further": {}, "attunement": {}, "prompts": {"seconds": 1}}

    adapters = {
        f"transformer.{layer}.lora_{side}.lips.weight": tensor
        for layer, pair in lips.items()
        for side, tensor in zip("AB", copy.deepcopy(pair), strict=True)
    }
    torch.save({"average": adapters}, tmp_path / "lips-further.pt")
    (tmp_path / "lips-further.json").write_text("{}")
    export(tmp_path, tmp_path, speech=nano_bank, only=("lips-further",))
    assert read_changes(tmp_path, PROMPTS) == {}
    assert json.loads((tmp_path / "training.json").read_text()).keys() == {"lips, further"}

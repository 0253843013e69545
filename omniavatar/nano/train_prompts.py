"""Train low-rank changes of how the transformer reads a prompt, on what is seen in its videos.

What is changed is small, some ten thousand numbers, and attends to the prompt alone: lips can not
learn from it to please anybody. Videos are generated, decoded, kept to the portrait as the pipeline
keeps them, and looked at by an observer and a judge of their own, which evaluation does not use.
They should see in them what they see in the true clip.
"""

# b batch, t video frames, f latent frames, k frames that are looked at, h, w rows and columns

import copy
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from einops import rearrange
from peft import LoraConfig
from torch import Tensor

from omniavatar.nano.behaviours import Judge, describe, load_judge
from omniavatar.nano.changes import FIRST, FURTHER, PROMPTS, read_changes
from omniavatar.nano.course import Course
from omniavatar.nano.generator import Generator
from omniavatar.nano.observer import load_observer
from omniavatar.nano.probe import Probe
from omniavatar.nano.reader import Reader, load_reader
from omniavatar.nano.speech import SpeechBank
from omniavatar.nano.train_lips import RECIPE as LIPS_RECIPE
from omniavatar.nano.train_lips import (
    Experts,
    add_changes,
    behaviour_loss,
    detail_loss,
    look_at,
    merge_changes,
    mouth_loss,
    teach,
)
from omniavatar.nano.training import Trainer, rank, read_average
from omniavatar.nano.windows import Latents, Windows, load_speech_encoder, read_windows
from omniavatar.stages.keep_portrait import moving_share
from omniavatar.weights.catalog import CATALOG

RECIPE = replace(LIPS_RECIPE, learning_rate=2e-3)

PART = PROMPTS
"""Its name, and its adapter's."""

_RANKS = {r"text_embedder\.linear_[12]": 8, r"attn2\.(to_q|to_out\.0)": 1}

LORA = LoraConfig(
    r=2,
    lora_alpha=2,
    target_modules=(
        r"condition_embedder\.text_embedder\.linear_[12]"
        r"|blocks\.\d+\.attn2\.(to_q|to_k|to_v|to_out\.0)"
    ),
    rank_pattern=_RANKS,
    alpha_pattern=_RANKS,
    lora_dropout=0.0,
)

STEPS = CATALOG["nano"].steps
"""In which videos are made, as they are by default: a step fewer than the guidance was folded for.
Without this training fewer of them do what they are asked then."""

SEGMENT_LATENTS = 17
"""Latent frames that are decoded: heads sway in seconds."""

JUDGED_WEIGHT, SEEN_WEIGHT, DETAIL_WEIGHT, CHANGE_WEIGHT, COLOUR_WEIGHT = 1.0, 3.0, 0.5, 1.0, 100.0

SEEN_SPREAD = (0.5, 0.5, 0.15, 0.5, 0.5, 0.4, 0.5)
"""Lids count four times as much as for lips: a judge is content without blinks, who often mistakes
them."""

LOST = 2 / 255
"""What the VAE loses of a portrait, about: so much less of what moves slightly is shown."""


def train_prompts(
    held_out: SpeechBank,
    weights: Path,
    *,
    folder: Path,
    seconds: float,
    deadline: float,
    course: Course,
    observer: Path,
    device: torch.device,
) -> None:
    """Train until the time is over.

    Args:
        weights: where all other parts are exported.
        folder: with the windows, and the expert that `train_reader` made.
        observer: of another observer than evaluation's, and of its judge.
    """
    torch.manual_seed(91 + rank())
    latents, encoder = Latents.load(weights, device), load_speech_encoder(weights, device)
    banks = {shape: read_windows(folder, shape, encoder, device) for shape in course.shapes}
    experts = Experts(
        latents,
        read_average(folder / "expert.pt", Reader()).to(device),
        load_observer(observer).to(device),
    )
    judge = load_judge(observer).to(device).requires_grad_(False)
    before = Generator.load(weights).to(device).eval().requires_grad_(False)
    for name in (FIRST, FURTHER):
        merge_changes(before, read_changes(weights, name))
    network = copy.deepcopy(before)
    add_changes(network, LORA, PART)
    trainer = Trainer(
        PART,
        network,
        RECIPE,
        folder=folder,
        seconds=seconds,
        deadline=deadline,
        settings={
            "clips": sum(map(len, banks.values())),
            "weights": [
                JUDGED_WEIGHT, SEEN_WEIGHT, DETAIL_WEIGHT, CHANGE_WEIGHT, COLOUR_WEIGHT,
            ],
            "parameters": sum(p.numel() for p in network.parameters() if p.requires_grad),
        },
    )  # fmt: skip
    clips = min(28, *map(len, banks.values()))
    reader = load_reader(weights / "reader").to(device)
    teach(
        trainer,
        lambda windows: prompts_loss(network, before, windows, experts, judge),
        banks=banks,
        course=course,
        # Twice as much of each is decoded as for lips.
        batch=lambda shape: max(1, course.batch(shape) // 2),
        probe=Probe(held_out, latents, encoder, reader, course=course, clips=clips, device=device),
        seconds=seconds,
        seed=92,
        steps=STEPS,
    )


def prompts_loss(
    network: Generator, before: Generator, windows: Windows, experts: Experts, judge: Judge
) -> Tensor:
    """How much else is seen than in the true clips, and how far the rest is from what it was."""
    made = look_at(
        network, before, windows, experts, length=SEGMENT_LATENTS, steps=STEPS, show=kept
    )
    losses = {
        "mouth": mouth_loss(made.mouth, made.wanted_mouth),
        "judged": JUDGED_WEIGHT * judged_loss(judge, made.seen, made.wanted),
        "seen": SEEN_WEIGHT * behaviour_loss(made.seen, made.wanted, spread=SEEN_SPREAD),
        "detail": DETAIL_WEIGHT * detail_loss(made.frames, made.true_frames, made.heads),
        "change": CHANGE_WEIGHT * change_loss(made.latents, made.usual, windows.weights.float()),
        "colour": COLOUR_WEIGHT * tint_loss(made.frames, made.usual_frames),
    }
    return torch.stack(list(losses.values())).sum()


def kept(frames: Tensor, portraits: Tensor) -> Tensor:
    """What the pipeline shows of frames [b, k, 3, h, w]: the portrait [b, 3, 1, h, w] if still."""
    results = []
    for clip, portrait in zip(frames, portraits, strict=True):
        video = rearrange(clip, "k c h w -> 1 c k h w") / 2 + 0.5
        decoded = portrait[None] / 2 + 0.5
        share = moving_share(video, decoded=decoded, portrait=decoded + LOST)
        results.append(torch.lerp(decoded.expand_as(video), video, share.to(video)))
    return rearrange(torch.cat(results), "b c k h w -> b k c h w") * 2 - 1


def judged_loss(judge: Judge, seen: Tensor, wanted: Tensor) -> Tensor:
    """How much else the judge takes faces [b, k, 7] for than the true ones: a cross-entropy."""
    with torch.no_grad():
        verdict = judge(describe(wanted)).softmax(-1)
    return F.cross_entropy(judge(describe(seen)), verdict)


def change_loss(made: Tensor, usual: Tensor, weights: Tensor) -> Tensor:
    """Squares of what changed, [b, c, f, h, w], where nothing moves in the true clip."""
    return ((weights == 1.0) * (made - usual).square().mean(1)).mean()


def tint_loss(frames: Tensor, usual: Tensor) -> Tensor:
    """Squares of how colours changed: of [b, k, 3, h, w] the mean over time and 16 x 16 pixels."""
    return F.avg_pool2d((frames - usual).mean(1), 16).square().mean()

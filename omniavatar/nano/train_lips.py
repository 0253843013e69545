"""Train low-rank changes over the folded transformer on what is to be seen in its videos.

A loss on latents weighs the lips as it weighs all that it is told to weigh, and is content with a
mouth between two that are likely. Here whole videos are generated, decoded, and read: by a reader
of mouths, which is another than evaluation's, and by the observer of faces. What they read is held
to what was drawn, and all that they do not look at is held to what the transformer did before.

Source of the idea: the expert discriminator of Wav2Lip (arXiv 2008.10010); LoRA, arXiv 2106.09685.
"""

# b batch, t video frames, f latent frames, k frames that are looked at, h, w rows and columns

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from einops import rearrange
from peft import LoraConfig
from torch import Tensor

from omniavatar.nano.changes import FIRST, Matrices, read_changes
from omniavatar.nano.course import Course, Shape
from omniavatar.nano.face_view import cut_out
from omniavatar.nano.generator import Generator, roll_out
from omniavatar.nano.observer import Observer, load_observer, pair_up
from omniavatar.nano.probe import Probe, gradient_energy
from omniavatar.nano.reader import Reader, load_reader
from omniavatar.nano.speech import SpeechBank
from omniavatar.nano.train_fold import STEPS
from omniavatar.nano.training import Recipe, Trainer, in_bfloat16, rank, read_average, train
from omniavatar.nano.windows import (
    MOUTH_WEIGHT,
    Latents,
    Windows,
    load_speech_encoder,
    read_windows,
)

RECIPE = Recipe(
    learning_rate=1e-3,
    betas=(0.9, 0.98),
    weight_decay=0.0,
    final_share=0.02,
    warm_up=0.05,
    decay=0.99,
)

PART, FURTHER_PART = "lips", "lips-further"
"""Names of checkpoint and record, over the bare transformer and over the first changes."""

ADAPTER = "lips"

RANK = 4
LAYERS = (
    r"audio_proj\.proj"
    r"|blocks\.\d+\.attn1\.(to_q|to_k|to_v|to_out\.0)"
    r"|blocks\.\d+\.attn2\.(to_q|to_out\.0)"
    r"|blocks\.\d+\.ffn\.net\.(0\.proj|2)"
    r"|audio_cond_projs\.\d+"
)
"""Those that are changed, as a pattern of their names."""

LORA = LoraConfig(r=RANK, lora_alpha=RANK, target_modules=LAYERS, lora_dropout=0.0)

SEGMENT_LATENTS, LEAD_LATENTS = 9, 2
"""Latent frames that are decoded, and how many of them first: a decoder begins without a past."""

ANCHOR_WEIGHT, COLOUR_WEIGHT, SEEN_WEIGHT, DETAIL_WEIGHT = 10.0, 100.0, 1.0, 0.5
MOVING, MOUTH = 0.1, 0.003
"""Shares of the anchor's weight where something moves, and where the mouth is."""

FEELING = 2.0
"""How much more smiles and sadness count than motion: they are slight, and hold all the time."""

_MOUTH_SPREAD = (0.23, 0.20, 0.28)
SEEN_SPREAD = (0.5, 0.5, 0.3, 0.5, 0.5, 0.4, 0.5)
"""What is much of each of `OBSERVATIONS`."""


@dataclass(frozen=True, slots=True)
class Experts:
    """Who looks at what is generated."""

    latents: Latents
    reader: Reader
    observer: Observer


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """Videos that were generated, and what is to be seen in a segment of them.

    Attributes:
        latents: [b, c, f, h, w], with a gradient.
        usual: what the untaught network makes of the same noise.
        frames, usual_frames, true_frames: of the segment, decoded, [b, k, 3, 8h, 8w] in -1..1.
        heads: their boxes in the true clip, [b, k, 4] in pixels.
        mouth, wanted_mouth: as read and as drawn, [b, k, 3].
        seen, wanted: what is observed in what was made and in the true clip, [b, k, 7].
    """

    latents: Tensor
    usual: Tensor
    frames: Tensor
    usual_frames: Tensor
    true_frames: Tensor
    heads: Tensor
    mouth: Tensor
    wanted_mouth: Tensor
    seen: Tensor
    wanted: Tensor


def train_lips(
    held_out: SpeechBank,
    weights: Path,
    *,
    folder: Path,
    seconds: float,
    deadline: float,
    course: Course,
    observer: Path,
    further: bool = False,
    device: torch.device,
) -> None:
    """Train until the time is over.

    Args:
        weights: where all other parts are exported.
        folder: with the windows, and the expert that `train_reader` made.
        observer: where another observer is than evaluation's, so that nobody is taught to please
            the one by whom all are measured.
        further: train over the first changes that are exported, which stay as they are.
    """
    torch.manual_seed(81 + rank())
    latents, encoder = Latents.load(weights, device), load_speech_encoder(weights, device)
    banks = {shape: read_windows(folder, shape, encoder, device) for shape in course.shapes}
    experts = Experts(
        latents,
        read_average(folder / "expert.pt", Reader()).to(device),
        load_observer(observer).to(device),
    )
    before = Generator.load(weights).to(device).eval().requires_grad_(False)
    network = copy.deepcopy(before)
    if further:
        merge_changes(network, read_changes(weights, FIRST))
    add_changes(network, LORA, ADAPTER)
    trainer = Trainer(
        FURTHER_PART if further else PART,
        network,
        RECIPE,
        folder=folder,
        seconds=seconds,
        deadline=deadline,
        settings={
            "rank": RANK,
            "further": further,
            "clips": sum(map(len, banks.values())),
            "weights": [ANCHOR_WEIGHT, COLOUR_WEIGHT, SEEN_WEIGHT, DETAIL_WEIGHT],
            "parameters": sum(p.numel() for p in network.parameters() if p.requires_grad),
        },
    )
    clips = min(28, *map(len, banks.values()))
    reader = load_reader(weights / "reader").to(device)
    teach(
        trainer,
        lambda windows: lips_loss(network, before, windows, experts),
        banks=banks,
        course=course,
        batch=course.batch,
        probe=Probe(held_out, latents, encoder, reader, course=course, clips=clips, device=device),
        seconds=seconds,
        seed=82,
    )


def teach(
    trainer: Trainer[Generator],
    loss: Callable[[Windows], Tensor],
    *,
    banks: Mapping[Shape, Windows],
    course: Course,
    batch: Callable[[Shape], int],
    probe: Probe,
    seconds: float,
    seed: int,
    steps: int = STEPS,
) -> None:
    """Train on windows drawn from banks, whose shapes take turns, and probe before and meanwhile.

    Args:
        batch: windows of a shape in one step.
        seconds: the whole budget.
        seed: of the windows; the next one is that of the noise.
        steps: in which the probe's videos are made.
    """
    seed += trainer.record.steps + 100_000 * rank()
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed + 1)
    is_new = trainer.record.steps == 0
    before = probe.score(trainer.average, steps=steps) if is_new else {}
    trainer.prepared()
    if is_new:
        trainer.probe(**before)

    def step() -> Tensor:
        shape = course.shapes[trainer.record.steps % len(course.shapes)]
        bank = banks[shape]
        chosen = torch.randint(len(bank), (batch(shape),), generator=generator)
        return loss(bank.take(chosen.to(bank.known.device)))

    train(
        trainer,
        step,
        probe=lambda: probe.score(trainer.average, steps=steps),
        probe_seconds=[seconds * share for share in (0.25, 0.5, 0.75)],
    )


def merge_changes(network: Generator, matrices: Matrices) -> None:
    """Add changes to the weights, as is done when a checkpoint is loaded."""
    for layer, (down, up) in matrices.items():
        weight = network.transformer.get_submodule(layer).weight
        assert isinstance(weight, Tensor)
        weight.data += (up @ down).to(weight.device)


def add_changes(network: Generator, config: LoraConfig, adapter: str) -> None:
    """Low-rank changes that change nothing yet, and are all that is trained."""
    network.requires_grad_(False)
    network.transformer.add_adapter(config, adapter_name=adapter)


def changes_of(state: Mapping[str, Tensor], adapter: str) -> Matrices:
    """Of a trained network's state, down and up of each layer: what `write_changes` takes."""
    found = {}
    for name, down in state.items():
        layer, is_down, _ = name.removeprefix("transformer.").partition(f".lora_A.{adapter}.weight")
        if is_down:
            found[layer] = (down, state[name.replace("lora_A", "lora_B")])
    return found


def lips_loss(network: Generator, before: Generator, windows: Windows, experts: Experts) -> Tensor:
    """What is wrong to be seen, and how far all else is from what it was."""
    made = look_at(network, before, windows, experts)
    weights = windows.weights.float()
    losses = {
        "mouth": mouth_loss(made.mouth, made.wanted_mouth),
        "seen": SEEN_WEIGHT * behaviour_loss(made.seen, made.wanted),
        "detail": DETAIL_WEIGHT * detail_loss(made.frames, made.true_frames, made.heads),
        "anchor": ANCHOR_WEIGHT * anchor_loss(made.latents, made.usual, weights),
        "colour": COLOUR_WEIGHT
        * colour_loss(made.frames, made.usual_frames, made.true_frames, weights),
    }
    return torch.stack(list(losses.values())).sum()


def look_at(
    network: Generator,
    before: Generator,
    windows: Windows,
    experts: Experts,
    *,
    length: int = SEGMENT_LATENTS,
    steps: int = STEPS,
    show: Callable[[Tensor, Tensor], Tensor] = lambda frames, _: frames,
) -> Made:
    """Generate videos from one noise, decode a segment of them, and have it read.

    Args:
        before: what nothing is taught.
        length: of the segment in latent frames.
        steps: in which videos are made.
        show: what of frames [b, k, 3, 8h, 8w] and decoded portraits [b, 3, 1, 8h, 8w] the observer
            is shown.
    """
    device = windows.latents.device
    noise = torch.randn(windows.latents.shape, device=device)
    latents, heads = experts.latents, windows.heads[:, 0]
    with in_bfloat16(device):
        made = roll_out(network, windows, noise, steps=steps)
        frames, at = decode_segment(made, latents, length=length)
        with torch.no_grad():
            usual = roll_out(before, windows, noise, steps=steps)
            usual_frames, _ = decode_segment(usual, latents, at=at, length=length)
            truth = windows.latents.float()
            true_frames, _ = decode_segment(truth, latents, at=at, length=length)
            portraits = latents.decode(windows.reference.float()[:, :, None])
            wanted = observe(experts.observer, true_frames, portraits, heads).float()
        read = experts.reader(cut_out(frames, windows.face).flatten(0, 1)).float()
        seen = observe(experts.observer, show(frames, portraits), portraits, heads).float()
    return Made(
        latents=made,
        usual=usual,
        frames=frames,
        usual_frames=usual_frames,
        true_frames=true_frames,
        heads=windows.heads[:, at].float(),
        mouth=read.unflatten(0, frames.shape[:2]),
        wanted_mouth=windows.mouth[:, at].float(),
        seen=seen,
        wanted=wanted,
    )


def decode_segment(
    made: Tensor, latents: Latents, *, at: Tensor | None = None, length: int = SEGMENT_LATENTS
) -> tuple[Tensor, Tensor]:
    """Decode some latent frames.

    Args:
        at: frames to decode, as told by another call of the same length; None chooses.
        length: of the segment in latent frames.

    Returns:
        Frames [b, k, 3, 8h, 8w] in -1..1, and their numbers in the video, [k].
    """
    first_frame = 4 * LEAD_LATENTS - 3
    length = min(length, made.shape[2])
    if at is None:
        start = int(torch.randint(made.shape[2] - length + 1, ()))
        at = torch.arange(first_frame, 4 * length - 3) + 4 * start
    start = (int(at[0]) - first_frame) // 4
    video = latents.decode(made[:, :, start : start + length], clamp=False)
    return rearrange(video[:, :, first_frame:], "b c k h w -> b k c h w"), at


def observe(observer: Observer, frames: Tensor, portraits: Tensor, heads: Tensor) -> Tensor:
    """What `Observer.observe` says, with a gradient: [b, k, 3, 8h, 8w] -> [b, k, 7]."""
    pairs = [
        pair_up(127.5 * clip + 127.5, 127.5 * portrait[:, 0] + 127.5, head, side=observer.side)
        for clip, portrait, head in zip(frames, portraits, heads.long(), strict=True)
    ]
    return observer(torch.cat(pairs)).unflatten(0, frames.shape[:2])


def mouth_loss(read: Tensor, wanted: Tensor) -> Tensor:
    """How wrong mouths [b, k, 3] are, how little they agree with what is wanted, and how lazy.

    Who is not sure is least wrong with half a movement; so its size is looked at by itself.
    """
    spread = torch.tensor(_MOUTH_SPREAD, device=read.device)
    read, wanted = read / spread, wanted / spread
    wrong = (read - wanted).square().mean()
    one, other = read - read.mean(1, keepdim=True), wanted - wanted.mean(1, keepdim=True)
    size, wanted_size = one.square().mean(1), other.square().mean(1)
    agreement = (one * other).mean(1) / (size * wanted_size + 1e-2).sqrt()
    lazy = ((wanted_size + 0.1) / (size + 0.1)).log().clamp_min(0)
    return 0.5 * wrong + (1 - agreement).mean() + 0.25 * lazy.mean()


def behaviour_loss(
    seen: Tensor, wanted: Tensor, *, spread: Sequence[float] = SEEN_SPREAD
) -> Tensor:
    """How far faces [b, k, 7] are, and how much they move, from what is asked."""
    much = torch.tensor(spread, device=seen.device)

    def described(tracks: Tensor) -> Tensor:
        tracks = tracks / much
        moved = (tracks.var(1) + 1e-3).sqrt()
        quick = (tracks.diff(dim=1).square().mean(1) + 1e-4).sqrt()
        feeling = FEELING * tracks[..., 4:].mean(1)
        return torch.cat([moved, quick, feeling, tracks[..., 2:3].mean(1)], dim=1)

    return (described(seen) - described(wanted)).square().mean()


def detail_loss(frames: Tensor, true: Tensor, heads: Tensor) -> Tensor:
    """How much softer heads are than true ones after the VAE."""
    energy = gradient_energy(frames * 127.5, heads).mean(1)
    wanted = gradient_energy(true * 127.5, heads).mean(1)
    return (wanted / (energy + 1e-6)).log().clamp_min(0).square().mean()


def anchor_loss(made: Tensor, usual: Tensor, weights: Tensor) -> Tensor:
    """Squares of what changed, [b, c, f, h, w], least where the mouth is."""
    hold = torch.where(weights == 1.0, 1.0, torch.where(weights == MOUTH_WEIGHT, MOUTH, MOVING))
    return (hold * (made - usual).square().mean(1)).mean()


def colour_loss(frames: Tensor, usual: Tensor, true: Tensor, weights: Tensor) -> Tensor:
    """Squares of wrong colours, averaged over 8 x 8 pixels, of [b, k, 3, 8h, 8w].

    What a mouth is read by must not be the colour of the skin around it: there every frame is held
    to the true one, elsewhere the mean of all to what it was.
    """
    is_mouth = (weights == MOUTH_WEIGHT).any(1)  # [b, h, w]
    change = F.avg_pool2d((frames - usual).mean(1), 8).square().mean(1)
    wrong = F.avg_pool2d((frames - true).flatten(0, 1), 8).unflatten(0, frames.shape[:2])
    mouth = wrong.square().mean((1, 2))
    shares = is_mouth.sum().clamp_min(1), (~is_mouth).sum().clamp_min(1)
    return (mouth * is_mouth).sum() / shares[0] + (change * ~is_mouth).sum() / shares[1]

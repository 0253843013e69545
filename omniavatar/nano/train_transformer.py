"""Train nano's transformer, with its text encoder, on latents of drawn clips."""

# n clips, b batch, f latent frames, h, w latent rows and columns, c channels

import logging
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from omniavatar.nano.architecture import END, PAD, UNKNOWN, build_tokenizer
from omniavatar.nano.course import Course, Shape
from omniavatar.nano.generator import Generator, assemble, given_latents
from omniavatar.nano.probe import Probe
from omniavatar.nano.prompts import VOCABULARY
from omniavatar.nano.reader import load_reader
from omniavatar.nano.speech import SpeechBank
from omniavatar.nano.training import Recipe, Trainer, in_bfloat16, processes, rank, train
from omniavatar.nano.windows import (
    EYE_WEIGHT,
    HEAD_WEIGHT,
    MOUTH_WEIGHT,
    MOVING_WEIGHT,
    Latents,
    Windows,
    draw_takes,
    encode_takes,
    load_speech_encoder,
    read_windows,
)

logger = logging.getLogger(__name__)

RECIPE = Recipe(
    learning_rate=1.2e-3,
    betas=(0.9, 0.98),
    weight_decay=0.02,
    final_share=0.015,
    warm_up=0.02,
    decay=0.9995,
)
LATER_RECIPE = replace(RECIPE, learning_rate=7e-4, decay=0.999)
"""For weights that are trained already."""

NEW_CLIPS, NEW_CLIPS_EVERY_TURNS = 16, 40
"""Of 128 x 128 x 65 pixels, of larger shapes as many fewer; a turn is a step of every shape."""

BORDER_WEIGHT = 2.0
"""On the first frame to generate: the one that has to fit what is given."""

DROP_BOTH, DROP_TEXT, DROP_AUDIO, DROP_WORD = 0.05, 0.05, 0.05, 0.03
PREFIX_NOISE = 0.1
"""What a chunk hands on is a little wrong; so is what training gives."""


def train_transformer(
    speech: SpeechBank,
    held_out: SpeechBank,
    weights: Path,
    *,
    folder: Path,
    seconds: float,
    deadline: float,
    course: Course,
    from_weights: bool = False,
    device: torch.device,
) -> None:
    """Train until the time is over; the probe makes clips of presenters never trained on.

    Args:
        weights: where VAE, speech encoder and reader are exported.
        folder: with the windows that `windows.write_windows` made.
        from_weights: where there is no checkpoint, go on from the exported transformer, with an
            optimiser, a clock and a rate of its own.
    """
    torch.manual_seed(41)
    latents, encoder = Latents.load(weights, device), load_speech_encoder(weights, device)
    tokenizer, reader = build_tokenizer(VOCABULARY), load_reader(weights / "reader").to(device)
    banks = {shape: read_windows(folder, shape, encoder, device) for shape in course.shapes}
    resumed = from_weights and not (folder / "transformer.pt").exists()
    network = (Generator.load(weights) if resumed else Generator()).to(device)
    trainer = Trainer(
        "transformer",
        network,
        LATER_RECIPE if from_weights else RECIPE,
        folder=folder,
        seconds=seconds,
        deadline=deadline,
        settings={
            "course": course.name,
            "batch": [f"{course.batch(s)} x {s.name}" for s in dict.fromkeys(course.shapes)],
            "clips": processes() * sum(map(len, banks.values())),
            "new_clips_a_step": round(processes() * new_clips_a_step(course), 2),
            "weights": [MOUTH_WEIGHT, EYE_WEIGHT, HEAD_WEIGHT, MOVING_WEIGHT],
            "parameters": sum(p.numel() for p in network.parameters()),
        },
    )
    if device.type == "cuda":
        network.transformer.compile_repeated_blocks()
    seed = 42 + trainer.record.steps + 100_000 * rank()
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    clips = min(28, *map(len, banks.values()))
    probe = Probe(held_out, latents, encoder, reader, course=course, clips=clips, device=device)
    put = dict.fromkeys(banks, 0)
    trainer.prepared()

    def loss() -> Tensor:
        steps = trainer.record.steps
        shape = course.shapes[steps % len(course.shapes)]
        bank = banks[shape]
        turn = steps // len(course.shapes)
        if turn % NEW_CLIPS_EVERY_TURNS == NEW_CLIPS_EVERY_TURNS - 1:
            count = min(_new_clips(shape), len(bank))
            new = draw_takes(
                speech,
                tokenizer,
                count,
                course=course,
                shape=shape,
                generator=generator,
                device=device,
            )
            bank.put(put[shape], encode_takes(new, latents).hear(encoder))
            put[shape] += count
        chosen = torch.randint(len(bank), (course.batch(shape),), generator=generator).to(device)
        return velocity_loss(network, bank.take(chosen))

    sheet = folder / "transformer.png"
    train(
        trainer,
        loss,
        probe=lambda: probe.score(trainer.average, sheet=sheet),
        probe_seconds=[150, *range(500, int(seconds), 500)],
    )


def _new_clips(shape: Shape) -> int:
    return max(1, NEW_CLIPS * 1088 // shape.tokens)


def new_clips_a_step(course: Course) -> float:
    """How many clips one process draws in a step, on the average."""
    return sum(map(_new_clips, course.shapes)) / (len(course.shapes) * NEW_CLIPS_EVERY_TURNS)


@dataclass(frozen=True, slots=True)
class Noised:
    """A batch somewhere between truth and noise.

    Attributes:
        hidden: the transformer's input, [b, 33, f, h, w].
        sigma: share of noise, [b].
        velocity: from truth to noise, [b, c, f, h, w].
        weights: of the loss, zero where frames are given, [b, f, h, w].
    """

    hidden: Tensor
    sigma: Tensor
    velocity: Tensor
    weights: Tensor

    def loss(self, found: Tensor, wanted: Tensor | None = None) -> Tensor:
        """Weighted squares of the velocity's error on the frames that are to be generated."""
        missed = (found - (self.velocity if wanted is None else wanted)).square().mean(1)
        return (self.weights * missed).sum() / self.weights.sum()


def add_noise(windows: Windows, sigma: Tensor) -> Noised:
    """Mix each window with noise, as much as `sigma` [b] says, and put in what is given."""
    truth = windows.latents.float()
    frames, device = truth.shape[2], truth.device
    given = torch.arange(frames, device=device) < windows.known[:, None]  # [b, f]
    noise = torch.randn_like(truth)
    spread = sigma[:, None, None, None, None]
    noisy = (1 - spread) * truth + spread * noise
    border = torch.where(
        torch.arange(frames, device=device) == windows.known[:, None], BORDER_WEIGHT, 1.0
    )
    return Noised(
        hidden=assemble(
            noisy, given_latents(windows, noise=PREFIX_NOISE), windows.reference.float(), given
        ),
        sigma=sigma,
        velocity=noise - truth,
        weights=windows.weights.float() * (border * ~given)[..., None, None],
    )


def velocity_loss(network: Generator, windows: Windows) -> Tensor:
    """See `Noised.loss`; conditions are left out now and then."""
    uniform = torch.rand(len(windows), device=windows.latents.device)
    noised = add_noise(windows, 4 * uniform / (1 + 3 * uniform))
    with in_bfloat16(windows.latents.device):
        told = drop_conditions(windows)
        velocity = network(noised.hidden, noised.sigma, told.context(network), told.audio).float()
    return noised.loss(velocity)


@dataclass(frozen=True, slots=True)
class Conditions:
    """What a batch is told: tokens [b, rows], whose text is not all zeros [b], audio [b, t, x]."""

    prompt: Tensor
    has_text: Tensor
    audio: Tensor

    def context(self, network: Generator) -> Tensor:
        """[b, rows, d]."""
        return network.encode_prompt(self.prompt) * self.has_text[:, None, None]


def drop_conditions(windows: Windows) -> Conditions:
    """Leave out conditions now and then, so that guidance has something to push away from."""
    prompt = windows.prompt
    count, device = len(prompt), prompt.device
    chance = torch.rand(count, device=device)
    both = chance < DROP_BOTH
    no_text = both | ((chance >= DROP_BOTH) & (chance < DROP_BOTH + DROP_TEXT))
    no_audio = both | (chance >= 1 - DROP_AUDIO)
    all_zero = no_text & (torch.rand(count, device=device) < 0.5)

    forgotten = (torch.rand(prompt.shape, device=device) < DROP_WORD) & (prompt > UNKNOWN)
    prompt = torch.where(forgotten, UNKNOWN, prompt)
    prompt = torch.where(no_text[:, None], empty_prompt(prompt), prompt)
    audio = windows.audio * (~no_audio)[:, None, None]
    return Conditions(prompt, ~all_zero, audio)


def empty_prompt(like: Tensor) -> Tensor:
    """Token numbers of prompts without a word, [b, rows]."""
    empty = torch.full_like(like, PAD)
    empty[:, 0] = END
    return empty

"""Fold guidance and steps into the transformer: fewer steps, and one forward in each.

The student learns to go in one step where the teacher, with guidance, goes in two. What it says
without prompt and speech stays the teacher's, so that guidance on top of it still has its effect.

Source: Meng et al., On Distillation of Guided Diffusion Models (arXiv 2210.03142), for one scale,
with the progressive distillation of Salimans and Ho (arXiv 2202.00512).
"""

# b batch, c channels, f latent frames, h, w latent rows and columns

import copy
from pathlib import Path

import torch
from torch import Tensor

from omniavatar.nano.course import Course
from omniavatar.nano.generator import Generator
from omniavatar.nano.probe import Probe
from omniavatar.nano.reader import load_reader
from omniavatar.nano.speech import SpeechBank
from omniavatar.nano.train_transformer import (
    Conditions,
    Noised,
    add_noise,
    drop_conditions,
    empty_prompt,
)
from omniavatar.nano.training import Recipe, Trainer, in_bfloat16, rank, read_average, train
from omniavatar.nano.windows import Latents, Windows, load_speech_encoder, read_windows

RECIPE = Recipe(
    learning_rate=3e-4,
    betas=(0.9, 0.98),
    weight_decay=0.02,
    final_share=0.02,
    warm_up=0.02,
    decay=0.998,
)
GUIDANCE = 1.8
STEPS = 3
"""Of the schedule that three quarters of the batch meet; the rest are anywhere."""


def fold_guidance(
    held_out: SpeechBank,
    weights: Path,
    *,
    folder: Path,
    seconds: float,
    deadline: float,
    course: Course,
    guidance: float = GUIDANCE,
    device: torch.device,
) -> None:
    """Train until the time is over, on the windows that the transformer was trained on.

    Args:
        weights: where VAE, speech encoder and reader are exported.
        folder: with the windows and the transformer's checkpoint.
    """
    torch.manual_seed(51 + rank())
    latents, encoder = Latents.load(weights, device), load_speech_encoder(weights, device)
    banks = {shape: read_windows(folder, shape, encoder, device) for shape in course.shapes}
    teacher = read_average(folder / "transformer.pt", Generator()).to(device)
    student = copy.deepcopy(teacher).train().requires_grad_(True)
    trainer = Trainer(
        "fold",
        student,
        RECIPE,
        folder=folder,
        seconds=seconds,
        deadline=deadline,
        settings={"guidance": guidance, "steps": STEPS},
    )
    if device.type == "cuda":
        student.transformer.compile_repeated_blocks()
        teacher.transformer.compile_repeated_blocks()
    generator = torch.Generator().manual_seed(52 + trainer.record.steps + 100_000 * rank())
    clips = min(28, *map(len, banks.values()))
    reader = load_reader(weights / "reader").to(device)
    probe = Probe(held_out, latents, encoder, reader, course=course, clips=clips, device=device)
    trainer.prepared()

    def loss() -> Tensor:
        shape = course.shapes[trainer.record.steps % len(course.shapes)]
        bank = banks[shape]
        chosen = torch.randint(len(bank), (course.batch(shape),), generator=generator).to(device)
        return fold_loss(student, teacher, bank.take(chosen), guidance=guidance)

    train(
        trainer,
        loss,
        probe=lambda: probe.score(trainer.average, steps=STEPS),
    )


def fold_loss(
    student: Generator, teacher: Generator, windows: Windows, *, guidance: float
) -> Tensor:
    """The student's error against where the teacher with guidance goes in two steps."""
    device = windows.latents.device
    start, middle, stop = sample_steps(len(windows), device)
    noised = add_noise(windows, start)
    told = drop_conditions(windows)
    with in_bfloat16(device):
        with torch.no_grad():
            first = _guided(teacher, noised.hidden, start, told, guidance)
            further = _moved(noised, first, middle - start)
            second = _guided(teacher, further, middle, told, guidance)
            share = ((start - middle) / (start - stop))[:, None, None, None, None]
            wanted = share * first + (1 - share) * second
        found = student(noised.hidden, start, told.context(student), told.audio).float()
    return noised.loss(found, wanted)


def _guided(
    teacher: Generator,
    hidden: Tensor,
    sigma: Tensor,
    told: Conditions,
    guidance: float,
) -> Tensor:
    """The teacher's velocity with guidance, [b, c, f, h, w] float32."""
    knowing = teacher(hidden, sigma, told.context(teacher), told.audio).float()
    empty = teacher.encode_prompt(empty_prompt(told.prompt))
    ignorant = teacher(hidden, sigma, empty, torch.zeros_like(told.audio)).float()
    return ignorant + guidance * (knowing - ignorant)


def _moved(noised: Noised, velocity: Tensor, by: Tensor) -> Tensor:
    """The transformer's input after a step of `by` [b]; what is given stays."""
    channels = velocity.shape[1]
    is_free = noised.hidden[:, -1:]  # the mask
    moved = noised.hidden.clone()
    moved[:, :channels] += is_free * by[:, None, None, None, None] * velocity
    return moved


def sample_steps(count: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Noise levels of `count` steps: where each begins, its middle and its end, [count] each.

    Most are steps of the default schedule (shift 5), the others as long anywhere on it.
    """
    length = 1 / STEPS
    on_grid = torch.randint(STEPS, (count,), device=device) * length
    anywhere = torch.rand(count, device=device) * (1 - length)
    begin = torch.where(torch.rand(count, device=device) < 0.75, on_grid, anywhere)
    line = 1 - torch.stack((begin, begin + length / 2, begin + length))
    start, middle, stop = 5 * line / (1 + 4 * line)
    return start, middle, stop.clamp(min=0)

"""Fold guidance into the transformer, so that a step needs one forward instead of two.

The student learns to say at once what the teacher says with guidance. What it says without prompt
and speech stays the teacher's, so that guidance on top of it still has its effect.

Source: Meng et al., On Distillation of Guided Diffusion Models (arXiv 2210.03142), for one scale.
"""

import copy
from pathlib import Path

import torch
from torch import Tensor

from omniavatar.nano.course import Course
from omniavatar.nano.generator import Generator
from omniavatar.nano.probe import Probe
from omniavatar.nano.reader import load_reader
from omniavatar.nano.speech import SpeechBank
from omniavatar.nano.train_transformer import add_noise, drop_conditions, empty_prompt
from omniavatar.nano.training import Recipe, Trainer, read_average, train
from omniavatar.nano.windows import Latents, Windows, load_speech_encoder, read_windows

RECIPE = Recipe(
    learning_rate=3e-4,
    betas=(0.9, 0.98),
    weight_decay=0.02,
    final_share=0.02,
    warm_up=0.02,
    decay=0.999,
)
GUIDANCE = 1.8
STEPS = 4
"""Of the schedule whose noise levels half of the batch has: the ones that the default meets."""


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
    torch.manual_seed(51)
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
    generator = torch.Generator().manual_seed(52 + trainer.record.steps)
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
        probe_seconds=[seconds * 0.5],
    )


def fold_loss(
    student: Generator, teacher: Generator, windows: Windows, *, guidance: float
) -> Tensor:
    """The student's error against the teacher with guidance."""
    device = windows.latents.device
    noised = add_noise(windows, _noise_levels(len(windows), device))
    told = drop_conditions(windows)
    with torch.autocast(device.type, torch.bfloat16):
        with torch.no_grad():
            knowing = teacher(
                noised.hidden, noised.sigma, told.context(teacher), told.audio
            ).float()
            empty = teacher.encode_prompt(empty_prompt(windows.prompt))
            ignorant = teacher(
                noised.hidden, noised.sigma, empty, torch.zeros_like(told.audio)
            ).float()
        found = student(noised.hidden, noised.sigma, told.context(student), told.audio).float()
    return noised.loss(found, ignorant + guidance * (knowing - ignorant))


def _noise_levels(count: int, device: torch.device) -> Tensor:
    """Half of them anywhere, half at those of the default schedule (shift 5)."""
    uniform = torch.rand(count, device=device)
    anywhere = 4 * uniform / (1 + 3 * uniform)
    line = torch.linspace(1, 0, STEPS + 1, device=device)[:-1]
    default = (5 * line / (1 + 4 * line))[torch.randint(STEPS, (count,), device=device)]
    return torch.where(torch.rand(count, device=device) < 0.5, anywhere, default)

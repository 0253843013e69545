"""Train nano's transformer, with its text encoder, on latents of drawn clips."""

# n clips, b batch, f latent frames, h, w latent rows and columns, c channels

import json
import logging
from pathlib import Path

import torch
from torch import Tensor

from omniavatar.nano.architecture import CHUNK_FRAMES, END, PAD, UNKNOWN, build_tokenizer
from omniavatar.nano.generator import Generator, assemble, given_latents
from omniavatar.nano.probe import Probe
from omniavatar.nano.prompts import VOCABULARY
from omniavatar.nano.reader import load_reader
from omniavatar.nano.speech import SpeechBank
from omniavatar.nano.training import Recipe, Trainer, train
from omniavatar.nano.windows import (
    EYE_WEIGHT,
    HEAD_WEIGHT,
    MOUTH_WEIGHT,
    Latents,
    Windows,
    draw_windows,
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
NEW_CLIPS, NEW_CLIPS_EVERY_STEPS = 16, 40
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
    batch: int = 64,
    from_weights: bool = False,
    device: torch.device,
) -> None:
    """Train until the time is over; the probe makes clips of presenters never trained on.

    Args:
        weights: where VAE, speech encoder and reader are exported.
        folder: with the windows that `windows.write_windows` made.
        from_weights: where there is no checkpoint, go on from the exported transformer, with a
            fresh optimiser.
    """
    torch.manual_seed(41)
    latents, encoder = Latents.load(weights, device), load_speech_encoder(weights, device)
    tokenizer, reader = build_tokenizer(VOCABULARY), load_reader(weights / "reader").to(device)
    bank = read_windows(folder, encoder, device)
    resumed = from_weights and not (folder / "transformer.pt").exists()
    network = (Generator.load(weights) if resumed else Generator()).to(device)
    trainer = Trainer(
        "transformer",
        network,
        RECIPE,
        folder=folder,
        seconds=seconds,
        deadline=deadline,
        settings={
            "batch": f"{batch} x {CHUNK_FRAMES} frames",
            "clips": len(bank),
            "new_clips_a_step": NEW_CLIPS / NEW_CLIPS_EVERY_STEPS,
            "weights": [MOUTH_WEIGHT, EYE_WEIGHT, HEAD_WEIGHT],
            "parameters": sum(p.numel() for p in network.parameters()),
        },
    )
    if resumed:
        records = json.loads((weights / "training.json").read_text())
        trainer.go_on(records["transformer"])
    if device.type == "cuda":
        network.transformer.compile_repeated_blocks()
    torch.manual_seed(42 + trainer.record.steps)
    generator = torch.Generator().manual_seed(42 + trainer.record.steps)
    probe = Probe(held_out, latents, encoder, reader, clips=min(28, len(bank)), device=device)
    trainer.prepared()

    def loss() -> Tensor:
        steps = trainer.record.steps
        if steps % NEW_CLIPS_EVERY_STEPS == NEW_CLIPS_EVERY_STEPS - 1:
            count = min(NEW_CLIPS, len(bank))
            new = draw_windows(
                speech, latents, tokenizer, count, generator=generator, device=device
            )
            bank.put(steps // NEW_CLIPS_EVERY_STEPS * count, new.hear(encoder))
        chosen = torch.randint(len(bank), (batch,), generator=generator).to(device)
        return velocity_loss(network, bank.take(chosen))

    sheet = folder / "transformer.png"
    train(
        trainer,
        loss,
        probe=lambda: probe.score(trainer.average, sheet=sheet),
        probe_seconds=[60, 150, *range(300, int(seconds), 150)],
    )
    if trainer.elapsed_seconds >= seconds:
        _compare_settings(trainer, probe)


def velocity_loss(network: Generator, windows: Windows) -> Tensor:
    """Weighted squares of the velocity's error on the frames that are to be generated."""
    truth = windows.latents.float()
    count, _, frames, _, _ = truth.shape
    device = truth.device
    given = torch.arange(frames, device=device) < windows.known[:, None]  # [b, f]

    uniform = torch.rand(count, device=device)
    sigma = 4 * uniform / (1 + 3 * uniform)
    noise = torch.randn_like(truth)
    spread = sigma[:, None, None, None, None]
    noisy = (1 - spread) * truth + spread * noise
    hidden = assemble(
        noisy, given_latents(windows, noise=PREFIX_NOISE), windows.reference.float(), given
    )

    prompt, silence, mute = _drop_conditions(windows.prompt)
    with torch.autocast(device.type, torch.bfloat16):
        context = network.encode_prompt(prompt) * (~silence)[:, None, None]
        audio = windows.audio * (~mute)[:, None, None]
        velocity = network(hidden, sigma, context, audio).float()
    missed = (velocity - (noise - truth)).square().mean(1)  # [b, f, h, w]
    border = torch.where(
        torch.arange(frames, device=device) == windows.known[:, None], BORDER_WEIGHT, 1.0
    )
    weights = windows.weights.float() * (border * ~given)[..., None, None]
    return (weights * missed).sum() / weights.sum()


def _compare_settings(trainer: Trainer[Generator], probe: Probe) -> None:
    """Measure numbers of steps and strengths of guidance, to choose the defaults by."""
    for steps in (4, 6, 8):
        for guidance in (1.0, 1.5, 2.0):
            scores = probe.score(trainer.average, steps=steps, guidance=guidance)
            trainer.probe(steps=steps, guidance=guidance, **scores)
    trainer.write_record()


def _drop_conditions(prompt: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Leave out conditions now and then, so that guidance has something to push away from.

    Returns:
        Prompt [b, rows] with words unknown and some prompts empty; whose text is all zeros [b];
        whose audio is [b].
    """
    count, device = len(prompt), prompt.device
    chance = torch.rand(count, device=device)
    both = chance < DROP_BOTH
    no_text = both | ((chance >= DROP_BOTH) & (chance < DROP_BOTH + DROP_TEXT))
    no_audio = both | (chance >= 1 - DROP_AUDIO)
    all_zero = no_text & (torch.rand(count, device=device) < 0.5)

    forgotten = (torch.rand(prompt.shape, device=device) < DROP_WORD) & (prompt > UNKNOWN)
    prompt = torch.where(forgotten, UNKNOWN, prompt)
    empty = torch.full_like(prompt, PAD)
    empty[:, 0] = END
    return torch.where(no_text[:, None], empty, prompt), all_zero, no_audio

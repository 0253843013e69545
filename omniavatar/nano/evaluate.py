"""How good the bundled model is: presenters, voices and sentences that training never saw.

Every clip goes through the pipeline as a user's would, with the shipped default settings. Each
figure stands beside its ceiling: the same measure on true drawings, and on those after the VAE.
"""

# n clips, t video frames, h, w rows and columns in pixels

import tempfile
import time
from pathlib import Path

import torch
from diffusers import AutoencoderKLWan
from torch import Tensor

from omniavatar import AvatarPipeline
from omniavatar.nano.architecture import CHUNK_FRAMES, OVERLAP_FRAMES, SIZE, weights_folder
from omniavatar.nano.clips import SAMPLES_PER_ROW, Clips, sample_clips
from omniavatar.nano.figures import Figure
from omniavatar.nano.footage import decibels, film_clips, through_vae, write_request
from omniavatar.nano.mouths import read_mouths
from omniavatar.nano.probe import gradient_energy
from omniavatar.nano.prompts import BEHAVIOURS
from omniavatar.nano.reader import READINGS, Reader, load_reader
from omniavatar.nano.regions import inside
from omniavatar.nano.sheet import write_sheet
from omniavatar.nano.speech import speech_bank
from omniavatar.nano.train_speech_encoder import correlation

VAE_CLIPS = 64
"""Presenters on whom the VAE alone is measured."""

NAMED_BEHAVIOURS = tuple(name for name in BEHAVIOURS if name != "nodding")
"""What the model card promises. Faces that nod lose too much detail to be promised."""


@torch.inference_mode()
def evaluate(
    *,
    clips: int,
    chunk_frames: int = CHUNK_FRAMES,
    vae_clips: int = VAE_CLIPS,
    folder: Path | None = None,
    sheet: Path | None = None,
    seed: int = 2026,
) -> list[Figure]:
    """Generate `clips` clips of two chunks, the behaviours in turn, and measure them.

    Args:
        chunk_frames: length of a chunk, more than half of the usual one.
        vae_clips: short ones on which the VAE is measured by itself.
        folder: another checkpoint in the layout of the bundled one.
        sheet: where to write a picture of true rows above generated ones.
        seed: of presenters, sentences and voices; training used other seeds and other voices.
    """
    frames = 2 * chunk_frames - OVERLAP_FRAMES
    pipeline = AvatarPipeline.from_pretrained("nano", folder=folder)
    reader = load_reader((folder or weights_folder()) / "reader")
    bank = speech_bank(max(8, clips), 16.0, seed=seed, held_out=True)
    truth = sample_clips(
        bank,
        count=clips,
        frames=frames,
        height=SIZE,
        width=SIZE,
        generator=torch.Generator().manual_seed(seed),
        device="cpu",
        behaviours=BEHAVIOURS,
        continuation_share=0.0,
    )
    made = film_clips(pipeline, truth, frames=frames)
    decoded = through_vae(pipeline.models.vae, truth.frames)
    if sheet is not None:
        write_sheet(made, truth.frames[:, 1:], sheet)
    shown = truth.frames[:, 1:]
    return [
        *_mouth_figures(reader, truth, made, decoded[:, 1:]),
        *_vae_figures(pipeline.models.vae, clips=vae_clips, seed=seed),
        *_identity_figures(truth, made, decoded, _reference_after_vae(decoded)),
        *_join_figures(made, shown, decoded[:, 1:], join=chunk_frames - 1),
        *_speed_figures(pipeline, truth),
    ]


def _reference_after_vae(decoded: Tensor) -> Tensor:
    """The portrait as the VAE gives it back: frame 0, which depends on no other, [n, 3, h, w]."""
    return decoded[:, 0]


def _mouth_figures(reader: Reader, truth: Clips, made: Tensor, decoded: Tensor) -> list[Figure]:
    wanted = truth.mouth[:, 1:]  # [n, t - 1, 3]
    read = {
        "made": read_mouths(reader, made, truth.presenters),
        "true": read_mouths(reader, truth.frames[:, 1:], truth.presenters),
        "decoded": read_mouths(reader, decoded, truth.presenters),
    }

    def agreement(which: str, index: int, *, shuffled: bool = False) -> float:
        target = wanted.roll(1, 0) if shuffled else wanted
        return correlation(read[which][..., index], target[..., index]).mean().item()

    figures = []
    for index, name in enumerate(READINGS):
        figures.append(
            Figure(
                name=f"mouth {name}, correlation",
                value=agreement("made", index),
                true=agreement("true", index),
                decoded=agreement("decoded", index),
                bar=0.9 if name == "opening" else None,
            )
        )
    figures.append(
        Figure(
            name="mouth opening, other clip's speech",
            value=agreement("made", 0, shuffled=True),
            true=agreement("true", 0, shuffled=True),
            decoded=agreement("decoded", 0, shuffled=True),
            bar=0.1,
            at_least=False,
        )
    )

    def spread(which: str) -> float:
        return (read[which][..., 0].std() / wanted[..., 0].std()).item()

    figures.append(
        Figure(
            name="mouth opening, spread over true",
            value=spread("made"),
            true=spread("true"),
            decoded=spread("decoded"),
        )
    )
    return figures


def _vae_figures(vae: AutoencoderKLWan, *, clips: int, seed: int) -> list[Figure]:
    """On many short clips: from one presenter to the next the figure moves by several dB."""
    truth = sample_clips(
        speech_bank(clips, 4.0, seed=seed + 1, held_out=True),
        count=clips,
        frames=9,
        height=SIZE,
        width=SIZE,
        generator=torch.Generator().manual_seed(seed + 1),
        device="cpu",
        continuation_share=0.0,
    )
    decoded = through_vae(vae, truth.frames)
    error = (decoded.float() - truth.frames.float()).square().mean(2)  # [n, t, h, w]
    mouth = inside(truth.regions.mouth, height=SIZE, width=SIZE)
    return [
        Figure(name="VAE, dB", value=decibels(error, torch.ones_like(mouth)), bar=31),
        Figure(name="VAE in the mouth's box, dB", value=decibels(error, mouth), bar=26),
    ]


def _identity_figures(
    truth: Clips, made: Tensor, decoded: Tensor, reference: Tensor
) -> list[Figure]:
    figures = [
        Figure(
            name="what holds still, dB to portrait",
            value=_stillness(truth, made),
            decoded=_stillness(truth, decoded[:, 1:]),
            bar=32,
        )
    ]
    boxes = truth.regions.head
    base = gradient_energy(reference[:, None], boxes[:, :1])  # [n, 1]
    true_base = gradient_energy(truth.reference[:, None], boxes[:, :1])

    def detail(frames: Tensor, over: Tensor) -> Tensor:
        return (gradient_energy(frames, boxes[:, 1:]) / over).mean(1)  # [n]

    ours = detail(made, base)
    true = detail(truth.frames[:, 1:], true_base)
    after_vae = detail(decoded[:, 1:], base)
    for index, behaviour in enumerate(BEHAVIOURS):
        chosen = slice(index, None, len(BEHAVIOURS))
        if len(ours[chosen]):
            figures.append(
                Figure(
                    name=f"head detail, {behaviour}",
                    value=ours[chosen].mean().item(),
                    true=true[chosen].mean().item(),
                    decoded=after_vae[chosen].mean().item(),
                    bar=0.8 if behaviour in NAMED_BEHAVIOURS else None,
                )
            )
    return figures


def _stillness(truth: Clips, frames: Tensor) -> float:
    error = (frames.float() - truth.reference[:, None].float()).square().mean(2)
    return decibels(error, truth.static[:, None].expand_as(error))


def _join_figures(made: Tensor, true: Tensor, decoded: Tensor, *, join: int) -> list[Figure]:
    """Changes from frame to frame, in units of the clip's median change.

    Args:
        join: first frame of the second chunk, in a video that has dropped the portrait's own.
    """

    def measure(frames: Tensor) -> tuple[float, float]:
        change = frames.float().diff(dim=1).abs().mean((2, 3, 4))  # [n, t - 2]
        change = change / change.median(dim=1, keepdim=True).values
        ordinary = torch.cat([change[:, : join - 1], change[:, join:]], dim=1)
        return change[:, join - 1].mean().item(), ordinary.quantile(0.95).item()

    (made_join, usual), (true_join, true_usual), (vae_join, vae_usual) = map(
        measure, (made, true, decoded)
    )
    return [
        Figure(
            name="change at the join, over median",
            value=made_join,
            true=true_join,
            decoded=vae_join,
            bar=usual,
            at_least=False,
        ),
        Figure(
            name="95th percentile of other changes", value=usual, true=true_usual, decoded=vae_usual
        ),
    ]


def _speed_figures(pipeline: AvatarPipeline, truth: Clips) -> list[Figure]:
    with tempfile.TemporaryDirectory() as name:
        samples = truth.waveform[0, : 75 * SAMPLES_PER_ROW]
        request = write_request(
            Path(name), truth.reference[0], samples, prompt=truth.prompts[0], seed=0
        )
        began = time.monotonic()
        pipeline.generate(request, Path(name) / "clip.mp4")
        seconds = time.monotonic() - began
    return [Figure(name="3 s of speech, warm, seconds", value=seconds, bar=15, at_least=False)]

"""How good the generator is while it trains: clips of presenters that training never sees."""

# n clips, t video frames, h, w rows and columns in pixels

import math
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import Wav2Vec2Model

from omniavatar.nano.architecture import build_tokenizer
from omniavatar.nano.clips import sample_clips
from omniavatar.nano.course import Course
from omniavatar.nano.face_view import face_view
from omniavatar.nano.generator import Generator, generate
from omniavatar.nano.prompts import BEHAVIOURS, VOCABULARY, WIDE_BEHAVIOURS
from omniavatar.nano.reader import READINGS, Reader
from omniavatar.nano.regions import inside
from omniavatar.nano.sheet import write_sheet
from omniavatar.nano.speech import SpeechBank
from omniavatar.nano.train_speech_encoder import correlation
from omniavatar.nano.training import in_bfloat16
from omniavatar.nano.windows import LEAD_FRAMES, Latents, as_frames, encode_takes, take_clips


class Probe:
    """Clips that training never sees, made anew whenever it is asked how good they are.

    The behaviours take turns, so that the weakest of them shows.
    """

    def __init__(
        self,
        held_out: SpeechBank,
        latents: Latents,
        encoder: Wav2Vec2Model,
        reader: Reader,
        *,
        course: Course,
        clips: int,
        device: torch.device,
    ) -> None:
        self._latents, self._reader = latents, reader
        shape = course.shapes[0]
        self._behaviours = course.behaviours or (
            WIDE_BEHAVIOURS if course.look == "wide" else BEHAVIOURS
        )
        self._clips = sample_clips(
            held_out,
            count=clips,
            frames=shape.frames + LEAD_FRAMES,
            height=shape.height,
            width=shape.width,
            generator=torch.Generator().manual_seed(43),
            device=device,
            behaviours=self._behaviours,
            continuation_share=0.0,
            look=course.look,
        )
        windows = encode_takes(take_clips(self._clips, build_tokenizer(VOCABULARY)), latents)
        self._windows = windows.hear(encoder)

    def score(
        self,
        network: Generator,
        *,
        steps: int = 8,
        sheet: Path | None = None,
    ) -> dict[str, float]:
        """Correlation of the mouth with the truth, the head's detail, and what holds still."""
        frames = self.frames(network, steps=steps)
        clips = self._clips
        read = self._reader.read(face_view(frames, clips.presenters))[:, 1:]
        truth = clips.mouth[:, 1 : frames.shape[1]]
        scores = {
            name: correlation(read[..., i], truth[..., i]).mean().item()
            for i, name in enumerate(READINGS)
        }
        scores["shuffled"] = correlation(read[..., 0], truth.roll(7, 0)[..., 0]).mean().item()
        scores["spread"] = (read[..., 0].std() / truth[..., 0].std()).item()
        detail = self._detail(frames)
        scores["detail"] = detail.mean().item()
        behaviours = len(self._behaviours)
        turns = len(detail) // behaviours * behaviours
        each = detail[:turns].unflatten(0, (-1, behaviours)).mean(0)
        scores["detail_lowest"] = each.min().item() if turns else math.nan
        scores["true_detail"] = self._detail(clips.frames[:, : frames.shape[1]]).mean().item()
        scores["static"] = self._static(frames)
        if sheet is not None:
            write_sheet(frames, clips.frames, sheet)
        return scores

    @torch.no_grad()
    def frames(self, network: Generator, *, steps: int) -> Tensor:
        """Generate the first chunk of every clip, [n, t, 3, h, w] uint8."""
        windows = self._windows
        with in_bfloat16(windows.latents.device):
            latents = generate(network, windows, steps=steps, seed=44)
            return as_frames(self._latents.decode(latents))

    def _detail(self, frames: Tensor) -> Tensor:
        """Gradient energy of the head after frame 0 over that of frame 0, [n]."""
        energy = gradient_energy(frames, self._clips.regions.head[:, : frames.shape[1]])
        return energy[:, 1:].mean(1) / energy[:, 0]

    def _static(self, frames: Tensor) -> float:
        """PSNR in dB against the portrait, of the pixels that hold still in the true clip."""
        clips = self._clips
        error = (frames.float() - clips.reference[:, None].float()).square().mean(2)
        mask = clips.static[:, None].expand_as(error)
        return 10 * math.log10(255**2 / max(error[mask].mean().item(), 1e-6))


def gradient_energy(frames: Tensor, boxes: Tensor) -> Tensor:
    """Mean squared brightness gradient inside a box: [n, t, 3, h, w], [n, t, 4] -> [n, t]."""
    gray = frames.float().mean(-3) / 255
    right = F.pad(gray.diff(dim=-1), (0, 1))
    down = F.pad(gray.diff(dim=-2), (0, 0, 0, 1))
    box = inside(boxes, height=gray.shape[-2], width=gray.shape[-1])
    energy = (right.square() + down.square()) * box
    return energy.sum((-1, -2)) / box.sum((-1, -2)).clamp_min(1)

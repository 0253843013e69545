"""Train the reader of mouths on drawn frames, half of them blurred, all with some noise.

The blur and the noise make it read generated and decoded frames as well as drawn ones.
"""

# n frames, t frames of a clip

from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from omniavatar.nano.clips import Clips, sample_clips
from omniavatar.nano.course import Course
from omniavatar.nano.face_view import face_view
from omniavatar.nano.reader import READINGS, Reader
from omniavatar.nano.speech import SpeechBank
from omniavatar.nano.train_speech_encoder import correlation
from omniavatar.nano.training import Recipe, Trainer, in_bfloat16, train
from omniavatar.nano.windows import Latents, as_frames

RECIPE = Recipe(learning_rate=1.5e-3, weight_decay=0.01, decay=0.995)


def train_reader(
    speech: SpeechBank,
    held_out: SpeechBank,
    *,
    folder: Path,
    seconds: float,
    deadline: float,
    batch: int = 256,
    clips: int = 2_500,
    course: Course,
    through: Path | None = None,
    device: torch.device,
) -> None:
    """Train until the time is over; the probe reads presenters never trained on.

    Args:
        through: train the expert that `train_lips` asks, another than evaluation's: half of its
            people are drawn ones, and it sees them after the VAE that is exported here as well.
    """
    seed = 31 if through is None else 131
    torch.manual_seed(seed)
    reader = Reader().to(device)
    trainer = Trainer(
        "reader" if through is None else "expert",
        reader,
        RECIPE,
        folder=folder,
        seconds=seconds,
        deadline=deadline,
        settings={
            "batch": batch,
            "clips": clips,
            "parameters": sum(p.numel() for p in reader.parameters()),
        },
    )
    looks = (course,) if through is None else (course, replace(course, look="drawn"))
    latents = None if through is None else Latents.load(through, device)
    views, drawn_mouths = [], []
    for number, start in enumerate(range(0, clips, 256)):
        drawn = _draw(
            speech,
            min(256, clips - start),
            9,
            seed=seed + 1 + start,
            course=looks[number % len(looks)],
            device=device,
        )
        views.append(_views(drawn).flatten(0, 1))
        drawn_mouths.append(drawn.mouth.flatten(0, 1))
        if latents is not None:
            views.append(_views(replace(drawn, frames=_after(latents, drawn.frames))).flatten(0, 1))
            drawn_mouths.append(drawn_mouths[-1])
    frames, mouths = torch.cat(views), torch.cat(drawn_mouths)
    test = _draw(held_out, 24, 65, seed=33, course=looks[-1], device=device)
    test_views = _views(test)
    generator = torch.Generator().manual_seed(34 + trainer.record.steps)
    trainer.prepared()

    def loss() -> Tensor:
        chosen = torch.randint(len(frames), (batch,), generator=generator).to(device)
        pictures = spoil(frames[chosen].float() / 127.5 - 1)
        with in_bfloat16(device):
            found = reader(pictures)
        return F.smooth_l1_loss(found.float(), mouths[chosen], beta=0.1)

    def probe() -> dict[str, float]:
        found = trainer.average.read(test_views)
        return {
            name: correlation(found[..., i], test.mouth[..., i]).mean().item()
            for i, name in enumerate(READINGS)
        }

    train(trainer, loss, probe=probe, probe_seconds=[seconds * 0.3, seconds * 0.6])


@torch.no_grad()
def _after(latents: Latents, frames: Tensor) -> Tensor:
    """Clips [n, t, 3, h, w] uint8 as the VAE gives them back."""
    with in_bfloat16(frames.device):
        parts = [
            latents.decode(latents.encode(rearrange(part, "n t c h w -> n c t h w") / 127.5 - 1))
            for part in frames.split(32)
        ]
    return as_frames(torch.cat(parts))


def _views(clips: Clips) -> Tensor:
    return face_view(clips.frames, clips.presenters)


def _draw(
    speech: SpeechBank,
    clips: int,
    frames: int,
    *,
    seed: int,
    course: Course,
    device: torch.device,
) -> Clips:
    shape = course.shapes[0]
    return sample_clips(
        speech,
        count=clips,
        frames=frames,
        height=shape.height,
        width=shape.width,
        generator=torch.Generator().manual_seed(seed),
        device=device,
        continuation_share=0.0,
        look=course.look,
    )


def spoil(frames: Tensor) -> Tensor:
    """Blur half of the frames [n, 3, h, w] with one random width, and add a little noise."""
    sigma = 0.5 + 1.0 * torch.rand(()).item()
    offsets = torch.arange(-3, 4, device=frames.device)
    kernel = torch.exp(-(offsets**2) / (2 * sigma**2))
    kernel = (kernel / kernel.sum()).expand(3, 1, 1, -1)
    blurred = F.conv2d(F.pad(frames, (3, 3, 3, 3), mode="replicate"), kernel, groups=3)
    blurred = F.conv2d(blurred, kernel.transpose(2, 3), groups=3)
    half = torch.rand(len(frames), 1, 1, 1, device=frames.device) < 0.5
    frames = torch.where(half, blurred, frames)
    strength = 0.05 * torch.rand(len(frames), 1, 1, 1, device=frames.device)
    return frames + strength * torch.randn_like(frames)

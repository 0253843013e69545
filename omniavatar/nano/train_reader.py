"""Train the reader of mouths on drawn frames, half of them blurred, all with some noise.

The blur and the noise make it read generated and decoded frames as well as drawn ones.
"""

# n frames, t frames of a clip

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from omniavatar.nano.clips import Clips, sample_clips
from omniavatar.nano.course import Course
from omniavatar.nano.face_view import face_view
from omniavatar.nano.reader import READINGS, Reader
from omniavatar.nano.speech import SpeechBank
from omniavatar.nano.train_speech_encoder import correlation
from omniavatar.nano.training import Recipe, Trainer, train

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
    device: torch.device,
) -> None:
    """Train until the time is over; the probe reads presenters never trained on."""
    torch.manual_seed(31)
    reader = Reader().to(device)
    trainer = Trainer(
        "reader",
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
    drawn = [
        _draw(speech, min(256, clips - start), 9, seed=32 + start, course=course, device=device)
        for start in range(0, clips, 256)
    ]
    frames = torch.cat([_views(part).flatten(0, 1) for part in drawn])
    mouths = torch.cat([part.mouth.flatten(0, 1) for part in drawn])
    test = _draw(held_out, 24, 65, seed=33, course=course, device=device)
    test_views = _views(test)
    generator = torch.Generator().manual_seed(34 + trainer.record.steps)
    trainer.prepared()

    def loss() -> Tensor:
        chosen = torch.randint(len(frames), (batch,), generator=generator).to(device)
        pictures = spoil(frames[chosen].float() / 127.5 - 1)
        with torch.autocast(device.type, torch.bfloat16):
            found = reader(pictures)
        return F.smooth_l1_loss(found.float(), mouths[chosen], beta=0.1)

    def probe() -> dict[str, float]:
        found = trainer.average.read(test_views)
        return {
            name: correlation(found[..., i], test.mouth[..., i]).mean().item()
            for i, name in enumerate(READINGS)
        }

    train(trainer, loss, probe=probe, probe_seconds=[seconds * 0.3, seconds * 0.6])


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

"""Train nano's wav2vec2 to tell from speech what the mouth does.

Two heads read the last hidden state, the mouth's shape and the class of the sound; they are thrown
away afterwards, and the transformer reads all hidden states.
"""

# b batch, n samples, t video frames (rows), k encoder width, l layers

import logging
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from omniavatar.models.audio_encoder import encode_batch
from omniavatar.nano.architecture import build_speech_encoder
from omniavatar.nano.clips import SAMPLES_PER_ROW, SpeechWindows, sample_speech
from omniavatar.nano.course import Course
from omniavatar.nano.rough_speech import roughen
from omniavatar.nano.speech import VISEMES, SpeechBank
from omniavatar.nano.training import Recipe, Trainer, train

logger = logging.getLogger(__name__)

RECIPE = Recipe(learning_rate=1.2e-3, betas=(0.9, 0.98), weight_decay=0.01, decay=0.999)
SHORTEST_ROWS, LONGEST_ROWS, ROW_STEP = 65, 150, 17
"""Windows of 2.6 to 6 seconds, in few lengths, so that the card meets few shapes."""


class SpeechReader(nn.Module):
    """The encoder and its two heads."""

    mouth_mean: Tensor
    mouth_std: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.encoder = build_speech_encoder()
        width = self.encoder.config.hidden_size
        self.mouth_head = nn.Linear(width, 3)
        self.class_head = nn.Linear(width, len(VISEMES))
        # Of the tracks drawn in training; set before the first step.
        self.register_buffer("mouth_mean", torch.zeros(3))
        self.register_buffer("mouth_std", torch.ones(3))

    def forward(self, waveform: Tensor, frames: int) -> tuple[Tensor, Tensor]:
        """[b, n] normalised -> mouth in standard units [b, t, 3], class scores [b, t, classes]."""
        last = encode_batch(self.encoder, waveform, frames=frames)[
            ..., : self.encoder.config.hidden_size
        ]
        return self.mouth_head(last), self.class_head(last)


def normalise(waveform: Tensor) -> Tensor:
    """Zero mean and unit variance of each clip, [b, n], as the published extractor does it."""
    mean = waveform.mean(-1, keepdim=True)
    variance = waveform.var(-1, keepdim=True, unbiased=False)
    return (waveform - mean) / (variance + 1e-7).sqrt()


def train_speech_encoder(
    speech: SpeechBank,
    held_out: SpeechBank,
    *,
    folder: Path,
    seconds: float,
    deadline: float,
    batch: int = 64,
    course: Course,
    device: torch.device,
) -> None:
    """Train until the time is over; the probe reads voices and words never trained on."""
    torch.manual_seed(21)
    reader = SpeechReader().to(device).train()
    settings = {
        "batch": f"{batch} x {SHORTEST_ROWS}-{LONGEST_ROWS} rows",
        "hours": round(speech.samples.numel() / 16000 / 3600, 2),
        "parameters": sum(p.numel() for p in reader.encoder.parameters()),
    }
    trainer = Trainer(
        "speech-encoder",
        reader,
        RECIPE,
        folder=folder,
        seconds=seconds,
        deadline=deadline,
        settings=settings,
    )
    for network in (reader, trainer.average):
        network.mouth_mean.copy_(speech.mouth.mean((0, 1)))
        network.mouth_std.copy_(speech.mouth.std((0, 1)))
    generator = torch.Generator().manual_seed(22 + trainer.record.steps)
    test = sample_speech(
        held_out,
        count=64,
        rows=125,
        generator=torch.Generator().manual_seed(23),
        device=device,
    )
    trainer.prepared()

    def loss() -> Tensor:
        lengths = range(SHORTEST_ROWS, LONGEST_ROWS + 1, ROW_STEP)
        rows = lengths[int(torch.randint(len(lengths), (1,), generator=generator))]
        windows = sample_speech(speech, count=batch, rows=rows, generator=generator, device=device)
        with torch.autocast(device.type, torch.bfloat16):
            return speech_loss(reader, windows, rough=course.rough)

    marks = [seconds * share for share in (0.15, 0.3, 0.5, 0.75)]
    train(trainer, loss, probe=lambda: score(trainer.average, test), probe_seconds=marks)


def speech_loss(reader: SpeechReader, windows: SpeechWindows, *, rough: bool = False) -> Tensor:
    """Squares of the tracks in standard units + 0.3 x cross entropy of the classes."""
    mouth, classes = windows.mouth, windows.classes
    with torch.autocast(mouth.device.type, enabled=False):
        heard = roughen(windows.waveform, share=0.3) if rough else windows.waveform
        waveform, silent = end_in_silence(_roughen(heard))
    rest = torch.tensor(VISEMES["rest"], device=mouth.device)
    mouth = torch.where(silent[..., None], rest, mouth)
    classes = torch.where(silent, list(VISEMES).index("rest"), classes)
    tracks, scores = reader(waveform, mouth.shape[1])
    wanted = (mouth - reader.mouth_mean) / reader.mouth_std
    return F.mse_loss(tracks.float(), wanted) + 0.3 * F.cross_entropy(
        scores.float().flatten(0, 1), classes.flatten()
    )


def end_in_silence(waveform: Tensor, share: float = 0.3) -> tuple[Tensor, Tensor]:
    """Normalise, and cut some clips short as the last chunk of a video does: with zeros.

    Args:
        waveform: [b, n].
        share: of the clips that are cut, anywhere in their second half.

    Returns:
        Waveform [b, n], and which rows are made of zeros, [b, t].
    """
    count, samples = waveform.shape
    rows = samples // SAMPLES_PER_ROW
    cut = torch.rand(count, device=waveform.device) < share
    length = torch.randint(rows // 2, rows, (count,), device=waveform.device)
    length = torch.where(cut, length, rows)[:, None]
    kept = torch.arange(samples, device=waveform.device) < length * SAMPLES_PER_ROW
    sizes = kept.sum(-1, keepdim=True)
    mean = (waveform * kept).sum(-1, keepdim=True) / sizes
    centred = (waveform - mean) * kept
    variance = centred.square().sum(-1, keepdim=True) / sizes
    silent = torch.arange(rows, device=waveform.device) >= length
    return centred / (variance + 1e-7).sqrt(), silent


@torch.no_grad()
def score(reader: SpeechReader, test: SpeechWindows) -> dict[str, float]:
    """Mean correlation per clip of the three tracks, and the share of right classes."""
    tracks, scores = reader(normalise(test.waveform), test.mouth.shape[1])
    names = ("opening", "width", "rounding")
    found = {
        name: correlation(tracks[..., i], test.mouth[..., i]).mean().item()
        for i, name in enumerate(names)
    }
    return {**found, "classes": (scores.argmax(-1) == test.classes).float().mean().item()}


def correlation(first: Tensor, second: Tensor) -> Tensor:
    """Pearson's correlation along the last axis; 0 where either does not move."""
    first = first - first.mean(-1, keepdim=True)
    second = second - second.mean(-1, keepdim=True)
    size = first.norm(dim=-1) * second.norm(dim=-1)
    return (first * second).sum(-1) / size.clamp_min(1e-8)


def _roughen(waveform: Tensor) -> Tensor:
    """Noise at 15 to 45 dB under most clips, and a random tilt of the spectrum."""
    count = len(waveform)
    tilt = torch.empty(count, 1, device=waveform.device).uniform_(-0.6, 0.6)
    waveform = waveform + tilt * F.pad(waveform[:, :-1], (1, 0))
    level = waveform.square().mean(-1, keepdim=True).sqrt()
    decibels = torch.empty(count, 1, device=waveform.device).uniform_(15, 45)
    noisy = torch.rand(count, 1, device=waveform.device) < 0.6
    noise = torch.randn_like(waveform) * level * 10 ** (-decibels / 20)
    return torch.where(noisy, waveform + noise, waveform)

"""Train nano's wav2vec2 to tell from speech what the mouth does.

Two heads read the last hidden state, the mouth's shape and the class of the sound; they are thrown
away afterwards, and the transformer reads all hidden states. Where there is a transformer already,
its audio pack is trained with the encoder, see `audio_code`.
"""

# b batch, n samples, t video frames (rows), k encoder width, x features of all layers

import logging
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import Wav2Vec2Model

from omniavatar.models.audio_encoder import encode_batch
from omniavatar.models.transformer import AudioPack
from omniavatar.nano.architecture import AUDIO_HIDDEN, build_speech_encoder
from omniavatar.nano.audio_code import IdealCode, code_of, load_transformer
from omniavatar.nano.clips import SAMPLES_PER_ROW, SpeechWindows, sample_speech
from omniavatar.nano.course import Course
from omniavatar.nano.rough_speech import roughen
from omniavatar.nano.speech import VISEMES, SpeechBank
from omniavatar.nano.training import Recipe, Trainer, in_bfloat16, rank, train

logger = logging.getLogger(__name__)

RECIPE = Recipe(learning_rate=1.2e-3, betas=(0.9, 0.98), weight_decay=0.01, decay=0.999)
LATER_RATE = 6e-4
"""Highest rate for an encoder that goes on from what is exported."""

SHORTEST_ROWS, LONGEST_ROWS, ROW_STEP = 65, 150, 17
"""Windows of 2.6 to 6 seconds, in few lengths, so that the card meets few shapes."""

SLOWEST, FASTEST = 0.82, 1.22
"""At which speech is played in training: with its pitch, so each voice stands for many."""

CODE_WEIGHT = 1.0
"""On what a transformer hears, beside what the heads read."""


class SpeechReader(nn.Module):
    """The encoder, its two heads, and the pack through which a transformer hears it.

    Without a transformer the pack is as it was made, and nothing trains it.
    """

    mouth_mean: Tensor
    mouth_std: Tensor

    def __init__(self, encoder: Wav2Vec2Model) -> None:
        super().__init__()
        self.encoder = encoder
        width = self.encoder.config.hidden_size
        self.mouth_head = nn.Linear(width, 3)
        self.class_head = nn.Linear(width, len(VISEMES))
        self.pack = AudioPack((self.encoder.config.num_hidden_layers + 2) * width, AUDIO_HIDDEN)
        # Of the tracks drawn in training; set before the first step.
        self.register_buffer("mouth_mean", torch.zeros(3))
        self.register_buffer("mouth_std", torch.ones(3))

    def forward(self, waveform: Tensor, frames: int) -> tuple[Tensor, Tensor]:
        """[b, n] normalised -> mouth in standard units [b, t, 3], class scores [b, t, classes]."""
        return self.read(encode_batch(self.encoder, waveform, frames=frames))

    def read(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """The same from features [b, t, x]."""
        last = features[..., : self.encoder.config.hidden_size]
        return self.mouth_head(last), self.class_head(last)


def fit_heads(
    reader: SpeechReader, speech: SpeechBank, *, generator: torch.Generator, clips: int = 256
) -> None:
    """Give an exported encoder, whose heads were thrown away, heads that read it."""
    device = speech.samples.device
    windows = _draw(speech, most=clips, generator=generator)
    features = features_of(reader.encoder, windows.waveform).flatten(0, 1)
    wanted = ((windows.mouth - reader.mouth_mean) / reader.mouth_std).flatten(0, 1)
    heads = nn.ModuleList((reader.mouth_head, reader.class_head))
    optimiser = torch.optim.AdamW(heads.parameters(), lr=1e-2, weight_decay=0.0)
    for _ in range(200):
        chosen = torch.randint(len(features), (4096,), generator=generator).to(device)
        tracks, scores = reader.read(features[chosen])
        classes = windows.classes.flatten()[chosen]
        loss = _reading_loss(tracks, scores, wanted[chosen], classes)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    reader.zero_grad()


def _draw(speech: SpeechBank, *, most: int, generator: torch.Generator) -> SpeechWindows:
    """Windows of five seconds, of a small bank no more than it has to say."""
    count = min(most, 16 * len(speech.samples))
    device = speech.samples.device
    return sample_speech(speech, count=count, rows=125, generator=generator, device=device)


@torch.no_grad()
def features_of(encoder: Wav2Vec2Model, waveform: Tensor) -> Tensor:
    """Speech features of clips [b, n], on the encoder's device, some at a time: [b, t, x]."""
    rows = waveform.shape[1] // SAMPLES_PER_ROW
    parts = [part.to(encoder.device) for part in waveform.split(16)]
    return torch.cat([encode_batch(encoder, normalise(part), frames=rows) for part in parts])


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
    from_weights: Path | None = None,
    ideal_steps: int = 2000,
    device: torch.device,
) -> None:
    """Train until the time is over; the probe reads voices and words never trained on.

    Args:
        ideal_steps: in which it is learned what the transformer should hear; see `IdealCode.fit`.
        from_weights: where an encoder is exported, and a transformer that learned to read it. The
            encoder goes on at a lower rate, or begins anew beside if it has other widths; the
            transformer's audio pack is trained with it, and all else of the transformer stays.
    """
    torch.manual_seed(21)
    generator = torch.Generator().manual_seed(22)
    reader, ideal = SpeechReader(build_speech_encoder()), None
    goes_on = False
    if from_weights is not None:
        exported = SpeechReader(
            Wav2Vec2Model.from_pretrained(from_weights / "speech_encoder", dtype=torch.float32)
        ).to(device)
        ideal, pack = _hear(
            exported.encoder, speech, from_weights, generator=generator, steps=ideal_steps
        )
        goes_on = _shapes(exported) == _shapes(reader)
        reader = exported if goes_on else reader
        reader.pack = pack
    _know_mouths(reader.to(device), speech)
    if goes_on:
        fit_heads(reader, speech, generator=generator)
    settings = {
        "batch": f"{batch} x {SHORTEST_ROWS}-{LONGEST_ROWS} rows",
        "hours": round(speech.samples.numel() / 16000 / 3600, 2),
        "parameters": sum(p.numel() for p in reader.encoder.parameters()),
        "audio_pack": ideal is not None,
    }
    trainer = Trainer(
        "speech-encoder",
        reader.train(),
        replace(RECIPE, learning_rate=LATER_RATE) if goes_on else RECIPE,
        folder=folder,
        seconds=seconds,
        deadline=deadline,
        settings=settings,
    )
    seed = trainer.record.steps + 100_000 * rank()
    torch.manual_seed(21 + seed)
    generator.manual_seed(22 + seed)
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
        pace = 1.0
        if course.rough:
            pace = SLOWEST + (FASTEST - SLOWEST) * torch.rand((), generator=generator).item()
        windows = sample_speech(
            speech, count=batch, rows=round(rows * pace), generator=generator, device=device
        )
        with in_bfloat16(device):
            return speech_loss(reader, play_in(windows, rows), rough=course.rough, ideal=ideal)

    marks = [seconds * share for share in (0.15, 0.3, 0.5, 0.75)]
    train(trainer, loss, probe=lambda: score(trainer.average, test, ideal), probe_seconds=marks)


def _hear(
    encoder: Wav2Vec2Model,
    speech: SpeechBank,
    weights: Path,
    *,
    generator: torch.Generator,
    steps: int,
) -> tuple[IdealCode, AudioPack]:
    """What the exported transformer's code should be, and its audio pack."""
    device = speech.samples.device
    windows = _draw(speech, most=4096, generator=generator)
    windows = replace(windows, waveform=normalise(windows.waveform))
    transformer = load_transformer(weights, device)
    ideal = IdealCode.fit(transformer, encoder, windows, generator=generator, steps=steps)
    return ideal, transformer.audio_proj.requires_grad_(True)


def _know_mouths(reader: SpeechReader, speech: SpeechBank) -> None:
    reader.mouth_mean.copy_(speech.mouth.mean((0, 1)))
    reader.mouth_std.copy_(speech.mouth.std((0, 1)))


def _shapes(network: nn.Module) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in network.state_dict().items()}


def play_in(windows: SpeechWindows, rows: int) -> SpeechWindows:
    """Play speech faster or slower, its pitch with it, until it takes so many rows."""
    if windows.mouth.shape[1] == rows:
        return windows
    waveform = F.interpolate(
        windows.waveform[:, None, None], size=(1, rows * SAMPLES_PER_ROW), mode="bicubic"
    )[:, 0, 0]
    mouth = F.interpolate(windows.mouth.mT, size=rows, mode="linear").mT
    classes = F.interpolate(windows.classes[:, None].double(), size=rows, mode="nearest-exact")
    return SpeechWindows(waveform=waveform, mouth=mouth, classes=classes[:, 0].long())


def speech_loss(
    reader: SpeechReader,
    windows: SpeechWindows,
    *,
    rough: bool = False,
    ideal: IdealCode | None = None,
) -> Tensor:
    """How wrongly speech is read, see `_reading_loss`, and heard by a transformer if there is one.

    Args:
        rough: whether half of the speech comes with noise, music and rooms.
        ideal: what the transformer should hear.
    """
    mouth, classes = windows.mouth, windows.classes
    with torch.autocast(mouth.device.type, enabled=False):
        heard = roughen(windows.waveform, share=0.3) if rough else windows.waveform
        silent = draw_silence(windows.waveform)
        waveform = end_in_silence(_roughen(heard), silent)
    rest = torch.tensor(VISEMES["rest"], device=mouth.device)
    mouth = torch.where(silent[..., None], rest, mouth)
    classes = torch.where(silent, list(VISEMES).index("rest"), classes)
    features = encode_batch(reader.encoder, waveform, frames=mouth.shape[1])
    tracks, scores = reader.read(features)
    wanted = (mouth - reader.mouth_mean) / reader.mouth_std
    loss = _reading_loss(tracks.float(), scores.float(), wanted, classes)
    if ideal is None:
        return loss
    code = code_of(reader.pack, features).float()
    with torch.autocast(mouth.device.type, enabled=False):
        return loss + CODE_WEIGHT * ideal.loss(code, mouth)


def _reading_loss(tracks: Tensor, scores: Tensor, wanted: Tensor, classes: Tensor) -> Tensor:
    """Squares of the tracks in standard units + 0.3 x cross entropy of the classes."""
    return F.mse_loss(tracks, wanted) + 0.3 * F.cross_entropy(
        scores.flatten(0, -2), classes.flatten()
    )


def draw_silence(waveform: Tensor, share: float = 0.3) -> Tensor:
    """Which rows of speech [b, n] are cut off, as in the last chunk of a video: [b, t].

    Args:
        share: of the clips that are cut, anywhere in their second half.
    """
    count, samples = waveform.shape
    rows = samples // SAMPLES_PER_ROW
    cut = torch.rand(count, device=waveform.device) < share
    length = torch.randint(rows // 2, rows, (count,), device=waveform.device)
    length = torch.where(cut, length, rows)[:, None]
    return torch.arange(rows, device=waveform.device) >= length


def end_in_silence(waveform: Tensor, silent: Tensor) -> Tensor:
    """Normalise what is spoken of [b, n], and put zeros in the silent rows [b, t] after it."""
    kept = (~silent).repeat_interleave(SAMPLES_PER_ROW, dim=1)
    sizes = kept.sum(-1, keepdim=True)
    mean = (waveform * kept).sum(-1, keepdim=True) / sizes
    centred = (waveform - mean) * kept
    variance = centred.square().sum(-1, keepdim=True) / sizes
    return centred / (variance + 1e-7).sqrt()


@torch.no_grad()
def score(
    reader: SpeechReader, test: SpeechWindows, ideal: IdealCode | None = None
) -> dict[str, float]:
    """Mean correlation per clip of the three tracks, and the share of right classes.

    With an ideal also those of what a transformer hears, named "code ...".
    """
    features = encode_batch(reader.encoder, normalise(test.waveform), frames=test.mouth.shape[1])
    tracks, scores = reader.read(features)
    found = agreement(tracks, test.mouth)
    found["classes"] = (scores.argmax(-1) == test.classes).float().mean().item()
    if ideal is not None:
        heard = ideal.read(code_of(reader.pack, features))
        of_code = agreement(heard, ideal.mouth_of(test.mouth))
        found |= {f"code {name}": value for name, value in of_code.items()}
    return found


def agreement(tracks: Tensor, mouth: Tensor) -> dict[str, float]:
    """Mean correlation per clip of each of the three tracks, both [b, t, 3]."""
    names = ("opening", "width", "rounding")
    return {
        name: correlation(tracks[..., i], mouth[..., i]).mean().item()
        for i, name in enumerate(names)
    }


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

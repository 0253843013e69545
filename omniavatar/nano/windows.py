"""Drawn clips as the transformer sees them: latents, speech features, prompt, loss weights.

A third of the windows go on from given frames, as every chunk of a long video but the first does.
Those frames went through the VAE twice, as what a chunk hands on has.
"""

# n clips, b batch, t video frames, f latent frames, h, w latent rows and columns, c channels

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Self

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKLWan
from einops import rearrange
from torch import Tensor
from transformers import PreTrainedTokenizerFast, Wav2Vec2Model

from omniavatar.models.audio_encoder import encode_batch
from omniavatar.models.whole_sequence import decode_whole, encode_whole
from omniavatar.nano.architecture import OVERLAP_FRAMES, PAD, build_tokenizer
from omniavatar.nano.clips import SAMPLES_PER_ROW, Clips, sample_clips
from omniavatar.nano.course import Course, Shape
from omniavatar.nano.face_view import faces_of
from omniavatar.nano.prompts import VOCABULARY
from omniavatar.nano.regions import inside, to_latent_cells
from omniavatar.nano.rough_speech import roughen
from omniavatar.nano.speech import SpeechBank
from omniavatar.nano.train_speech_encoder import normalise
from omniavatar.nano.train_vae import to_channels_last
from omniavatar.nano.training import in_bfloat16, processes, rank

logger = logging.getLogger(__name__)

PROMPT_ROWS = 48
"""Rows of text kept in training; the rest of the 512 are zero and all alike."""

KNOWN_LATENTS = (OVERLAP_FRAMES + 3) // 4
LEAD_FRAMES = 4
"""Frames drawn before a window, so that its first frames can be decoded with a past."""

MOUTH_WEIGHT, EYE_WEIGHT, HEAD_WEIGHT = 7.0, 8.0, 2.5
MOVING_WEIGHT, MOVED = 4.0, 24
"""On cells with pixels that differ by more than so much, of 255, from the portrait: heads that nod
and hands that come would else be a small part of the loss."""


@dataclass(frozen=True, slots=True)
class Latents:
    """The trained VAE, with latents of about zero mean and unit variance."""

    vae: AutoencoderKLWan

    @classmethod
    def load(cls, weights: Path, device: torch.device) -> Self:
        """Read the exported VAE, in the precision in which it is shipped."""
        vae = AutoencoderKLWan.from_pretrained(weights / "vae", torch_dtype=torch.float32)
        vae = vae.eval().requires_grad_(False).to(device)
        to_channels_last(vae)
        return cls(vae)

    def encode(self, video: Tensor) -> Tensor:
        """[b, 3, t, 8h, 8w] in -1..1 -> [b, c, f, h, w]."""
        mean, std = self._statistics(video.device)
        at_once = max(1, 32 * 65 * 128 * 128 // video[0, 0].numel())
        raw = torch.cat([encode_whole(self.vae, part).float() for part in video.split(at_once)])
        return (raw - mean) / std

    def decode(self, latents: Tensor, *, clamp: bool = True) -> Tensor:
        """[b, c, f, h, w] -> [b, 3, t, 8h, 8w] in -1..1, or a little beyond without `clamp`."""
        mean, std = self._statistics(latents.device)
        raw = latents * std + mean
        at_once = max(1, 16 * 17 * 16 * 16 // raw[0, 0].numel())
        return torch.cat(
            [decode_whole(self.vae, part, clamp=clamp).float() for part in raw.split(at_once)]
        )

    def _statistics(self, device: torch.device) -> tuple[Tensor, Tensor]:
        config = self.vae.config
        shape = (1, -1, 1, 1, 1)
        return (
            torch.tensor(config.latents_mean, device=device).view(shape),
            torch.tensor(config.latents_std, device=device).view(shape),
        )


def as_frames(video: Tensor) -> Tensor:
    """What is decoded as pictures: [n, 3, t, h, w] in -1..1 -> [n, t, 3, h, w] uint8."""
    pixels = ((video + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
    return rearrange(pixels, "n c t h w -> n t c h w")


def load_speech_encoder(weights: Path, device: torch.device) -> Wav2Vec2Model:
    """Read the exported speech encoder."""
    encoder = Wav2Vec2Model.from_pretrained(weights / "speech_encoder", dtype=torch.float32)
    return encoder.eval().requires_grad_(False).to(device)


class Examples:
    """Dataclasses of tensors whose first axis counts examples."""

    def map(self, change: Callable[[Tensor], Tensor]) -> Self:
        """The same with every tensor changed."""
        return type(self)(**{f.name: change(getattr(self, f.name)) for f in fields(self)})  # type: ignore[arg-type]

    @classmethod
    def join(cls, parts: Sequence[Self]) -> Self:
        """All examples in one."""
        names = [f.name for f in fields(cls)]  # type: ignore[arg-type]
        return cls(**{name: torch.cat([getattr(part, name) for part in parts]) for name in names})

    def write(self, path: Path) -> None:
        """Write to a file, which is complete or not there."""
        partial = path.with_suffix(".partial")
        torch.save({f.name: getattr(self, f.name) for f in fields(self)}, partial)  # type: ignore[arg-type]
        partial.replace(path)

    @classmethod
    def read(cls, path: Path, device: torch.device) -> Self:
        """Read what `write` wrote."""
        return cls(**torch.load(path, map_location=device, weights_only=True))


@dataclass(frozen=True, kw_only=True)
class Takes(Examples):
    """Drawn clips before the VAE has seen them: so they can be drawn while it is being trained.

    Attributes:
        frames: [n, t + LEAD_FRAMES, 3, 8h, 8w] uint8. A first window begins with the first of
            them, a continuation after the lead.
        reference: [n, 3, 8h, 8w] uint8.
        speech, rows, prompt, weights: see `Windows`.
        mouth, face, heads: see `Windows`.
        continues: [n] bool.
    """

    frames: Tensor
    reference: Tensor
    speech: Tensor
    rows: Tensor
    prompt: Tensor
    weights: Tensor
    mouth: Tensor
    face: Tensor
    heads: Tensor
    continues: Tensor


@dataclass(frozen=True, kw_only=True)
class Windows(Examples):
    """Training examples on one device.

    Attributes:
        latents: [n, c, f, h, w] normalised, the truth.
        prefix: [n, c, known, h, w], what is given instead of the first latents, where `known` > 1.
        reference: [n, c, h, w].
        speech: [n, rows, x]: 640 normalised samples a row, or after `hear` the encoder's features.
        rows: [n, t], the row of the speech that a frame shows; -1 for the zero row.
        prompt: [n, PROMPT_ROWS] token numbers.
        weights: [n, f, h, w], of the loss.
        mouth: [n, t, 3] opening, width and rounding, as drawn.
        face: [n, 3], see `face_view.faces_of`.
        heads: [n, t, 4] box of the head in pixels.
        known: [n], latent frames given.
    """

    latents: Tensor
    prefix: Tensor
    reference: Tensor
    speech: Tensor
    rows: Tensor
    prompt: Tensor
    weights: Tensor
    mouth: Tensor
    face: Tensor
    heads: Tensor
    known: Tensor

    def __len__(self) -> int:
        return len(self.known)

    @property
    def audio(self) -> Tensor:
        """Speech features of each frame, [n, t, x], zero where a frame shows none."""
        clip = torch.arange(len(self), device=self.rows.device)[:, None]
        return self.speech[clip, self.rows.clamp_min(0)] * (self.rows >= 0)[..., None]

    def take(self, chosen: Tensor) -> "Windows":
        """The examples of these numbers."""
        return self.map(lambda tensor: tensor[chosen])

    def put(self, start: int, other: "Windows") -> None:
        """Overwrite some examples, going round at the end."""
        where = (torch.arange(len(other)) + start) % len(self)
        for f in fields(self):
            getattr(self, f.name)[where] = getattr(other, f.name)

    @torch.no_grad()
    def hear(self, encoder: Wav2Vec2Model) -> "Windows":
        """The same with the encoder's features in place of samples."""
        rows = self.speech.shape[1]
        with in_bfloat16(self.speech.device):
            heard = [
                encode_batch(encoder, part.flatten(1).float(), frames=rows).half()
                for part in self.speech.split(128)
            ]
        return replace(self, speech=torch.cat(heard))


def draw_takes(
    speech: SpeechBank,
    tokenizer: PreTrainedTokenizerFast,
    count: int,
    *,
    course: Course,
    shape: Shape,
    generator: torch.Generator,
    device: torch.device,
) -> Takes:
    """Draw clips; their speech is left as samples."""
    clips = sample_clips(
        speech,
        count=count,
        frames=shape.frames + LEAD_FRAMES,
        height=shape.height,
        width=shape.width,
        generator=generator,
        device=device,
        behaviours=course.behaviours,
        look=course.look,
    )
    return take_clips(clips, tokenizer, rough=course.rough)


def take_clips(clips: Clips, tokenizer: PreTrainedTokenizerFast, *, rough: bool = False) -> Takes:
    """Of clips of `LEAD_FRAMES` more frames than a window, what training needs.

    Args:
        rough: whether half of the speech comes with noise, music and rooms.
    """
    clip, frame = _shown(clips.frames, clips.is_continuation)
    waveform = roughen(clips.waveform) if rough else clips.waveform
    return Takes(
        frames=clips.frames,
        reference=clips.reference,
        speech=normalise(waveform).unflatten(1, (-1, SAMPLES_PER_ROW)).half(),
        rows=clips.audio_rows()[clip, frame],
        prompt=tokenize(tokenizer, clips.prompts).to(clips.frames.device),
        weights=_cell_weights(clips, clip, frame).half(),
        mouth=clips.mouth[clip, frame].half(),
        face=faces_of(clips.presenters).to(clips.frames.device),
        heads=clips.regions.head[clip, frame].half(),
        continues=clips.is_continuation,
    )


@torch.no_grad()
def encode_takes(takes: Takes, latents: Latents) -> Windows:
    """What the transformer sees of them."""
    clip, frame = _shown(takes.frames, takes.continues)
    with in_bfloat16(takes.frames.device):
        video = takes.frames[clip, frame].float() / 127.5 - 1
        truth = latents.encode(rearrange(video, "n t c h w -> n c t h w"))
        reference = latents.encode(takes.reference[:, :, None].float() / 127.5 - 1)[:, :, 0]
        prefix = truth[:, :, :KNOWN_LATENTS].clone()
        if takes.continues.any():
            prefix[takes.continues] = _hand_on(takes, latents)
    return Windows(
        latents=truth.half(),
        prefix=prefix.half(),
        reference=reference.half(),
        speech=takes.speech,
        rows=takes.rows,
        prompt=takes.prompt,
        weights=takes.weights,
        mouth=takes.mouth,
        face=takes.face,
        heads=takes.heads,
        known=torch.where(takes.continues, KNOWN_LATENTS, 1),
    )


def write_takes(
    speech: SpeechBank,
    *,
    folder: Path,
    clips: int,
    number: int,
    course: Course,
    deadline: float,
    device: torch.device,
) -> None:
    """Draw into `folder/takes-<shape>-<number>-<part>.pt`, as many as the time allows.

    Args:
        clips: over all shapes, which take turns.
        number: of this process, if several share the work.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = build_tokenizer(VOCABULARY)
    generator = torch.Generator().manual_seed(5000 + number)
    done = 0
    drawn = _draw_in_turn(
        speech,
        tokenizer,
        clips,
        course=course,
        generator=generator,
        deadline=deadline,
        device=device,
    )
    for part, (shape, takes) in enumerate(drawn):
        takes.write(folder / f"takes-{shape.name}-{number}-{part}.pt")
        done += len(takes.continues)
    logger.info("takes %d: %d clips", number, done)


def write_windows(
    speech: SpeechBank,
    weights: Path,
    *,
    folder: Path,
    clips: int,
    number: int,
    shares: int = 1,
    takes: Path | None = None,
    course: Course,
    deadline: float,
    device: torch.device,
) -> None:
    """Write windows to `folder/windows-<shape>-<number>.pt`: those drawn, and more as time allows.

    Args:
        clips: windows to draw over all shapes, which take turns.
        number: of this process, of `shares` that share the work.
        takes: folder of clips that were drawn before, of which each process encodes its share.
    """
    latents, tokenizer = Latents.load(weights, device), build_tokenizer(VOCABULARY)
    generator = torch.Generator().manual_seed(1000 + number)
    parts: dict[Shape, list[Windows]] = {shape: [] for shape in course.shapes}
    done = 0
    for shape, of_shape in parts.items():
        drawn = sorted(takes.glob(f"takes-{shape.name}-*.pt")) if takes is not None else []
        for path in drawn[number::shares]:
            of_shape.append(encode_takes(Takes.read(path, device), latents))
            done += len(of_shape[-1])
    logger.info("windows %d: %d clips encoded", number, done)
    drawn_now = _draw_in_turn(
        speech,
        tokenizer,
        clips,
        course=course,
        generator=generator,
        deadline=deadline,
        device=device,
    )
    for shape, new in drawn_now:
        parts[shape].append(encode_takes(new, latents))
        done += len(new.continues)
    for shape, of_shape in parts.items():
        Windows.join(of_shape).write(folder / f"windows-{shape.name}-{number}.pt")
    logger.info("windows %d: %d clips", number, done)


def _draw_in_turn(
    speech: SpeechBank,
    tokenizer: PreTrainedTokenizerFast,
    clips: int,
    *,
    course: Course,
    generator: torch.Generator,
    deadline: float,
    device: torch.device,
) -> Iterator[tuple[Shape, Takes]]:
    """Draw clips of the course's shapes in turn, until there are enough or the time is over."""
    done = 0
    while done < clips and time.monotonic() < deadline:
        for shape in course.shapes:
            count = max(1, min(96 * 1088 // shape.tokens, clips - done))
            done += count
            yield (
                shape,
                draw_takes(
                    speech,
                    tokenizer,
                    count,
                    course=course,
                    shape=shape,
                    generator=generator,
                    device=device,
                ),
            )


def _shown(frames: Tensor, continues: Tensor) -> tuple[Tensor, Tensor]:
    """Numbers of the clips [n, 1] and of the frames [n, t] that a window shows."""
    start = LEAD_FRAMES * continues.long()
    length = frames.shape[1] - LEAD_FRAMES
    steps = torch.arange(length, device=frames.device)
    return torch.arange(len(frames), device=frames.device)[:, None], start[:, None] + steps


def read_windows(
    folder: Path, shape: Shape, encoder: Wav2Vec2Model, device: torch.device
) -> Windows:
    """All windows of one shape in the folder, or this process's share of them, heard.

    Raises:
        FileNotFoundError: there are none.
    """
    paths = sorted(folder.glob(f"windows-{shape.name}-*.pt"))
    if not paths:
        raise FileNotFoundError(
            f"{folder} holds no windows of {shape.name}. "
            "Run `python -m omniavatar.nano windows` first."
        )
    if len(paths) >= processes():
        return Windows.join(
            [Windows.read(path, device).hear(encoder) for path in paths[rank() :: processes()]]
        )
    windows = Windows.join([Windows.read(path, device) for path in paths])
    return windows.take(torch.arange(rank(), len(windows), processes())).hear(encoder)


def tokenize(tokenizer: PreTrainedTokenizerFast, prompts: tuple[str, ...]) -> Tensor:
    """[n, PROMPT_ROWS]; the last row is always padding, and stands for all the others."""
    found = tokenizer(
        list(prompts),
        padding="max_length",
        max_length=PROMPT_ROWS - 1,
        truncation=True,
        return_tensors="pt",
    )
    return F.pad(found["input_ids"], (0, 1), value=PAD)


def _hand_on(takes: Takes, latents: Latents) -> Tensor:
    """Prefix latents of the continuation windows: decoded, and encoded again."""
    frames = takes.frames[takes.continues, : LEAD_FRAMES + OVERLAP_FRAMES]
    video = rearrange(frames.float() / 127.5 - 1, "n t c h w -> n c t h w")
    decoded = latents.decode(latents.encode(video))
    return latents.encode(decoded[:, :, LEAD_FRAMES:])


def _cell_weights(clips: Clips, clip: Tensor, frame: Tensor) -> Tensor:
    """[n, f, h, w] of the loss."""
    regions, shown = clips.regions, clips.frames[clip, frame]  # [n, t, 3, h, w]
    height, width = shown.shape[-2:]
    weights = torch.ones((), device=frame.device)
    for boxes, weight in (
        (regions.head, HEAD_WEIGHT),
        (regions.eyes, EYE_WEIGHT),
        (regions.mouth, MOUTH_WEIGHT),
    ):
        cells = to_latent_cells(inside(boxes[clip, frame], height=height, width=width))
        weights = torch.where(cells, weight, weights)
    change = (shown.short() - clips.reference[:, None].short()).abs().amax(2)
    moving = to_latent_cells(change > MOVED)
    return torch.where(moving, weights.clamp_min(MOVING_WEIGHT), weights)

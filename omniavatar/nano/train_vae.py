"""Train the VAE of nano on drawn clips.

First the encoder learns the best linear code of the clips, and the decoder to undo it; then both
go on together. Mouth and eyes count more than the rest: they are a few pixels, and what people
look at.
"""

# n clips, b batch, t frames, f latent frames, h, w rows and columns

import json
import logging
import math
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKLWan
from einops import rearrange
from torch import Tensor, nn

from omniavatar.models.whole_sequence import decode_whole, encode_moments, encode_whole
from omniavatar.nano.architecture import SIZE, build_vae
from omniavatar.nano.clips import Clips, sample_clips
from omniavatar.nano.course import Course
from omniavatar.nano.linear_code import LinearCode, to_blocks
from omniavatar.nano.regions import inside, to_latent_cells
from omniavatar.nano.sheet import write_sheet
from omniavatar.nano.speech import SpeechBank
from omniavatar.nano.training import (
    Recipe,
    Trainer,
    in_bfloat16,
    read_average,
    read_record,
    train,
)

logger = logging.getLogger(__name__)

RECIPE = Recipe(
    learning_rate=1.5e-3, weight_decay=0.003, final_share=0.015, warm_up=0.01, decay=0.998
)
BANK_FRAMES = 17
LINEAR_SHARE = 0.17
"""Share of the budget spent on the linear code."""

LATER_RATE, ALONE_SHARE = 8e-4, 0.3
"""For weights to go on from: the highest rate, and a new decoder's share of the budget."""

WHOLE_PICTURE_FROM = 0.8
"""From this share of the budget on, whole pictures and 17 frames only."""

MOUTH_WEIGHT, EYE_WEIGHT = 5.0, 2.0
FIRST_LOG_VARIANCE = -5.0


@dataclass(frozen=True, slots=True)
class Frames:
    """Clips and the weight of their pixels: video [n, t, 3, h, w] uint8, boxes [n, t, 4]."""

    video: Tensor
    mouth: Tensor
    eyes: Tensor


@dataclass(frozen=True, slots=True)
class Batch:
    """Video [b, 3, t, h, w] in -1..1 and pixel weights [b, 1, t, h, w]."""

    video: Tensor
    weights: Tensor


class Crops:
    """Random crops of random clips, with the generator that chooses them."""

    def __init__(self, frames: Frames, *, seed: int) -> None:
        self.frames = frames
        self._generator = torch.Generator().manual_seed(seed)

    def draw(self, count: int, *, frames: int, size: int) -> Batch:
        """`count` windows of `frames` frames, `size` pixels square."""
        bank = self.frames.video
        device = bank.device
        clip = self._choose(len(bank), count).to(device)
        start = self._choose(bank.shape[1] - frames + 1, count).to(device)
        top = self._choose(bank.shape[3] - size + 1, count).to(device)
        left = self._choose(bank.shape[4] - size + 1, count).to(device)

        time = start[:, None] + torch.arange(frames, device=device)
        rows = top[:, None] + torch.arange(size, device=device)
        columns = left[:, None] + torch.arange(size, device=device)
        at = (clip[:, None], time)
        video = bank[
            clip[:, None, None, None, None],
            time[:, :, None, None, None],
            torch.arange(3, device=device)[None, None, :, None, None],
            rows[:, None, None, :, None],
            columns[:, None, None, None, :],
        ]
        shift = torch.stack([left, top, left, top], dim=-1)[:, None]
        return Batch(
            rearrange(video, "b t c h w -> b c t h w").float() / 127.5 - 1,
            pixel_weights(self.frames.mouth[at] - shift, self.frames.eyes[at] - shift, size),
        )

    def _choose(self, below: int, count: int) -> Tensor:
        return torch.randint(below, (count,), generator=self._generator)


def train_vae(
    speech: SpeechBank,
    held_out: SpeechBank,
    *,
    folder: Path,
    seconds: float,
    deadline: float,
    clips: int = 9_000,
    batch: int = 12,
    course: Course,
    from_weights: Path | None = None,
    device: torch.device,
) -> None:
    """Train, then measure the latents' mean and deviation into `folder/vae-latents.json`.

    Args:
        from_weights: where a VAE is exported to go on from, at a lower rate and without the
            linear code. If its decoder is of another width, a new one is trained, at first alone.
    """
    torch.manual_seed(11)
    vae = build_vae(decoder_width=course.decoder_width)
    prepare_weights(vae)
    has_new_decoder = from_weights is not None and _take_weights(vae, from_weights)
    vae.to(device)
    to_channels_last(vae)
    shape = course.shapes[0]
    linear_share = LINEAR_SHARE if from_weights is None else 0.0
    trainer = Trainer(
        "vae",
        vae,
        RECIPE if from_weights is None else replace(RECIPE, learning_rate=LATER_RATE),
        folder=folder,
        seconds=seconds,
        deadline=deadline,
        settings={
            "batch": f"{2 * batch} x 9 and {batch} x 17 frames of 96 px, "
            f"then {batch * 2 // 3} x 17 of {SIZE} px",
            "clips": clips,
            "course": course.name,
            "decoder_width": course.decoder_width,
            "parameters": sum(p.numel() for p in vae.parameters()),
        },
    )
    crops = Crops(
        draw_bank(speech, clips, seed=1 + trainer.record.steps, course=course, device=device),
        seed=trainer.record.steps,
    )
    if not trainer.kept:  # of other clips it would be another code, and latents would turn
        trainer.kept = asdict(_fit_linear_code(crops, batches=max(1, min(64, clips // 16))))
    code = LinearCode(**trainer.kept)
    test = draw_bank(held_out, 32, seed=2, course=course, device=device)
    if not trainer.record.probes:
        trainer.probe(**{f"linear_{k}": v for k, v in _score_linear(code, test).items()})
    trainer.prepared()

    def loss() -> Tensor:
        steps, progress = trainer.record.steps, trainer.progress
        if progress > WHOLE_PICTURE_FROM:
            chosen = crops.draw(max(1, batch * 2 // 3), frames=BANK_FRAMES, size=SIZE)
        elif steps % 2:
            chosen = crops.draw(2 * batch, frames=9, size=96)
        else:
            chosen = crops.draw(batch, frames=BANK_FRAMES, size=96)
        with in_bfloat16(device):
            if progress < linear_share:
                return linear_loss(vae, code, chosen)
            if has_new_decoder and progress < ALONE_SHARE:
                return decoder_loss(vae, chosen)
            return joint_loss(vae, chosen)

    marks = [seconds * share for share in (0.09, 0.17, 0.25, 0.35, 0.5, 0.65, 0.8, 0.9)]
    sheet = folder / "vae.png"
    train(trainer, loss, probe=lambda: score(trainer.average, test, sheet), probe_seconds=marks)
    drawn = sample_clips(
        speech,
        count=min(clips, 128),
        frames=shape.frames,
        height=shape.height,
        width=shape.width,
        generator=torch.Generator().manual_seed(3),
        device=device,
        look=course.look,
    )
    _measure_latents(trainer.average, drawn, folder=folder)


def _take_weights(vae: AutoencoderKLWan, weights: Path) -> bool:
    """Fill in what the exported VAE has in the same shape; whether the decoder is left new."""
    exported = AutoencoderKLWan.from_pretrained(weights / "vae", torch_dtype=torch.float32)
    own = vae.state_dict()
    fitting = {
        name: tensor
        for name, tensor in exported.state_dict().items()
        if own[name].shape == tensor.shape
    }
    if len(fitting) < len(own):
        fitting = {name: tensor for name, tensor in fitting.items() if "decoder." not in name}
    vae.load_state_dict(fitting, strict=False)
    return len(fitting) < len(own)


def draw_bank(
    speech: SpeechBank, clips: int, *, seed: int, course: Course, device: torch.device
) -> Frames:
    """Draw clips of 17 frames, a few hundred at a time."""
    generator = torch.Generator().manual_seed(seed)
    shape = course.shapes[0]
    parts: list[Clips] = []
    while clips > 0:
        count = min(clips, 256)
        clips -= count
        parts.append(
            sample_clips(
                speech,
                count=count,
                frames=BANK_FRAMES,
                height=shape.height,
                width=shape.width,
                generator=generator,
                device=device,
                continuation_share=0.0,
                look=course.look,
            )
        )
    return Frames(
        torch.cat([part.frames for part in parts]),
        torch.cat([part.regions.mouth for part in parts]),
        torch.cat([part.regions.eyes for part in parts]),
    )


def pixel_weights(mouth: Tensor, eyes: Tensor, size: int) -> Tensor:
    """Boxes [b, t, 4] -> weights [b, 1, t, h, w]: 1, more in the eyes, most in the mouth."""
    in_mouth = inside(mouth, height=size, width=size)
    in_eyes = inside(eyes, height=size, width=size)
    weights = 1 + torch.maximum(MOUTH_WEIGHT * in_mouth.float(), EYE_WEIGHT * in_eyes.float())
    return weights[:, None]


def prepare_weights(vae: AutoencoderKLWan) -> None:
    """Begin as an image model: time is copied up, averaged down, and the latent is passed on."""
    for module in vae.modules():
        mode = getattr(module, "mode", None)
        if mode in ("upsample3d", "downsample3d"):
            _set_time_conv(module.time_conv, up=mode == "upsample3d")
    for conv in (vae.quant_conv, vae.post_quant_conv):
        width = conv.weight.shape[0]
        nn.init.zeros_(conv.bias)
        with torch.no_grad():
            conv.weight.copy_(torch.eye(width)[:, :, None, None, None])
    half = vae.quant_conv.weight.shape[0] // 2
    with torch.no_grad():
        vae.quant_conv.weight[half:] = 0
        vae.quant_conv.bias[half:] = FIRST_LOG_VARIANCE


@torch.no_grad()
def _set_time_conv(conv: nn.Conv3d, *, up: bool) -> None:
    """Both frames that are made equal the present one; or the mean of the three that come in."""
    outgoing, incoming = conv.weight.shape[:2]
    same = torch.eye(incoming).repeat(outgoing // incoming, 1)
    assert conv.bias is not None
    nn.init.zeros_(conv.weight)
    nn.init.zeros_(conv.bias)
    if up:
        conv.weight[:, :, -1, 0, 0] = same
    else:
        conv.weight[:, :, :, 0, 0] = same[:, :, None] / 3


def to_channels_last(network: nn.Module) -> None:
    """Keep convolution weights in the layout of the activations."""
    layouts = {4: torch.channels_last, 5: torch.channels_last_3d}
    for parameter in network.parameters():
        if parameter.dim() in layouts:
            parameter.data = parameter.data.contiguous(memory_format=layouts[parameter.dim()])


def linear_loss(vae: AutoencoderKLWan, code: LinearCode, batch: Batch) -> Tensor:
    """Encoder against the code, decoder from the code; no gradient between them."""
    with torch.autocast(batch.video.device.type, enabled=False):
        target = code.encode(batch.video)
    noisy = target + 0.05 * torch.randn_like(target)
    missed = F.mse_loss(encode_whole(vae, batch.video).float(), target)
    return missed + picture_loss(decode_whole(vae, noisy, clamp=False).float(), batch)


def joint_loss(vae: AutoencoderKLWan, batch: Batch) -> Tensor:
    """Reconstruction from a sample of the posterior."""
    mean, log_variance = encode_moments(vae, batch.video).float().chunk(2, dim=1)
    log_variance = log_variance.clamp(-20, 10)
    latents = mean + (0.5 * log_variance).exp() * torch.randn_like(mean)
    kl = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean()
    decoded = decode_whole(vae, latents, clamp=False).float()
    return picture_loss(decoded, batch) + 1e-4 * kl


def decoder_loss(vae: AutoencoderKLWan, batch: Batch) -> Tensor:
    """Reconstruction by a decoder that has to catch up with the encoder first."""
    with torch.no_grad():
        latents = encode_whole(vae, batch.video).float()
    noisy = latents + 0.05 * torch.randn_like(latents)
    return picture_loss(decode_whole(vae, noisy, clamp=False).float(), batch)


def picture_loss(decoded: Tensor, batch: Batch) -> Tensor:
    """Weighted L1, squares, and the change between neighbours in space and time."""
    error = decoded - batch.video  # [b, 3, t, h, w]
    weights = batch.weights
    close = (weights * error.abs()).mean() + 2 * (weights * error.square()).mean()
    sharp = (weights[..., 1:] * error.diff(dim=-1).abs()).mean()
    sharp = sharp + (weights[..., 1:, :] * error.diff(dim=-2).abs()).mean()
    steady = (weights[:, :, 1:] * error.diff(dim=2).abs()).mean()
    return close + 0.5 * (sharp + steady)


@torch.no_grad()
def score(vae: AutoencoderKLWan, test: Frames, sheet: Path | None = None) -> dict[str, float]:
    """PSNR in dB of whole frames, of the mouth's box, and of first frames."""
    video = rearrange(test.video, "n t c h w -> n c t h w").float() / 127.5 - 1
    decoded = torch.cat([decode_whole(vae, encode_whole(vae, part)) for part in video.split(8)])
    if sheet is not None:
        pixels = ((decoded + 1) * 127.5).round().to(torch.uint8)
        write_sheet(rearrange(pixels, "n c t h w -> n t c h w"), test.video, sheet)
    return _psnr(decoded, video, test.mouth)


def _psnr(decoded: Tensor, video: Tensor, mouth: Tensor) -> dict[str, float]:
    error = ((decoded - video) / 2).square().mean(1)  # [n, t, h, w]
    box = inside(mouth, height=video.shape[3], width=video.shape[4])
    return {
        "psnr": _decibels(error.mean()),
        "mouth_psnr": _decibels(error[box].mean()),
        "first_psnr": _decibels(error[:, 0].mean()),
    }


def _decibels(error: Tensor) -> float:
    return -10 * math.log10(max(error.item(), 1e-10))


def _fit_linear_code(crops: Crops, *, batches: int) -> LinearCode:
    blocks, weights = [], []
    for _ in range(batches):
        chosen = crops.draw(16, frames=BANK_FRAMES, size=SIZE)
        blocks.append(to_blocks(chosen.video).flatten(0, 3))
        in_mouth = to_latent_cells(chosen.weights[:, 0] > 1 + EYE_WEIGHT)
        weights.append(torch.where(in_mouth, 7.0, 1.0).flatten())
    return LinearCode.fit(torch.cat(blocks), torch.cat(weights))


def _score_linear(code: LinearCode, test: Frames) -> dict[str, float]:
    video = rearrange(test.video, "n t c h w -> n c t h w").float() / 127.5 - 1
    return _psnr(code.decode(code.encode(video)).clamp(-1, 1), video, test.mouth)


@torch.no_grad()
def _measure_latents(vae: AutoencoderKLWan, drawn: Clips, *, folder: Path) -> None:
    """Mean and deviation of each latent channel over clips of a chunk's length."""
    video = rearrange(drawn.frames, "n t c h w -> n c t h w")
    latents = torch.cat(
        [encode_whole(vae, part.float() / 127.5 - 1) for part in video.split(8)]
    ).float()
    channels = rearrange(latents, "n c f h w -> c (n f h w)")
    values = {"mean": channels.mean(1).tolist(), "std": channels.std(1).tolist()}
    (folder / "vae-latents.json").write_text(json.dumps(values, indent=1) + "\n")


def read_vae(folder: Path) -> AutoencoderKLWan:
    """The trained VAE with its latents' statistics in its config.

    Raises:
        FileNotFoundError: the part has not run.
    """
    width = read_record(folder, "vae")["settings"].get("decoder_width", 32)
    vae = read_average(folder / "vae.pt", build_vae(decoder_width=width))
    statistics = json.loads((folder / "vae-latents.json").read_text())
    vae.register_to_config(latents_mean=statistics["mean"], latents_std=statistics["std"])
    return vae

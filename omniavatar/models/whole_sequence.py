"""The Wan VAE over many frames at a time, in place of its frame-by-frame loop.

`AutoencoderKLWan` keeps peak memory flat by walking the video one latent frame at a time with a
cache for every causal convolution. For small pictures that costs three times the time on a CPU and
hides the gradient. Here the same layers run over the whole sequence, or over as many frames at a
time as memory allows, with the same values. Convolutions and norms are read rather than called, so
that nothing is copied only to be padded; their weights have to be where the input is.

The first frame is special in two places, as in the cached loop: it bypasses every temporal
upsampling, whose convolution then starts from zeros at frame 1, and every temporal downsampling.
"""

# b batch, c channels, t frames at some level of the network, h, w rows and columns

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKLWan
from diffusers.models.autoencoders.autoencoder_kl_wan import (
    WanAttentionBlock,
    WanCausalConv3d,
    WanMidBlock,
    WanResample,
    WanResidualBlock,
    WanResidualDownBlock,
    WanResidualUpBlock,
    WanRMS_norm,
    WanUpBlock,
    patchify,
    unpatchify,
)
from einops import rearrange
from torch import Tensor, nn


class NormAndSiLU(nn.Module):
    """What comes before each convolution: a module, so that it can be compiled to one kernel."""

    def forward(self, hidden: Tensor, scale: Tensor) -> Tensor:
        """[b, c, t, h, w] and the norm's [c] -> [b, c, t, h, w]."""
        return F.silu(_rms_norm(hidden, scale))

    def write(self, hidden: Tensor, scale: Tensor, into: Tensor) -> None:
        """The same in place, without a gradient: half the traffic with memory, which is what it
        takes on a CPU. All are [b, c, t, h, w], channels last, but for the norm's [c]."""
        length = torch.linalg.vector_norm(hidden, dim=1, keepdim=True).clamp_min_(1e-12)
        torch.mul(hidden, length.reciprocal_(), out=into)
        into.mul_((scale * len(scale) ** 0.5).view(-1, 1, 1, 1))
        F.silu(into, inplace=True)

    @property
    def is_compiled(self) -> bool:
        return self._compiled_call_impl is not None


def norm_and_silu(vae: AutoencoderKLWan) -> NormAndSiLU:
    """The one of a VAE, which it is given when it is first asked for. It has no weights."""
    if not hasattr(vae, "norm_and_silu"):
        vae.add_module("norm_and_silu", NormAndSiLU())
    found = vae.norm_and_silu
    assert isinstance(found, NormAndSiLU)
    return found


@dataclass(slots=True)
class _Run:
    """One video on its way through an encoder or a decoder.

    Attributes:
        activate: of the VAE.
        past: for each causal convolution the last frames of its input.
        begun: whether frames came before these.
    """

    activate: NormAndSiLU
    past: dict[nn.Module, Tensor] = field(default_factory=dict)
    begun: bool = False

    def before(self, layer: WanCausalConv3d, hidden: Tensor) -> Tensor:
        """The frames that come before `hidden` in the input of a layer; zeros at first."""
        if layer in self.past:
            return self.past[layer]
        batch, _, _, height, width = hidden.shape
        shape = (batch, layer.in_channels, layer._padding[4], height, width)
        return _channels_last(hidden.new_zeros(shape))

    def convolve(self, layer: WanCausalConv3d, extended: Tensor) -> Tensor:
        """Apply a layer to its input with the frames before it; keep what the next frames need."""
        left, _, top, _, frames, _ = layer._padding
        is_alone = frames and layer not in self.past and extended.shape[2] == frames + 1
        if frames:
            self.past[layer] = extended[:, :, -frames:].clone()
        if is_alone:  # zeros before it: only the last part of the kernel meets anything
            frame = F.conv2d(
                extended[:, :, -1],
                layer.weight[:, :, -1],
                layer.bias,
                stride=layer.stride[1:],
                padding=(top, left),
            )
            return _channels_last(frame[:, :, None])
        return F.conv3d(
            extended, layer.weight, layer.bias, stride=layer.stride, padding=(0, top, left)
        )


def encode_whole(vae: AutoencoderKLWan, video: Tensor) -> Tensor:
    """Encode a video to the mean of its posterior.

    Args:
        vae: any Wan VAE that diffusers loads, in either published layout.
        video: [b, 3, t, h, w] in -1..1, with t = 4f - 3.

    Returns:
        Un-normalised latents, [b, z, f, h / 8, w / 8]: what `vae.encode(video).latent_dist.mode()`
        gives.
    """
    return encode_moments(vae, video).chunk(2, dim=1)[0]


def encode_moments(vae: AutoencoderKLWan, video: Tensor) -> Tensor:
    """Mean and log-variance of the posterior, [b, 2 z, f, h / 8, w / 8], as `encode_whole`."""
    assert video.shape[2] % 4 == 1, "a Wan VAE takes 4n + 1 frames"
    encoder, run = vae.encoder, _Run(norm_and_silu(vae))
    hidden = _causal(run, encoder.conv_in, _channels_last(_fold(vae, video)))
    for layer in encoder.down_blocks:
        hidden = _down(run, layer, hidden)
    hidden = _middle(run, encoder.mid_block, hidden)
    hidden = _activated(run, encoder.norm_out, encoder.conv_out, hidden)
    return vae.quant_conv(hidden)


def decode_whole(
    vae: AutoencoderKLWan,
    latents: Tensor,
    *,
    clamp: bool = True,
    window: int | None = None,
) -> Tensor:
    """Decode un-normalised latents, [b, z, f, h, w] -> [b, 3, 4f - 3, 8h, 8w].

    Args:
        clamp: hold the result to -1..1, as the class does; off for training, where a clamp would
            stop the gradient.
        window: latent frames at a time, which memory grows with; None takes all.

    Returns:
        What `vae.decode(latents).sample` gives.
    """
    hidden = _channels_last(vae.post_quant_conv(latents))
    run = _Run(norm_and_silu(vae))
    parts = []
    for part in hidden.split(window or hidden.shape[2], dim=2):
        video = _decode_next(vae, run, part)
        parts.append(video.clamp(-1, 1) if clamp else video)
    return torch.cat(parts, dim=2) if len(parts) > 1 else parts[0]


def _decode_next(vae: AutoencoderKLWan, run: _Run, hidden: Tensor) -> Tensor:
    decoder = vae.decoder
    hidden = _causal(run, decoder.conv_in, hidden)
    hidden = _middle(run, decoder.mid_block, hidden)
    for block in decoder.up_blocks:
        hidden = _up(run, block, hidden)
    hidden = _activated(run, decoder.norm_out, decoder.conv_out, hidden)
    run.begun = True
    return _unfold(vae, hidden)


def _fold(vae: AutoencoderKLWan, video: Tensor) -> Tensor:
    size = vae.config.patch_size
    return video if size is None else patchify(video, patch_size=size)


def _unfold(vae: AutoencoderKLWan, hidden: Tensor) -> Tensor:
    size = vae.config.patch_size
    return hidden if size is None else unpatchify(hidden.contiguous(), patch_size=size)


def _channels_last(hidden: Tensor) -> Tensor:
    """The layout in which 3-d convolutions and the norm over channels are quickest."""
    return hidden.contiguous(memory_format=torch.channels_last_3d)


def _down(run: _Run, layer: nn.Module, hidden: Tensor) -> Tensor:
    match layer:
        case WanResidualDownBlock():
            shortcut = layer.avg_shortcut(hidden)
            for resnet in layer.resnets:
                hidden = _residual(run, resnet, hidden)
            if layer.downsampler is not None:
                hidden = _downsample(layer.downsampler, hidden)
            return hidden + shortcut
        case WanResidualBlock():
            return _residual(run, layer, hidden)
        case WanAttentionBlock():
            return layer(hidden)
        case WanResample():
            return _downsample(layer, hidden)
    raise TypeError(f"unknown layer in a Wan encoder: {type(layer).__name__}")


def _up(run: _Run, block: WanUpBlock | WanResidualUpBlock, hidden: Tensor) -> Tensor:
    before = hidden
    for resnet in block.resnets:
        hidden = _residual(run, resnet, hidden)
    if isinstance(block, WanResidualUpBlock):
        if block.upsampler is not None:
            hidden = _upsample(run, block.upsampler, hidden)
        if block.avg_shortcut is not None:
            hidden = hidden + block.avg_shortcut(before, first_chunk=not run.begun)
        return hidden
    for upsampler in block.upsamplers or ():
        hidden = _upsample(run, upsampler, hidden)
    return hidden


def _middle(run: _Run, block: WanMidBlock, hidden: Tensor) -> Tensor:
    hidden = _residual(run, block.resnets[0], hidden)
    for attention, resnet in zip(block.attentions, block.resnets[1:], strict=True):
        hidden = _residual(run, resnet, attention(hidden))
    return hidden


def _residual(run: _Run, block: WanResidualBlock, hidden: Tensor) -> Tensor:
    change = _activated(run, block.norm1, block.conv1, hidden)
    change = _activated(run, block.norm2, block.conv2, block.dropout(change))
    shortcut = block.conv_shortcut
    same = isinstance(shortcut, nn.Identity)
    return change + (hidden if same else _causal(run, shortcut, hidden))


def _activated(run: _Run, norm: WanRMS_norm, layer: WanCausalConv3d, hidden: Tensor) -> Tensor:
    """Norm, SiLU and convolution."""
    assert not isinstance(norm.bias, Tensor), "a Wan VAE's norms have no bias"
    # One kernel only when both types are the same; under autocast it would be run in float32, and
    # all that follows with it, although its sums are float32 in any case.
    scale = norm.gamma.flatten().to(hidden.dtype)
    if run.activate.is_compiled or not _is_plain(hidden):
        return _causal(run, layer, run.activate(hidden, scale))
    before = run.before(layer, hidden)
    length = before.shape[2]
    batch, channels, frames, height, width = hidden.shape
    shape = (batch, channels, length + frames, height, width)
    extended = torch.empty(
        shape, dtype=hidden.dtype, device=hidden.device, memory_format=torch.channels_last_3d
    )
    extended[:, :, :length] = before
    run.activate.write(hidden, scale, extended[:, :, length:])
    return run.convolve(layer, extended)


def _causal(run: _Run, layer: WanCausalConv3d, hidden: Tensor) -> Tensor:
    if not layer._padding[4]:
        return run.convolve(layer, hidden)
    return run.convolve(layer, torch.cat([run.before(layer, hidden), hidden], dim=2))


def _rms_norm(hidden: Tensor, scale: Tensor) -> Tensor:
    """The class's norm, [b, c, t, h, w], as one fused operation over the last axis in memory.

    The floor equals the one of `F.normalize`, which the class uses, on all but vanishing vectors.
    """
    with torch.autocast(hidden.device.type, enabled=False):
        return F.rms_norm(hidden.movedim(1, -1), hidden.shape[1:2], scale, eps=1e-24).movedim(-1, 1)


def _downsample(layer: WanResample, hidden: Tensor) -> Tensor:
    hidden = _resample_frames(layer, hidden)
    if layer.mode != "downsample3d" or hidden.shape[2] == 1:
        return hidden
    return torch.cat([hidden[:, :, :1], layer.time_conv(hidden)], dim=2)


def _upsample(run: _Run, layer: WanResample, hidden: Tensor) -> Tensor:
    if layer.mode == "upsample3d":
        alone = 0 if run.begun else 1
        first, rest = hidden[:, :, :alone], hidden[:, :, alone:]
        if rest.shape[2]:
            pairs = _causal(run, layer.time_conv, rest)
            pairs = rearrange(pairs, "b (two c) t h w -> b c (t two) h w", two=2)
            hidden = torch.cat([first, pairs], dim=2)
    return _resample_frames(layer, hidden)


def _resample_frames(layer: WanResample, hidden: Tensor) -> Tensor:
    frames = rearrange(hidden, "b c t h w -> (b t) c h w")
    if layer.mode.startswith("upsample") and _is_plain(hidden):
        frames = _enlarge(layer.resample[1], frames)
    else:
        frames = layer.resample(frames)
    return _channels_last(rearrange(frames, "(b t) c h w -> b c t h w", b=hidden.shape[0]))


def _enlarge(layer: nn.Conv2d, frames: Tensor) -> Tensor:
    """Each pixel made four and then a 3 x 3 convolution: [n, c, h, w] -> [n, d, 2h, 2w].

    As one transposed convolution, whose kernel has 4 x 4 numbers: of the nine pixels that an output
    sees some are the same, so that four products are left of nine. Half the time on a CPU.
    """
    kernel = layer.weight.transpose(0, 1)  # [c, d, 3, 3]
    for axis in (2, 3):
        first, second, third = kernel.unbind(axis)
        kernel = torch.stack([third, second + third, first + second, first], axis)
    return F.conv_transpose2d(frames, kernel, layer.bias, stride=2, padding=1)


def _is_plain(hidden: Tensor) -> bool:
    """Whether a CPU computes it in float32, for nothing but the result."""
    is_float = hidden.device.type == "cpu" and hidden.dtype == torch.float32
    return is_float and not torch.is_grad_enabled()

"""The Wan VAE in one pass over all frames, in place of its frame-by-frame loop.

`AutoencoderKLWan` keeps peak memory flat by walking the video one latent frame at a time with a
cache for every causal convolution. For small pictures that costs three times the time on a CPU and
hides the gradient. Here the same layers run once over the whole sequence, with the same values.

The first frame is special in two places, as in the cached loop: it bypasses every temporal
upsampling, whose convolution then starts from zeros at frame 1, and every temporal downsampling.
"""

# b batch, c channels, t frames at some level of the network, h, w rows and columns

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKLWan
from diffusers.models.autoencoders.autoencoder_kl_wan import (
    WanAttentionBlock,
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
    encoder = vae.encoder
    hidden = encoder.conv_in(_channels_last(_fold(vae, video)))
    for layer in encoder.down_blocks:
        hidden = _down(layer, hidden)
    hidden = _middle(encoder.mid_block, hidden)
    hidden = encoder.conv_out(encoder.nonlinearity(_normalise(encoder.norm_out, hidden)))
    return vae.quant_conv(hidden)


def decode_whole(vae: AutoencoderKLWan, latents: Tensor, *, clamp: bool = True) -> Tensor:
    """Decode un-normalised latents, [b, z, f, h, w] -> [b, 3, 4f - 3, 8h, 8w].

    Args:
        clamp: hold the result to -1..1, as the class does; off for training, where a clamp would
            stop the gradient.

    Returns:
        What `vae.decode(latents).sample` gives.
    """
    decoder = vae.decoder
    hidden = decoder.conv_in(_channels_last(vae.post_quant_conv(latents)))
    hidden = _middle(decoder.mid_block, hidden)
    for block in decoder.up_blocks:
        hidden = _up(block, hidden)
    hidden = decoder.conv_out(decoder.nonlinearity(_normalise(decoder.norm_out, hidden)))
    video = _unfold(vae, hidden)
    return video.clamp(-1, 1) if clamp else video


def _fold(vae: AutoencoderKLWan, video: Tensor) -> Tensor:
    size = vae.config.patch_size
    return video if size is None else patchify(video, patch_size=size)


def _unfold(vae: AutoencoderKLWan, hidden: Tensor) -> Tensor:
    size = vae.config.patch_size
    return hidden if size is None else unpatchify(hidden.contiguous(), patch_size=size)


def _channels_last(hidden: Tensor) -> Tensor:
    """The layout in which 3-d convolutions and the norm over channels are quickest."""
    return hidden.contiguous(memory_format=torch.channels_last_3d)


def _down(layer: nn.Module, hidden: Tensor) -> Tensor:
    match layer:
        case WanResidualDownBlock():
            shortcut = layer.avg_shortcut(hidden)
            for resnet in layer.resnets:
                hidden = _residual(resnet, hidden)
            if layer.downsampler is not None:
                hidden = _downsample(layer.downsampler, hidden)
            return hidden + shortcut
        case WanResidualBlock():
            return _residual(layer, hidden)
        case WanAttentionBlock():
            return layer(hidden)
        case WanResample():
            return _downsample(layer, hidden)
    raise TypeError(f"unknown layer in a Wan encoder: {type(layer).__name__}")


def _up(block: WanUpBlock | WanResidualUpBlock, hidden: Tensor) -> Tensor:
    before = hidden
    for resnet in block.resnets:
        hidden = _residual(resnet, hidden)
    if isinstance(block, WanResidualUpBlock):
        if block.upsampler is not None:
            hidden = _upsample(block.upsampler, hidden)
        if block.avg_shortcut is not None:
            hidden = hidden + block.avg_shortcut(before, first_chunk=True)
        return hidden
    for upsampler in block.upsamplers or ():
        hidden = _upsample(upsampler, hidden)
    return hidden


def _middle(block: WanMidBlock, hidden: Tensor) -> Tensor:
    hidden = _residual(block.resnets[0], hidden)
    for attention, resnet in zip(block.attentions, block.resnets[1:], strict=True):
        hidden = _residual(resnet, attention(hidden))
    return hidden


def _residual(block: WanResidualBlock, hidden: Tensor) -> Tensor:
    change = block.conv1(block.nonlinearity(_normalise(block.norm1, hidden)))
    change = block.conv2(block.dropout(block.nonlinearity(_normalise(block.norm2, change))))
    return change + block.conv_shortcut(hidden)


def _normalise(norm: WanRMS_norm, hidden: Tensor) -> Tensor:
    """The class's norm, [b, c, t, h, w], as one fused operation over the last axis in memory.

    The floor equals the one of `F.normalize`, which the class uses, on all but vanishing vectors.
    """
    # One kernel only when both types are the same; under autocast it would be run in float32, and
    # all that follows with it, although its sums are float32 in any case.
    scale = norm.gamma.flatten().to(hidden.dtype)
    with torch.autocast(hidden.device.type, enabled=False):
        last = F.rms_norm(hidden.movedim(1, -1), hidden.shape[1:2], scale, eps=1e-24)
    return (last + norm.bias if isinstance(norm.bias, Tensor) else last).movedim(-1, 1)


def _downsample(layer: WanResample, hidden: Tensor) -> Tensor:
    hidden = _resample_frames(layer, hidden)
    if layer.mode != "downsample3d" or hidden.shape[2] == 1:
        return hidden
    return torch.cat([hidden[:, :, :1], layer.time_conv(hidden)], dim=2)


def _upsample(layer: WanResample, hidden: Tensor) -> Tensor:
    if layer.mode == "upsample3d" and hidden.shape[2] > 1:
        pairs = layer.time_conv(hidden[:, :, 1:])
        pairs = rearrange(pairs, "b (two c) t h w -> b c (t two) h w", two=2)
        hidden = torch.cat([hidden[:, :, :1], pairs], dim=2)
    return _resample_frames(layer, hidden)


def _resample_frames(layer: WanResample, hidden: Tensor) -> Tensor:
    frames = layer.resample(rearrange(hidden, "b c t h w -> (b t) c h w"))
    return _channels_last(rearrange(frames, "(b t) c h w -> b c t h w", b=hidden.shape[0]))

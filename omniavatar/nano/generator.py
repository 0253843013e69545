"""What of nano is trained together: the transformer and the text encoder."""

# b batch, s tokens, d width, t video frames, f latent frames, h, w latent rows and columns
# c channels

from itertools import pairwise
from pathlib import Path
from typing import Self

import torch
from einops import repeat
from torch import Tensor, nn
from transformers import UMT5EncoderModel

from omniavatar.models.transformer import OmniAvatarTransformer3DModel
from omniavatar.nano.architecture import (
    PAD,
    TEXT_ROWS,
    build_text_encoder,
    build_transformer,
)
from omniavatar.nano.windows import KNOWN_LATENTS, Windows


class Generator(nn.Module):
    """What is trained: the transformer and the text encoder."""

    def __init__(self) -> None:
        super().__init__()
        self.transformer = build_transformer()
        self.text_encoder = build_text_encoder()
        nn.init.zeros_(self.transformer.proj_out.weight)
        nn.init.zeros_(self.transformer.proj_out.bias)

    @classmethod
    def load(cls, weights: Path) -> Self:
        """Read the exported transformer and text encoder."""
        generator = cls()
        transformer = OmniAvatarTransformer3DModel.from_pretrained(
            weights / "transformer", torch_dtype=torch.float32
        )
        generator.transformer.load_state_dict(transformer.state_dict())
        encoder = UMT5EncoderModel.from_pretrained(weights / "text_encoder", dtype=torch.float32)
        generator.text_encoder.load_state_dict(encoder.state_dict())
        return generator

    def encode_prompt(self, prompt: Tensor) -> Tensor:
        """[b, rows] -> [b, rows, d], rows past the prompt zero."""
        mask = prompt != PAD
        # Given ready to add: of a mask of two axes the class asks the device whether it is full,
        # and so waits for it in every step.
        lowest = torch.finfo(torch.float32).min
        added = torch.where(mask, 0.0, lowest)[:, None, None].expand(-1, 1, prompt.shape[1], -1)
        hidden = self.text_encoder(input_ids=prompt, attention_mask=added).last_hidden_state
        return hidden * mask[..., None]

    def forward(self, hidden: Tensor, sigma: Tensor, context: Tensor, audio: Tensor) -> Tensor:
        """Velocity of the latents, [b, 16, f, h, w], from [b, 33, f, h, w] and conditions."""
        return self.transformer(
            hidden_states=hidden,
            timestep=1000 * sigma,
            encoder_hidden_states=context,
            audio_conditioning=self.transformer.encode_audio(audio),
            padding_rows=TEXT_ROWS - context.shape[1],
            return_dict=False,
        )[0]


def assemble(noisy: Tensor, given: Tensor, reference: Tensor, is_given: Tensor) -> Tensor:
    """The transformer's 33 channels.

    Args:
        noisy, given: [b, c, f, h, w]; `given` counts where `is_given` [b, f] says.
        reference: the portrait's latent, [b, c, h, w].
    """
    where = is_given[:, None, :, None, None]
    hidden = torch.where(where, given, noisy)
    still = repeat(reference, "b c h w -> b c f h w", f=noisy.shape[2])
    mask = (~where).to(noisy.dtype).expand(-1, -1, -1, *noisy.shape[3:])
    return torch.cat([hidden, still, mask], dim=1)


def given_latents(windows: Windows, *, noise: float) -> Tensor:
    """[b, c, f, h, w] whose first frames are those given: the portrait, or a noisy prefix."""
    given = windows.latents.float().clone()
    prefix = windows.prefix.float()
    is_continuation = (windows.known > 1)[:, None, None, None, None]
    strength = noise * torch.rand(len(windows), 1, 1, 1, 1, device=given.device).square()
    prefix = prefix + is_continuation * strength * torch.randn_like(prefix)
    given[:, :, :KNOWN_LATENTS] = torch.where(is_continuation, prefix, given[:, :, :KNOWN_LATENTS])
    return given


@torch.no_grad()
def generate(network: Generator, windows: Windows, *, steps: int, seed: int) -> Tensor:
    """`roll_out` from the noise of a seed, without a gradient."""
    noise = torch.randn(windows.latents.shape, generator=torch.Generator().manual_seed(seed))
    return roll_out(network, windows, noise.to(windows.latents.device), steps=steps)


def roll_out(network: Generator, windows: Windows, noise: Tensor, *, steps: int) -> Tensor:
    """Euler steps of the published schedule (shift 5), no guidance -> [n, c, f, h, w]."""
    device = windows.latents.device
    frames = windows.latents.shape[2]
    given = torch.arange(frames, device=device) < windows.known[:, None]
    known = given_latents(windows, noise=0.0)
    text, audio = network.encode_prompt(windows.prompt), windows.audio.float()
    sample = noise
    line = torch.linspace(1, 0, steps + 1)
    sigmas = 5 * line / (1 + 4 * line)
    for sigma, following in pairwise(sigmas):
        hidden = assemble(sample, known, windows.reference.float(), given)
        level = sigma.to(device).expand(len(windows))
        velocity = network(hidden, level, text, audio).float()
        sample = sample + (following - sigma).item() * velocity
    return torch.where(given[:, None, :, None, None], known, sample)

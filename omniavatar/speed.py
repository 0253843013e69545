"""What makes the same arithmetic quicker: what is compiled, and which attention kernel runs."""

import logging
from typing import Literal, get_args

import torch
from diffusers import AutoencoderKLWan
from torch import nn
from torch.nn.attention import SDPBackend

from omniavatar.errors import InputError
from omniavatar.models.transformer import OmniAvatarTransformer3DModel
from omniavatar.models.whole_sequence import norm_and_silu

logger = logging.getLogger(__name__)

Compile = Literal["auto", "on", "off"]

COMPILE_PAYS_FLOPS = 30e15
"""Arithmetic after which compiled blocks have won back the time that compiling them took.

On one H200: 11 s against 0.17 s a step of 1.3B, 7 s against 0.78 s a step of 14B. A slower card
takes as long to compile for and gains more, so that it pays even earlier there.
"""

VAE_COMPILE_PAYS_PIXELS = 4.3e9
"""Pixels to decode after which the same holds for the VAE: ten minutes of 400x720.

On one H200 105 frames of 400x720 are decoded in 1.10 s and not in 1.14 s, after 8 s of compiling
that serve every size; in another run in 1.07 s, after 10 s. All of the decoder as one graph was not
compiled within two minutes.
"""

KERNELS = {
    SDPBackend.CUDNN_ATTENTION: "cuDNN",
    SDPBackend.FLASH_ATTENTION: "FlashAttention",
    SDPBackend.EFFICIENT_ATTENTION: "memory-efficient",
    SDPBackend.MATH: "plain",
}
"""Torch's kernels of attention, the quickest first on the cards that have them all."""


class Compilation:
    """Compiles once that pays, and never where it can not work.

    One block of the transformer is compiled and serves all of them, since they differ in nothing
    but their weights. Of the VAE it is the norms with their activations; its convolutions are the
    libraries' own in any case.

    Args:
        mode: "auto" compiles on CUDA, as soon as all the work that was asked for is
            `COMPILE_PAYS_FLOPS` for the blocks and `VAE_COMPILE_PAYS_PIXELS` for the VAE; "on" both
            at once and on any device; "off" never.

    Raises:
        InputError: `mode` is none of these.
    """

    def __init__(self, mode: str = "auto") -> None:
        if mode not in get_args(Compile):
            accepted = ", ".join(get_args(Compile))
            raise InputError(f"compile is {mode!r}. Use one of: {accepted}.", field="compile")
        self._mode = mode
        self._flops, self._pixels = 0.0, 0.0
        self._problem: str | None = None

    def prepare(
        self,
        transformer: OmniAvatarTransformer3DModel,
        vae: AutoencoderKLWan,
        *,
        flops: float,
        pixels: float,
    ) -> bool:
        """Compile before a piece of work that is worth it; undo it where weights move since.

        Args:
            flops: the transformer's arithmetic in that work.
            pixels: to decode in it, of all frames.

        Returns:
            Whether the transformer's blocks run compiled.
        """
        self._flops += flops
        self._pixels += pixels
        device = device_of(transformer)
        wanted = self._pays(device, self._flops / COMPILE_PAYS_FLOPS)
        vae_wanted = self._pays(device, self._pixels / VAE_COMPILE_PAYS_PIXELS)
        if (wanted or vae_wanted) and self._problem is None:
            self._problem = compiler_problem(device)
            if self._problem is not None:
                logger.info("the transformer runs uncompiled: %s", self._problem)
        set_vae_compiled(vae, vae_wanted and self._problem is None)
        compiled = wanted and self._problem is None and not has_hooks(transformer)
        set_compiled(transformer, compiled)
        return compiled

    def _pays(self, device: torch.device, share: float) -> bool:
        """Whether to compile, after so large a share of the work that pays for it."""
        if self._mode == "auto":
            return device.type == "cuda" and share >= 1
        return self._mode == "on"


def device_of(transformer: OmniAvatarTransformer3DModel) -> torch.device:
    """Where the transformer computes: its embedding is there under any placement."""
    return transformer.patch_embedding.weight.device


def set_compiled(transformer: OmniAvatarTransformer3DModel, compiled: bool) -> None:
    """Let the blocks run compiled from their next call on, or as they are."""
    if compiled == (transformer.blocks[0]._compiled_call_impl is not None):
        return
    if compiled:
        # Not `fullgraph`: with it, a ninth shape would be an error and not an uncompiled call.
        transformer.compile_repeated_blocks()
    else:
        for block in transformer.blocks:
            block._compiled_call_impl = None


def set_vae_compiled(vae: AutoencoderKLWan, compiled: bool) -> None:
    """Let the VAE's norms and activations run compiled from their next call on, or as they are."""
    activate = norm_and_silu(vae)
    if compiled == activate.is_compiled:
        return
    if compiled:
        activate.compile(dynamic=True)  # one kernel for all the sizes on the way
    else:
        activate._compiled_call_impl = None


def has_hooks(network: nn.Module) -> bool:
    """Whether weights are moved or converted while the network works, which breaks a graph up."""
    registries = (getattr(module, "_diffusers_hook", None) for module in network.modules())
    return any(registry is not None and registry.hooks for registry in registries)


def compiler_problem(device: torch.device) -> str | None:
    """Why nothing can be compiled for a device here, or None: found out by compiling a sum."""
    values = torch.ones(8, device=device)
    try:
        torch.compile(_add_one)(values)
    except Exception as error:  # missing compilers, headers and drivers raise all kinds of errors
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        return f"no working compiler for {device.type} ({first})"
    return None


def attention_kernel(
    device: torch.device | str, dtype: torch.dtype, *, head_dim: int = 128, tokens: int = 1024
) -> str:
    """Name the kernel that torch chooses for attention on a device."""
    query = torch.empty(1, 2, tokens, head_dim, device=device, dtype=dtype)
    chosen = SDPBackend(torch._fused_sdp_choice(query, query, query))
    return KERNELS.get(chosen, chosen.name)


def arrange_for_convolution(network: nn.Module) -> None:
    """Lay the weights of convolutions out as CUDA's quickest kernels read them; same values.

    On an H200 the VAE decodes 27x50x90 latents in 1.57 s with it and in 1.77 s without.
    """
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.Conv3d):
            is_flat = isinstance(layer, nn.Conv2d)
            layout = torch.channels_last if is_flat else torch.channels_last_3d
            layer.weight.data = layer.weight.data.contiguous(memory_format=layout)


def _add_one(values: torch.Tensor) -> torch.Tensor:
    return values + 1

"""A placement carried out: networks moved, stored and hooked as it says, through diffusers.

Everything can be done again with another placement, except that what was stored in 8 bits is not
what it was before. The hooks move weights in place, which tensors made under `inference_mode` do
not allow: networks that are placed so run under `no_grad`.
"""

import gc
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from diffusers.hooks import HookRegistry, apply_group_offloading
from torch import nn
from transformers import UMT5EncoderModel

from omniavatar.memory import TEXT_ENCODER, TRANSFORMER, Placement
from omniavatar.models import Models
from omniavatar.models.transformer import OmniAvatarTransformer3DModel
from omniavatar.pinned import pin
from omniavatar.speed import arrange_for_convolution, set_compiled
from omniavatar.weights.storage import store_as_fp8

CPU = torch.device("cpu")
ALLOCATOR_SETTINGS = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")
"""Variables by which a user tells torch how to take memory."""

GROWTH_PROBE_BYTES = 2**26

OFFLOAD_HOOKS = ("group_offloading", "layer_execution_tracker", "lazy_prefetch_group_offloading")


def place(models: Models, placement: Placement) -> None:
    """Bring networks, wherever they are and whatever hooks they have, to where they belong."""
    if TRANSFORMER in placement.offloaded and placement.device.type == "cuda":
        _let_memory_grow(placement.device)
    models.vae.clear_cache()  # frames that a decoding which broke off has left there
    models.vae.to(placement.device)
    if placement.device.type == "cuda":
        arrange_for_convolution(models.vae)
    models.speech_encoder.to(placement.device)
    if placement.vae_tiled:
        models.vae.enable_tiling()
    else:
        models.vae.disable_tiling()
    if TRANSFORMER in placement.offloaded | placement.fp8:
        set_compiled(models.transformer, False)  # its graphs do not know the hooks
    _place(models.transformer, TRANSFORMER, placement)
    _place(models.text_encoder, TEXT_ENCODER, placement)
    release(placement.device)


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether a device or its libraries had no memory left; not all of them say it alike."""
    told = ("out of memory", "ALLOC_FAILED")
    return isinstance(error, torch.OutOfMemoryError) or any(word in str(error) for word in told)


def release(device: torch.device) -> None:
    """Give memory that nothing refers to any more back to the device and to the host."""
    gc.collect()
    if device.type == "cuda" and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
        torch._C._host_emptyCache()  # pinned memory; `torch.accelerator` names it from 2.13 on


def _let_memory_grow(device: torch.device) -> None:
    """Let torch's parts of a card's memory grow in place: weights that come and go leave no gaps.

    Held to 13.7 GiB of an H200, 14B at 79,200 tokens takes 13.1 GiB of it with this, and runs out
    of memory without. Nothing is changed where the user has chosen. In Windows' Linux the first
    memory asked for after it can fail (pytorch/pytorch issue 192330).
    """
    if any(name in os.environ for name in ALLOCATOR_SETTINGS):
        return
    if platform.system() != "Linux" or "microsoft" in platform.release().lower():
        return
    # Public only as a variable, which has to be there before the first memory is taken.
    set_allocator = getattr(torch._C, "_accelerator_setAllocatorSettings", None)
    if set_allocator is None:  # before torch 2.9
        return
    set_allocator("expandable_segments:True")
    try:
        torch.empty(GROWTH_PROBE_BYTES, dtype=torch.uint8, device=device)
    except RuntimeError as error:
        if not is_out_of_memory(error):  # a virtual card need not have it
            set_allocator("expandable_segments:False")


def _place(
    network: OmniAvatarTransformer3DModel | UMT5EncoderModel, part: str, placement: Placement
) -> None:
    _unhook(network)
    is_offloaded = part in placement.offloaded
    if is_offloaded:
        network.to(CPU)
    if part in placement.fp8:
        store_as_fp8(network, compute_dtype=placement.dtype)
    if not is_offloaded:
        network.to(placement.device)
    elif part == TRANSFORMER:
        if placement.pinned:
            pin(network.blocks)  # the hooks would pin all of them beside all of them
        # What is not a block is little, is used at every step, and is partly called by itself.
        with _hidden(network, keep="blocks"):
            apply_group_offloading(
                network,
                onload_device=placement.device,
                offload_device=CPU,
                offload_type="block_level",
                num_blocks_per_group=1,
                use_stream=placement.device.type == "cuda",
                low_cpu_mem_usage=not placement.pinned,
            )
        for name, child in network.named_children():
            if name != "blocks":
                child.to(placement.device)
    else:
        apply_group_offloading(
            network,
            onload_device=placement.device,
            offload_device=CPU,
            offload_type="leaf_level",
        )


def _unhook(network: nn.Module) -> None:
    """Take offloading off, also when it broke off in the middle of a forward."""
    for module in network.modules():
        if hasattr(module, "_diffusers_hook"):
            registry = HookRegistry.check_if_exists_or_initialize(module)
            for name in OFFLOAD_HOOKS:
                registry.remove_hook(name, recurse=False)


@contextmanager
def _hidden(network: nn.Module, *, keep: str) -> Iterator[None]:
    """All children but one out of the sight of what walks through a network."""
    children = dict(network._modules)
    try:
        for name in children:
            if name != keep:
                del network._modules[name]
        yield
    finally:
        network._modules.clear()
        network._modules.update(children)

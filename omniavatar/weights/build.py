"""Named tensors to networks.

A network is built without memory for its weights. Names and shapes are held to the network's before
the first tensor is read, and what does not fit is named. Then each tensor is read, changed, rounded
and moved by itself, so that a checkpoint is in memory once.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import torch
from accelerate import init_empty_weights
from diffusers import AutoencoderKLWan
from torch import Tensor, nn
from transformers import UMT5Config, UMT5EncoderModel, Wav2Vec2Config, Wav2Vec2Model

from omniavatar.errors import WeightsError
from omniavatar.models.transformer import OmniAvatarTransformer3DModel
from omniavatar.weights.checkpoint import shape_of
from omniavatar.weights.convert import (
    Shapes,
    speech_encoder_key,
    text_encoder_config,
    text_encoder_key,
    transformer_config,
    transformer_key,
    vae_config,
    vae_keys,
)
from omniavatar.weights.lora import Adapter, shorten

Network = TypeVar("Network", bound=nn.Module)
Tensors = Mapping[str, Tensor]


def build_transformer(
    base: Tensors,
    adapter: Adapter | None = None,
    *,
    config: Mapping[str, Any] | None = None,
    heads: int | None = None,
    eps: float = 1e-6,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    merge: bool = True,
) -> OmniAvatarTransformer3DModel:
    """Build the transformer from named tensors.

    Args:
        base: by published or by diffusers' names.
        adapter: what makes a plain Wan transformer an OmniAvatar one; None when `base` is one.
        config: of the network; None reads it off the shapes, `heads` and `eps`.

    Raises:
        WeightsError: tensors and network do not fit.
    """
    names = {transformer_key(name): name for name in base}
    shapes = {name: shape_of(base, published) for name, published in names.items()}
    own: Tensors = adapter.tensors if adapter else {}
    if adapter:
        adapter.check(shapes)
        shapes |= {name: tuple(tensor.shape) for name, tensor in own.items()}
    settings = config or transformer_config(shapes, heads=heads, eps=eps)
    network = empty(lambda: OmniAvatarTransformer3DModel.from_config(settings))
    check_shapes(network, shapes, what="transformer")

    def read(name: str) -> Tensor:
        tensor = own[name] if name in own else base[names[name]]
        return adapter.apply(name, tensor.to(device)) if adapter and merge else tensor

    fill(
        network,
        shapes,
        read,
        device=device,
        dtype=dtype,
        precise=OmniAvatarTransformer3DModel._keep_in_fp32_modules,
    )
    if adapter and not merge:
        adapter.attach(network)
    return network


def build_vae(
    tensors: Tensors,
    *,
    config: Mapping[str, Any] | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> AutoencoderKLWan:
    """Build the VAE from tensors by published or diffusers' names; see `build_transformer`."""
    names = {name: published for published, name in vae_keys(tensors).items()}
    shapes = {name: shape_of(tensors, published) for name, published in names.items()}
    settings = config or vae_config(shapes)
    network = empty(lambda: AutoencoderKLWan.from_config(settings))
    check_shapes(network, shapes, what="VAE")
    fill(network, shapes, lambda name: tensors[names[name]], device=device, dtype=dtype)
    return network


def build_text_encoder(
    tensors: Tensors,
    *,
    config: Mapping[str, Any] | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> UMT5EncoderModel:
    """Build the text encoder from tensors by published or transformers' names."""
    names = {text_encoder_key(name): name for name in tensors}
    shapes = {name: shape_of(tensors, published) for name, published in names.items()}
    settings = UMT5Config(**(config or text_encoder_config(shapes)))
    network = empty(lambda: UMT5EncoderModel(settings))
    for again, first in UMT5EncoderModel._tied_weights_keys.items():
        if again not in shapes and first in shapes:
            names[again], shapes[again] = names[first], shapes[first]
    check_shapes(network, shapes, what="text encoder")
    fill(network, shapes, lambda name: tensors[names[name]], device=device, dtype=dtype)
    network.tie_weights()
    return network


def build_speech_encoder(
    tensors: Tensors,
    *,
    config: Mapping[str, Any],
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Wav2Vec2Model:
    """Build the speech encoder from tensors by the recogniser's or the bare encoder's names."""
    names = {name: published for published in tensors if (name := speech_encoder_key(published))}
    shapes = {name: shape_of(tensors, published) for name, published in names.items()}
    # Masking is for training; without it the network has no embedding for what is masked.
    unmasked = {"mask_time_prob": 0.0, "mask_feature_prob": 0.0, "apply_spec_augment": False}
    settings = Wav2Vec2Config(**{**config, **unmasked})
    network = empty(lambda: Wav2Vec2Model(settings))
    check_shapes(network, shapes, what="speech encoder")
    fill(network, shapes, lambda name: tensors[names[name]], device=device, dtype=dtype)
    return network


def empty(build: Callable[[], Network]) -> Network:
    """Build a network whose parameters take no memory; its tables (rotary) are real."""
    with init_empty_weights(include_buffers=False):
        return build()


def check_shapes(network: nn.Module, shapes: Shapes, *, what: str) -> None:
    """Hold the names and shapes of tensors to those of a network.

    Raises:
        WeightsError: names the tensors that are missing, left over, or of another shape.
    """
    wanted = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    missing = [name for name in wanted if name not in shapes]
    left_over = [name for name in shapes if name not in wanted]
    other = [
        f"{name} is {tuple(shapes[name])} and not {shape}"
        for name, shape in wanted.items()
        if name in shapes and tuple(shapes[name]) != shape
    ]
    faults = [
        f"{title} {shorten(names)}"
        for title, names in (
            ("missing:", missing),
            ("not part of it:", left_over),
            ("of another shape:", other),
        )
        if names
    ]
    if faults:
        raise WeightsError(f"The {what}'s weights do not fit it; {'; '.join(faults)}.")


def fill(
    network: nn.Module,
    names: Iterable[str],
    read: Callable[[str], Tensor],
    *,
    device: torch.device | str,
    dtype: torch.dtype,
    precise: Sequence[str] = (),
) -> None:
    """Give an empty network its weights, one tensor at a time.

    Args:
        precise: modules and parameters, by any part of their dotted name, that stay in float32.
    """
    state = {}
    for name in names:
        exact = not set(precise).isdisjoint(name.split("."))
        state[name] = read(name).to(device, torch.float32 if exact else dtype)
    network.load_state_dict(state, strict=True, assign=True)
    for module in network.modules():
        for name, table in module.named_buffers(recurse=False):
            setattr(module, name, table.to(device))
    network.requires_grad_(False).eval()

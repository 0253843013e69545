"""Named tensors to networks.

A network is built without memory for its weights. Names and shapes are held to the network's before
the first tensor is read, and what does not fit is named. Then each tensor is read, changed, rounded
and moved by itself, so that a checkpoint is in memory once.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch
from accelerate import init_empty_weights
from diffusers import AutoencoderKLWan
from torch import Tensor, nn
from transformers import UMT5Config, UMT5EncoderModel, Wav2Vec2Config, Wav2Vec2Model

from omniavatar.errors import WeightsError
from omniavatar.models.transformer import OmniAvatarTransformer3DModel
from omniavatar.weights.checkpoint import is_fp8, shape_of
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
from omniavatar.weights.lora_files import Lora
from omniavatar.weights.storage import FP8, store_as_fp8

Network = TypeVar("Network", bound=nn.Module)
Tensors = Mapping[str, Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class Blueprint(Generic[Network]):
    """A network that takes no memory for its weights yet, and how each of them is made.

    Attributes:
        network: names and shapes are those of the tensors.
        names: of all tensors.
        read: makes a tensor on a device.
        dtype: of the tensors.
        precise: modules and parameters, by any part of their dotted name, that are in float32.
        small: tensors that are stored in 8 bits.
        beside: low-rank changes are kept beside the tensors, so that these are not all there is.
        finish: last changes of the network, once it has its weights.
    """

    network: Network
    names: Sequence[str]
    read: Callable[[str, torch.device | str], Tensor]
    dtype: torch.dtype
    precise: Sequence[str] = ()
    small: Collection[str] = ()
    beside: bool = False
    finish: Callable[[Network], None] | None = None

    def dtype_of(self, name: str) -> torch.dtype:
        """Precision in which a tensor is kept."""
        if not set(self.precise).isdisjoint(name.split(".")):
            return torch.float32
        return FP8 if name in self.small else self.dtype

    def make(self, name: str, device: torch.device | str) -> Tensor:
        """A tensor in its precision; it is rounded to it once."""
        return self.read(name, device).to(device, self.dtype_of(name))

    def build(self, device: torch.device | str) -> Network:
        """Give the network its weights, one tensor at a time, so that they are in memory once."""
        state = {name: self.make(name, device) for name in self.names}
        self.network.load_state_dict(state, strict=True, assign=True)
        for module in self.network.modules():
            for name, table in module.named_buffers(recurse=False):
                setattr(module, name, table.to(device))
        self.network.requires_grad_(False).eval()
        if self.finish is not None:
            self.finish(self.network)
        return self.network


def plan_transformer(
    base: Tensors,
    adapter: Adapter | None = None,
    *,
    loras: Sequence[Lora] = (),
    config: Mapping[str, Any] | None = None,
    heads: int | None = None,
    eps: float = 1e-6,
    dtype: torch.dtype = torch.float32,
    merge: bool = True,
    fp8: bool = False,
) -> Blueprint[OmniAvatarTransformer3DModel]:
    """Hold named tensors to the transformer that they make.

    Args:
        base: by published or by diffusers' names.
        adapter: what makes a plain Wan transformer an OmniAvatar one; None when `base` is one.
        loras: further changes, merged in their order with the adapter's.
        config: of the network; None reads it off the shapes, `heads` and `eps`.
        merge: merge low-rank changes in float32, or keep them beside the weights, as they are over
            weights that have 8 bits in `base`: most of a change is less than half of such a step,
            and would be rounded away. Whole differences are always merged.
        fp8: store large layers in 8 bits; those that have 8 bits in `base` are in any case.

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
    for lora in loras:
        lora.check(shapes)
    is_small = any(is_fp8(base, published) for published in names.values())
    fp8, merge = fp8 or is_small, merge and not is_small
    beside = not merge and bool(adapter or loras)
    small: Collection[str] = ()
    if fp8:
        stored = network
        if beside:  # `network` itself is hooked at last, so that the hooks find the changes
            stored = empty(lambda: OmniAvatarTransformer3DModel.from_config(settings))
        store_as_fp8(stored, compute_dtype=dtype)
        small = _small(stored)

    def read(name: str, device: torch.device | str) -> Tensor:
        tensor = (own[name] if name in own else base[names[name]]).to(device)
        if adapter and merge:
            tensor = adapter.apply(name, tensor)
        for lora in loras:
            tensor = lora.apply(name, tensor, low_rank=merge)
        return tensor

    def finish(network: OmniAvatarTransformer3DModel) -> None:
        if beside:
            attach(network, adapter, loras, dtype=dtype)
            if fp8:
                store_as_fp8(network, compute_dtype=dtype)

    return Blueprint(
        network=network,
        names=tuple(shapes),
        read=read,
        dtype=dtype,
        precise=OmniAvatarTransformer3DModel._keep_in_fp32_modules,
        small=small,
        beside=beside,
        finish=finish,
    )


def attach(
    network: OmniAvatarTransformer3DModel,
    adapter: Adapter | None,
    loras: Sequence[Lora],
    *,
    dtype: torch.dtype,
) -> None:
    """Keep low-rank changes beside the weights, as adapters that diffusers can weigh and remove.

    Args:
        dtype: of the changes, whatever the weights have.
    """
    for module in network.modules():
        if isinstance(module, nn.Linear):  # by this name peft asks for the precision of changes
            vars(module)["compute_dtype"] = dtype
    strengths: dict[str, float] = {}
    if adapter and adapter.changes:
        adapter.attach(network, dtype=dtype)
        strengths["omniavatar"] = 1.0
    for number, lora in enumerate(loras, start=1):
        if lora.attach(network, adapter_name=f"lora_{number}", dtype=dtype):
            strengths[f"lora_{number}"] = lora.strength
    if strengths:
        network.set_adapters(list(strengths), list(strengths.values()))
    network.requires_grad_(False).eval()


def build_transformer(
    base: Tensors,
    adapter: Adapter | None = None,
    *,
    device: torch.device | str = "cpu",
    **options: Any,
) -> OmniAvatarTransformer3DModel:
    """Build the transformer from named tensors; see `plan_transformer`."""
    return plan_transformer(base, adapter, **options).build(device)


def plan_vae(
    tensors: Tensors,
    *,
    config: Mapping[str, Any] | None = None,
    dtype: torch.dtype = torch.float32,
) -> Blueprint[AutoencoderKLWan]:
    """Hold tensors by published or diffusers' names to the VAE; see `plan_transformer`."""
    names = {name: published for published, name in vae_keys(tensors).items()}
    shapes = {name: shape_of(tensors, published) for name, published in names.items()}
    settings = config or vae_config(shapes)
    network = empty(lambda: AutoencoderKLWan.from_config(settings))
    check_shapes(network, shapes, what="VAE")
    return _plan(network, tensors, names, dtype)


def build_vae(
    tensors: Tensors, *, device: torch.device | str = "cpu", **options: Any
) -> AutoencoderKLWan:
    """Build the VAE from named tensors; see `plan_vae`."""
    return plan_vae(tensors, **options).build(device)


def plan_text_encoder(
    tensors: Tensors,
    *,
    config: Mapping[str, Any] | None = None,
    dtype: torch.dtype = torch.float32,
    fp8: bool = False,
) -> Blueprint[UMT5EncoderModel]:
    """Hold tensors by published or transformers' names to the text encoder.

    Args:
        fp8: store large layers in 8 bits.
    """
    names = {text_encoder_key(name): name for name in tensors}
    shapes = {name: shape_of(tensors, published) for name, published in names.items()}
    settings = UMT5Config(**(config or text_encoder_config(shapes)))
    network = empty(lambda: UMT5EncoderModel(settings))
    for again, first in UMT5EncoderModel._tied_weights_keys.items():
        if again not in shapes and first in shapes:
            names[again], shapes[again] = names[first], shapes[first]
    check_shapes(network, shapes, what="text encoder")
    if fp8:
        store_as_fp8(network, compute_dtype=dtype)
    return _plan(network, tensors, names, dtype, finish=lambda network: network.tie_weights())


def build_text_encoder(
    tensors: Tensors, *, device: torch.device | str = "cpu", **options: Any
) -> UMT5EncoderModel:
    """Build the text encoder from named tensors; see `plan_text_encoder`."""
    return plan_text_encoder(tensors, **options).build(device)


def plan_speech_encoder(
    tensors: Tensors,
    *,
    config: Mapping[str, Any],
    dtype: torch.dtype = torch.float32,
) -> Blueprint[Wav2Vec2Model]:
    """Hold tensors by the recogniser's or the bare encoder's names to the speech encoder."""
    names = {name: published for published in tensors if (name := speech_encoder_key(published))}
    shapes = {name: shape_of(tensors, published) for name, published in names.items()}
    # Masking is for training; without it the network has no embedding for what is masked.
    unmasked = {"mask_time_prob": 0.0, "mask_feature_prob": 0.0, "apply_spec_augment": False}
    settings = Wav2Vec2Config(**{**config, **unmasked})
    network = empty(lambda: Wav2Vec2Model(settings))
    check_shapes(network, shapes, what="speech encoder")
    return _plan(network, tensors, names, dtype)


def build_speech_encoder(
    tensors: Tensors, *, device: torch.device | str = "cpu", **options: Any
) -> Wav2Vec2Model:
    """Build the speech encoder from named tensors; see `plan_speech_encoder`."""
    return plan_speech_encoder(tensors, **options).build(device)


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


def _plan(
    network: Network,
    tensors: Tensors,
    names: Mapping[str, str],
    dtype: torch.dtype,
    *,
    finish: Callable[[Network], None] | None = None,
) -> Blueprint[Network]:
    return Blueprint(
        network=network,
        names=tuple(names),
        read=lambda name, _device: tensors[names[name]],
        dtype=dtype,
        small=_small(network),
        finish=finish,
    )


def _small(network: nn.Module) -> Collection[str]:
    """Tensors that `store_as_fp8` has made small."""
    return {name for name, tensor in network.state_dict().items() if tensor.dtype == FP8}

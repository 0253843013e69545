"""How far bfloat16 is from float32: here, and in the published order of operations.

The published code rounds everything to bfloat16: the timestep and its embedding, the modulation,
norms before their weight, the sample between steps. Here those stay in float32. Both run with the
bundled model's trained weights, and both are held against the same network in float32.

Source of the published order: Omni-Avatar/OmniAvatar wan_video_dit.py, flow_match.py, Apache-2.0.
"""

# b batch, s tokens, d width, h heads, c head channels

import copy
import dataclasses
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.models.transformers.transformer_wan import WanAttention, WanTransformerBlock
from einops import rearrange
from torch import Tensor

from omniavatar.bench.machine import Machine
from omniavatar.flops import transformer_config
from omniavatar.memory import choose_placement
from omniavatar.models.transformer import OmniAvatarTransformer3DModel
from omniavatar.stages.schedule import make_schedule
from omniavatar.weights.build import build_transformer
from omniavatar.weights.catalog import CATALOG, Bundled
from omniavatar.weights.checkpoint import Checkpoint

LOW = torch.bfloat16
Predict = Callable[[Tensor, Tensor], Tensor]
"""Latents with their conditions and a timestep, both in float32 -> velocity."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AccuracyReport:
    """Errors of bfloat16, relative to the size of float32's result.

    Attributes:
        model, machine: what ran where.
        forward, published_forward: of one prediction, the mean over the steps of a schedule.
        latents, published_latents: of the latents after all steps.
    """

    model: str
    machine: Machine
    forward: float
    published_forward: float
    latents: float
    published_latents: float

    def to_mapping(self) -> dict[str, Any]:
        return {"kind": "accuracy", **dataclasses.asdict(self)}


@torch.inference_mode()
def measure_accuracy(
    *, device: torch.device | str | None = None, steps: int = 10
) -> AccuracyReport:
    """Compare both orders of operations on the bundled model's transformer."""
    device = choose_placement(device=device).device
    spec = CATALOG["nano"]
    exact, ours = (_load(device, dtype) for dtype in (torch.float32, LOW))
    theirs = copy.deepcopy(exact)
    for parameter in theirs.parameters():
        parameter.data = parameter.data.to(LOW)
    generator = torch.Generator(device).manual_seed(0)
    config = exact.config

    def noise(*size: int) -> Tensor:
        return torch.randn(size, generator=generator, device=device)

    start = noise(1, 16, 8, 16, 16)
    fixed = torch.cat([noise(1, 16, 1, 16, 16).expand_as(start), torch.ones_like(start[:, :1])], 1)
    context = noise(1, spec.text_tokens, config.text_dim)
    audio = noise(1, 4 * start.shape[2] - 3, config.audio_features)

    def runner(network: OmniAvatarTransformer3DModel, dtype: torch.dtype) -> Predict:
        terms = network.encode_audio(audio.to(dtype))
        return lambda latents, time: network(
            torch.cat([latents, fixed], 1).to(dtype),
            time,
            context.to(dtype),
            audio_conditioning=terms,
            return_dict=False,
        )[0].float()

    published_terms = theirs.encode_audio(audio.to(LOW))

    def published(latents: Tensor, time: Tensor) -> Tensor:
        inputs = torch.cat([latents, fixed], 1).to(LOW)
        return _published_forward(theirs, inputs, time.to(LOW), context.to(LOW), published_terms)

    float32, bfloat16 = runner(exact, torch.float32), runner(ours, LOW)
    truth, visited = _sample(float32, start, steps, torch.float32)
    forwards = [
        (_error(bfloat16(*place), wanted), _error(published(*place).float(), wanted))
        for *place, wanted in visited
    ]
    return AccuracyReport(
        model=spec.name,
        machine=Machine.of(device),
        forward=statistics.mean(ours for ours, _ in forwards),
        published_forward=statistics.mean(theirs for _, theirs in forwards),
        latents=_error(_sample(bfloat16, start, steps, torch.float32)[0], truth),
        published_latents=_error(_sample(published, start, steps, LOW)[0], truth),
    )


def _load(device: torch.device, dtype: torch.dtype) -> OmniAvatarTransformer3DModel:
    spec = CATALOG["nano"]
    assert isinstance(spec.source, Bundled)
    folder = spec.source.folder / "transformer"
    with Checkpoint(folder / "diffusion_pytorch_model.safetensors") as tensors:
        return build_transformer(
            tensors, config=transformer_config(spec), device=device, dtype=dtype
        )


def _sample(
    predict: Predict, latents: Tensor, steps: int, dtype: torch.dtype
) -> tuple[Tensor, list[tuple[Tensor, Tensor, Tensor]]]:
    """Euler steps with the sample in `dtype`; the latents at last, and all that was asked for."""
    schedule = make_schedule(steps, shift=5.0)
    latents, visited = latents.to(dtype), []
    for index, timestep in enumerate(schedule.timesteps.to(latents.device)):
        time = timestep[None]
        velocity = predict(latents.float(), time)
        visited.append((latents.float(), time, velocity))
        move = (schedule.sigmas[index + 1] - schedule.sigmas[index]).item()
        latents = latents + velocity.to(dtype) * move
    return latents.float(), visited


def _error(found: Tensor, wanted: Tensor) -> float:
    return ((found - wanted).norm() / wanted.norm()).item()


def _published_forward(
    network: OmniAvatarTransformer3DModel,
    inputs: Tensor,
    time: Tensor,
    context: Tensor,
    audio: Tensor,
) -> Tensor:
    """The published forward, each result rounded where the published code rounds it."""
    frames, rows, columns = inputs.shape[2], inputs.shape[3] // 2, inputs.shape[4] // 2
    embedder = network.condition_embedder
    half = network.config.freq_dim // 2
    powers = torch.arange(half, device=inputs.device, dtype=torch.float64) / -half
    angles = time.double()[:, None] * torch.pow(10000, powers)
    embedded = embedder.time_embedder(torch.cat([angles.cos(), angles.sin()], dim=1).to(LOW))
    modulation = embedder.time_proj(F.silu(embedded)).unflatten(1, (6, -1))
    context = embedder.text_embedder(context)
    cosine, sine = (table.double() for table in network.rope(inputs))
    turns = torch.complex(cosine[..., 0::2], sine[..., 1::2])  # [1, s, 1, c / 2]
    tokens = rearrange(network.patch_embedding(inputs), "b d f h w -> b (f h w) d")
    for index, block in enumerate(network.blocks):
        if 0 <= index - 2 < audio.shape[1]:
            term = audio[:, index - 2, :, None]
            tokens = (tokens.unflatten(1, (frames, -1)) + term).flatten(1, 2)
        tokens = _published_block(block, tokens, context, modulation, turns)
    shift, scale = (network.scale_shift_table + embedded[:, None]).chunk(2, dim=1)
    tokens = network.proj_out(_norm(tokens) * (1 + scale) + shift)
    return rearrange(
        tokens,
        "b (f h w) (p q c) -> b c f (h p) (w q)",
        f=frames,
        h=rows,
        w=columns,
        p=2,
        q=2,
    )


def _published_block(
    block: WanTransformerBlock, tokens: Tensor, context: Tensor, modulation: Tensor, turns: Tensor
) -> Tensor:
    shift, scale, gate, ffn_shift, ffn_scale, ffn_gate = (
        block.scale_shift_table + modulation
    ).chunk(6, dim=1)
    inputs = _norm(tokens) * (1 + scale) + shift
    tokens = tokens + gate * _published_attention(block.attn1, inputs, inputs, turns)
    inputs = _norm(tokens, block.norm2.weight, block.norm2.bias)
    tokens = tokens + _published_attention(block.attn2, inputs, context, None)
    return tokens + ffn_gate * block.ffn(_norm(tokens) * (1 + ffn_scale) + ffn_shift)


def _published_attention(
    layer: WanAttention, tokens: Tensor, context: Tensor, turns: Tensor | None
) -> Tensor:
    query, key, value = layer.to_q(tokens), layer.to_k(context), layer.to_v(context)
    query = _root_mean_square(query, layer.norm_q.weight)
    key = _root_mean_square(key, layer.norm_k.weight)
    query, key, value = (
        rearrange(part, "b s (h c) -> b s h c", h=layer.heads) for part in (query, key, value)
    )
    if turns is not None:
        query, key = (
            torch.view_as_real(torch.view_as_complex(part.double().unflatten(-1, (-1, 2))) * turns)
            .flatten(-2)
            .to(LOW)
            for part in (query, key)
        )
    query, key, value = (rearrange(part, "b s h c -> b h s c") for part in (query, key, value))
    result = F.scaled_dot_product_attention(query, key, value)
    return layer.to_out[0](rearrange(result, "b h s c -> b s (h c)"))


def _norm(tokens: Tensor, weight: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
    return F.layer_norm(tokens, tokens.shape[-1:], weight, bias, eps=1e-6)


def _root_mean_square(tokens: Tensor, weight: Tensor) -> Tensor:
    return F.rms_norm(tokens.float(), tokens.shape[-1:], eps=1e-6).to(LOW) * weight

"""The OmniAvatar diffusion transformer: diffusers' Wan transformer that also hears speech.

What the library gives every model (offload, layerwise casting, quantisation, LoRA, attention
backends, step caches, context parallelism, regional compilation, `from_pretrained`) works here,
because blocks, embeddings and names are its own; this file adds the audio pack and its projections.

Source: OmniAvatar (arXiv 2506.18866, section 3.2); Omni-Avatar/OmniAvatar, Apache-2.0.
"""

# b batch, t video frames, f latent frames, a audio features, d model width, s tokens, n projections
# h, w latent rows and columns

import math
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from diffusers import WanTransformer3DModel
from diffusers.configuration_utils import register_to_config
from diffusers.models._modeling_parallel import ContextParallelInput
from diffusers.models.modeling_outputs import Transformer2DModelOutput
from diffusers.models.transformers.transformer_wan import WanAttention, WanAttnProcessor
from diffusers.utils import apply_lora_scale
from einops import rearrange
from torch import Tensor, nn

FRAMES_PER_LATENT = 4


class AudioPack(nn.Module):
    """Fold the speech features of the four video frames under each latent into one vector.

    The first latent covers a single frame, which is repeated to make four.
    """

    def __init__(self, features: int, hidden: int) -> None:
        super().__init__()
        self.proj = nn.Linear(FRAMES_PER_LATENT * features, hidden)
        self.norm_out = nn.LayerNorm(hidden)

    def forward(self, audio: Tensor) -> Tensor:
        """[b, t, a] with t = 4f - 3 -> [b, f, hidden]."""
        return self.encode(self.fold(audio))

    def fold(self, audio: Tensor) -> Tensor:
        """Put the frames of a latent side by side, [b, t, a] -> [b, f, 4a]."""
        first = audio[:, :1].expand(-1, FRAMES_PER_LATENT - 1, -1)
        audio = torch.cat([first, audio], dim=1)  # [b, 4f, a]
        return rearrange(audio, "b (f four) a -> b f (four a)", four=FRAMES_PER_LATENT)

    def encode(self, folded: Tensor) -> Tensor:
        """[..., 4a] -> [..., hidden]."""
        return self.norm_out(self.proj(folded))


class TokenFrames(nn.Module):
    """The latent frame of each token, [1, s].

    A module of its own, without weights, so that context parallelism can split its output along
    with the tokens.
    """

    def forward(self, frames: int, tokens_per_frame: int, device: torch.device) -> Tensor:
        return torch.arange(frames, device=device).repeat_interleave(tokens_per_frame)[None]


class Moments(NamedTuple):
    """A prompt that stands in for the usual one in some latent frames.

    Attributes:
        prompt: its embedding, [b, l, text_dim].
        frames: whether it counts in each latent frame, [f].
        padding_rows: of the prompt; see `OmniAvatarTransformer3DModel.forward`.
    """

    prompt: Tensor
    frames: Tensor
    padding_rows: int = 0


class PromptRows(NamedTuple):
    """What blocks attend to. A tuple, since hooks that move inputs to a device look into tuples.

    Attributes:
        rows: of the prompt, [b, l, d].
        bias: added to the scores of the rows, [1, 1, 1, l], if anything is.
        other: rows of another prompt, to which some tokens attend in place of these.
        tokens: numbers of those tokens.
    """

    rows: Tensor
    bias: Tensor | None
    other: "PromptRows | None" = None
    tokens: Tensor | None = None


class PromptAttnProcessor(WanAttnProcessor):
    """Cross attention to the rows of one prompt, as published, or to `PromptRows`."""

    def __call__(
        self,
        attn: WanAttention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | PromptRows | None = None,
        attention_mask: Tensor | None = None,
        rotary_emb: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        attend = super().__call__
        prompt = encoder_hidden_states
        if not isinstance(prompt, PromptRows):
            return attend(attn, hidden_states, prompt, attention_mask, rotary_emb)
        attended = attend(attn, hidden_states, prompt.rows, prompt.bias, rotary_emb)
        if prompt.other is None or prompt.tokens is None or len(prompt.tokens) == 0:
            return attended
        queries, (rows, bias, *_) = hidden_states[:, prompt.tokens], prompt.other
        instead = attend(attn, queries, rows, bias, rotary_emb)
        return attended.index_copy(1, prompt.tokens, instead)


@dataclass(slots=True)
class BlockResidual:
    """What all blocks together added to the tokens, kept from the last forward that ran them.

    One object serves one guidance branch of one chunk. While `reuse` is set, a forward adds `value`
    instead of running the blocks.
    """

    reuse: bool = False
    value: Tensor | None = None


class OmniAvatarTransformer3DModel(WanTransformer3DModel):
    """Wan2.1 text-to-video transformer with a reference image and speech as further conditions.

    The 33 input channels are 16 of the noisy latents, 16 of the reference image's latent repeated
    over the frames, and 1 mask (0 on latent frames that are given, 1 on those to generate).

    Args:
        audio_features: width of the speech embedding of one frame; 14 x 768 for wav2vec2-base.
        audio_hidden: width of the audio pack's output.

    The others are those of `diffusers.WanTransformer3DModel`.
    """

    # The parent's settings for Wan's image-to-video variants, which this model has no use for.
    ignore_for_config: ClassVar[list[str]] = [
        "image_dim",
        "added_kv_proj_dim",
        "pos_embed_seq_len",
    ]
    _cp_plan: ClassVar[dict[str, Any]] = {
        **WanTransformer3DModel._cp_plan,
        "token_frames": {0: ContextParallelInput(split_dim=1, expected_dims=2, split_output=True)},
    }

    _skip_layerwise_casting_patterns: ClassVar[list[str]] = [
        *WanTransformer3DModel._skip_layerwise_casting_patterns,
        "audio_proj",
        "audio_cond_projs",
    ]

    @register_to_config
    def __init__(
        self,
        patch_size: tuple[int, ...] = (1, 2, 2),
        num_attention_heads: int = 40,
        attention_head_dim: int = 128,
        in_channels: int = 33,
        out_channels: int = 16,
        text_dim: int = 4096,
        freq_dim: int = 256,
        ffn_dim: int = 13824,
        num_layers: int = 40,
        cross_attn_norm: bool = True,
        qk_norm: str | None = "rms_norm_across_heads",
        eps: float = 1e-6,
        rope_max_seq_len: int = 1024,
        audio_features: int = 10752,
        audio_hidden: int = 32,
    ) -> None:
        super().__init__(
            patch_size=patch_size,
            num_attention_heads=num_attention_heads,
            attention_head_dim=attention_head_dim,
            in_channels=in_channels,
            out_channels=out_channels,
            text_dim=text_dim,
            freq_dim=freq_dim,
            ffn_dim=ffn_dim,
            num_layers=num_layers,
            cross_attn_norm=cross_attn_norm,
            qk_norm=qk_norm,
            eps=eps,
            rope_max_seq_len=rope_max_seq_len,
        )
        width = num_attention_heads * attention_head_dim
        self.token_frames = TokenFrames()
        self.audio_proj = AudioPack(audio_features, audio_hidden)
        self.audio_cond_projs = nn.ModuleList(
            nn.Linear(audio_hidden, width) for _ in range(num_layers // 2 - 1)
        )
        for block in self.blocks:
            block.attn2.set_processor(PromptAttnProcessor())

    def encode_audio(self, audio: Tensor) -> Tensor:
        """Compute what each conditioned block adds to its tokens: once per chunk, not per step.

        Runs where the audio pack's weights are, so that it works under any offload.

        Args:
            audio: speech embedding of each video frame, [b, t, a] with t = 4f - 3; zeros mean
                silence, which still leaves the biases.

        Returns:
            [b, n, f, d], on the device of `audio`.
        """
        weight = self.audio_proj.proj.weight
        packed = self.audio_proj(audio.to(weight.device, weight.dtype))  # [b, f, hidden]
        terms = [projection(packed) for projection in self.audio_cond_projs]
        return torch.stack(terms, dim=1).to(audio.device)

    def time_modulation(self, timestep: Tensor) -> Tensor:
        """[b] timesteps, 0..1000 -> [b, 6 d]: all that a step cache looks at."""
        embedder = self.condition_embedder
        weight = embedder.time_proj.weight
        sinusoid = embedder.timesteps_proj(timestep.to(weight.device)).to(
            embedder.time_embedder.linear_1.weight.dtype
        )
        hidden = embedder.act_fn(embedder.time_embedder(sinusoid))
        return embedder.time_proj(hidden.to(weight.dtype))

    @apply_lora_scale("attention_kwargs")
    def forward(
        self,
        hidden_states: Tensor,
        timestep: Tensor,
        encoder_hidden_states: Tensor,
        audio_conditioning: Tensor,
        padding_rows: int = 0,
        moments: Moments | None = None,
        block_residual: BlockResidual | None = None,
        return_dict: bool = True,
        attention_kwargs: dict[str, Any] | None = None,  # noqa: ARG002  read by the decorator
    ) -> Transformer2DModelOutput | tuple[Tensor]:
        """Predict the velocity (noise minus video) of the latents.

        Args:
            hidden_states: noisy latents, reference latent and mask, [b, 33, f, h, w].
            timestep: 1000 sigma, [b].
            encoder_hidden_states: prompt embedding with zeroed padding rows, [b, l, text_dim].
            audio_conditioning: result of `encode_audio`, [b, n, f, d].
            padding_rows: rows of padding that were left away, and that the last row, one of them,
                stands for. The attention to all of them is exactly that to one of this weight.
            moments: another prompt for some of the frames.
            block_residual: reuse or record of the blocks' work, for step caches.

        Returns:
            Velocity, [b, 16, f, h, w].

        Raises:
            ValueError: `block_residual` is given and the tokens are split over several devices.
        """
        patch_f, patch_h, patch_w = self.config.patch_size
        frames, rows, columns = (
            size // patch
            for size, patch in zip(hidden_states.shape[2:], self.config.patch_size, strict=True)
        )
        rotary = self.rope(hidden_states)
        token_frames = self.token_frames(frames, rows * columns, hidden_states.device)
        tokens = self.patch_embedding(hidden_states)
        tokens = rearrange(tokens, "b d f h w -> b (f h w) d").contiguous()
        prompts = encoder_hidden_states
        if moments is not None:
            prompts = torch.cat([encoder_hidden_states, moments.prompt], dim=1)
        time, modulation, embedded, _ = self.condition_embedder(timestep, prompts)
        context = _context(embedded, padding_rows, moments, token_frames)
        modulation = modulation.unflatten(1, (6, -1))

        if block_residual is not None and block_residual.reuse:
            assert block_residual.value is not None, "a residual is reused before one was recorded"
            tokens = tokens + block_residual.value
        else:
            before = tokens
            tokens = self._run_blocks(
                tokens, context, modulation, rotary, audio_conditioning, token_frames
            )
            if block_residual is not None:
                if tokens.shape != before.shape:
                    raise ValueError(
                        "A step cache does not work with context parallelism: each device has a "
                        "share of the tokens. Use one of the two."
                    )
                block_residual.value = tokens - before

        shift, scale = (self.scale_shift_table + time[:, None]).to(tokens.device).chunk(2, dim=1)
        tokens = (self.norm_out(tokens.float()) * (1 + scale) + shift).type_as(tokens)
        tokens = self.proj_out(tokens)
        velocity = rearrange(
            tokens,
            "b (f h w) (pf ph pw c) -> b c (f pf) (h ph) (w pw)",
            f=frames,
            h=rows,
            w=columns,
            pf=patch_f,
            ph=patch_h,
            pw=patch_w,
        )
        return Transformer2DModelOutput(sample=velocity) if return_dict else (velocity,)

    def _run_blocks(
        self,
        tokens: Tensor,
        context: Tensor | PromptRows,
        modulation: Tensor,
        rotary: tuple[Tensor, Tensor],
        audio_conditioning: Tensor,
        token_frames: Tensor,
    ) -> Tensor:
        whole_length = tokens.shape[1]
        first_with_audio = 2
        for index, block in enumerate(self.blocks):
            term = index - first_with_audio
            if 0 <= term < len(self.audio_cond_projs):
                tokens = _add_to_frames(
                    tokens, audio_conditioning[:, term], token_frames, whole_length=whole_length
                )
            if torch.is_grad_enabled() and self.gradient_checkpointing:
                tokens = self._gradient_checkpointing_func(
                    block, tokens, context, modulation, rotary
                )
            else:
                tokens = block(tokens, context, modulation, rotary)
        return tokens


def _context(
    embedded: Tensor, padding_rows: int, moments: Moments | None, token_frames: Tensor
) -> Tensor | PromptRows:
    """What the blocks attend to: the rows themselves, as published, where there is no more to it.

    Args:
        embedded: rows of the prompt, then those of the moments, [b, l, d].
    """
    if moments is None:
        weight = _weight_of_last(embedded, padding_rows)
        return embedded if weight is None else PromptRows(embedded, weight)
    length = embedded.shape[1] - moments.prompt.shape[1]
    usual, other = embedded[:, :length], embedded[:, length:]
    is_moment = moments.frames.to(token_frames.device)[token_frames[0]]
    return PromptRows(
        usual,
        _weight_of_last(usual, padding_rows),
        other=PromptRows(other, _weight_of_last(other, moments.padding_rows)),
        tokens=is_moment.nonzero()[:, 0],
    )


def _weight_of_last(rows: Tensor, padding_rows: int) -> Tensor | None:
    """What is added to scores so that the last of the rows counts for more of its kind.

    Rows that are alike get the same score; so the logarithm of their number makes one of them weigh
    as much as all.
    """
    if padding_rows == 0:
        return None
    bias = torch.zeros(rows.shape[1], dtype=rows.dtype, device=rows.device)
    bias[-1] = math.log(padding_rows + 1)
    return bias[None, None, None]


def _add_to_frames(
    tokens: Tensor, term: Tensor, token_frames: Tensor, *, whole_length: int
) -> Tensor:
    """Add one vector per latent frame, [b, f, d], to the tokens of that frame, [b, s, d].

    Broadcast, unless `tokens` is one device's share of a longer sequence, which may begin or end
    within a frame: then each token looks its frame up in `token_frames`, [1, s].
    """
    term = term.type_as(tokens)
    if tokens.shape[1] == whole_length:
        return (tokens.unflatten(1, (term.shape[1], -1)) + term[:, :, None]).flatten(1, 2)
    return tokens + term[:, token_frames[0]]

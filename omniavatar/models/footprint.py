"""How large the networks of a checkpoint are, in numbers that memory is reckoned with."""

from dataclasses import dataclass

from diffusers import AutoencoderKLWan
from torch import nn
from transformers import UMT5EncoderModel, Wav2Vec2Model

from omniavatar.models import Models
from omniavatar.models.transformer import OmniAvatarTransformer3DModel


@dataclass(frozen=True, slots=True, kw_only=True)
class Footprint:
    """Numbers of parameters, and the widths that decide how much work takes.

    Attributes:
        blocks: how many blocks the transformer repeats.
        block: parameters of one.
        around: parameters of the transformer outside its blocks.
        width, hidden: of a token, and of a token within a block's feed-forward.
        text_encoder: all parameters of the text encoder.
        text_exact: those of them that are not stored in 8 bits even when the rest is.
        text_layer: parameters of its largest single layer.
        vae, vae_channels: parameters, and channels of the level of full resolution.
        speech_encoder: parameters.
    """

    blocks: int
    block: int
    around: int
    width: int
    hidden: int
    text_encoder: int
    text_exact: int
    text_layer: int
    vae: int
    vae_channels: int
    speech_encoder: int

    @property
    def transformer(self) -> int:
        """All parameters of the transformer."""
        return self.blocks * self.block + self.around


def footprint_of(models: Models) -> Footprint:
    """Measure networks, wherever their weights are."""
    return measure(
        transformer=models.transformer,
        vae=models.vae,
        text_encoder=models.text_encoder,
        speech_encoder=models.speech_encoder,
    )


def measure(
    *,
    transformer: OmniAvatarTransformer3DModel,
    vae: AutoencoderKLWan,
    text_encoder: UMT5EncoderModel,
    speech_encoder: Wav2Vec2Model,
) -> Footprint:
    """Measure networks, also such as have no weights yet."""
    block = _count(transformer.blocks[0])
    layers = [
        layer for layer in text_encoder.modules() if isinstance(layer, nn.Linear | nn.Embedding)
    ]
    linear = sum(_count(layer) for layer in layers if isinstance(layer, nn.Linear))
    # A T5 layer's `wo` is never stored in 8 bits, see `weights.storage`.
    outputs = sum(
        _count(layer) for name, layer in text_encoder.named_modules() if name.endswith(".wo")
    )
    all_of_text = _count(text_encoder)
    return Footprint(
        blocks=len(transformer.blocks),
        block=block,
        around=_count(transformer) - block * len(transformer.blocks),
        width=transformer.config.num_attention_heads * transformer.config.attention_head_dim,
        hidden=transformer.config.ffn_dim,
        text_encoder=all_of_text,
        text_exact=all_of_text - linear + outputs,
        text_layer=max(map(_count, layers)),
        vae=_count(vae),
        vae_channels=max(vae.config.base_dim, vae.config.decoder_base_dim or 0),
        speech_encoder=_count(speech_encoder),
    )


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())

"""The networks of one checkpoint; they know nothing of files, requests or memory."""

from dataclasses import dataclass

from diffusers import AutoencoderKLWan
from transformers import PreTrainedTokenizerBase, UMT5EncoderModel, Wav2Vec2Model

from omniavatar.models.transformer import OmniAvatarTransformer3DModel


@dataclass(frozen=True, slots=True, kw_only=True)
class Models:
    """All networks that one video needs, on their device and ready to run."""

    transformer: OmniAvatarTransformer3DModel
    vae: AutoencoderKLWan
    text_encoder: UMT5EncoderModel
    tokenizer: PreTrainedTokenizerBase
    speech_encoder: Wav2Vec2Model

"""The networks of nano: the published models' classes at widths that a laptop can run.

Every number here was fixed before training and is stored in the configs beside the weights.
"""

from collections.abc import Sequence
from pathlib import Path

from diffusers import AutoencoderKLWan
from tokenizers import Regex, Tokenizer, normalizers, pre_tokenizers, processors
from tokenizers.models import WordLevel
from transformers import (
    PreTrainedTokenizerFast,
    UMT5Config,
    UMT5EncoderModel,
    Wav2Vec2Config,
    Wav2Vec2Model,
)

from omniavatar.models.transformer import OmniAvatarTransformer3DModel

SIZE = 192
"""Side of the square video, in pixels."""

CHUNK_FRAMES = 89
"""Frames of a square chunk: 23 latent frames, 3.5 seconds."""

OVERLAP_FRAMES = 13
"""Frames that a chunk hands to the next: 4 latent frames."""

TWO_CHUNKS = 2 * CHUNK_FRAMES - OVERLAP_FRAMES
"""Frames of a video of two chunks, the portrait's own included: what evaluation makes."""

AUDIO_HIDDEN = 32
"""Numbers to which the audio pack folds the speech under a latent frame."""

TEXT_ROWS = 512
"""Rows of the text context; those past the prompt are zero, and take part in attention."""

TEXT_VOCABULARY = 256
PAD, END, UNKNOWN = 0, 1, 2


def build_vae(*, decoder_width: int = 32) -> AutoencoderKLWan:
    """8 x 8 x 4 pixels to 16 numbers: 7.4 M parameters, 5.4 M with a decoder of width 24."""
    return AutoencoderKLWan(
        base_dim=32,
        decoder_base_dim=decoder_width,
        z_dim=16,
        dim_mult=[1, 2, 4],
        num_res_blocks=1,
        temperal_downsample=[True, True],
        in_channels=12,
        out_channels=12,
        patch_size=2,
        scale_factor_spatial=8,
        latents_mean=[0.0] * 16,
        latents_std=[1.0] * 16,
    )


def build_speech_encoder() -> Wav2Vec2Model:
    """1.6 M parameters; 16 kHz to 6 x 128 features a video frame."""
    return Wav2Vec2Model(
        Wav2Vec2Config(
            hidden_size=128,
            num_hidden_layers=4,
            num_attention_heads=4,
            intermediate_size=768,
            conv_dim=(64, 128, 160, 192, 192, 192, 192),
            conv_kernel=(10, 3, 3, 3, 3, 2, 2),
            conv_stride=(5, 2, 2, 2, 2, 2, 2),
            feat_extract_norm="layer",
            conv_bias=True,
            do_stable_layer_norm=False,
            num_conv_pos_embeddings=32,
            num_conv_pos_embedding_groups=8,
            apply_spec_augment=False,
            mask_time_prob=0.0,
            hidden_dropout=0.0,
            activation_dropout=0.0,
            attention_dropout=0.0,
            feat_proj_dropout=0.0,
            final_dropout=0.0,
            layerdrop=0.0,
        )
    )


def build_text_encoder() -> UMT5EncoderModel:
    """0.36 M parameters."""
    return UMT5EncoderModel(
        UMT5Config(
            vocab_size=TEXT_VOCABULARY,
            d_model=128,
            d_kv=32,
            num_layers=2,
            num_heads=4,
            d_ff=256,
            dropout_rate=0.0,
            feed_forward_proj="gated-gelu",
        )
    )


def build_transformer() -> OmniAvatarTransformer3DModel:
    """9.2 M parameters, the audio pack included."""
    return OmniAvatarTransformer3DModel(
        patch_size=(1, 2, 2),
        num_attention_heads=4,
        attention_head_dim=64,
        in_channels=33,
        out_channels=16,
        text_dim=128,
        freq_dim=256,
        ffn_dim=1024,
        num_layers=8,
        audio_features=6 * 128,
        audio_hidden=AUDIO_HIDDEN,
    )


def build_tokenizer(words: Sequence[str]) -> PreTrainedTokenizerFast:
    """Whole words, lower-cased, punctuation dropped, closed by `</s>`.

    Raises:
        ValueError: more words than the text encoder has rows for.
    """
    vocabulary = {"<pad>": PAD, "</s>": END, "<unk>": UNKNOWN}
    for word in words:
        vocabulary.setdefault(word, len(vocabulary))
    if len(vocabulary) > TEXT_VOCABULARY:
        raise ValueError(f"{len(vocabulary)} words, but the text encoder has {TEXT_VOCABULARY}")
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence(
        [
            normalizers.NFKC(),
            normalizers.Lowercase(),
            # Only letters and digits make words.
            normalizers.Replace(Regex(r"[^\p{L}\p{N}]+"), " "),
        ]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", END)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        model_max_length=TEXT_ROWS,
        padding_side="right",
    )


def weights_folder() -> Path:
    """Where the bundled checkpoint lies."""
    return Path(__file__).parent / "weights"

"""Speech to one feature vector per video frame, through transformers' wav2vec2.

The published system stretches the convolutional features to the video's frame rate before the
encoder, and keeps every hidden state; transformers does neither by itself.

Source: OmniAvatar (arXiv 2506.18866); Omni-Avatar/OmniAvatar wav2vec.py, Apache-2.0.
"""

# b clips, n samples, t video frames, c convolution channels, k encoder width, l encoder layers

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import Wav2Vec2Model


def encode_speech(model: Wav2Vec2Model, waveform: Tensor, *, frames: int) -> Tensor:
    """Encode one clip: `encode_batch` of [n] -> [t, (l + 2) k]."""
    return encode_batch(model, waveform[None], frames=frames)[0]


def encode_batch(model: Wav2Vec2Model, waveforms: Tensor, *, frames: int) -> Tensor:
    """Encode clips of one length.

    Args:
        model: a post-norm wav2vec2 (`do_stable_layer_norm=False`), as wav2vec2-base is.
        waveforms: mono speech at 16 kHz, each clip normalised to zero mean and unit variance and
            padded with zeros to the length of `frames`, [b, n].
        frames: number of video frames that each clip covers.

    Returns:
        Last hidden state followed by all hidden states, [b, t, (l + 2) k]. The last one is in it
        twice, as published.

    Raises:
        ValueError: the model is of the pre-norm kind, whose states have another meaning.
    """
    if model.config.do_stable_layer_norm:
        raise ValueError("speech encoder must be post-norm wav2vec2 (do_stable_layer_norm=False)")
    features = model.feature_extractor(waveforms.to(model.dtype))  # [b, c, n / 320]
    features = F.interpolate(features, size=frames, mode="linear", align_corners=True)
    hidden, _ = model.feature_projection(features.transpose(1, 2))  # [b, t, k]

    encoder = model.encoder
    hidden = encoder.layer_norm(hidden + encoder.pos_conv_embed(hidden))
    states = [hidden]
    for layer in encoder.layers:
        output = layer(hidden)
        # transformers 5 returns the tensor, 4 a tuple
        hidden = output if isinstance(output, Tensor) else output[0]
        states.append(hidden)
    return torch.cat([hidden, *states], dim=-1)

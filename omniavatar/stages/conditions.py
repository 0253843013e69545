"""Prompt, speech and portrait to what the transformer is conditioned on.

Source: OmniAvatar (arXiv 2506.18866); Omni-Avatar/OmniAvatar wan_video.py, prompters/, Apache-2.0.
"""

# b batch, l text tokens, x text width, n samples, t video frames, a audio features
# c latent channels, h, w latent rows and columns

import html
import re
from dataclasses import dataclass

import ftfy
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedTokenizerBase, UMT5EncoderModel, Wav2Vec2Model

from omniavatar.models.audio_encoder import encode_speech

ROWS_STEP = 16
"""Prompts keep a multiple of so many rows: each length is compiled for by itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Conditions:
    """What all chunks of a video are conditioned on.

    Attributes:
        prompt, negative_prompt: text embeddings with zeroed padding, [1, l, x].
        blinking: the prompt of moments in which the person blinks, of the same kind; None where a
            model blinks by itself.
        speech: rows of the speech embedding, [t, a], by range of video frames.
        reference: normalised latent of the portrait, [1, c, 1, h, w].
    """

    prompt: Tensor
    negative_prompt: Tensor
    speech: "SpeechRows"
    reference: Tensor
    blinking: Tensor | None = None


def clean_prompt(text: str) -> str:
    """Mend encoding faults and HTML escapes, and make every run of white space one space."""
    text = html.unescape(html.unescape(ftfy.fix_text(text)))
    return re.sub(r"\s+", " ", text.strip()).strip()


def encode_prompt(
    text_encoder: UMT5EncoderModel,
    tokenizer: PreTrainedTokenizerBase,
    text: str,
    *,
    tokens: int,
    device: torch.device | None = None,
) -> Tensor:
    """Embed a prompt, [1, tokens, x]; what is longer is cut, what is shorter padded with zeros.

    Args:
        device: where the encoder computes, if its weights wait elsewhere.
    """
    encoded = tokenizer(
        [clean_prompt(text)],
        padding="max_length",
        max_length=tokens,
        truncation=True,
        add_special_tokens=True,
        return_attention_mask=True,
        return_tensors="pt",
    )
    return embed_tokens(
        text_encoder, encoded["input_ids"], encoded["attention_mask"], device=device
    )


def embed_tokens(
    text_encoder: UMT5EncoderModel,
    ids: Tensor,
    mask: Tensor,
    *,
    device: torch.device | None = None,
) -> Tensor:
    """Embed token ids, [b, l] -> [b, l, x], with the rows of padding set to zero.

    The transformer's cross attention has no mask: it attends to these zero rows as well.
    """
    device = device or text_encoder.device
    ids, mask = ids.to(device, torch.long), mask.to(device, torch.long)
    hidden = text_encoder(ids, attention_mask=mask).last_hidden_state
    return hidden * mask[..., None].to(hidden.dtype)


def without_padding(prompt: Tensor) -> tuple[Tensor, int]:
    """Leave the padding of an embedding away but for a few rows, and say how many rows are gone.

    Args:
        prompt: [1, l, x].

    Returns:
        [1, r, x], and l - r. The last row is padding if any is gone.
    """
    used = int(prompt[0].any(dim=-1).nonzero().max()) + 1 if prompt.any() else 0
    kept = min((used // ROWS_STEP + 1) * ROWS_STEP, prompt.shape[1])
    return prompt[:, :kept], prompt.shape[1] - kept


class SpeechRows:
    """The speech embedding of a clip, encoded when a chunk asks for it.

    Row 0 is zero and belongs to the portrait's own frame; row k + 1 is what video frame k of the
    speech sounds like. A clip of up to `window_frames` goes through the encoder at once, as
    published. A longer one goes in windows that see `context_frames` more at either side: attention
    over all of it would cost the square of its length, and its rows more memory than the video.

    Args:
        waveform: mono, zero mean and unit variance over the clip, [n]. Padding with zeros comes
            after that normalisation, as published.
        padded_frames: video frames of all chunks together, without the portrait's own.
        samples_per_frame: 640 at 16 kHz and 25 fps.
        device, dtype: of the rows.
    """

    def __init__(
        self,
        speech_encoder: Wav2Vec2Model,
        waveform: Tensor,
        *,
        padded_frames: int,
        samples_per_frame: int,
        window_frames: int,
        context_frames: int,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        self._encoder = speech_encoder
        self._waveform = F.pad(waveform, (0, padded_frames * samples_per_frame - len(waveform)))
        self._frames = padded_frames
        self._samples_per_frame = samples_per_frame
        self._window = padded_frames if padded_frames <= window_frames else window_frames
        self._context = context_frames
        self._device, self._dtype = device, dtype
        self._held: dict[int, Tensor] = {}

    def rows(self, start: int, stop: int) -> Tensor:
        """Rows start .. stop, the zero row counted, [stop - start, a]."""
        first, last = max(start - 1, 0), stop - 1
        numbers = range(first // self._window, (last - 1) // self._window + 1)
        self._held = {n: self._held[n] if n in self._held else self._encode(n) for n in numbers}
        rows = torch.cat([self._held[n] for n in numbers])
        offset = numbers[0] * self._window
        rows = rows[first - offset : last - offset]
        return F.pad(rows, (0, 0, 1, 0)) if start == 0 else rows

    def _encode(self, number: int) -> Tensor:
        """All rows of one window, [window, a]."""
        start, stop = number * self._window, min((number + 1) * self._window, self._frames)
        left, right = max(start - self._context, 0), min(stop + self._context, self._frames)
        piece = self._waveform[left * self._samples_per_frame : right * self._samples_per_frame]
        rows = encode_speech(self._encoder, piece.to(self._encoder.device), frames=right - left)
        return rows[start - left : stop - left].to(self._device, self._dtype)

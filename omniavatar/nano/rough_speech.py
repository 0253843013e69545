"""Speech as people record it: in rooms, with music and noise around, near or far."""

# b clips, n samples

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from omniavatar.nano.espeak import SAMPLE_RATE

_LONGEST_ECHO_SECONDS = 0.35


def roughen(waveform: Tensor, *, share: float = 0.5) -> Tensor:
    """Put some clips into rooms, and lay noise, hum or music under some: [b, n] -> [b, n].

    Args:
        share: of the clips to which each of the four may happen.
    """
    for change in (_in_a_room, _with_music, _with_coloured_noise, _filtered):
        chosen = torch.rand(len(waveform), 1, device=waveform.device) < share
        waveform = torch.where(chosen, change(waveform), waveform)
    return waveform


def _uniform(like: Tensor, low: float, high: float) -> Tensor:
    return torch.empty(len(like), 1, device=like.device).uniform_(low, high)


def _level(waveform: Tensor) -> Tensor:
    return waveform.square().mean(-1, keepdim=True).sqrt() + 1e-5


def _in_a_room(waveform: Tensor) -> Tensor:
    """The direct sound and a tail that dies away within 0.05 to 0.35 s."""
    count = round(_LONGEST_ECHO_SECONDS * SAMPLE_RATE)
    time = torch.arange(count, device=waveform.device) / SAMPLE_RATE
    seconds = _uniform(waveform, 0.05, _LONGEST_ECHO_SECONDS)
    tail = torch.randn(len(waveform), count, device=waveform.device)
    tail = tail * torch.exp(-6.9 * time / seconds)
    tail = tail / tail.norm(dim=-1, keepdim=True) * _uniform(waveform, 0.1, 0.7)
    tail[:, 0] = 1.0
    length = waveform.shape[-1]
    size = 1 << (length + count).bit_length()
    spectrum = torch.fft.rfft(waveform.float(), size) * torch.fft.rfft(tail, size)
    return torch.fft.irfft(spectrum, size)[:, :length]


def _with_music(waveform: Tensor) -> Tensor:
    """Chords that change twice a second, 6 to 30 dB under the speech."""
    count, length = waveform.shape
    device = waveform.device
    time = torch.arange(length, device=device) / SAMPLE_RATE
    changes = int(length / SAMPLE_RATE * 2) + 2
    at = (time * 2).long()
    roots = 110 * 2 ** (torch.randint(0, 24, (count, changes), device=device) / 12)
    music = torch.zeros_like(waveform)
    for interval in (0, 4, 7, 12):
        pitch = (roots * 2 ** (interval / 12))[:, at]  # [b, n]
        phase = torch.cumsum(pitch / SAMPLE_RATE, -1) * 2 * math.pi
        music = music + phase.sin() + 0.4 * (2 * phase).sin() + 0.2 * (3 * phase).sin()
    music = music * torch.exp(-2.0 * (time * 2).frac())
    return _at_level(waveform, music, low=6, high=30)


def _with_coloured_noise(waveform: Tensor) -> Tensor:
    """Noise between white and brown, 8 to 40 dB under the speech."""
    noise = torch.fft.rfft(torch.randn_like(waveform.float()))
    frequency = torch.arange(noise.shape[-1], device=waveform.device).clamp(min=1.0)
    noise = torch.fft.irfft(noise * frequency ** -_uniform(waveform, 0, 1), waveform.shape[-1])
    return _at_level(waveform, noise, low=8, high=40)


def _at_level(waveform: Tensor, other: Tensor, *, low: float, high: float) -> Tensor:
    gain = _level(waveform) / _level(other) * 10 ** (-_uniform(waveform, low, high) / 20)
    return waveform + gain * other


def _filtered(waveform: Tensor) -> Tensor:
    """What a cheap microphone or a telephone leaves: less of the lowest, or of the highest."""
    smooth = F.avg_pool1d(waveform[:, None], 3, stride=1, padding=1)[:, 0]
    slow = F.avg_pool1d(waveform[:, None], 65, stride=1, padding=32)[:, 0]
    share = _uniform(waveform, 0, 1)
    return waveform + share * (smooth - waveform) - _uniform(waveform, 0, 1) * slow

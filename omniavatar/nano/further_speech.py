"""Speech of a folder for the bank: recordings of people, whose mouths nobody has seen.

What was said by a synthesiser that told when comes with its mouths. Of all else they are guessed:
as the speech encoder hears them, and as loudness tells, since who speaks up opens the mouth. Each
is right where the other is wrong often enough: the encoder learned from synthesisers, and on
recordings it follows what is said less closely.
"""

# n clips, s samples, t video frames (rows), x speech features

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import Wav2Vec2Model

from omniavatar.errors import InputError
from omniavatar.nano.audio_code import line_through, read_off
from omniavatar.nano.espeak import SAMPLE_RATE
from omniavatar.nano.mouths import envelope
from omniavatar.nano.speech import ROWS_PER_SECOND, VISEMES, SpeechBank
from omniavatar.nano.train_speech_encoder import features_of

LABELS = "labels.npz"
"""In the folder, if mouths of some files are known: `names` of the files without their ending,
`mouth` [files, t, 3] and `classes` [files, t], of no fewer rows than the bank has."""

LOUDNESS_SHARE = 0.5
"""Of a guessed opening, what comes from loudness."""

_QUIET = 0.04
"""Of a clip's usual loudest; what is below is silence, in which mouths rest."""

_PART_SECONDS = 6
"""Speech is encoded in parts of such a length, about that of a chunk of a video."""

_MOST_TO_LEARN_FROM = 200
"""Parts of the bank from which it is learned what encoder and loudness say of mouths."""


def further_speech(folder: Path, bank: SpeechBank, encoder: Wav2Vec2Model) -> SpeechBank:
    """The folder's speech.

    Args:
        bank: from which it is learned how mouths go with speech.
        folder: of files that librosa reads, mono at 16 kHz, as long as the bank's streams: what
            is longer is cut off, what is shorter ends in silence.

    Raises:
        FileNotFoundError: there is no sound in the folder.
        InputError: a file has another rate or more than one channel.
    """
    count = bank.samples.shape[1]
    paths = sorted(path for path in folder.iterdir() if path.suffix in (".wav", ".flac", ".ogg"))
    if not paths:
        raise FileNotFoundError(f"{folder} holds no .wav, .flac or .ogg files.")
    with ThreadPoolExecutor() as pool:
        samples = torch.stack(list(pool.map(lambda path: _read(path, count), paths)))
    mouth = guess_mouths(samples, bank, encoder)
    # Nothing but mouths is guessed: who reads the classes of these streams reads that of rest.
    classes = torch.full(mouth.shape[:2], list(VISEMES).index("rest"))
    names = [path.stem for path in paths]
    if (folder / LABELS).exists():
        with np.load(folder / LABELS) as known:
            for number, name in enumerate(known["names"].tolist()):
                if name in names:
                    at = names.index(name)
                    mouth[at] = torch.from_numpy(known["mouth"][number][: mouth.shape[1]]).float()
                    classes[at] = torch.from_numpy(
                        known["classes"][number][: mouth.shape[1]]
                    ).long()
    return SpeechBank(samples=samples, mouth=mouth, classes=classes)


def guess_mouths(samples: Tensor, bank: SpeechBank, encoder: Wav2Vec2Model) -> Tensor:
    """Mouths [n, t, 3] of speech [n, s] of which nothing is known.

    Args:
        bank: speech whose mouths are known.
    """
    known, mouths = in_parts(bank.samples), rows_in_parts(bank.mouth)
    chosen = torch.linspace(0, len(known) - 1, min(len(known), _MOST_TO_LEARN_FROM)).long()
    known, mouths = known[chosen], mouths[chosen]
    features = features_of(encoder, known).cpu()
    line = line_through(features.flatten(0, 1), mouths.flatten(0, 1))
    heard = read_off(features_of(encoder, in_parts(samples)).cpu(), line)
    heard = heard.flatten(0, 1).unflatten(0, (len(samples), -1))
    loud = _loudness(samples)
    of_known = _loudness(bank.samples)[:, : heard.shape[1]]
    opening = (loud - of_known.mean()) / of_known.std() * bank.mouth[..., 0].std()
    opening = opening + bank.mouth[..., 0].mean()
    opening = LOUDNESS_SHARE * opening + (1 - LOUDNESS_SHARE) * heard[..., 0]
    guessed = torch.cat([opening[..., None], heard[..., 1:]], -1).clamp(0, 1)
    quiet = (loud < _QUIET)[..., None]
    return torch.where(quiet, torch.tensor(VISEMES["rest"]), guessed)


def _read(path: Path, count: int) -> Tensor:
    import librosa

    samples, rate = librosa.load(path, sr=None, mono=False, duration=count / SAMPLE_RATE)
    if rate != SAMPLE_RATE or samples.ndim > 1:
        raise InputError(
            f"{path} has {samples[..., 0].size} channels at {rate} Hz. Give mono, 16 kHz."
        )
    found = torch.zeros(count)
    found[: len(samples)] = torch.from_numpy(samples)
    return found


def in_parts(samples: Tensor) -> Tensor:
    """[n, s] -> [n * parts, part's samples]; the streams are a whole number of parts long."""
    return samples.reshape(-1, _PART_SECONDS * SAMPLE_RATE)


def rows_in_parts(mouth: Tensor) -> Tensor:
    """The same of mouths, [n, t, 3] -> [n * parts, part's rows, 3]."""
    return mouth.reshape(-1, _PART_SECONDS * ROWS_PER_SECOND, mouth.shape[-1])


def _loudness(samples: Tensor) -> Tensor:
    """Of each frame, against what is loud in its clip, [n, t]."""
    loud = envelope(samples)
    return loud / loud.quantile(0.95, dim=1, keepdim=True).clamp_min(1e-4)

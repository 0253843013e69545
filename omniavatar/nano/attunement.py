"""Attune the audio pack to more speech: what it misses of the mouths there, it is given.

The pack is one matrix over all hidden states of the speech encoder, and those tell more than it
takes of them, on recordings of people most of all. So what is missed of the mouths is sought in the
hidden states by least squares, and put into the code as the transformer has learned to read it: as
what such a mouth adds, on the average. Nothing else of the transformer changes.
"""

# n parts of speech, t video frames, a features of a frame, x of the four frames of a latent
# c numbers of a code, m of four mouths: rows, each opening, width and rounding

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import Wav2Vec2Model

from omniavatar.errors import InputError
from omniavatar.models.transformer import AudioPack
from omniavatar.nano.audio_code import (
    as_rows,
    code_of,
    folded,
    line_through,
    middle_of,
    mouths_around,
    read_off,
)
from omniavatar.nano.changes import FIRST, FURTHER, read_changes, write_changes
from omniavatar.nano.further_speech import in_parts, rows_in_parts
from omniavatar.nano.generator import Generator
from omniavatar.nano.reader import READINGS
from omniavatar.nano.speech import SpeechBank
from omniavatar.nano.train_lips import merge_changes
from omniavatar.nano.train_speech_encoder import agreement, features_of
from omniavatar.nano.training import read_records, write_records

logger = logging.getLogger(__name__)

LAYER = "audio_proj.proj"
RECORD = "attunement"
"""Its name in training.json."""

RANK = 8
"""Of all changes of the pack together, with those that came before."""

ROUNDS = 2
"""The norm behind the matrix bends what is added; so what is missed then is sought again."""

OPENING_GAIN = 1.06
"""How much farther than it should a mouth is to open, and to close: of voices that it knows less
well the transformer makes less of what it hears."""

FURTHER_WEIGHT = 0.65
"""Of a moment of the other speech, beside one of the speech that the transformer knows."""

RIDGE = 0.01
"""How much squares of the solution weigh beside the mean square of what is missed."""

_GROUP = 64


@dataclass(frozen=True, slots=True)
class Heard:
    """Speech features [n, t, a], in half precision, and mouths [n, t, 3]."""

    features: Tensor
    mouth: Tensor

    @classmethod
    def of(cls, bank: SpeechBank, encoder: Wav2Vec2Model) -> Self:
        """Encode a bank; its streams are a whole number of parts long."""
        parts = in_parts(bank.samples).split(_GROUP)
        features = torch.cat([features_of(encoder, part).half().cpu() for part in parts])
        return cls(features, rows_in_parts(bank.mouth))

    def groups(self, pack: AudioPack) -> Iterator[tuple[Tensor, Tensor]]:
        """What codes are made of, [n, x], and the mouths [n, m] of those moments."""
        for features, mouth in zip(
            self.features.split(_GROUP), self.mouth.split(_GROUP), strict=True
        ):
            wanted = middle_of(mouths_around(mouth))
            yield folded(pack, features.float()).flatten(0, 1), wanted.flatten(0, 1)


def attune(
    weights: Path,
    bank: SpeechBank,
    further: SpeechBank,
    held_out: SpeechBank,
    *,
    encoder: Wav2Vec2Model,
) -> None:
    """Change the pack by low-rank changes beside those that are exported, and note it.

    Args:
        bank: speech as that with which the transformer was trained: it tells how code is read.
        further: what else to attune to.
        held_out: on which it is noted how well mouths are read off the code, before and after.
        encoder: the exported one.

    Raises:
        InputError: this pack was attuned before.
    """
    records = read_records(weights)
    if RECORD in records:
        raise InputError("This audio pack is attuned already: export its changes again first.")
    network = Generator.load(weights)
    merge_changes(network, read_changes(weights, FIRST))
    # What is written takes the place of what `FURTHER` changes of the pack, but not `FIRST`.
    original = network.transformer.audio_proj.proj.weight.clone()
    merge_changes(network, read_changes(weights, FURTHER))
    pack = network.transformer.audio_proj.requires_grad_(False)
    known, more, test = (Heard.of(each, encoder) for each in (bank, further, held_out))
    scores = [readings(pack, known, test)]
    gram = gram_of(pack, known, more)
    changed = attuned(pack, known, more, gram)
    change = at_rank(changed - original, RANK, gram)
    pack.proj.weight.data = original + change[1] @ change[0]
    scores.append(readings(pack, known, test))
    logger.info("mouths read off the code: %s", scores)
    write_changes({**read_changes(weights, FURTHER), LAYER: change}, weights, FURTHER)
    note = {"rank": RANK, "parts": [len(known.mouth), len(more.mouth)], "scores": scores}
    write_records(weights, {**records, RECORD: note})


@torch.no_grad()
def gram_of(pack: AudioPack, known: Heard, further: Heard) -> Tensor:
    """Mean products of what codes are made of, [x, x], and the ridge."""
    gram = torch.zeros(pack.proj.in_features, pack.proj.in_features, dtype=torch.float64)
    total = 0.0
    for heard, weight in ((known, 1.0), (further, FURTHER_WEIGHT)):
        for given, _ in heard.groups(pack):
            gram += weight * (given.T @ given)
            total += weight * len(given)
    gram /= total
    gram.diagonal().add_(RIDGE)
    return gram


@torch.no_grad()
def attuned(pack: AudioPack, known: Heard, further: Heard, gram: Tensor) -> Tensor:
    """The matrix [c, x] of a pack that misses less of the mouths."""
    code = code_of(pack, known.features.float()).flatten(0, 1)
    mouths = middle_of(mouths_around(known.mouth)).flatten(0, 1)
    reading, writing = line_through(code, mouths), line_through(mouths, code)[:-1]
    usual = mouths.mean(0)
    gain = torch.ones_like(usual)
    gain[:: len(READINGS)] = OPENING_GAIN
    matrix = pack.proj.weight.clone()
    for _ in range(ROUNDS):
        missed = torch.zeros(len(gram), mouths.shape[1], dtype=torch.float64)
        total, size = 0.0, 0.0
        for heard, weight in ((known, 1.0), (further, FURTHER_WEIGHT)):
            for given, wanted in heard.groups(pack):
                raw = F.linear(given, matrix, pack.proj.bias)
                wrong = usual + gain * (wanted - usual) - read_off(pack.norm_out(raw), reading)
                missed += weight * (given.T @ wrong)
                size += weight * (1 / raw.std(-1, unbiased=False)).sum().item()
                total += weight * len(given)
        found = torch.linalg.solve(gram, missed / total).float()
        before_norm = writing / (pack.norm_out.weight * (size / total))
        matrix += (found @ before_norm).T
    return matrix


def at_rank(matrix: Tensor, rank: int, gram: Tensor) -> tuple[Tensor, Tensor]:
    """Down [r, x] and up [c, r], whose product does to what is given nearly what the matrix does.

    Args:
        gram: of what is given.
    """
    root = torch.linalg.cholesky(gram)
    left, sizes, right = torch.linalg.svd(matrix.double() @ root, full_matrices=False)
    down = torch.linalg.solve_triangular(root, right[:rank], upper=False, left=False)
    up = left[:, :rank] * sizes[:rank]
    balance = (up.norm(dim=0) / down.norm(dim=1)).sqrt()
    return (down * balance[:, None]).float(), (up / balance).float()


@torch.no_grad()
def readings(pack: AudioPack, known: Heard, test: Heard) -> dict[str, float]:
    """Mean correlation, over parts of speech, of mouths that are read off their code.

    Args:
        known: on which reading is learned.
    """
    code = code_of(pack, known.features.float()).flatten(0, 1)
    reading = line_through(code, middle_of(mouths_around(known.mouth)).flatten(0, 1))
    read = as_rows(read_off(code_of(pack, test.features.float()), reading))
    found = agreement(read, as_rows(middle_of(mouths_around(test.mouth))))
    return {name: round(value, 4) for name, value in found.items()}

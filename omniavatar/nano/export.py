"""Write the trained networks as the bundled checkpoint: half precision, the libraries' layouts."""

import json
from pathlib import Path
from typing import Any

import torch
from einops import rearrange
from safetensors.torch import save_file
from torch import Tensor, nn

from omniavatar.nano.architecture import SIZE, build_speech_encoder, build_tokenizer
from omniavatar.nano.attunement import LAYER as PACK
from omniavatar.nano.attunement import RECORD as ATTUNEMENT
from omniavatar.nano.audio_code import write_pack
from omniavatar.nano.changes import (
    FIRST,
    FURTHER,
    PROMPTS,
    changes_file,
    drop_layer,
    write_changes,
)
from omniavatar.nano.clips import sample_clips
from omniavatar.nano.emphasis import RECORD
from omniavatar.nano.generator import Generator
from omniavatar.nano.prompts import VOCABULARY
from omniavatar.nano.reader import Reader
from omniavatar.nano.speech import SpeechBank
from omniavatar.nano.train_lips import ADAPTER, FURTHER_PART, changes_of
from omniavatar.nano.train_lips import PART as LIPS
from omniavatar.nano.train_speech_encoder import SpeechReader
from omniavatar.nano.train_vae import read_vae
from omniavatar.nano.training import (
    read_average,
    read_average_state,
    read_record,
    read_records,
    write_records,
)
from omniavatar.nano.windows import Latents

PARTS = (
    "vae", "speech-encoder", "reader", "transformer", "fold", LIPS, FURTHER_PART, PROMPTS,
)  # fmt: skip
"""Trained parts, in the order in which they depend on each other."""

CHANGES = {
    FIRST: (LIPS, ADAPTER, LIPS),
    FURTHER: (FURTHER_PART, ADAPTER, f"{LIPS}, further"),
    PROMPTS: (PROMPTS, PROMPTS, PROMPTS),
}
"""Of changes, each trained over those before: part, adapter, and what the records call them."""


def export(runs: Path, weights: Path, *, speech: SpeechBank, only: tuple[str, ...] = PARTS) -> None:
    """Turn the checkpoints in `runs` into the bundled checkpoint in `weights`.

    Args:
        speech: a few streams, to draw the pictures that the preview colours are fitted to.
        only: parts to write; the others are left as they are.

    Raises:
        FileNotFoundError: a part has not been trained.
    """
    weights.mkdir(parents=True, exist_ok=True)
    records = read_records(weights)
    if "vae" in only:
        read_vae(runs).half().save_pretrained(weights / "vae")
        write_preview(weights, speech)
    if "speech-encoder" in only:
        hearing = read_average(runs / "speech-encoder.pt", SpeechReader(build_speech_encoder()))
        hearing.encoder.half().save_pretrained(weights / "speech_encoder")
        if read_record(runs, "speech-encoder")["settings"]["audio_pack"]:
            write_pack(hearing.pack, weights)
            # What was changed of the pack before was for the other one.
            for name in (FIRST, FURTHER):
                drop_layer(weights, PACK, name)
            records.pop(ATTUNEMENT, None)
    if "reader" in only:
        reader = read_average(runs / "reader.pt", Reader())
        (weights / "reader").mkdir(exist_ok=True)
        save_file(_half(reader), weights / "reader" / "model.safetensors")
    for part in ("transformer", "fold"):
        if part not in only:
            continue
        generator = read_average(runs / f"{part}.pt", Generator())
        generator.transformer.half().save_pretrained(weights / "transformer")
        generator.text_encoder.half().save_pretrained(weights / "text_encoder")
        build_tokenizer(VOCABULARY).save_pretrained(weights / "tokenizer")
    if not {"transformer", "fold"}.isdisjoint(only):
        # What was emphasised and changed is not there any more.
        records.pop(RECORD, None)
        _drop_changes(weights, records, tuple(CHANGES))
    for number, (name, (part, adapter, _)) in enumerate(CHANGES.items()):
        if part in only:
            matrices = changes_of(read_average_state(runs / f"{part}.pt"), adapter)
            _drop_changes(weights, records, tuple(CHANGES)[number:])
            write_changes(matrices, weights, name)
    called = {part: record for part, _, record in CHANGES.values()}
    new = {called.get(part, part): read_record(runs, part) for part in only}
    write_records(weights, {**records, **new})


def _drop_changes(weights: Path, records: dict[str, Any], names: tuple[str, ...]) -> None:
    """What was trained over something that is replaced; what was attuned is among `FURTHER`."""
    for name in names:
        records.pop(CHANGES[name][2], None)
        changes_file(weights, name).unlink(missing_ok=True)
    if FURTHER in names:
        records.pop(ATTUNEMENT, None)


def write_preview(weights: Path, speech: SpeechBank) -> None:
    """Fit the preview colours to the exported VAE and write `preview.json`."""
    latents = Latents.load(weights, torch.device("cpu"))
    preview = json.dumps(fit_preview(latents, speech), indent=1)
    (weights / "preview.json").write_text(preview + "\n", encoding="utf-8")


@torch.no_grad()
def fit_preview(latents: Latents, speech: SpeechBank) -> dict[str, list[Any]]:
    """Least squares from a normalised latent cell to the mean colour of its pixels.

    Returns:
        `weight` (16 rows of red, green, blue) and `bias` (3); the result is in -1..1.
    """
    clips = sample_clips(
        speech,
        count=24,
        frames=5,
        height=SIZE,
        width=SIZE,
        generator=torch.Generator().manual_seed(51),
        device=torch.device("cpu"),
        continuation_share=0.0,
    )
    video = rearrange(clips.frames, "n t c h w -> n c t h w").float() / 127.5 - 1
    cells = rearrange(latents.encode(video), "n c f h w -> (n f h w) c")
    second = video[:, :, 1:].mean(2, keepdim=True)  # the four frames of the second latent
    pixels = torch.cat([video[:, :, :1], second], dim=2)
    colours = rearrange(pixels, "n c f (h y) (w x) -> (n f h w) c (y x)", y=8, x=8).mean(-1)
    inputs = torch.cat([cells, torch.ones(len(cells), 1)], dim=1)
    found = torch.linalg.lstsq(inputs, colours).solution
    *rows, bias = [[round(value, 4) for value in row] for row in found.tolist()]
    return {"weight": rows, "bias": bias}


def _half(network: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.half().contiguous() for name, tensor in network.state_dict().items()}

"""The audio pack attuned to other speech: it misses less of the mouths, and forgets little."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from omniavatar.errors import InputError
from omniavatar.models.transformer import AudioPack
from omniavatar.nano import attunement
from omniavatar.nano.architecture import weights_folder
from omniavatar.nano.attunement import (
    LAYER,
    RANK,
    RECORD,
    Heard,
    at_rank,
    attune,
    readings,
)
from omniavatar.nano.changes import FIRST, FURTHER, read_changes, write_changes
from omniavatar.nano.mouths import envelope
from omniavatar.nano.speech import SpeechBank, speech_bank
from omniavatar.nano.windows import load_speech_encoder
from omniavatar.weights.catalog import CATALOG
from omniavatar.weights.load import load_models

CPU = torch.device("cpu")


def as_loud_as_open(bank: SpeechBank) -> SpeechBank:
    """Speech of people who open their mouths by how loud they speak, whatever they say."""
    loud = envelope(bank.samples)
    loud = loud / loud.amax(1, keepdim=True)
    mouth = torch.cat([loud[..., None], bank.mouth[..., 1:]], dim=-1)
    return SpeechBank(samples=bank.samples, mouth=mouth, classes=bank.classes)


@pytest.fixture(scope="module")
def banks() -> tuple[SpeechBank, SpeechBank, SpeechBank]:
    return (
        speech_bank(4, 24.0, seed=18),
        as_loud_as_open(speech_bank(8, 24.0, seed=19)),
        as_loud_as_open(speech_bank(4, 24.0, seed=20, held_out=True)),
    )


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """The bundled checkpoint as it was before it was attuned, with a pack that lips changed too."""
    folder = tmp_path / "weights"
    shutil.copytree(weights_folder(), folder)
    generator = torch.Generator().manual_seed(2)
    changed = (
        0.3 * torch.randn(2, 3072, generator=generator),
        0.3 * torch.randn(32, 2, generator=generator),
    )
    write_changes({**read_changes(folder, FIRST), LAYER: changed}, folder, FIRST)
    records = json.loads((folder / "training.json").read_text())
    del records[RECORD]
    (folder / "training.json").write_text(json.dumps(records))
    return folder


def test_an_attuned_pack_hears_better_and_is_loaded_so(
    weights: Path,
    banks: tuple[SpeechBank, SpeechBank, SpeechBank],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    measured = []

    def remember(pack: AudioPack, *heard: Heard) -> dict[str, float]:
        measured.append(pack.proj.weight.clone())
        return readings(pack, *heard)

    monkeypatch.setattr(attunement, "readings", remember)
    before = load_models(CATALOG["nano"], folder=weights, device=CPU, dtype=torch.float32)
    changes = read_changes(weights, FURTHER)
    attune(weights, *banks, encoder=load_speech_encoder(weights, CPU))
    after = load_models(CATALOG["nano"], folder=weights, device=CPU, dtype=torch.float32)

    found = read_changes(weights, FURTHER)
    assert found[LAYER][0].shape == (RANK, 3072)
    others = found.keys() - {LAYER}
    assert others == changes.keys() - {LAYER}
    for layer in others:
        assert torch.allclose(
            found[layer][1] @ found[layer][0], changes[layer][1] @ changes[layer][0]
        )
    kept = before.transformer.state_dict()
    changed = {
        name
        for name, tensor in after.transformer.state_dict().items()
        if not torch.allclose(tensor, kept[name], atol=1e-6)
    }
    assert changed == {"audio_proj.proj.weight"}

    note = json.loads((weights / "training.json").read_text())[RECORD]
    assert note["rank"] == RANK
    assert note["parts"] == [16, 32]
    assert note["scores"][1]["opening"] > note["scores"][0]["opening"] + 0.03
    # Those scores are of what is loaded but for eight bits: no change is counted twice.
    down, up = read_changes(weights, FIRST)[LAYER]
    for models, pack in zip((before, after), measured, strict=True):
        difference = models.transformer.audio_proj.proj.weight - pack
        assert difference.norm() < 0.3 * (up @ down).norm()
    with pytest.raises(InputError, match="attuned already"):
        attune(weights, *banks, encoder=load_speech_encoder(weights, CPU))


def test_little_is_lost_of_what_is_done_to_what_is_given() -> None:
    generator = torch.Generator().manual_seed(1)
    given = torch.randn(500, 40, generator=generator) * torch.logspace(0, -6, 40)
    matrix = torch.randn(12, 40, generator=generator) / torch.logspace(0, -1, 40)
    gram = given.double().T @ given.double() / 500 + 1e-9 * torch.eye(40)
    down, up = at_rank(matrix, 8, gram)
    assert down.shape == (8, 40)
    wanted = given @ matrix.T
    assert (given @ (up @ down).T - wanted).norm() < 0.1 * wanted.norm()
    left, sizes, right = torch.linalg.svd(matrix)
    plain = left[:, :8] * sizes[:8] @ right[:8]
    assert (given @ plain.T - wanted).norm() > 0.3 * wanted.norm()
    whole = at_rank(matrix, 12, gram)
    assert torch.allclose(whole[1] @ whole[0], matrix, atol=1e-3)

"""The bundled model as it is shipped, on two clips: enough to see that it talks at all.

The bars themselves are measured on many clips by `python -m omniavatar.nano evaluate`.
"""

import json

import pytest

from omniavatar import CATALOG, AvatarPipeline
from omniavatar.nano.evaluate import evaluate
from omniavatar.nano.figures import Figure, as_table, write_json


@pytest.fixture(scope="module")
def figures(tmp_path_factory):
    sheet = tmp_path_factory.mktemp("sheet") / "sheet.png"
    found = evaluate(clips=2, chunk_frames=57, vae_clips=4, sheet=sheet)
    assert sheet.stat().st_size > 0
    return {figure.name: figure for figure in found}


def test_lips_follow_the_speech_and_no_other(figures):
    assert figures["mouth opening, correlation"].value > 0.8
    assert figures["mouth opening, other clip's speech"].value < 0.4


def test_the_character_stays_itself(figures):
    assert figures["what holds still, dB to portrait"].value > 30
    for behaviour in ("plain", "still"):  # beside what a true drawing of the same clip has
        detail = figures[f"head detail, {behaviour}"]
        assert detail.value / detail.true > 0.7


def test_the_measuring_rod_reads_true_drawings_rightly(figures):
    assert figures["mouth opening, correlation"].true > 0.95


def test_missed_bars_are_told(figures, tmp_path):
    missed = Figure(name="far too slow", value=20.0, bar=15.0, at_least=False)
    assert "MISSED" in as_table([missed])
    write_json([missed, *figures.values()], tmp_path / "figures.json")
    assert json.loads((tmp_path / "figures.json").read_text())["far too slow"]["met"] is False


def test_the_bundled_weights_are_small_and_tell_their_origin():
    folder = CATALOG["nano"].source.folder
    sizes = [path.stat().st_size for path in folder.rglob("*") if path.is_file()]
    assert sum(sizes) <= 40 * 10**6
    assert "espeak-ng" in (folder / "MODEL_CARD.md").read_text()


def test_previews_show_colours():
    assert AvatarPipeline.from_pretrained("nano").spec.latent_rgb is not None

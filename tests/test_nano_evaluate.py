"""The bundled model as it is shipped, on two clips: enough to see that it talks at all.

The bars themselves are measured on many clips by `python -m omniavatar.nano evaluate`.
"""

import json

import pytest

from omniavatar import CATALOG, AvatarPipeline
from omniavatar.nano.__main__ import BRIEF_PARTS
from omniavatar.nano.architecture import weights_folder
from omniavatar.nano.figures import Figure, as_table, to_mapping
from omniavatar.nano.full_evaluation import Subject, evaluate_fully


@pytest.fixture(scope="module")
def figures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("evaluated")
    subject = Subject(folder=weights_folder(), clips=2, frames=101, vae_clips=4, sheets=folder)
    found = evaluate_fully(subject, parts=BRIEF_PARTS, json_path=folder / "figures.json")
    assert (folder / "presenters.webp").stat().st_size > 0
    stored = json.loads((folder / "figures.json").read_text())["parts"]
    assert stored.keys() == set(BRIEF_PARTS)
    return {figure.name: figure for figure in found}


def test_lips_follow_the_speech_and_no_other(figures):
    assert figures["espeak-ng: mouth opening"].value > 0.8
    assert figures["espeak-ng: other clip's speech"].value < 0.4


def test_the_character_stays_itself(figures):
    assert figures["what holds still, dB to portrait"].value > 30
    for behaviour in ("plain", "still"):  # beside what a true drawing of the same clip has
        detail = figures[f"head detail, {behaviour}"]
        assert detail.value / detail.true > 0.7


def test_the_measuring_rod_reads_true_drawings_rightly(figures):
    assert figures["espeak-ng: mouth opening"].true > 0.95


def test_what_nothing_is_generated_for_is_told_beside_what_is(figures):
    frozen = figures["head detail, a frozen portrait"]
    assert frozen.value > 1.1
    assert frozen.is_met is None


def test_missed_bars_are_told():
    missed = Figure(name="far too slow", value=20.0, bar=15.0, at_least=False)
    assert "MISSED" in as_table([missed])
    assert to_mapping([missed])["far too slow"]["met"] is False


def test_the_bundled_weights_are_small_and_tell_their_origin():
    folder = CATALOG["nano"].source.folder
    sizes = [path.stat().st_size for path in folder.rglob("*") if path.is_file()]
    assert sum(sizes) <= 40 * 10**6
    assert "espeak-ng" in (folder / "MODEL_CARD.md").read_text()


def test_previews_show_colours():
    assert AvatarPipeline.from_pretrained("nano").spec.latent_rgb is not None

"""The measures of `evaluate --full`: each sees what it is meant to see, and nothing else.

They are shown clips that are drawn, or changed on purpose; the bundled model is measured by the
command itself.
"""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from omniavatar.nano import export
from omniavatar.nano.__main__ import BRIEF_PARTS, COURSE_NAMES, EXPORTED_PARTS, FULL_PARTS
from omniavatar.nano.architecture import weights_folder
from omniavatar.nano.behaviours import behaviour_figures, load_judge, save_judge
from omniavatar.nano.clips import Clips, sample_clips
from omniavatar.nano.course import COURSES
from omniavatar.nano.figures import Figure, as_table, from_mapping, to_mapping
from omniavatar.nano.flite import _SPELLING, _phonemes, find_flite
from omniavatar.nano.full_evaluation import PARTS, Subject, _key, evaluate_fully
from omniavatar.nano.identity import identity_figures, measure_identity, part_masks, portrait_energy
from omniavatar.nano.long_clip import measure_endurance
from omniavatar.nano.mouths import best_lag, closed_share, envelope, mouth_figures
from omniavatar.nano.observer import load_observer
from omniavatar.nano.other_hands import (
    FOLDER,
    LEADING_SILENCE,
    Picture,
    load_pictures,
    measure_kept,
    photograph_figures,
)
from omniavatar.nano.prompts import WIDE_BEHAVIOURS
from omniavatar.nano.recordings import cut_recordings, find_recordings, follow_loudness
from omniavatar.nano.showcase import write_loop, write_presenter_sheet
from omniavatar.nano.speech import SpeechBank, speech_bank, visemes_of
from omniavatar.nano.train_judge import fit_judge, observe_clips
from omniavatar.nano.train_speech_encoder import correlation

RECORDING = Path(__file__).parents[1] / "examples/recording.flac"


@pytest.fixture(scope="module")
def bank() -> SpeechBank:
    return speech_bank(3, 8.0, seed=1, held_out=True)


@pytest.fixture(scope="module")
def truth(bank: SpeechBank) -> Clips:
    return sample_clips(
        bank,
        count=2,
        frames=25,
        height=128,
        width=128,
        generator=torch.Generator().manual_seed(3),
        device="cpu",
        behaviours=["nodding", "still"],
        continuation_share=0.0,
    )


# ---- figures


def test_a_bar_can_have_two_sides_and_what_is_not_measured_is_missed() -> None:
    spread = Figure(name="spread", value=1.2, bar=0.85, upper=1.15)
    absent = Figure(name="flite", value=None, bar=0, note="install flite")
    assert [spread.is_met, replace(spread, value=1.0).is_met] == [False, True]
    assert absent.is_met is False
    table = as_table([spread, absent])
    assert "0.85 to 1.15 MISSED" in table
    assert "install flite" in table
    assert from_mapping(json.loads(json.dumps(to_mapping([spread, absent])))) == [spread, absent]


# ---- mouths


def test_a_late_mouth_is_seen_to_be_late(truth: Clips) -> None:
    wanted = truth.mouth[:, :, 0]
    assert best_lag(wanted, wanted) == 0
    assert best_lag(wanted.roll(2, 1), wanted) == 2
    assert best_lag(wanted.roll(-3, 1), wanted) == -3


def test_mumbling_and_wrong_speech_are_seen(truth: Clips) -> None:
    wanted = truth.mouth
    figures = {
        figure.name: figure
        for figure in mouth_figures(
            wanted, made=0.5 * wanted, true=wanted, decoded=None, speech="x"
        )
    }
    assert figures["x: mouth opening"].value == pytest.approx(1)
    assert figures["x: spread of opening / true"].is_met is False
    assert figures["x: spread of opening / true"].true == pytest.approx(1)
    assert figures["x: other clip's speech"].value < 0.9


def test_silence_counts_once_lips_had_time_to_close() -> None:
    is_silent = torch.zeros(1, 20, dtype=torch.bool)
    is_silent[:, 8:] = True
    opening = torch.full((1, 20), 0.5)
    opening[:, 12:] = 0.0
    assert closed_share(opening, is_silent) == 1
    opening[:, 16:] = 0.4
    assert closed_share(opening, is_silent) == 0.5


def test_the_envelope_is_loudness_by_video_frame() -> None:
    samples = torch.zeros(1, 10 * 640)
    samples[:, 5 * 640 :] = 0.5
    loud = envelope(samples)
    assert loud.shape == (1, 10)
    torch.testing.assert_close(loud[0, [0, 3, 6, 9]], torch.tensor([0.0, 0.0, 0.5, 0.5]))


# ---- identity


def test_true_clips_keep_their_identity_and_tinted_ones_do_not(truth: Clips) -> None:
    masks = part_masks(truth)
    assert all(mask.any() for mask in masks.values())
    true = [measure_identity(truth, n, clip[1:], masks) for n, clip in enumerate(truth.frames)]
    tinted = truth.frames[:, 1:].float()
    tinted[:, :, 0] += 12
    tinted = tinted.clamp(0, 255).to(torch.uint8)
    made = [measure_identity(truth, n, clip, masks) for n, clip in enumerate(tinted)]
    frozen = [
        measure_identity(truth, n, portrait.expand(24, -1, -1, -1), masks)
        for n, portrait in enumerate(truth.reference)
    ]
    energy = portrait_energy(truth, truth.reference) / 2  # softened by a VAE
    figures = {
        figure.name: figure
        for figure in identity_figures(
            truth, made=true, true=true, decoded=true, frozen=frozen, decoded_energy=energy
        )
    }
    # What is made, what is true, and what stands still are told in the same units.
    detail = figures["head detail, still"]
    assert detail.value == detail.true == detail.decoded == pytest.approx(2, rel=0.1)
    assert figures["head detail, a frozen portrait"].value == pytest.approx(2, rel=0.15)
    assert figures["head detail, a frozen portrait"].bar is None
    figures = {
        figure.name: figure
        for figure in identity_figures(
            truth, made=made, true=true, decoded=true, frozen=frozen, decoded_energy=energy
        )
    }
    skin = figures["colour of skin, error of 255"]
    assert skin.true < 2
    assert 2.5 < skin.value < 6
    assert figures["what holds still, dB to portrait"].is_met is False
    assert figures["flicker of the background, of 255"].value == 0


def test_pumping_at_latent_borders_is_seen(truth: Clips) -> None:
    frames = truth.frames[0, 1:].clone()
    for border in range(4, 24, 8):
        frames[border : border + 4] = frames[border : border + 4] // 2 + 60
    found = measure_identity(truth, 0, frames, part_masks(truth))
    assert found.border_flicker > 3 * found.flicker > 0


def test_seams_drift_and_lost_detail_are_seen() -> None:
    chance = torch.Generator().manual_seed(0)
    picture = torch.randint(90, 160, (3, 64, 64), generator=chance)
    frames = (picture + torch.randint(-2, 3, (90, 3, 64, 64), generator=chance)).clamp(0, 255)
    settings = {
        "static": torch.ones(64, 64, dtype=torch.bool),
        "head": torch.tensor([8, 8, 56, 56]),
        "joins": [30, 60],
    }
    steady = measure_endurance(frames.to(torch.uint8), **settings)
    assert steady.seam < 1.2
    assert steady.drift < 1
    assert 0.95 < steady.detail < 1.05
    frames[60:] = frames[60:] // 2 + 70
    spoiled = measure_endurance(frames.to(torch.uint8), **settings)
    assert spoiled.worst_seam > 3
    assert spoiled.drift > 5
    assert spoiled.detail < 0.5


# ---- behaviours


def test_the_bundled_observer_sees_a_nod(truth: Clips) -> None:
    observer = load_observer(weights_folder() / "observer")
    seen = observer.observe(truth.frames[:, 1:], truth.reference, truth.regions.head[:, 0])
    up_and_down = seen[..., 1].std(1)
    assert up_and_down[0] > 3 * up_and_down[1]


def test_the_bundled_judge_knows_true_clips() -> None:
    folder = weights_folder() / "observer"
    tracks, behaviour = observe_clips(load_observer(folder), clips=18, frames=100, seed=2031)
    seen = load_judge(folder).judge(tracks)
    figures = {f.name: f for f in behaviour_figures(behaviour, made=seen, true=seen, decoded=seen)}
    assert figures["prompt, nodding, %"].value == 100
    assert figures["prompt, all, %"].value > 75


def test_a_judge_learns_from_what_is_observed(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(5)
    behaviour = torch.arange(60) % 2  # plain and still
    tracks = 0.05 * torch.randn(60, 100, 7, generator=generator)
    tracks[behaviour == 0, :, 0] += (torch.arange(100) / 5).sin()
    judge = fit_judge(tracks, behaviour, noise=torch.full((3, 7), 0.05), seed=6)
    assert torch.equal(judge.judge(tracks), behaviour)
    save_judge(judge, tmp_path)
    assert torch.equal(load_judge(tmp_path).judge(tracks), behaviour)
    with pytest.raises(FileNotFoundError, match="nano judge"):
        load_judge(tmp_path / "none")


def test_a_behaviour_that_no_clip_asks_for_is_not_met() -> None:
    asked = torch.zeros(3, dtype=torch.long)
    figures = {f.name: f for f in behaviour_figures(asked, made=asked, true=asked, decoded=asked)}
    assert figures["prompt, plain, %"].value == 100
    assert figures["prompt, sad, %"].is_met is False
    assert "no clip asks" in figures["prompt, sad, %"].note


# ---- speech of others


def test_every_sound_of_flite_has_a_mouth() -> None:
    assert all(visemes_of(name) for name in _SPELLING.values())
    phonemes = _phonemes("pau:0.164 hh:0.255 ax:0.304 m:0.412\n")
    assert [(p.name, p.start_seconds, p.stop_seconds) for p in phonemes] == [
        ("_", 0.0, 0.164), ("h", 0.164, 0.255), ("@", 0.255, 0.304), ("m", 0.304, 0.412),
    ]  # fmt: skip


def test_missing_tools_are_told_in_a_sentence(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"install Debian's package flite.*nano fetch"):
        find_flite(tmp_path)
    with pytest.raises(FileNotFoundError, match="--recordings"):
        find_recordings(tmp_path / "none", tmp_path, count=3)


def test_recordings_end_in_digital_silence() -> None:
    waveforms, is_silent = cut_recordings([RECORDING], frames=60, silence_frames=20)
    assert waveforms.shape == (1, 60 * 640)
    assert is_silent[0, 40:].all()
    assert not is_silent[0, :10].any()
    assert envelope(waveforms)[0, :38].max() > 0.05


def test_mouths_follow_loudness_or_not_where_there_is_any_sound() -> None:
    samples = torch.zeros(1, 40 * 640)
    loud = torch.rand(20, generator=torch.Generator().manual_seed(1)) + 0.1
    samples[0, : 20 * 640] = loud.repeat_interleave(640)
    opening = torch.zeros(1, 40)
    opening[0, :20] = 0.5 + 0.2 * (torch.arange(20) % 2)  # talks, of whatever
    assert correlation(opening, envelope(samples)).item() > 0.6
    assert abs(follow_loudness(opening, samples)[0]) < 0.5
    opening[0, :20] = envelope(samples)[0, :20]
    assert follow_loudness(opening, samples) == pytest.approx([1])


# ---- pictures of others


def test_pictures_of_others_are_listed_with_their_licences() -> None:
    drawings, photographs = load_pictures("drawings"), load_pictures("photographs")
    assert len(drawings) == 12
    assert len({picture.author for picture in drawings}) >= 10
    assert len({picture.source for picture in photographs}) >= 8
    files = {str(path.relative_to(FOLDER)) for path in FOLDER.glob("*/*")}
    assert files == {picture.file for picture in (*drawings, *photographs)}
    assert sum((FOLDER / name).stat().st_size for name in files) < 1.5e6
    for picture in (*drawings, *photographs):
        assert max(Image.open(FOLDER / picture.file).size) <= 256
        assert picture.licence in {"CC0 1.0", "CC BY 4.0", "public domain", "MIT"}
        for left, top, right, bottom in (picture.mouth, picture.head, picture.jaw):
            assert 0 <= left < right <= 1
            assert 0 <= top < bottom <= 1
        assert picture.head[0] <= picture.mouth[0]
        assert picture.mouth[2] <= picture.head[2]


def test_a_mouth_that_moves_with_the_sound_is_told_from_one_that_does_not() -> None:
    picture = Picture(
        file="x/x.png", mouth=(0.4, 0.6, 0.6, 0.7), head=(0.2, 0.1, 0.8, 0.85), author="",
        source="", licence="",
    )  # fmt: skip
    portrait = load_pictures("drawings")[0].load(128)
    frames = portrait.expand(64, -1, -1, -1).clone()
    loudness = torch.zeros(64)
    loudness[LEADING_SILENCE:] = torch.rand(49, generator=torch.Generator().manual_seed(0))
    other = loudness.roll(17)
    common = {
        "portrait": portrait,
        "decoded": portrait,
        "loudness": loudness,
        "other_loudness": other,
    }
    still = measure_kept(picture, frames, **common)
    assert not still.moves_its_mouth
    assert still.colour == 0
    assert still.detail == still.frozen_detail == pytest.approx(1, abs=1e-3)
    soft = {**common, "decoded": portrait // 2}
    assert measure_kept(picture, frames, **soft).frozen_detail == pytest.approx(4, rel=0.1)
    figures = {f.name: f for f in photograph_figures([still], [(1.0, 30.0)], true_inside=0.8)}
    assert figures["photographs: head detail"].decoded is None
    assert figures["photographs: head detail, frozen"].value == still.frozen_detail
    box = frames[:, :, 77:90, 52:77].float()
    frames[:, :, 77:90, 52:77] = (box * (1 - 0.9 * loudness[:, None, None, None])).to(torch.uint8)
    talking = measure_kept(picture, frames, **common)
    assert talking.moves_its_mouth
    assert talking.follows > 0.9 > 0.6 > abs(talking.follows_other)
    assert talking.motion_inside == pytest.approx(1)


# ---- the command


def test_parts_are_resumed_and_a_missing_recording_ends_no_run(tmp_path: Path) -> None:
    subject = Subject(folder=weights_folder(), clips=2, recordings=tmp_path)
    stored = {
        "speed": {"seconds": 1, "figures": to_mapping([Figure(name="work", value=0.5, bar=1)])}
    }
    path = tmp_path / "full.json"
    path.write_text(json.dumps({**_key(subject), "parts": stored}))
    work, missing = evaluate_fully(subject, parts=["speed", "recordings"], json_path=path)
    assert work == Figure(name="work", value=0.5, bar=1)
    assert "--recordings" in missing.note
    assert missing.is_met is False


def test_figures_of_other_weights_or_another_code_are_not_taken_over(tmp_path: Path) -> None:
    subject = Subject(folder=weights_folder(), clips=2, recordings=tmp_path)
    stored = {"recordings": {"figures": to_mapping([Figure(name="old", value=1.0, bar=1)])}}
    path = tmp_path / "full.json"
    for changed in ("weights", "code", "pictures", "recordings"):
        path.write_text(json.dumps({**_key(subject), changed: "another", "parts": stored}))
        (found,) = evaluate_fully(subject, parts=["recordings"], json_path=path)
        assert found.value is None


def test_figures_are_of_all_files_of_a_checkpoint_and_of_the_recordings(tmp_path: Path) -> None:
    subject = Subject(folder=tmp_path, clips=2, recordings=tmp_path / "said")
    before = _key(subject)
    for name in ("transformer/config.json", "tokenizer/tokenizer.json", "vae/x.safetensors"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text("{}")
        after = _key(subject)
        assert after["weights"] != before["weights"]
        before = after
    (tmp_path / "training.json").write_text("{}")
    assert _key(subject) == before
    (tmp_path / "said").mkdir()
    (tmp_path / "said" / "a.wav").write_text("sound")
    assert _key(subject)["recordings"] != before["recordings"]


def test_other_recordings_leave_what_does_not_hear_them(tmp_path: Path) -> None:
    subject = Subject(folder=weights_folder(), clips=2, recordings=tmp_path)
    figures = to_mapping([Figure(name="old", value=1.0, bar=1)])
    stored = {name: {"figures": figures} for name in ("recordings", "speed")}
    path = tmp_path / "full.json"
    path.write_text(json.dumps({**_key(subject), "recordings": "others", "parts": stored}))
    kept, again = evaluate_fully(subject, parts=["speed", "recordings"], json_path=path)
    assert (kept.value, again.value) == (1.0, None)


def test_the_command_offers_every_part() -> None:
    assert set(FULL_PARTS) == set(PARTS)
    assert set(BRIEF_PARTS) < set(PARTS)
    assert set(EXPORTED_PARTS) == set(export.PARTS)
    assert set(COURSE_NAMES) == set(COURSES)
    assert set(WIDE_BEHAVIOURS) >= {"sad", "waving", "nodding", "still", "smiling"}


# ---- README's pictures


def test_the_sheet_has_a_row_and_a_wave_for_each_film_and_the_loop_moves(tmp_path: Path) -> None:
    chance = torch.Generator().manual_seed(0)
    films = []
    for _ in range(6):
        frames = torch.randint(0, 256, (10, 3, 32, 32), generator=chance, dtype=torch.uint8)
        samples = torch.cat([torch.zeros(3200), torch.rand(3200, generator=chance)])
        films.append((frames[0], frames, samples))
    write_presenter_sheet(films, tmp_path / "sheet.png", moments=4)
    sheet = np.asarray(Image.open(tmp_path / "sheet.png"))
    assert sheet.shape == (6 * (32 + 28), 32 + 8 + 4 * 32, 3)
    wave = (sheet[32:60, 40:] < 255).any(-1).sum(0)  # inked pixels of each column
    assert wave[70:].mean() > 5 * wave[:58].mean() > 0
    write_loop(films, tmp_path / "loop.webp")
    with Image.open(tmp_path / "loop.webp") as loop:
        assert (loop.size, loop.n_frames, loop.info["loop"]) == ((96, 64), 5, 0)

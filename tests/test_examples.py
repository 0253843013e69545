"""The files in `examples/`: small, usable as they are, each with its source and licence named."""

import json
import re
from pathlib import Path

import pytest

from omniavatar import GenerationRequest, load_image, load_speech
from omniavatar.serving.batch_rows import read_rows

EXAMPLES = Path(__file__).parents[1] / "examples"
REQUESTS = sorted(EXAMPLES.glob("*.json"))


@pytest.mark.parametrize("path", REQUESTS, ids=lambda path: path.stem)
def test_request_is_valid_and_finds_its_files(path):
    fields = json.loads(path.read_text(encoding="utf-8"))
    request = GenerationRequest.from_mapping(fields)
    assert load_image(EXAMPLES / request.image).shape == (512, 512, 3)
    assert load_speech(EXAMPLES / request.audio).duration_seconds > 2
    assert request.prompt


def test_table_is_a_batch_of_files_that_are_there():
    files = {path.name: path for path in EXAMPLES.iterdir()}
    rows = read_rows(files, settings={}, model="nano", most=3)
    assert [row.error for row in rows] == [None] * 3
    assert rows[2].request.audio_seconds == 3


def test_every_picture_and_recording_is_asked_for_by_a_request():
    asked = {name for path in REQUESTS for name in json.loads(path.read_text()).values()}
    files = {
        path.name for path in EXAMPLES.iterdir() if path.suffix not in (".json", ".md", ".csv")
    }
    assert files <= asked


@pytest.mark.parametrize(("name", "seconds"), [("speech-1.wav", 3), ("speech-2.mp3", 6),
                                               ("speech-3.flac", 12)])  # fmt: skip
def test_speech_lasts_as_long_as_its_entry_says(name, seconds):
    assert load_speech(EXAMPLES / name).duration_seconds == pytest.approx(seconds, abs=0.3)


def test_every_file_has_its_source_and_licence_named():
    text = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    rows = [line.split("|")[1:-1] for line in text.splitlines() if line.startswith("| `")]
    assert all(len(row) == 4 and all(cell.strip() for cell in row) for row in rows)
    named = {name for row in rows for name in re.findall(r"`([^`]+)`", row[0])}
    files = {path for path in EXAMPLES.iterdir() if path.name != "README.md"}
    assert {path.name if path.suffix != ".json" else "*.json" for path in files} == named


def test_examples_stay_small():
    assert sum(path.stat().st_size for path in EXAMPLES.iterdir()) < 3_000_000

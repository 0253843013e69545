"""The plan against the public OmniAvatar implementation, commit 1536bf3, in every row."""

import json

import pytest

from omniavatar.errors import InputError
from omniavatar.plan import choose_size, count_audio_frames, frames_per_chunk, plan_video


@pytest.fixture(scope="module")
def table(reference_dir):
    return json.loads((reference_dir / "chunk_plan.json").read_text())


def make_plan(row, table):
    height, width = row["image_hw"]
    return plan_video(
        image_height=height,
        image_width=width,
        samples=row["samples"],
        sizes=[tuple(size) for size in table["image_sizes"][str(row["max_hw"])]],
        max_tokens=row["max_tokens"],
        overlap_frames=row["overlap_frame"],
        fps=table["fps"],
        sample_rate=table["sample_rate"],
    )


def test_every_chunk_plan_equals_the_reference(table):
    rows = [row for row in table["cases"] if "error" not in row]
    assert rows
    for row in rows:
        plan = make_plan(row, table)
        assert [plan.height, plan.width] == row["select_size"]
        assert plan.chunk_frames == row["L"]
        assert plan.audio_frames == row["audio_frames"]
        assert plan.padded_audio_frames == row["padded_audio_frames"]
        assert (
            plan.padded_audio_frames * table["sample_rate"] // table["fps"]
            == (row["padded_samples"])
        )
        assert len(plan.chunks) == row["chunks"]
        assert plan.frames == row["kept_frames"]
        assert [chunk_row(plan, number) for number in range(len(plan.chunks))] == row["chunk"]
        assert {chunk.latent_frames for chunk in plan.chunks} == {row["T"]}
        assert [[n, kept.start, kept.stop] for n, kept in enumerate(plan.kept)] == row["kept"]
        encoded = [1] + [plan.overlap_frames] * (len(plan.chunks) - 1)
        assert encoded == row["vae_encode_frames"]


def chunk_row(plan, number):
    """As the table's columns: what of the speech, which latents and mask are known."""
    chunk = plan.chunks[number]
    zero_rows = int(chunk.audio_start == 0)  # row 0 belongs to the portrait and is silent
    prefix = plan.overlap_frames if number else 1
    return [
        zero_rows,
        chunk.audio_start - 1 + zero_rows,
        chunk.audio_stop - 1,
        prefix,
        chunk.known_latents,
        chunk.known_latents,
    ]


def test_rows_that_the_reference_can_not_compute_are_refused(table):
    for row in (row for row in table["cases"] if "error" in row):
        with pytest.raises(InputError):
            make_plan(row, table)


def test_size_matching_equals_the_reference(table):
    assert table["match_size"]["rows"]
    for name, height, width, select_height, select_width, *_ in table["match_size"]["rows"]:
        sizes = [tuple(size) for size in table["image_sizes"][name]]
        assert choose_size(height, width, sizes) == (select_height, select_width)


def test_whole_frames_that_round_up_equal_the_reference(table):
    fps, sample_rate = table["fps"], table["sample_rate"]
    listed = table["exact_frame_multiples_that_round_up"]
    assert listed
    for frames in range(1, max(listed) + 1):
        samples = frames * sample_rate // fps
        counted = count_audio_frames(samples, sample_rate=sample_rate, fps=fps)
        assert counted == frames + (frames in listed)


def test_frames_per_chunk_equal_the_reference(table):
    for row in table["cases"]:
        if "L" in row:
            height, width = row["select_size"]
            assert frames_per_chunk(row["max_tokens"], height, width) == row["L"]

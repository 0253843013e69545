from itertools import pairwise

import pytest

from omniavatar.errors import InputError
from omniavatar.plan import (
    Chunk,
    choose_size,
    count_audio_frames,
    frames_per_chunk,
    plan_video,
    tokens_for_chunk,
)

SIZES = ((400, 720), (720, 720), (720, 400))


def plan(seconds=10.0, *, max_tokens=30000, overlap_frames=13, sizes=SIZES, **more):
    return plan_video(
        image_height=720,
        image_width=400,
        samples=round(seconds * 16000),
        sizes=sizes,
        max_tokens=max_tokens,
        overlap_frames=overlap_frames,
        fps=25,
        sample_rate=16000,
        **more,
    )


@pytest.mark.parametrize("seconds", [0.01, 1, 4.16, 4.2, 8, 61.7, 3600])
@pytest.mark.parametrize("overlap", [1, 13, 29])
def test_every_frame_is_shown_exactly_once(seconds, overlap):
    video = plan(seconds, overlap_frames=overlap)
    shown = [
        chunk.start + frame
        for chunk, kept in zip(video.chunks, video.kept, strict=True)
        for frame in range(*kept.indices(chunk.frames))
    ]
    assert shown == list(range(video.frames))


@pytest.mark.parametrize("seconds", [0.01, 0.5, 1, 4.16, 4.2, 8, 61.7, 3600])
@pytest.mark.parametrize("overlap", [1, 13, 29])
def test_fitted_chunks_show_every_frame_once_and_are_as_many_and_no_longer_than_needed(
    seconds, overlap
):
    full, fitted = (plan(seconds, overlap_frames=overlap, fitted=yes) for yes in (False, True))
    shown = [
        chunk.start + frame
        for chunk, kept in zip(fitted.chunks, fitted.kept, strict=True)
        for frame in range(*kept.indices(chunk.frames))
    ]
    assert shown == list(range(full.frames))
    assert len(fitted.chunks) == len(full.chunks)
    assert overlap < fitted.chunk_frames <= full.chunk_frames
    assert fitted.chunk_frames % 4 == 1
    made_in_vain = fitted.padded_audio_frames - fitted.audio_frames
    is_shortest = fitted.chunk_frames == overlap + 4
    assert made_in_vain < 4 * len(fitted.chunks) or is_shortest


def test_a_short_recording_takes_one_short_chunk_only_if_chunks_are_fitted():
    assert plan(2.0).chunk_frames == 105
    assert plan(2.0, fitted=True).chunk_frames == 53


@pytest.mark.parametrize("overlap", [1, 13, 29])
def test_known_frames_of_a_chunk_are_the_end_of_the_one_before(overlap):
    chunks = plan(61.7, overlap_frames=overlap).chunks
    assert chunks[0].known == 1
    assert len(chunks) > 1
    for before, chunk in pairwise(chunks):
        assert before.stop - chunk.start == chunk.known == overlap


def test_chunk_counts_latents_of_four_frames_after_the_first():
    chunk = Chunk(start=92, stop=197, known=13)
    assert chunk.frames == 105
    assert chunk.latent_frames == 27
    assert chunk.known_latents == 4
    assert chunk.new_frames == slice(13, 105)


def test_length_of_a_chunk_is_the_published_table():
    table = {  # (width, height): frames at 30000, 40000, 60000 and 80000 tokens
        (720, 400): (105, 141, 213, 281),
        (720, 720): (57, 77, 117, 157),
        (960, 528): (57, 77, 121, 161),
        (1280, 720): (33, 41, 65, 85),
    }
    for (width, height), frames in table.items():
        tokens = (30000, 40000, 60000, 80000)
        assert tuple(frames_per_chunk(count, height, width) for count in tokens) == frames


def test_overlap_that_splits_a_latent_is_refused_with_the_nearest_that_fits():
    for given, nearest in ((12, 13), (14, 13), (16, 17), (3, 1), (0, 1)):
        with pytest.raises(InputError, match=rf"for example {nearest}\.") as caught:
            plan(overlap_frames=given)
        assert caught.value.field == "overlap_frames"


@pytest.mark.parametrize(("max_tokens", "overlap"), [(1, 13), (3000, 13), (15000, 53), (15000, 57)])
def test_chunk_no_longer_than_the_overlap_is_refused_with_tokens_that_work(max_tokens, overlap):
    with pytest.raises(InputError, match="Use at least") as caught:
        plan(max_tokens=max_tokens, overlap_frames=overlap)
    assert caught.value.field == "max_tokens"
    enough = int(str(caught.value).split("Use at least ")[1].split(",")[0])
    assert plan(max_tokens=enough, overlap_frames=overlap).chunk_frames == overlap + 4
    with pytest.raises(InputError):
        plan(max_tokens=enough - 1, overlap_frames=overlap)


def test_smallest_token_count_for_a_chunk_is_smallest():
    for frames in (1, 17, 65, 105):
        for height, width in SIZES:
            tokens = tokens_for_chunk(frames, height, width)
            assert frames_per_chunk(tokens, height, width) >= frames
            assert frames_per_chunk(tokens - 1, height, width) < frames


def test_empty_recording_is_refused():
    with pytest.raises(InputError, match="empty") as caught:
        plan(0)
    assert caught.value.field == "audio"


def test_exact_count_makes_no_frame_of_a_rounding_error():
    samples = 7 * 640
    assert count_audio_frames(samples, sample_rate=16000, fps=25) == 8
    assert count_audio_frames(samples, sample_rate=16000, fps=25, exact=True) == 7
    assert plan(samples / 16000, exact=True).frames == 8


def test_exact_count_equals_the_published_one_between_whole_frames():
    for samples in range(1, 20000, 313):
        if samples % 640:
            assert count_audio_frames(
                samples, sample_rate=16000, fps=25, exact=True
            ) == count_audio_frames(samples, sample_rate=16000, fps=25)


def test_size_with_the_closest_ratio_is_chosen():
    assert choose_size(1920, 1080, SIZES) == (720, 400)
    assert choose_size(1080, 1920, SIZES) == (400, 720)
    assert choose_size(1000, 1001, SIZES) == (720, 720)
    assert choose_size(1, 1, ((128, 128),)) == (128, 128)


def test_of_equal_ratios_the_first_wins_unless_a_later_side_fits_as_well():
    assert choose_size(100, 100, ((256, 256), (128, 128))) == (256, 256)
    # longest sides 64 above and 64 below that of the picture
    assert choose_size(192, 192, ((256, 256), (128, 128))) == (128, 128)

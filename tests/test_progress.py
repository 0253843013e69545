from omniavatar.progress import Progress


def test_fraction_reaches_one_only_when_the_last_chunk_is_decoded():
    progress = Progress(chunks=2, steps=3)
    seen = []
    for _ in range(2):
        for _ in range(3):
            progress.step_done()
            seen.append(progress.fraction)
        progress.decode_done()
        seen.append(progress.fraction)
    assert seen == sorted(seen)
    assert seen[-2] < 1.0 == seen[-1]
    assert progress.remaining_seconds == 0


def test_nothing_is_promised_before_anything_was_measured():
    assert Progress(chunks=1, steps=4).remaining_seconds is None


def test_a_lost_chunk_counts_from_its_beginning_and_is_measured_anew():
    progress = Progress(chunks=2, steps=2)
    for _ in range(2):
        progress.step_done()
    progress.decode_done()
    after_first = progress.fraction
    progress.step_done()
    progress.chunk_lost()
    assert progress.fraction == after_first
    assert progress.remaining_seconds is None
    for _ in range(2):
        progress.step_done()
    progress.decode_done()
    assert progress.fraction == 1.0

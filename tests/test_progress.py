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

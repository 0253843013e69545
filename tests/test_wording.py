import pytest

from omniavatar import Notice, Preparing, StepDone
from omniavatar.serving import wording


@pytest.mark.parametrize(
    ("seconds", "shown"), [(0.4, "0:00"), (75.2, "1:15"), (59.7, "1:00"), (3675, "1:01:15")]
)
def test_seconds_are_shown_as_a_clock(seconds, shown):
    assert wording.clock(seconds) == shown


@pytest.mark.parametrize(
    ("seconds", "told"),
    [
        (3, "a few seconds"),
        (41, "about 45 seconds"),
        (100, "about 2 minutes"),
        (7000, "about 1.9 hours"),
        (6.4e6, "about 74 days"),
    ],
)
def test_estimates_are_told_in_units_that_people_think_in(seconds, told):
    assert wording.about(seconds) == told


def test_a_step_says_how_far_the_job_is_and_how_long_it_takes():
    step = StepDone(
        chunk=2,
        chunks=3,
        step=1,
        steps=8,
        preview=None,
        fraction=0.4,
        elapsed_seconds=12.0,
        remaining_seconds=None,
    )
    assert wording.phase(step) == "Part 2 of 3, step 1 of 8"
    assert wording.timing(step) == "0:12"


def test_a_phase_begins_like_a_sentence():
    assert wording.phase(Preparing(what="reading", elapsed_seconds=0.0)) == "Reading"
    assert wording.phase(Notice(what="memory ran out", elapsed_seconds=0.0)) == "Memory ran out"

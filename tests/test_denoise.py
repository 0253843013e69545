"""The order of steps and of what is done with them."""

from omniavatar.stages.denoise import one_ahead


def _traced(count):
    happened = []

    def steps():
        try:
            for number in range(count):
                happened.append(f"begin {number}")
                yield number
        finally:
            happened.append("closed")

    def mark():
        number = sum(name.startswith("begin") for name in happened) - 1
        return lambda: happened.append(f"finished {number}")

    return happened, one_ahead(steps(), mark)


def test_the_device_has_its_next_step_before_one_is_passed_on():
    happened, ahead = _traced(3)
    told = []
    for number in ahead:
        happened.append(f"told {number}")
        told.append(number)
    assert told == [0, 1, 2]
    assert happened == [
        *("begin 0", "begin 1", "finished 0", "told 0"),
        *("begin 2", "finished 1", "told 1"),
        *("closed", "finished 2", "told 2"),
    ]


def test_closing_begins_no_further_step():
    happened, ahead = _traced(5)
    assert next(ahead) == 0
    ahead.close()
    assert happened == ["begin 0", "begin 1", "finished 0", "closed"]

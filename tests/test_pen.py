"""Frames that are encoded beside the work on the next chunk."""

from threading import Event

import numpy as np
import pytest

from omniavatar import OutputError
from omniavatar.pipeline import _Pen


class Writer:
    """Takes its time, and fails when it is told to."""

    def __init__(self, *, fault: Exception | None = None) -> None:
        self.happened: list[str] = []
        self.may_go_on = Event()
        self.fault = fault

    def write(self, frames) -> None:
        assert self.may_go_on.wait(20)
        if self.fault:
            raise self.fault
        self.happened.append(f"wrote {len(frames)}")

    def cut(self) -> None:
        self.happened.append("cut")


def _frames(count):
    return np.zeros((count, 2, 2, 3), np.uint8)


def test_handing_over_does_not_wait_and_waiting_does():
    writer = Writer()
    pen = _Pen(writer, cuts=True)
    pen.begin(_frames(3))
    assert writer.happened == []
    writer.may_go_on.set()
    pen.begin(_frames(5))  # one chunk at a time: the first is written by now
    assert writer.happened[:2] == ["wrote 3", "cut"]
    pen.wait()
    assert writer.happened == ["wrote 3", "cut", "wrote 5", "cut"]
    pen.wait()


def test_what_goes_wrong_beside_is_raised_to_whoever_waits_once():
    writer = Writer(fault=OutputError("The disk is full."))
    pen = _Pen(writer, cuts=False)
    writer.may_go_on.set()
    pen.begin(_frames(1))
    with pytest.raises(OutputError, match="disk is full"):
        pen.wait()
    pen.wait()

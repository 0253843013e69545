from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from omniavatar.serving.turns import Turns


def filled(*pairs):
    turns = Turns()
    for visitor, item in pairs:
        turns.add(visitor, item)
    return turns


def drained(turns):
    return [turns.take() for _ in range(len(turns))]


def test_one_visitor_is_served_in_order():
    assert drained(filled(("a", 1), ("a", 2), ("a", 3))) == [1, 2, 3]


def test_many_things_of_one_visitor_do_not_hold_up_another():
    turns = filled(("a", 1), ("a", 2), ("a", 3), ("b", 10), ("c", 20), ("c", 21))
    assert turns.order() == drained(turns) == [1, 10, 20, 2, 21, 3]


def test_who_was_served_and_comes_again_waits_behind_the_others():
    turns = filled(("a", 1), ("b", 10), ("c", 20))
    assert turns.take() == 1
    turns.add("a", 2)
    assert drained(turns) == [10, 20, 2]


def test_what_is_removed_is_not_taken_and_costs_no_turn():
    turns = filled(("a", 1), ("a", 2), ("b", 10))
    assert turns.remove(1)
    assert not turns.remove(1)
    assert turns.waiting("a") == 1
    assert drained(turns) == [2, 10]
    assert turns.waiting("a") == len(turns) == 0


def test_nothing_can_be_taken_of_nothing():
    with pytest.raises(IndexError):
        Turns().take()


@given(st.lists(st.one_of(st.sampled_from("abcd"), st.just(None)), max_size=40))
def test_nobody_waits_for_more_than_one_thing_of_each_other_visitor(moves):
    """None takes; a letter adds something of that visitor."""
    turns, added, taken = Turns(), 0, []
    for move in moves:
        if move is not None:
            turns.add(move, (move, added))
            added += 1
        elif len(turns):
            expected = turns.order()[0]
            taken.append(turns.take())
            assert taken[-1] == expected
    waiting = Counter(visitor for visitor, _ in turns.order())
    rest = turns.order()
    for visitor in waiting:
        before = [who for who, _ in rest[: [who for who, _ in rest].index(visitor)]]
        assert all(count == 1 for count in Counter(before).values())
    taken += drained(turns)
    assert sorted(number for _, number in taken) == list(range(added))
    for visitor in "abcd":
        own = [number for who, number in taken if who == visitor]
        assert own == sorted(own)

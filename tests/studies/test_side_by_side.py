"""Work side by side: as many at a time as allowed, and nothing after a failure."""

import threading

import pytest

from fedpeft_app.studies.side_by_side import side_by_side

WAIT_S = 30.0


def test_as_many_go_on_at_a_time_as_there_are_jobs() -> None:
    together = threading.Barrier(3)  # nobody gets on alone
    side_by_side(lambda _: together.wait(WAIT_S), range(6), jobs=3, stop=lambda: None)
    assert not together.broken


def test_one_at_a_time_keeps_the_order() -> None:
    done: list[int] = []
    side_by_side(done.append, range(5), jobs=1, stop=lambda: None)
    assert done == [0, 1, 2, 3, 4]


def test_a_failure_stops_what_goes_on_and_begins_nothing_more() -> None:
    stopped, begun = threading.Event(), []

    def work(thing: int) -> None:
        begun.append(thing)
        if thing == 1:
            raise KeyError(thing)
        assert stopped.wait(WAIT_S)  # the other one goes on until it is told

    with pytest.raises(KeyError):
        side_by_side(work, range(10), jobs=2, stop=stopped.set)
    assert begun == [0, 1]

"""Work on several things at the same time; the first failure ends all of it."""

import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import TypeVar

Thing = TypeVar("Thing")


def side_by_side(
    work: Callable[[Thing], None], things: Iterable[Thing], *, jobs: int, stop: Callable[[], None]
) -> None:
    """Do the same with every thing, some at a time, in their order.

    Args:
        work: Does it, from one of several threads.
        things: With what.
        jobs: How many at the same time, from 1.
        stop: Called when what goes on is to end, since something failed or we are interrupted.

    Raises:
        BaseException: Whatever `work` raised first, once all that went on has ended. Nothing
            more is begun by then.
    """
    halted = threading.Event()

    def halt() -> None:
        halted.set()
        stop()

    def guarded(thing: Thing) -> None:
        if halted.is_set():
            return
        try:
            work(thing)
        except BaseException:
            halt()
            raise

    with ThreadPoolExecutor(jobs) as pool:
        try:
            for done in as_completed([pool.submit(guarded, thing) for thing in things]):
                done.result()
        except BaseException:
            halt()
            raise

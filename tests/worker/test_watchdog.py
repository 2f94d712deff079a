"""A worker that hangs is noticed, one that was stopped or waits for others is not."""

from __future__ import annotations

import threading

from elasticdl.worker.watchdog import TICK_S, Watchdog


def test_what_takes_too_long_is_named_once():
    told: list[str] = []
    is_told = threading.Event()

    def on_stuck(what: str, seconds: float) -> None:
        told.append(what)
        assert seconds > 2 * TICK_S
        is_told.set()

    watchdog = Watchdog(on_stuck)
    watchdog.start(2 * TICK_S)
    with watchdog.watching("something quick"):
        pass
    with watchdog.watching("what hangs"):
        assert is_told.wait(30)
    assert told == ["what hangs"]


def test_time_in_which_nothing_is_asked_for_does_not_count():
    watchdog = Watchdog(lambda what, seconds: None)
    is_asked = False
    with watchdog.watching("a wait for work", lambda: is_asked):
        for _ in range(100):
            assert watchdog._tick(2.5 * TICK_S) is None
        is_asked = True
        assert [watchdog._tick(2.5 * TICK_S) is None for _ in range(3)] == [True, True, False]
    assert watchdog._tick(0.0) is None

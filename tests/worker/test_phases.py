"""What is counted of an instance's time, and what a wait is blamed on."""

from __future__ import annotations

import queue
import threading

import pytest

from elasticdl.phases import NUM_PHASES, Figures, Phase, Phases, Spent, Track, blame

MS = 1_000_000


def by_position(**ns: int) -> list[int]:
    found = [0] * NUM_PHASES
    for name, value in ns.items():
        found[Phase(name).position] = value
    return found


@pytest.mark.parametrize(
    ("elapsed", "preparing", "starving", "leasing", "expected"),
    [
        pytest.param(9, {"parse": 9}, 0, {}, {"parse": 9}, id="the input function"),
        pytest.param(
            9, {"parse": 4, "push_wait": 5}, 0, {}, {"parse": 4, "push_wait": 5}, id="two"
        ),
        pytest.param(
            9, {"parse": 9}, 9, {"read": 7}, {"read": 7, "lease": 2}, id="no task is there"
        ),
        pytest.param(
            9, {"parse": 9}, 3, {"read": 9}, {"parse": 6, "read": 3}, id="part of the time"
        ),
        pytest.param(9, {"collect": 2}, 9, {"read": 9}, {"collect": 9}, id="nobody owns up to it"),
        pytest.param(9, {"parse": 90}, 0, {}, {"parse": 9}, id="it began before"),
    ],
)
def test_a_wait_is_blamed_on_what_was_done_meanwhile(
    elapsed, preparing, starving, leasing, expected
):
    blamed = blame(elapsed, by_position(**preparing), starving, by_position(**leasing))
    assert blamed == {Phase(name): ns for name, ns in expected.items()}
    assert sum(blamed.values()) == elapsed


def test_the_path_begins_with_the_end_of_the_first_step_of_any_kind():
    phases = Phases()
    with phases.on_path(Phase.PULL_WAIT):
        pass
    with phases.step("train"):
        pass
    before = phases.figures("worker")
    assert before.of(Phase.TRACE).count == 1
    assert before.of(Phase.PULL_WAIT).path_ns == 0
    for _ in range(3):
        with phases.on_path(Phase.PULL_WAIT), phases.step("train"):
            pass
    figures = phases.figures("worker")
    assert figures.of(Phase.STEP).count == 3
    assert 0 < figures.of(Phase.STEP).path_ns <= figures.of(Phase.STEP).ns
    assert figures.of(Phase.PULL_WAIT).count == 4
    assert figures.wall_ns >= figures.of(Phase.STEP).path_ns


def test_a_step_that_raises_is_traced_again():
    phases = Phases()
    with pytest.raises(ValueError, match="wrong"), phases.step("train"):
        raise ValueError("wrong")
    with phases.step("train"):
        pass
    figures = phases.figures("worker")
    assert (figures.of(Phase.TRACE).count, figures.of(Phase.STEP).count) == (2, 0)


def test_what_the_path_waits_for_adds_up_to_the_wait():
    phases = Phases()
    with phases.step("train"):
        pass
    preparing, starving = Track(phases), Track(None)
    items: queue.Queue[int] = queue.Queue()
    waited, parsed = threading.Event(), threading.Event()

    def prepare() -> None:
        waited.wait(10.0)
        with preparing.measure(Phase.PARSE, starving):
            parsed.wait(10.0)
        items.put(1)

    thread = threading.Thread(target=prepare)
    thread.start()
    with phases.waiting_for_minibatch(preparing, starving):
        waited.set()
        threading.Timer(0.05, parsed.set).start()
        items.get(timeout=10.0)
    thread.join()
    figures = phases.figures("worker")
    assert figures.wall_ns > 0
    total_ns = sum(one.path_ns for one in figures.phases.values())
    assert figures.of(Phase.PARSE).path_ns > total_ns / 2
    assert total_ns <= figures.wall_ns


def test_time_without_a_task_is_no_time_of_the_input_function():
    phases = Phases()
    track, starving = Track(phases), Track(None)
    with starving.measure(Phase.READ), track.measure(Phase.PARSE, starving):
        threading.Event().wait(0.05)
    spent = phases.figures("worker").of(Phase.PARSE)
    assert spent.count == 1
    assert spent.ns < 25 * MS


def test_figures_are_the_same_after_they_were_sent():
    figures = Figures(7, 1.5, {Phase.STEP: Spent(2, 30, 20), Phase.READ: Spent(1, 5, 0)})
    message = figures.to_message()
    assert Figures.of_message(message) == figures
    message.phases.add(phase="of_a_later_version", count=1)
    assert Figures.of_message(message) == figures


def test_what_came_since_is_the_difference():
    before = Figures(7, 1.0, {Phase.STEP: Spent(2, 30, 20)})
    now = Figures(9, 2.5, {Phase.STEP: Spent(3, 50, 21), Phase.READ: Spent(1, 5, 0)})
    since = now - before
    assert since == Figures(2, 1.5, {Phase.STEP: Spent(1, 20, 1), Phase.READ: Spent(1, 5, 0)})
    assert before + since == now


def test_every_phase_is_of_a_role_and_has_a_place_of_its_own():
    assert {phase.role for phase in Phase} == {"worker", "ps", "master"}
    assert [phase.position for phase in Phase] == list(range(NUM_PHASES))

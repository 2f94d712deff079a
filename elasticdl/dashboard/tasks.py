"""How far a job is, by its ledger: epochs, tasks, and those of the present epoch as a strip."""

from __future__ import annotations

from itertools import groupby

import numpy as np

from elasticdl.dashboard.source import Values
from elasticdl.master.epoch_tasks import EpochTasks
from elasticdl.master.ledger import Ledger
from elasticdl.master.story import Story

MOST_RUNS = 1000
STATES = ("done", "replayed", "todo", "leased")
_DONE, _REPLAYED, _TODO, _LEASED = range(len(STATES))
_DROPPED = len(STATES)


def describe_tasks(ledger: Ledger) -> Values:
    """Return `tasks` of a state."""
    epochs = ledger.epochs
    current = epochs.get(max(epochs, default=0))
    return {
        "todo": ledger.num_todo,
        "leased": ledger.num_leased,
        "done": ledger.num_done,
        "to_repeat": ledger.to_repeat[0],
        "replayed": sum(len(one.replayed) for one in epochs.values()),
        "strip": [] if current is None else _strip(ledger, current),
    }


def _strip(ledger: Ledger, epoch: EpochTasks) -> list[list[str | int]]:
    states = np.full(epoch.num_tasks, _DONE, np.int8)
    end = epoch.first_id + epoch.num_tasks
    for task in epoch.replayed:
        states[task - epoch.first_id] = _REPLAYED
    for one in ledger.open_tasks:
        if epoch.first_id <= one.id < end:
            state = _REPLAYED if ledger.is_replayed(one.id) else _TODO
            states[one.id - epoch.first_id] = _LEASED if ledger.is_leased(one.id) else state
    for task in ledger.open_tasks.dropped:
        if epoch.first_id <= task < end:
            states[task - epoch.first_id] = _DROPPED
    return runs_of(states[states < _DROPPED])


def runs_of(states: np.ndarray) -> list[list[str | int]]:
    """Return states, int8 ``[tasks]``, as runs; of too many runs, neighbours become alike."""
    runs = _runs(states)
    if len(runs) <= MOST_RUNS:
        return runs
    # What few tasks are is what is looked for: of neighbours, the last of `STATES` stands for all.
    parts = np.array_split(states, MOST_RUNS)
    return _runs(np.concatenate([np.full(len(part), part.max()) for part in parts]))


def _runs(states: np.ndarray) -> list[list[str | int]]:
    return [[STATES[state], len(list(some))] for state, some in groupby(states.tolist())]


def describe_epochs(
    ledger: Ledger, story: Story, records_per_s: float, training_seconds: float
) -> list[Values]:
    """Return `progress.epochs` of a state.

    Args:
      records_per_s: done lately; 0 where nothing is.
      training_seconds: so far.
    """
    described = []
    before = 0.0
    for number, epoch in sorted(ledger.epochs.items()):
        ended = story.epoch_ended_at.get(number)
        left = epoch.num_records - epoch.records_done
        described.append(
            {
                "epoch": number + 1,
                "records_done": epoch.records_done,
                "records_expected": epoch.num_records,
                "seconds": max(0.0, (training_seconds if ended is None else ended) - before),
                "seconds_left": left / records_per_s if left and records_per_s > 0 else None,
            }
        )
        before = ended if ended is not None else training_seconds
    return described

"""The lanes of sync mode: an epoch's tasks in fixed sequences, and which of them may be granted.

docs/decisions/sync-mode.md says why.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from elasticdl.data.shards import Shard
from elasticdl.master.tasks import JobPlan, Lane, Task, TaskKind, shuffled_ranges


def carve_lanes(
    shards: Sequence[Shard], epoch: int, first_id: int, plan: JobPlan
) -> Iterator[Task]:
    """Yield an epoch's training tasks, cut into lanes of equal numbers of minibatches.

    Ranges are cut at multiples of the minibatch size where a lane ends.
    """
    size = plan.minibatch_size
    ranges = list(shuffled_ranges(shards, epoch, plan))
    num_minibatches = sum(-(-(end - start) // size) for _, start, end in ranges)
    num_lanes = min(plan.lanes, num_minibatches)
    quotas = [
        num_minibatches // num_lanes + (lane < num_minibatches % num_lanes)
        for lane in range(num_lanes)
    ]
    parts: list[list[tuple[str, int, int]]] = [[] for _ in quotas]
    lane, left = 0, quotas[0]
    for path, start, end in ranges:
        while start < end:
            if left == 0:
                lane, left = lane + 1, quotas[lane + 1]
            stop = min(end, start + left * size)
            parts[lane].append((path, start, stop))
            left -= -(-(stop - start) // size)
            start = stop
    task_id = first_id
    for position in range(max(map(len, parts))):
        for number, part in enumerate(parts):
            if position < len(part):
                path, start, end = part[position]
                place = Lane(number, position, num_lanes, position == len(part) - 1)
                yield Task(task_id, TaskKind.TRAINING, epoch, path, start, end, lane=place)
                task_id += 1


def follows(task: Task, earlier: Task) -> bool:
    """Whether a task comes after another in the same lane of the same epoch."""
    if task.lane is None or earlier.lane is None or task.epoch != earlier.epoch:
        return False
    return task.lane.lane == earlier.lane.lane and task.lane.position > earlier.lane.position


@dataclass(frozen=True)
class _Holding:
    worker: int
    position: int


class LaneQueues:
    """Tasks of lanes that wait to be granted, one queue for each lane. Pure.

    A lane's task is granted when those before it are done or held by the same worker, which may
    hold one ahead. Nobody holds more than an equal share of the lanes.
    """

    def __init__(self) -> None:
        self._queues: dict[int, list[tuple[int, int, Task]]] = {}
        self._num_lanes = 0

    def put(self, task: Task) -> None:
        """Add a task, new or given back, in the place its position gives it."""
        assert task.lane is not None
        self._num_lanes = task.lane.num_lanes
        insort(self._queues.setdefault(task.lane.lane, []), (task.lane.position, task.id, task))

    def remove(self, task: Task) -> None:
        """Take out a task that is done all the same."""
        assert task.lane is not None
        queue = self._queues.get(task.lane.lane, [])
        entry = (task.lane.position, task.id, task)
        if entry in queue:
            queue.remove(entry)

    def drop(self, drops: Callable[[Task], bool]) -> list[Task]:
        """Take out and return the tasks that `drops` names."""
        dropped = []
        for lane, queue in self._queues.items():
            dropped += [task for _, _, task in queue if drops(task)]
            self._queues[lane] = [entry for entry in queue if not drops(entry[2])]
        return dropped

    def __len__(self) -> int:
        return sum(map(len, self._queues.values()))

    def take(self, worker: int, held: Sequence[tuple[int, Task]], num_workers: int) -> Task | None:
        """Take the task to grant to a worker, or None.

        Args:
          worker: who asks.
          held: (worker, task) of every lease on a lane's task.
          num_workers: workers that work now, this one included.
        """
        holdings: dict[int, list[_Holding]] = {}
        for holder, task in held:
            assert task.lane is not None
            holdings.setdefault(task.lane.lane, []).append(_Holding(holder, task.lane.position))
        mine = {lane for lane, all_ in holdings.items() if any(h.worker == worker for h in all_)}
        share = -(-self._num_lanes // max(1, num_workers))
        if len(mine) < share:
            for lane in sorted(self._queues):
                if self._queues[lane] and self._is_free(lane, holdings.get(lane, [])):
                    return self._queues[lane].pop(0)[2]
        if len(mine) <= share:
            for lane in sorted(mine):
                if self._queues.get(lane) and self._follows(worker, lane, holdings[lane]):
                    return self._queues[lane].pop(0)[2]
        return None

    def _is_free(self, lane: int, holdings: list[_Holding]) -> bool:
        position = self._queues[lane][0][0]
        return all(position < holding.position for holding in holdings)

    def _follows(self, worker: int, lane: int, holdings: list[_Holding]) -> bool:
        position = self._queues[lane][0][0]
        return holdings == [_Holding(worker, position - 1)]

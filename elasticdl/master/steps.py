"""Steps of training: how many are done, and how many there may still be under `max_steps`.

Pure, a part of the ledger.
"""

from __future__ import annotations

from collections import Counter

from elasticdl.master.tasks import JobPlan, Task


class Steps:
    """The steps of one job.

    Args:
      plan: the job.

    Attributes:
      done: steps of the tasks that are done.
      left: steps that no task has been given yet; None without a limit, and in sync mode, where the
        partitions count, and say when there are enough.
    """

    def __init__(self, plan: JobPlan) -> None:
        self.done = 0
        self.left = None if plan.lanes else plan.max_steps
        self._minibatch_size = plan.minibatch_size
        self._limit_reached = False
        self._lane_steps: dict[int, Counter[int]] = {}

    @property
    def are_over(self) -> bool:
        """Whether no task may be given any more steps."""
        return self.left == 0 or self._limit_reached

    def are_wanted_after(self, num_under_way: int) -> bool:
        """Whether tasks that wait for steps are wanted: one under way may give some back."""
        return not self.are_over or (self.left == 0 and num_under_way > 0)

    def give(self, task: Task, num_under_way: int) -> bool:
        """Give a task as many steps as its records make if none is dropped; False to have it wait.

        What it does not use comes back when it is done. One that would be cut short waits until the
        others are done: only then is it known how many steps are left.
        """
        if self.left is None:
            return True
        if self.left == 0:
            return False
        most = -(-task.num_records // self._minibatch_size)
        if most > self.left and num_under_way:
            return False
        task.max_minibatches = min(most, self.left)
        task.truncated = most > self.left
        self.left -= task.max_minibatches
        return True

    def count(self, task: Task, num_minibatches: int, limited: bool) -> None:
        """Count a task that is done.

        Args:
          task: which.
          num_minibatches: how many it had.
          limited: in sync mode, its step was beyond max_steps before its records ended.
        """
        if task.lane is not None:
            # A step is one minibatch of every lane that is not at its end: the longest lane counts.
            steps = self._lane_steps.setdefault(task.epoch, Counter())
            before = max(steps.values(), default=0)
            steps[task.lane.lane] += num_minibatches
            self.done += max(steps.values()) - before
            self._limit_reached |= limited
            return
        self.done += num_minibatches
        if self.left is not None:
            self.left += (task.max_minibatches or 0) - num_minibatches

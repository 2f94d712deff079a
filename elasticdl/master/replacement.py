"""When whoever was lost is launched again, and when that is given up.

Pure, as the membership is.
"""

from __future__ import annotations

from collections import Counter

from elasticdl.master.instances import Instance, InstanceSpec, Role

FIRST_PAUSE_S = 0.5


class Replacement:
    """Whose replacement is due, and when.

    Args:
      most_crashes: crashes of a role in a row, with no task done between, that fail the job.
    """

    def __init__(self, most_crashes: int) -> None:
        self._most_crashes = most_crashes
        self._crashes: Counter[Role] = Counter()
        self._due: dict[tuple[Role, int], float] = {}

    def at(self, instance: Instance, when: float, unless_due: bool = False) -> None:
        """Replace an instance then; `unless_due`: as it was to be, where that was decided."""
        key = instance.spec.role, instance.spec.index
        if not (unless_due and key in self._due):
            self._due[key] = when

    def lost(self, instance: Instance, is_crash: bool, now: float) -> str:
        """Replace whoever was lost at once; who crashed, ever more slowly, and not for ever.

        Returns:
          Why nobody of its role is replaced any more; empty where it is.
        """
        role = instance.spec.role
        if not is_crash:
            self.at(instance, now)
            return ""
        self._crashes[role] += 1
        if self._crashes[role] >= self._most_crashes:
            self._due.pop((role, instance.spec.index), None)
            who = "parameter servers" if role is Role.PS else "workers"
            return (
                f"{who} crashed {self._crashes[role]} times in a row with no task done "
                f"between; {instance.spec} last: {instance.reason}"
            )
        self.at(instance, now + FIRST_PAUSE_S * 2 ** (self._crashes[role] - 1))
        return ""

    def due(self, now: float) -> list[tuple[Role, int]]:
        """Take those whose replacement is due, in order."""
        found = sorted(key for key, at in self._due.items() if at <= now)
        for key in found:
            del self._due[key]
        return found

    def launched(self, spec: InstanceSpec) -> None:
        """Note that somebody is launched: nobody of its role and index is due."""
        self._due.pop((spec.role, spec.index), None)

    def forget(self, role: Role) -> None:
        """Replace nobody of this role who was lost before."""
        for key in [key for key in self._due if key[0] is role]:
            del self._due[key]

    def progressed(self) -> None:
        """A task was done: whatever crashed before is not a crash loop."""
        self._crashes.clear()

"""When whoever was lost is launched again, and when that is given up.

Pure, as the membership is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from elasticdl.master.exits import Cause, End
from elasticdl.master.instances import Instance, InstanceSpec, Needs, Role

FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 60.0
MOST_RAISES = 5


def _factor(role: Role, needs: Needs) -> str:
    return f"{needs.memory_factor:.3g} times its memory"


@dataclass(frozen=True)
class Memory:
    """What those get that run out of memory.

    factor: how much more each time. most: the largest `memory_factor` of a role, where there is
    one. text: how much memory one of a role with these needs has.
    """

    factor: float = 1.5
    most: Mapping[Role, float] = field(default_factory=dict)
    text: Callable[[Role, Needs], str] = _factor


class Replacement:
    """Whose replacement is due, when, and with how much memory.

    Args:
      most_crashes: crashes of a role in a row, with no task done between, that fail the job.
      memory: what those get that run out of it.
    """

    def __init__(self, most_crashes: int, memory: Memory) -> None:
        self._most_crashes = most_crashes
        self._memory = memory
        self._crashes: Counter[Role] = Counter()
        self._raises: Counter[Role] = Counter()
        self._needs: dict[Role, Needs] = {}
        # How often the last ones of a role and index ended in a row before they were ready.
        self._unready: Counter[tuple[Role, int]] = Counter()
        self._due: dict[tuple[Role, int], float] = {}

    def needs(self, role: Role) -> Needs:
        """What the next one of this role needs."""
        return self._needs.get(role, Needs())

    def has_needed(self, role: Role, needs: Needs) -> None:
        """Note that a master before this one launched somebody with these."""
        factor = max(needs.memory_factor, self.needs(role).memory_factor)
        self._needs[role] = Needs(factor)

    def memory_of(self, role: Role, needs: Needs) -> str:
        """How much memory one of a role with these needs has, in words."""
        return self._memory.text(role, needs)

    def at(self, instance: Instance, when: float, unless_due: bool = False) -> None:
        """Replace an instance then; `unless_due`: as it was to be, where that was decided."""
        key = instance.spec.role, instance.spec.index
        if not (unless_due and key in self._due):
            self._due[key] = when

    def lost(self, instance: Instance, end: End, now: float) -> str:
        """Replace whoever was lost at once; who crashed, or was not ready, ever more slowly.

        What ends of itself is paused for as a crash, if it is one, and for nothing else.

        Returns:
          Why nobody of its role is replaced any more; empty where it is.
        """
        key = instance.spec.role, instance.spec.index
        is_process = end.cause in (Cause.EXITED, Cause.KILLED)
        self._unready[key] = 0 if instance.was_ready or is_process else self._unready[key] + 1
        pause_s = _pause_s(self._unready[key] - 1)
        why = ""
        if end.is_refused:
            why = f"{instance.spec} cannot be launched: {end.message}"
        elif end.is_out_of_memory:
            why = self._more_memory(instance)
        elif end.is_crash:
            self._crashes[instance.spec.role] += 1
            pause_s = max(pause_s, _pause_s(self._crashes[instance.spec.role]))
            why = self._crash_loop(instance)
        if why:
            self._due.pop(key, None)
        else:
            self.at(instance, now + pause_s)
        return why

    def _crash_loop(self, instance: Instance) -> str:
        role = instance.spec.role
        if self._crashes[role] < self._most_crashes:
            return ""
        return (
            f"{_plural(role)} crashed {self._crashes[role]} times in a row with no task done "
            f"between; {instance.spec} last: {instance.reason}"
        )

    def _more_memory(self, instance: Instance) -> str:
        """Give all of its role more from now on than this one had; or say why not."""
        role, had = instance.spec.role, instance.needs
        most = self._memory.most.get(role)
        if most is not None and had.memory_factor >= most:
            return (
                f"{instance.spec} ran out of memory with {self.memory_of(role, had)}, which is all "
                f"that --memory_limit_max allows; give more, or smaller minibatches"
            )
        wanted = had.memory_factor * self._memory.factor
        wanted = wanted if most is None else min(wanted, most)
        if wanted > self.needs(role).memory_factor:  # Else others ran out of as much before.
            self._raises[role] += 1
            if self._raises[role] >= MOST_RAISES:
                return (
                    f"{_plural(role)} ran out of memory {self._raises[role]} times in a row, with "
                    f"more each time and no task done between; {instance.spec} last, with "
                    f"{self.memory_of(role, had)}"
                )
            self._needs[role] = Needs(wanted)
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
        self._raises.clear()


def _pause_s(times: int) -> float:
    """How long to wait before somebody is launched again, after so many times in a row."""
    return min(FIRST_PAUSE_S * 2 ** (min(times, 30) - 1), LONGEST_PAUSE_S) if times > 0 else 0.0


def _plural(role: Role) -> str:
    return "parameter servers" if role is Role.PS else "workers"

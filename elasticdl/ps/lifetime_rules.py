"""What the user says about which rows of a table live."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class LifetimeRules:
    """When an id of a table gets a row, and when it loses it.

    All are counted by bucket group, so that they hold whatever partition a group is on.

    Attributes:
      admission_count: an id has its row from the update on in which it was seen so often; 1: from
        the first.
      max_rows: of the table; a group holds an equal share, and a new row takes the place of the one
        whose last update is the oldest. 0: any number.
      evict_after_steps: a row is dropped once so many updates of its group were without it.
        0: never.
    """

    admission_count: int = 1
    max_rows: int = 0
    evict_after_steps: int = 0

    @property
    def are_any(self) -> bool:
        """Whether rows are not simply made and kept."""
        return self.admission_count > 1 or self.max_rows > 0 or self.evict_after_steps > 0

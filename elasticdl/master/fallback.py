"""Settles what is restored where a parameter server cannot restore the last checkpoint.

docs/decisions/recovery.md tells the whole.
"""

from __future__ import annotations

import logging

from elasticdl.master.cluster_state import CommittedCheckpoint
from elasticdl.master.coordinator import Coordinator
from elasticdl.master.story import Outcome
from elasticdl.ps.manifest import committed, number_of, verify

logger = logging.getLogger(__name__)


def settle_doubt(coordinator: Coordinator, root: str) -> bool:
    """Have the newest checkpoint that is whole take the place of a last one that is not.

    All of a checkpoint is read for that, which takes time: call it from a thread that has some.
    Where none is left that nothing is lost by, the job ends, and says what can be done.

    Args:
      coordinator: knows whether one is doubted; it is told what came of that.
      root: of all checkpoints of the job.

    Returns:
      True where an older one took its place.

    Raises:
      OSError: a store does not answer; ask again later.
    """
    doubted = coordinator.placement.doubted
    if doubted is None:
        return False
    problems = verify(doubted.path)
    if not problems:
        logger.info("checkpoint %d is whole all the same", doubted.number)
        coordinator.placement.trust()
        return False
    why = problems[0].rpartition("; ")[0] or problems[0]  # What to do about it is done here.
    for older in coordinator.older_checkpoints():
        damage = verify(older.path)
        if not damage:
            coordinator.fall_back(older, why)
            return True
        logger.warning("nor can checkpoint %d be restored: %s", older.number, damage[0])
    coordinator.end(Outcome("failed", _none_is_left(root, doubted, why)))
    return False


def _none_is_left(root: str, doubted: CommittedCheckpoint, why: str) -> str:
    """What to say where the job cannot go on: in one line, what is wrong and what can be done."""
    others = [path for path in reversed(committed(root)) if number_of(path) < doubted.number]
    whole = next((path for path in others if not verify(path)), None)
    text = f"checkpoint {doubted.number} cannot be restored ({why})"
    if whole is None:
        return f"{text}, and no older one is whole: the training has to begin again"
    return (
        f"{text}; what was trained after older ones that are whole is not known to this job any "
        f"more: begin another one with the weights of the newest of them, --warm_start={whole}"
    )

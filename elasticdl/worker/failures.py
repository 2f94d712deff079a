"""What the master is told when a task raised, and what follows for the worker."""

from __future__ import annotations

import logging
import traceback

from elasticdl.errors import ElasticDLError, UserCodeError
from elasticdl.logs.line import fields
from elasticdl.ps.client import PinGone, StaleCluster, TaskDiffers, TaskRewound
from elasticdl.rpc import DeadlinePassed
from elasticdl.worker.callbacks import CallbackError
from elasticdl.worker.leases import HeldTask, Leases

logger = logging.getLogger(__name__)


def tell_failure(leases: Leases, held: HeldTask, error: Exception) -> bool:
    """Tell the master that a task failed, if its own code or data are at fault.

    Returns:
      Whether nobody is: then the task is still held and is to be given back, and the parameter
      servers are to be asked for anew.
    """
    if isinstance(error, UserCodeError):
        is_final = isinstance(error, CallbackError)
        told = {**fields(task=held.task.id), "traceback": error.traceback_text}
        logger.error("task %d: the model's code raised: %s", held.task.id, error, extra=told)
        leases.fail(held, str(error), error.traceback_text, fatal=is_final)
    elif isinstance(error, TaskDiffers):
        logger.warning("task %d begins anew: %s", error.task, error, extra=fields(task=error.task))
        leases.begin_anew(error.task, error.attempt)
        return True
    elif isinstance(error, TaskRewound | StaleCluster | PinGone | DeadlinePassed):
        logger.warning("starts again: %s", error)
        return True
    elif isinstance(error, ElasticDLError):
        leases.fail(held, str(error), fatal=True)
    else:
        # What TensorFlow or a library makes of the model's code, outside of where it is traced.
        said = fields(task=held.task.id)
        logger.error("task %d failed", held.task.id, exc_info=error, extra=said)
        text = f"{type(error).__name__}: {error}".partition("\n")[0]
        leases.fail(held, text, "".join(traceback.format_exception(error)))
    return False

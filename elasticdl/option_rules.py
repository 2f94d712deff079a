"""What options may not be given together: each breach is one line that names the way out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from elasticdl.errors import UsageError

# Options of async mode, with the value they have where they are not given.
_ONLY_ASYNC = {"staleness": 1, "staleness_aware_learning_rate": False}


def check_rules(values: Mapping[str, Any], shown: Callable[[str], str]) -> None:
    """Raise UsageError where options contradict each other.

    Args:
      values: every option by name.
      shown: how an option is written where the person gave it: `--num_ps`.
    """
    if values["num_ps"] > values["num_bucket_groups"]:
        raise UsageError(
            f"{shown('num_ps')}={values['num_ps']}: more parameter servers than bucket groups "
            f"({values['num_bucket_groups']}); give "
            f"{shown('num_bucket_groups')}={values['num_ps']} or more"
        )
    if values["warm_spares"] and not values["num_workers"]:
        raise UsageError(
            f"{shown('warm_spares')}={values['warm_spares']}: a job of one process "
            f"({shown('num_workers')}=0) launches no worker; leave it out, or give "
            f"{shown('num_workers')}=1 or more"
        )
    _check_standby(values, shown)
    if values["consistency"] == "async":
        if values["grads_to_wait"] is not None:
            raise UsageError(
                f"{shown('grads_to_wait')}={values['grads_to_wait']}: nothing waits in async mode; "
                f"add {shown('consistency')}=sync, or leave it out"
            )
        return
    for name, default in _ONLY_ASYNC.items():
        if values.get(name, default) != default:
            raise UsageError(
                f"{shown(name)}={values[name]}: in sync mode no gradient is stale; leave it out, "
                f"or give {shown('consistency')}=async"
            )


def _check_standby(values: Mapping[str, Any], shown: Callable[[str], str]) -> None:
    if not values.get("ps_standby"):
        return
    given = f"{shown('ps_standby')}={values['ps_standby']}"
    if values["consistency"] == "sync":
        raise UsageError(
            f"{given}: in sync mode all parameter servers go back to the last checkpoint; leave it "
            f"out, and say with {shown('checkpoint_steps')} how often one is taken"
        )
    if not values["num_workers"]:
        raise UsageError(
            f"{given}: in a job of one process ({shown('num_workers')}=0) nothing is lost alone; "
            f"leave it out, or give {shown('num_workers')}=1 or more"
        )
    if values["num_ps"] < 2:
        raise UsageError(
            f"{given}: there is no other parameter server to keep the copy; give "
            f"{shown('num_ps')}=2 or more, or leave it out"
        )

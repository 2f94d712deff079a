"""What a job of pods may not be asked, and a job of processes not either."""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from elasticdl.errors import UsageError
from elasticdl.pod_options import (
    Volume,
    parse_node_selector,
    parse_object_name,
    parse_priority,
    parse_quantity,
    parse_resources,
    parse_toleration,
    parse_user,
    parse_variable,
    parse_volumes,
)

JOB_DIR_OF_POD = "/var/lib/elasticdl"
"""Where a job of pods that has no output keeps its own files: in the master's pod alone."""
PORTS_OF_MASTER = (2222, 2223)
"""Where a master's pod listens for its job, and for who asks whether it lives."""
ETC = "/etc/elasticdl"
"""Below it every pod has what describes its job, and its keys."""
ZOO_OF_IMAGE = "/model_zoo"
"""Below it an image that is built has its zoo."""
_OWN_PATHS = (
    "/etc",
    ETC,
    "/tmp",
    JOB_DIR_OF_POD,
    "/var/run/secrets/kubernetes.io/serviceaccount",
)
_PATHS_OF_BUILT_IMAGES = (ZOO_OF_IMAGE, f"{ZOO_OF_IMAGE}/custom", "/opt/elasticdl")
ROLES = ("master", "ps", "worker")
PATHS = ("data", "validation_data", "trained_model", "warm_start", "output", "checkpoint_dir")
"""The options whose paths pods read or write."""

_PARSE_ITEM: Mapping[str, Callable[[str], Any]] = {
    "toleration": parse_toleration,
    "env": parse_variable,
    "image_pull_secret": parse_object_name,
}

Values = Mapping[str, Any]
Shown = Callable[[str], str]


def check_processes(values: Values, shown: Shown, only_pods: Mapping[str, Any]) -> None:
    """Raise UsageError where a job of processes is given what only pods have.

    Args:
      values: every option by name.
      shown: how an option is written where the person gave it: `--num_ps`.
      only_pods: the options that only pods have, with their defaults.
    """
    for name, default in only_pods.items():
        if values[name] != default:
            raise UsageError(
                f"{shown(name)}={_text(values[name])}: means something with "
                f"{shown('cluster')}=kubernetes only; add that, or leave it out"
            )
    if values["min_workers"]:
        raise UsageError(
            f"{shown('num_workers')}={values['min_workers']}..{values['num_workers']}: on one "
            f"machine no worker waits for room; give {shown('num_workers')}="
            f"{values['num_workers']}, or add {shown('cluster')}=kubernetes"
        )


def check_pods(values: Values, shown: Shown) -> None:
    """Raise UsageError where a job of pods is asked what it cannot do.

    Args:
      values: every option by name, paths absolute.
      shown: how an option is written where the person gave it.
    """
    _check_parts(values, shown)
    pods = f"with {shown('cluster')}=kubernetes"
    if not values["num_workers"]:
        raise UsageError(
            f"{shown('num_workers')}=0: {pods} the instances are pods, and none of them is this "
            f"process; give {shown('num_workers')}=1 or more, or {shown('cluster')}=local"
        )
    if values["warm_spares"]:
        raise UsageError(
            f"{shown('warm_spares')}={values['warm_spares']}: {pods} an idle pod would hold the "
            f"memory and cores of a worker; leave it out, and give one more of "
            f"{shown('num_workers')} instead"
        )
    if values["dashboard_host"] != "127.0.0.1":
        raise UsageError(
            f"{shown('dashboard_host')}={values['dashboard_host']}: {pods} the page is reached "
            f"through the cluster's port forwarding; leave it out, or give "
            f"{shown('dashboard_service')}=NodePort"
        )
    if values["dashboard_service"] != "none" and not values["dashboard"]:
        raise UsageError(
            f"{shown('dashboard_service')}={values['dashboard_service']}: there is no page with "
            f"{shown('dashboard')}=false; leave one of them out"
        )
    if values["dashboard"] and values["dashboard_port"] in PORTS_OF_MASTER:
        raise UsageError(
            f"{shown('dashboard_port')}={values['dashboard_port']}: {pods} the master's own ports "
            f"are {' and '.join(map(str, PORTS_OF_MASTER))}; give another, or leave it out"
        )
    volumes = parse_volumes(values["volume"])
    for volume in volumes:
        _check_hides_nothing(volume, values, shown)
    for name in PATHS:
        for path in (values[name] or "").split(","):
            _check_seen(name, path, volumes, shown)
    if values["job_dir"] != JOB_DIR_OF_POD:
        _check_seen("job_dir", values["job_dir"], volumes, shown)
    for name in ("tensorboard", "profile"):
        if values[name] and not is_mounted(values["job_dir"], volumes):
            raise UsageError(
                f"{shown(name)}=true: {pods} it needs a {shown('job_dir')} below a "
                f"{shown('volume')}'s mount_path; give one, or leave it out"
            )


def is_mounted(path: str, volumes: Iterable[Volume]) -> bool:
    """Is a path inside one of the volumes that every pod has?"""
    return any(
        path == volume.mount_path or path.startswith(f"{volume.mount_path}/") for volume in volumes
    )


def _check_hides_nothing(volume: Volume, values: Values, shown: Shown) -> None:
    path = f"/{posixpath.normpath(volume.mount_path).lstrip('/')}"
    # Whoever gives an image knows what is in it, and may want it hidden.
    of_image = () if values["image"] else _PATHS_OF_BUILT_IMAGES
    if path in (*_OWN_PATHS, *of_image) or path.startswith(f"{ETC}/"):
        raise UsageError(
            f"{shown('volume')}={_text(values['volume'])}: mount_path={volume.mount_path} hides "
            "what pods have there of their own; give another, e.g. mount_path=/data"
        )


def _check_seen(name: str, path: str, volumes: Iterable[Volume], shown: Shown) -> None:
    if path and "://" not in path and not is_mounted(path, volumes):
        raise UsageError(
            f"{shown(name)}={path}: no pod has this path; give one below the mount_path of a "
            f"{shown('volume')}, e.g. {shown('volume')}=claim_name=data,mount_path=/data, or a URI"
        )


def _check_parts(values: Values, shown: Shown) -> None:
    """Parse every option that has parts."""
    for role in ROLES:
        request = _parsed(f"{role}_resource_request", parse_resources, values, shown)
        name = f"{role}_resource_limit"
        if values[name]:
            limit = _parsed(name, parse_resources, values, shown)
            for resource in limit.keys() & request.keys():
                if parse_quantity(limit[resource]) < parse_quantity(request[resource]):
                    raise UsageError(
                        f"{shown(name)}={values[name]}: less {resource} than "
                        f"{shown(f'{role}_resource_request')} has ({request[resource]}); "
                        f"give as much or more"
                    )
        priority = _parsed(f"{role}_pod_priority", parse_priority, values, shown)
        if role != "worker" and priority.share != 1 and values[f"{role}_pod_priority"]:
            raise UsageError(
                f"{shown(f'{role}_pod_priority')}={values[f'{role}_pod_priority']}: only workers "
                f"have different priorities; give one class"
            )
    if values["memory_limit_max"]:
        _parsed("memory_limit_max", parse_quantity, values, shown)
    _parsed("volume", parse_volumes, values, shown)
    if values["node_selector"]:
        _parsed("node_selector", parse_node_selector, values, shown)
    _parsed("run_as", parse_user, values, shown)
    for name, parse in _PARSE_ITEM.items():
        for item in values[name]:
            _parsed(name, parse, {name: item}, shown)


def _parsed(name: str, parse: Callable[[Any], Any], values: Values, shown: Shown) -> Any:
    try:
        return parse(values[name])
    except ValueError as error:
        raise UsageError(f"{shown(name)}={_text(values[name])}: {error}") from None


def _text(value: Any) -> str:
    return ";".join(value) if isinstance(value, tuple) else str(value)

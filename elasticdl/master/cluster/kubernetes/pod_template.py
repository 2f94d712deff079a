"""What a person lays over the pods of a job: a strategic merge, as `kubectl patch` does it.

Maps are merged, null removes, lists of core/v1 that have a merge key are merged by it, all others
are replaced.

References:
  "Strategic Merge Patch", kubernetes/community, sig-api-machinery.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from elasticdl.errors import UsageError

MAIN = "elasticdl"
"""The container of a pod that is an instance; others are the template's own."""
_VOLUMES = ("job", "credentials")
"""The volumes without which no pod knows what its job is, or is known to it."""
SECTIONS = ("master", "ps", "worker", "check")
_POD = ("apiVersion", "kind", "metadata", "spec")
_KIND = {"apiVersion": "v1", "kind": "Pod"}
# Merge keys of lists, by the names of the fields that lead to them from a pod; lists of plain
# values that are merged have none. Of the API's types: `patchStrategy:"merge"`.
_CONTAINERS = ("containers", "initContainers", "ephemeralContainers")
_OF_CONTAINER = {
    "env": "name",
    "ports": "containerPort",
    "volumeMounts": "mountPath",
    "volumeDevices": "devicePath",
}
_MERGE_KEYS: dict[tuple[str, ...], str] = {
    ("metadata", "ownerReferences"): "uid",
    ("metadata", "finalizers"): "",
    ("spec", "volumes"): "name",
    ("spec", "imagePullSecrets"): "name",
    ("spec", "hostAliases"): "ip",
    ("spec", "topologySpreadConstraints"): "topologyKey",
    **{("spec", containers): "name" for containers in _CONTAINERS},
    **{
        ("spec", containers, field): key
        for containers in _CONTAINERS
        for field, key in _OF_CONTAINER.items()
    },
}
# Where `$retainKeys` may say which fields stay: types of which one field excludes another.
_DIRECTIVES = ("$patch", "$retainKeys")


def read_template(path: str) -> dict[str, dict[str, Any]]:
    """Read what is laid over the pods of each component.

    Args:
      path: a YAML file of a pod, or of pods below ``master``, ``ps``, ``worker`` and ``check``.

    Returns:
      a pod for each component that has one.

    Raises:
      UsageError: it is neither.
    """
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError, RecursionError) as error:
        reason = getattr(error, "strerror", None) or str(error).partition("\n")[0]
        raise UsageError(f"pod_template '{path}': {reason}; give a YAML file of a pod") from None
    if not isinstance(content, dict) or not content:
        raise UsageError(f"pod_template '{path}': no pod; give such as spec: {{hostNetwork: true}}")
    is_by_role = set(content) <= set(SECTIONS)
    found = content if is_by_role else dict.fromkeys(SECTIONS, content)
    try:
        _check_plain(content)
    except RecursionError:
        raise UsageError(f"pod_template '{path}': a part holds itself; write it out") from None
    except ValueError as error:
        raise UsageError(f"pod_template '{path}': {error}") from None
    for section, pod in found.items():
        where = f"{section}: " if is_by_role else ""
        if not isinstance(pod, dict):
            raise UsageError(f"pod_template '{path}': {where}no pod; give metadata or spec")
        for name, value in pod.items():
            if name in ("metadata", "spec") and not isinstance(value, dict):
                raise UsageError(f"pod_template '{path}': {where}{name}: {value!r} is no mapping")
            if value != _KIND.get(name, value):
                raise UsageError(
                    f"pod_template '{path}': {where}{name}: {value!r}, and it is laid over pods; "
                    f"give {_KIND[name]}, or leave it out"
                )
            if name not in _POD:
                raise UsageError(
                    f"pod_template '{path}': {where}'{name}' is no field of a pod; give metadata "
                    f"or spec, or a pod below each of {', '.join(SECTIONS)}"
                )
    return found


def _check_plain(value: Any, path: tuple[str, ...] = ()) -> None:
    """Raise ValueError where there is what JSON has not: YAML reads dates, sets and bytes."""
    where = ".".join(path)
    if isinstance(value, dict):
        for name, each in value.items():
            if not isinstance(name, str):
                raise ValueError(f"{where}: {name!r} is no text; put it in quotes")
            _check_plain(each, (*path, name))
    elif isinstance(value, list):
        for each in value:
            _check_plain(each, path)
    elif not (value is None or isinstance(value, str | int) or _is_number(value)):
        read_as = type(value).__name__
        raise ValueError(f"{where}: {value!r} is read as {read_as}; put it in quotes")


def _is_number(value: Any) -> bool:
    return isinstance(value, float) and math.isfinite(value)


def merged(pod: dict[str, Any], template: Mapping[str, Any]) -> dict[str, Any]:
    """Lay a template over a pod; the pod is left as it is.

    Raises:
      UsageError: it would change what makes the pod an instance of the job, or cannot be merged.
    """
    both: dict[str, Any] = strategic_merge(pod, template)
    if "spec" not in both:
        raise _ours("spec as a whole")
    metadata, before = both.get("metadata") or {}, pod["metadata"]
    for name in ("name", "namespace", "ownerReferences"):
        if metadata.get(name) != before.get(name):
            raise _ours(f"metadata.{name}")
    labels, ours = metadata.get("labels") or {}, before.get("labels") or {}
    changed = [name for name, value in ours.items() if labels.get(name) != value]
    changed += [name for name in ("job-name", "controller-uid") if labels.get(name)]
    if changed:
        raise _ours(f"the label {changed[0]}")
    annotations = metadata.get("annotations") or {}
    for name, value in (before.get("annotations") or {}).items():
        if annotations.get(name) != value:
            raise _ours(f"the annotation {name}")
    for name in ("restartPolicy", "terminationGracePeriodSeconds"):
        if both["spec"].get(name) != pod["spec"].get(name):
            way_out = "--grace_s says it" if name != "restartPolicy" else "leave it out"
            raise _ours(f"spec.{name}", way_out)
    container, main = _main(both), _main(pod)
    if container is None or main is None:
        raise _ours(f"the container {MAIN}", "others may be added")
    for name in ("command", "args"):
        if container.get(name) != main.get(name):
            raise _ours(f"{name} of the container {MAIN}", "add another container")
    for before, after, what in (
        (pod["spec"], both["spec"], "volumes"),
        (main, container, "volumeMounts"),
    ):
        there = after.get(what) or []
        for one in before.get(what) or []:
            if one["name"] in _VOLUMES and one not in there:
                raise _ours(f"'{one['name']}' of {what}", "others may be added or changed")
    return both


def _ours(what: str, way_out: str = "leave it out") -> UsageError:
    return UsageError(f"pod_template: {what} cannot be changed by a template; {way_out}")


def _main(pod: Mapping[str, Any]) -> dict[str, Any] | None:
    containers = pod["spec"].get("containers") or []
    return next((one for one in containers if one.get("name") == MAIN), None)


def strategic_merge(original: Any, patch: Any, path: tuple[str, ...] = ()) -> Any:
    """Merge a patch over a pod or a part of it.

    Args:
      path: the fields that lead from the pod to the part.

    Raises:
      UsageError: the patch has an element without its merge key, or an unknown directive.
    """
    if not isinstance(patch, Mapping):
        return copy.deepcopy(patch)
    _check_directives(patch, path)
    directive = patch.get("$patch", "merge")
    if directive == "delete":
        return {}
    plain = {name: value for name, value in patch.items() if name not in _DIRECTIVES}
    if directive == "replace" or not isinstance(original, Mapping):
        return _without_nulls(plain)
    retained = patch.get("$retainKeys")
    result = {
        name: copy.deepcopy(value)
        for name, value in original.items()
        if retained is None or name in retained
    }
    for name, value in plain.items():
        inside = (*path, name)
        _check_kind(result.get(name), value, inside)
        if value is None:
            result.pop(name, None)
        elif isinstance(value, list) and isinstance(result.get(name), list):
            result[name] = _merged_list(result[name], value, inside)
        elif isinstance(value, list):
            result[name] = _merged_list([], value, inside) if inside in _MERGE_KEYS else value
        elif isinstance(value, Mapping) and isinstance(result.get(name), Mapping):
            if value.get("$patch") == "delete":
                del result[name]
            else:
                result[name] = strategic_merge(result[name], value, inside)
        else:
            result[name] = _without_nulls(value)
    return result


def _merged_list(original: list[Any], patch: list[Any], path: tuple[str, ...]) -> list[Any]:
    key = _MERGE_KEYS.get(path)
    if key is None:
        return copy.deepcopy(patch)
    if key == "":
        return [*patch, *(each for each in original if each not in patch)]
    plain, deleted, replaces = [], set(), False
    for element in patch:
        if not isinstance(element, Mapping):
            raise UsageError(f"pod_template: {'.'.join(path)}: {element!r} is no mapping")
        _check_directives(element, path)
        directive = element.get("$patch")
        if directive == "replace" and key not in element:
            replaces = True
            continue
        if key not in element:
            raise UsageError(f"pod_template: {'.'.join(path)}: an element without {key}; give it")
        if not isinstance(element[key], str | int):
            raise UsageError(
                f"pod_template: {'.'.join(path)}: {key}: {element[key]!r} names nothing; "
                "give a name"
            )
        if directive == "delete":
            deleted.add(element[key])
        else:
            plain.append(element)
    if replaces:
        return [_without_nulls(element) for element in plain]
    left = {each[key]: each for each in original if each.get(key) not in deleted}
    given = {
        element[key]: strategic_merge(left.get(element[key], {}), element, path)
        for element in plain
    }
    kept = [name for name in left if name not in given]
    order = [each.get(key) for each in original]
    return [given.get(name, left.get(name)) for name in _interleaved(kept, list(given), order)]


def _interleaved(kept: list[Any], given: list[Any], order: list[Any]) -> list[Any]:
    """The order that kubectl makes of elements that were there and of those of a patch.

    Those of the patch go first, unless one that was there stood before them.
    """
    result = []
    while kept and given:
        is_before = given[0] in order and order.index(kept[0]) < order.index(given[0])
        result.append((kept if is_before else given).pop(0))
    return [*result, *kept, *given]


def _check_kind(before: Any, value: Any, path: tuple[str, ...]) -> None:
    for kind, noun in ((Mapping, "mapping"), (list, "list")):
        is_one = isinstance(before, kind) or (kind is list and path in _MERGE_KEYS)
        if is_one and value is not None and not isinstance(value, kind):
            raise UsageError(f"pod_template: {'.'.join(path)}: {value!r} is no {noun}")


def _check_directives(patch: Mapping[str, Any], path: tuple[str, ...]) -> None:
    for name in patch:
        if isinstance(name, str) and name.startswith("$") and name not in _DIRECTIVES:
            raise UsageError(
                f"pod_template: {'.'.join([*path, name])}: no directive that is understood; "
                f"give {' or '.join(_DIRECTIVES)}"
            )
    if not isinstance(patch.get("$retainKeys", []), list):
        raise UsageError(
            f"pod_template: {'.'.join([*path, '$retainKeys'])}: {patch['$retainKeys']!r}; "
            "give a list of fields"
        )
    if patch.get("$patch", "merge") not in ("merge", "replace", "delete"):
        raise UsageError(
            f"pod_template: {'.'.join([*path, '$patch'])}: {patch['$patch']!r}; "
            "give merge, replace or delete"
        )


def _without_nulls(value: Any) -> Any:
    """What is left of a part that was not there: nothing that only removes."""
    if isinstance(value, Mapping):
        return {
            name: _without_nulls(each)
            for name, each in value.items()
            if each is not None and name not in _DIRECTIVES
        }
    return copy.deepcopy(value)

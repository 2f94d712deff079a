"""The least rights: what a master may do in its namespace, and what whoever submits jobs may."""

from __future__ import annotations

from typing import Any

MASTER = "elasticdl-master"
SUBMITTER = "elasticdl-submitter"
_MASTER_RULES = (
    ("", "pods", "get list watch create patch delete"),  # What is kept has to end.
    ("", "pods/log", "get"),
    ("", "services", "get list create patch delete"),
    ("", "configmaps", "get create update"),
    ("", "events", "list create"),
    ("batch", "jobs", "get patch delete"),
)
_SUBMITTER_RULES = (
    ("batch", "jobs", "create get list delete patch"),
    ("", "services", "create get list delete"),
    ("", "configmaps", "create get list delete"),
    ("", "secrets", "create get list delete"),
    ("", "pods", "get list watch delete"),  # By force, of a node that is lost.
    ("", "pods/log", "get"),
    ("", "pods/portforward", "get create"),
    ("", "events", "list"),
)
_API = "rbac.authorization.k8s.io"


def rbac_objects(namespace: str, service_account: str, user: str = "") -> list[dict[str, Any]]:
    """The two Roles of a namespace, the master's service account and who has which Role.

    Args:
      namespace: empty: the one that they are applied to.
      service_account: of the masters' pods.
      user: who may submit jobs; empty: nobody is named.
    """
    account = {"kind": "ServiceAccount", "name": service_account}
    objects = [
        _object("v1", "ServiceAccount", service_account, namespace),
        _role(MASTER, _MASTER_RULES, namespace),
        _binding(MASTER, account, namespace),
        _role(SUBMITTER, _SUBMITTER_RULES, namespace),
    ]
    if user:
        person = {"kind": "User", "name": user, "apiGroup": _API}
        objects.append(_binding(SUBMITTER, person, namespace))
    return objects


def _object(api_version: str, kind: str, name: str, namespace: str) -> dict[str, Any]:
    labels = {"app.kubernetes.io/name": "elasticdl", "app.kubernetes.io/managed-by": "elasticdl"}
    metadata: dict[str, Any] = {"name": name, "labels": labels}
    if namespace:
        metadata["namespace"] = namespace
    return {"apiVersion": api_version, "kind": kind, "metadata": metadata}


def _role(name: str, rules: tuple[tuple[str, str, str], ...], namespace: str) -> dict[str, Any]:
    role = _object(f"{_API}/v1", "Role", name, namespace)
    role["rules"] = [
        {"apiGroups": [group], "resources": [resource], "verbs": verbs.split()}
        for group, resource, verbs in rules
    ]
    return role


def _binding(role: str, subject: dict[str, Any], namespace: str) -> dict[str, Any]:
    binding = _object(f"{_API}/v1", "RoleBinding", role, namespace)
    binding["roleRef"] = {"apiGroup": _API, "kind": "Role", "name": role}
    if subject["kind"] == "ServiceAccount" and namespace:
        # Without one, `kubectl apply` takes the namespace that it applies to.
        subject = {**subject, "namespace": namespace}
    binding["subjects"] = [subject]
    return binding

"""Calls an apiserver as its administrator, and makes the namespaces of tests."""

from __future__ import annotations

import base64
import json
import ssl
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from elasticdl.master.cluster.kubernetes.rbac import MASTER, rbac_objects

SUBMITTER = "submitter"
"""A user who may do nothing but what a namespace of tests allows."""
_CALL_S = 30
_TOKEN_S = 24 * 3600
_PLURALS = {"PriorityClass": "priorityclasses"}


@dataclass(frozen=True)
class Namespace:
    """A namespace of one test, with exactly the Roles that `elasticdl kubernetes rbac` prints.

    Attributes:
      name: of the namespace.
      admin: kubeconfig of who may do everything.
      submitter: kubeconfig of who may submit jobs there, and nothing else.
      master: kubeconfig with the token of the masters' service account.
    """

    name: str
    admin: Path
    submitter: Path
    master: Path


class Api:
    """Calls one apiserver.

    Args:
      server: its URL.
      authority: the certificate it is known by.
      token: who calls.
    """

    def __init__(self, server: str, authority: str, token: str) -> None:
        self.server, self.authority, self.token = server, authority, token
        self._context = ssl.create_default_context(cadata=authority)

    def call(self, method: str, path: str, body: Any = None, kind: str = "json") -> Any:
        """Call it; returns the object that it answers, or the text where it is none.

        Args:
          kind: of the body: `json`, or how a patch is meant: `strategic-merge-patch+json`, …

        Raises:
          urllib.error.HTTPError: it refuses; the reason is its text.
          OSError: it does not answer.
        """
        headers = {"Authorization": f"Bearer {self.token}", "Content-Type": f"application/{kind}"}
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.server}{path}", data, headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=_CALL_S, context=self._context) as answer:
                text, kind = answer.read(), answer.headers.get_content_type()
        except urllib.error.HTTPError as error:
            error.msg = f"{error.msg}: {error.read().decode(errors='replace')}"
            raise
        return json.loads(text) if kind == "application/json" else text.decode()

    def lines(self, path: str) -> Iterator[Any]:
        """What a watch tells, one after the other, until the apiserver ends it."""
        headers = {"Authorization": f"Bearer {self.token}"}
        request = urllib.request.Request(f"{self.server}{path}", headers=headers)
        with urllib.request.urlopen(request, context=self._context) as answer:
            for line in answer:
                yield json.loads(line)

    def is_ready(self) -> bool:
        try:
            return self.call("GET", "/readyz") == "ok"
        except OSError:
            return False

    def create(self, made: dict[str, Any]) -> dict[str, Any]:
        """Create an object; one that has a namespace names it."""
        return self.call("POST", collection(made), made)

    def delete(self, path: str, grace_s: int | None = None) -> None:
        """Delete an object; that it is not there is well."""
        options = {"propagationPolicy": "Background"}
        try:
            self.call(
                "DELETE",
                path,
                options if grace_s is None else {**options, "gracePeriodSeconds": grace_s},
            )
        except urllib.error.HTTPError as error:
            if error.code != 404:
                raise

    def new_namespace(self, directory: Path, submitter: str) -> Namespace:
        """Make a namespace with the two Roles, and write who may do what there.

        Args:
          directory: for the kubeconfigs.
          submitter: the token of `SUBMITTER`.
        """
        name = f"test-{uuid.uuid4().hex[:8]}"
        self.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
        for made in rbac_objects(name, MASTER, SUBMITTER):
            self.create(made)
        request = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "spec": {"expirationSeconds": _TOKEN_S},
        }
        path = f"/api/v1/namespaces/{name}/serviceaccounts/{MASTER}/token"
        master = self.call("POST", path, request)["status"]["token"]

        def kubeconfig(who: str, token: str) -> Path:
            path = directory / f"{name}-{who}.kubeconfig"
            return write_kubeconfig(path, self.server, self.authority, token, name)

        return Namespace(
            name,
            kubeconfig("admin", self.token),
            kubeconfig("submitter", submitter),
            kubeconfig("master", master),
        )

    def delete_namespace(self, name: str) -> None:
        """Begin to delete a namespace with all that is in it."""
        self.delete(f"/api/v1/namespaces/{name}")


def collection(made: dict[str, Any]) -> str:
    """Return the path where objects like this one are created."""
    version, kind = made["apiVersion"], made["kind"]
    start = f"/apis/{version}" if "/" in version else f"/api/{version}"
    if namespace := made["metadata"].get("namespace"):
        start = f"{start}/namespaces/{namespace}"
    return f"{start}/{_PLURALS.get(kind, kind.lower() + 's')}"


def write_kubeconfig(
    path: Path, server: str, authority: str, token: str, namespace: str = "default"
) -> Path:
    """Write by what somebody calls an apiserver; returns the file."""
    cluster = {
        "server": server,
        "certificate-authority-data": base64.b64encode(authority.encode()).decode(),
    }
    context = {"cluster": "test", "user": "test", "namespace": namespace}
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "test", "cluster": cluster}],
        "users": [{"name": "test", "user": {"token": token}}],
        "contexts": [{"name": "test", "context": context}],
        "current-context": "test",
    }
    path.touch(mode=0o600)
    path.write_text(json.dumps(content, indent=1))
    return path

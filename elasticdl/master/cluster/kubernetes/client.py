"""The verbs of an apiserver, over plain JSON, each with a deadline.

The official client library says where the apiserver is and who asks: kubeconfig files, service
accounts, proxies, certificates. Its models are not used: they refuse what they do not know.
"""

from __future__ import annotations

import contextlib
import json
import os
import ssl
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

import urllib3
import yaml
from kubernetes import config
from kubernetes.client import ApiClient, Configuration
from kubernetes.client.exceptions import ApiException
from urllib3.exceptions import ConnectTimeoutError, HTTPError, NewConnectionError

from elasticdl.errors import JobError

if TYPE_CHECKING:
    from websocket import WebSocket

Json = dict[str, Any]

TIMEOUT_S = 10.0
LOG_TIMEOUT_S = 5.0
CONNECT_S = 5.0
NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
_PIECE_BYTES = 1 << 16
_LOG_LINES = 400
_PATHS = {
    "Pod": ("/api/v1", "pods"),
    "Service": ("/api/v1", "services"),
    "ConfigMap": ("/api/v1", "configmaps"),
    "Secret": ("/api/v1", "secrets"),
    "Event": ("/api/v1", "events"),
    "ServiceAccount": ("/api/v1", "serviceaccounts"),
    "Job": ("/apis/batch/v1", "jobs"),
    "Role": ("/apis/rbac.authorization.k8s.io/v1", "roles"),
    "RoleBinding": ("/apis/rbac.authorization.k8s.io/v1", "rolebindings"),
}


class KubeError(JobError):
    """The apiserver refused, or was not heard.

    Attributes:
      status: of HTTP; 0 where there was no answer.
      reason: the apiserver's word for it, as `AlreadyExists`.
    """

    def __init__(self, message: str, status: int = 0, reason: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason


class NotAsked(KubeError):
    """What was asked for has not happened: there was no connection, or too many asked at once."""


class Unanswered(KubeError):
    """Whether it has happened is not known: no answer came, or one of a failure within."""


class Forbidden(KubeError):
    """Whoever asks may not; or a quota is used up."""

    @property
    def is_quota(self) -> bool:
        """Whether there will be room when others have gone."""
        return is_over_quota(str(self))


class NotFound(KubeError):
    """There is no such object."""


class Conflict(KubeError):
    """There is one of that name already, or it was changed since it was read."""


class Gone(KubeError):
    """The changes since that resource version are not kept any more."""


_ERRORS: dict[int, type[KubeError]] = {
    403: Forbidden,
    404: NotFound,
    409: Conflict,
    410: Gone,
    429: NotAsked,
}


@dataclass(frozen=True)
class Listed:
    """All objects there were, and the version of the cluster's state that this was."""

    items: list[Json]
    resource_version: str


class Watch:
    """Changes as they come, until its time is over: `{"type": "ADDED", "object": {...}}`.

    Raises, while it is iterated:
      Gone: what happened since its resource version is not known any more.
      KubeError: the connection was lost.
    """

    def __init__(self, response: urllib3.HTTPResponse, deadline: float) -> None:
        self._response = response
        self._deadline = deadline
        self._is_closed = False

    def __iter__(self) -> Iterator[Json]:
        rest = b""
        try:
            for piece in self._response.stream(amt=None, decode_content=False):
                *lines, rest = (rest + piece).split(b"\n")
                for line in filter(None, lines):
                    yield _change_of(line)
                if time.monotonic() > self._deadline:
                    return
        except (HTTPError, OSError, ValueError, AttributeError) as error:
            # AttributeError: of a TLS socket that another thread has just shut down.
            if not self._is_closed:
                raise Unanswered(f"the watch was lost: {error}") from error
        finally:
            self._response.close()

    def close(self) -> None:
        """End it, from any thread."""
        self._is_closed = True
        with contextlib.suppress(OSError, ValueError, RuntimeError):  # It has ended.
            self._response.shutdown()


class KubeClient:
    """Asks the apiserver, about one namespace. Thread-safe.

    Every method raises KubeError: one of the classes above where that says more.

    Args:
      configuration: the official client's.
      namespace: of all objects that are asked for.
      context: of the kubeconfig that says so, if one does.
    """

    def __init__(self, configuration: Configuration, namespace: str, context: str = "") -> None:
        # Whether to ask again is for whoever knows what is asked for.
        configuration.retries = False
        self._api = ApiClient(configuration)
        self.namespace = namespace
        self.context = context

    @classmethod
    def in_cluster(cls) -> KubeClient:
        """Of a pod that has a service account's token."""
        configuration = Configuration()
        try:
            config.load_incluster_config(client_configuration=configuration)
            return cls(configuration, NAMESPACE_FILE.read_text().strip())
        except (config.ConfigException, OSError) as error:
            raise KubeError(f"no service account in this pod: {error}") from error

    @classmethod
    def of_kubeconfig(cls, context: str = "", namespace: str = "") -> KubeClient:
        """As `kubectl` would ask: of `$KUBECONFIG` or `~/.kube/config`.

        Args:
          context: empty: the current one.
          namespace: empty: the context's.
        """
        configuration = Configuration()
        try:
            # The library has read the variable when it was imported.
            file = os.environ.get("KUBECONFIG") or str(Path("~/.kube/config").expanduser())
            contexts, current = config.list_kube_config_contexts(file)
            config.load_kube_config(file, context or None, configuration)
        except (config.ConfigException, OSError) as error:
            raise KubeError(f"no cluster is known: {error}") from error
        except (yaml.YAMLError, TypeError, ValueError, AttributeError) as error:
            why = str(error).partition("\n")[0]
            raise KubeError(f"no cluster is known: '{file}' is no kubeconfig: {why}") from error
        chosen = next((one for one in contexts if one["name"] == context), current)
        namespace = namespace or chosen["context"].get("namespace") or "default"
        return cls(configuration, namespace, chosen["name"])

    def create(
        self, made: Mapping[str, Any], timeout_s: float = TIMEOUT_S, dry_run: bool = False
    ) -> Json:
        """Create an object; return it as it is then. It is asked for once.

        Args:
          dry_run: have the apiserver check it, and create none.

        Raises:
          Conflict: there is one of its name.
          NotAsked: it was not created.
          Unanswered: it may have been, or may still be.
        """
        query = _given_up(timeout_s) | ({"dryRun": "All"} if dry_run else {})
        return self._ask("POST", self._path(made["kind"]), made, timeout_s, query)

    def get(self, kind: str, name: str, timeout_s: float = TIMEOUT_S) -> Json:
        """Return an object as it is now, not as a cache has it."""
        return self._ask("GET", self._path(kind, name), None, timeout_s)

    def list(
        self,
        kind: str,
        labels: Mapping[str, str] | None = None,
        fields: Mapping[str, str] | None = None,
        timeout_s: float = TIMEOUT_S,
    ) -> Listed:
        """Return all objects with these labels and fields, as they are now."""
        found = self._ask("GET", self._path(kind), None, timeout_s, {**_selecting(labels, fields)})
        version = (found.get("metadata") or {}).get("resourceVersion", "")
        return Listed(found.get("items") or [], version)

    def watch(
        self, kind: str, resource_version: str, labels: Mapping[str, str], for_s: float
    ) -> Watch:
        """Return the changes after a resource version, for so many seconds at most."""
        query = {
            "watch": "1",
            "resourceVersion": resource_version,
            "timeoutSeconds": str(max(1, round(for_s))),
            **_selecting(labels, None),
        }
        # The apiserver ends it in time; if it cannot, the socket's own timeout does.
        deadline = time.monotonic() + for_s + CONNECT_S
        response = self._send("GET", self._path(kind), None, for_s + CONNECT_S, query)
        if response.status != 200:
            raise _error_of(response.status, _read(response, deadline))
        return Watch(response, deadline)

    def replace(self, made: Mapping[str, Any], timeout_s: float = TIMEOUT_S) -> Json:
        """Put an object in the place of the one that was read; return it as it is then.

        Raises:
          Conflict: it was changed since it was read.
        """
        path = self._path(made["kind"], made["metadata"]["name"])
        return self._ask("PUT", path, made, timeout_s, _given_up(timeout_s))

    def patch(
        self, kind: str, name: str, changes: Mapping[str, Any], timeout_s: float = TIMEOUT_S
    ) -> Json:
        """Merge changes into an object (RFC 7396); return it as it is then.

        Raises:
          Conflict: the changes have a resource version, and it is another one by now.
        """
        headers = {"Content-Type": "application/merge-patch+json"}
        path = self._path(kind, name)
        return self._ask("PATCH", path, changes, timeout_s, _given_up(timeout_s), headers)

    def delete(
        self,
        kind: str,
        name: str,
        grace_s: int | None = None,
        uid: str = "",
        propagation: str = "Background",
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        """Begin to delete an object.

        Args:
          grace_s: of a pod: what it has to end; 0: by force; None: what it was made with.
          uid: if it is this one; else Conflict.
          propagation: what becomes of what it owns.
        """
        body: Json = {"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": propagation}
        if grace_s is not None:
            body["gracePeriodSeconds"] = grace_s
        if uid:
            body["preconditions"] = {"uid": uid}
        self._ask("DELETE", self._path(kind, name), body, timeout_s, _given_up(timeout_s))

    def log_tail(
        self,
        pod: str,
        container: str,
        most_bytes: int,
        previous: bool = False,
        timeout_s: float = LOG_TIMEOUT_S,
    ) -> str:
        """Return the end of what a container printed.

        Args:
          previous: of the container that was there before it was restarted.
        """
        query = {"container": container, "tailLines": str(_LOG_LINES)}
        query |= {"previous": "true"} if previous else {}
        deadline = time.monotonic() + timeout_s
        response = self._send("GET", f"{self._path('Pod', pod)}/log", None, timeout_s, query)
        if response.status != 200:
            raise _error_of(response.status, _read(response, deadline))
        return _read(response, deadline, most_bytes).decode(errors="replace")

    def log_since(self, pod: str, container: str, since: str, previous: bool = False) -> bytes:
        """Return what a container printed from a second on, each line after its time.

        Args:
          since: RFC 3339; empty: from the beginning.
          previous: as of `log_tail`.
        """
        query = {"container": container, "timestamps": "true"}
        query |= {"sinceTime": since} if since else {}
        query |= {"previous": "true"} if previous else {}
        deadline = time.monotonic() + TIMEOUT_S
        response = self._send("GET", f"{self._path('Pod', pod)}/log", None, TIMEOUT_S, query)
        content = _read(response, deadline)
        if response.status != 200:
            raise _error_of(response.status, content)
        return content

    def open_port(self, pod: str, port: int) -> WebSocket:
        """Connect to a port of a pod, by the protocol `v4.channel.k8s.io`.

        Channel 0 has what is sent and received, channel 1 what went wrong; the first message of
        each is the port's number.
        """
        # Not for masters, which do without.
        from kubernetes.stream.ws_client import websocket_proxycare
        from websocket import WebSocket, WebSocketBadStatusException, WebSocketException

        path = f"{self._path('Pod', pod)}/portforward"
        opened = WebSocket(sslopt=_tls_options(self._api.configuration))
        try:
            _, url, shown, *_ = self._api.param_serialize(
                "GET", path, auth_settings=["BearerToken"]
            )
            shown = {name.lower(): value for name, value in shown.items()}
            kept = [f"{name}: {shown[name]}" for name in ("authorization",) if name in shown]
            how = websocket_proxycare({}, self._api.configuration, url, shown)
            opened.connect(
                f"ws{url.removeprefix('http')}?ports={port}",
                header=kept,
                subprotocols=["v4.channel.k8s.io"],
                timeout=CONNECT_S,
                **how,
            )
        except WebSocketBadStatusException as error:
            raise _error_of(error.status_code, error.resp_body or b"") from error
        except (WebSocketException, OSError) as error:
            raise NotAsked(f"the apiserver is not reached: {error}") from error
        return opened

    def close(self) -> None:
        """Close the connections that nothing is asked over."""
        self._api.close()

    def _path(self, kind: str, name: str = "") -> str:
        group, plural = _PATHS[kind]
        path = f"{group}/namespaces/{quote(self.namespace)}/{plural}"
        return f"{path}/{quote(name)}" if name else path

    def _ask(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None,
        timeout_s: float,
        query: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Json:
        deadline = time.monotonic() + timeout_s
        response = self._send(method, path, body, timeout_s, query, headers)
        content = _read(response, deadline)
        if not 200 <= response.status < 300:
            raise _error_of(response.status, content)
        try:
            found: Json = json.loads(content)
        except ValueError as error:
            raise Unanswered(f"{method} {path}: no JSON came back: {content[:100]!r}") from error
        return found

    def _send(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None,
        timeout_s: float,
        query: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> urllib3.HTTPResponse:
        """Ask; return the answer with its body unread."""
        shown = {"Accept": "application/json, */*", **(headers or {})}
        if body is not None:
            shown.setdefault("Content-Type", "application/json")
        try:
            method, url, shown, *_ = self._api.param_serialize(
                method, path, header_params=shown, auth_settings=["BearerToken"]
            )
            if query:
                url = f"{url}?{urlencode(query)}"
            timeout = (min(CONNECT_S, timeout_s), timeout_s)
            answer = self._api.call_api(method, url, shown, body, _request_timeout=timeout)
        except (NewConnectionError, ConnectTimeoutError) as error:
            raise NotAsked(f"the apiserver is not reached: {error}") from error
        except (HTTPError, ApiException, OSError) as error:
            raise Unanswered(f"the apiserver does not answer: {error}") from error
        response: urllib3.HTTPResponse = answer.response
        return response


def is_over_quota(message: str) -> bool:
    """Whether an apiserver's refusal says that a quota is used up: that passes."""
    return "exceeded quota" in message


def _tls_options(configuration: Configuration) -> dict[str, Any]:
    """By what a web socket knows the apiserver, and is known to it."""
    if not configuration.verify_ssl:
        found: dict[str, Any] = {"cert_reqs": ssl.CERT_NONE, "check_hostname": False}
    else:
        found = {"cert_reqs": ssl.CERT_REQUIRED, "ca_certs": configuration.ssl_ca_cert}
    named = {
        "certfile": configuration.cert_file,
        "keyfile": configuration.key_file,
        "server_hostname": configuration.tls_server_name,
    }
    return found | {name: value for name, value in named.items() if value}


def _selecting(
    labels: Mapping[str, str] | None, fields: Mapping[str, str] | None
) -> dict[str, str]:
    both = {"labelSelector": labels, "fieldSelector": fields}
    return {
        name: ",".join(f"{key}={value}" for key, value in chosen.items())
        for name, chosen in both.items()
        if chosen
    }


def _given_up(timeout_s: float) -> dict[str, str]:
    """Ask the apiserver to give up in time as well: what is not waited for should not happen."""
    return {"timeout": f"{max(1, round(timeout_s))}s"}


def _read(response: urllib3.HTTPResponse, deadline: float, most_bytes: int | None = None) -> bytes:
    """Read an answer, the end of it where that is limited."""
    pieces = b""
    try:
        while piece := response.read1(_PIECE_BYTES):
            pieces += piece
            if most_bytes is not None:
                pieces = pieces[-most_bytes:]
            if time.monotonic() > deadline:
                raise Unanswered("the apiserver's answer took too long")
        response.release_conn()
        return pieces
    except (HTTPError, OSError) as error:
        raise Unanswered(f"the apiserver's answer was lost: {error}") from error
    finally:
        if not response.closed:
            response.close()


def _error_of(status: int, content: bytes) -> KubeError:
    try:
        told = json.loads(content)
        message, reason = str(told.get("message", "")), str(told.get("reason", ""))
    except (ValueError, AttributeError):
        message, reason = content[:200].decode(errors="replace"), ""
    kind = Unanswered if status >= 500 else _ERRORS.get(status, KubeError)
    return kind(message or f"HTTP status {status}", status, reason)


def _change_of(line: bytes) -> Json:
    change: Json = json.loads(line)
    if change.get("type") == "ERROR":
        status = int(change["object"].get("code") or 0)
        raise _error_of(status, json.dumps(change["object"]).encode())
    return change

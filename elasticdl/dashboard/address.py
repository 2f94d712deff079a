"""Where a job's dashboard listens."""

from __future__ import annotations

import ipaddress
import re
import socket

from elasticdl.errors import UsageError
from elasticdl.job_spec import JobSpec

BACKLOG = 128
_EVERYWHERE = ("0.0.0.0", "::", "")
_HOST = re.compile(r"(?:\[([0-9a-fA-F:.]+)\]|([^\[\]:]+))(?::\d{1,5})?")


def open_dashboard(spec: JobSpec) -> socket.socket | None:
    """Listen where a job wants its dashboard; None where it wants none.

    Whoever connects waits until somebody accepts.

    Raises:
      UsageError: that cannot be listened on.
    """
    if not spec.dashboard:
        return None
    host, port = spec.dashboard_host, spec.dashboard_port
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = found[0]
        listening = socket.socket(family, kind, protocol)
    except OSError as error:
        raise UsageError(
            f"dashboard_host '{host}': {error.strerror}; give an address of this machine"
        ) from None
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(BACKLOG)
    except OSError as error:
        listening.close()
        raise UsageError(
            f"dashboard at {host}:{port}: {error.strerror}; give another --dashboard_port "
            "(0: any), or --dashboard=false"
        ) from None
    return listening


def url_of(listening: socket.socket, host: str) -> str:
    """Return the URL to be told to people; `host` as it was given."""
    name = socket.gethostname() if host in _EVERYWHERE else host
    shown = f"[{name}]" if ":" in name else name
    return f"http://{shown}:{listening.getsockname()[1]}/"


def is_own_name(name: str, host: str) -> bool:
    """Whether a request's `Host` is one that a dashboard listens as.

    A number is one: no page from elsewhere gets there under a name of its own.
    """
    match = _HOST.fullmatch(name)
    if match is None:
        return False
    given = (match[1] or match[2]).lower().rstrip(".")
    if given in ("localhost", host.lower()):
        return True
    if host in _EVERYWHERE and given in (socket.gethostname().lower(), socket.getfqdn().lower()):
        return True
    try:
        ipaddress.ip_address(given)
    except ValueError:
        return False
    return True

"""`python -m tests.cluster build|up|down|status`."""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Callable

from tests.cluster import cluster, kubernetes
from tests.cluster.packages import NotHere


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.cluster", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    build = commands.add_parser(
        "build", help="fetch and build all that it needs: about 10 minutes, once"
    )
    build.add_argument(
        "--only",
        choices=[kubernetes.Part.APISERVER.value],
        help="etcd and kube-apiserver, which tests without nodes need: about 5 minutes, once",
    )
    up = commands.add_parser("up", help="bring it up, in about half a minute")
    up.add_argument("--nodes", type=int, default=cluster.MOST_NODES, choices=(1, 2))
    up.add_argument("--cpus", type=float, help="that pods may request, of each node")
    up.add_argument("--memory_gib", type=float, help="that pods may request, of each node")
    commands.add_parser("down", help="take it down; nothing is left")
    commands.add_parser("status", help="what there is")
    options = parser.parse_args()
    try:
        return _COMMANDS[options.command](options)
    except (NotHere, RuntimeError, TimeoutError, subprocess.SubprocessError) as error:
        print(f"tests.cluster: {error}", file=sys.stderr)
        return 1


def _build(options: argparse.Namespace) -> int:
    show = _since(time.monotonic())
    kubernetes.build(kubernetes.Part(options.only or "all"), show)
    show("all is there")
    return 0


def _up(options: argparse.Namespace) -> int:
    if cluster.is_up():
        print("there is one already, as it was brought up then")
        return _status(options)
    show = _since(time.monotonic())
    memory = None if options.memory_gib is None else int(options.memory_gib * (1 << 30))
    made = cluster.up(options.nodes, options.cpus, memory, show)
    show("ready")
    print(f"export KUBECONFIG={made.admin}")
    return 0


def _since(began: float) -> Callable[[str], None]:
    """Return what prints a line, with the seconds since then."""

    def show(what: str) -> None:
        print(f"{time.monotonic() - began:5.1f} s  {what}", flush=True)

    return show


def _down(options: argparse.Namespace) -> int:
    cluster.down()
    return 0


def _status(options: argparse.Namespace) -> int:
    if reason := cluster.why_not():
        print(f"none can be here: {reason}")
    elif not cluster.is_up():
        print("\n".join(["none is up", *(f"left: {one}" for one in cluster.left())]))
    else:
        there = cluster.Cluster()
        print(f"up; ready: {', '.join(there.ready_nodes())}")
        print(f"export KUBECONFIG={there.admin}")
        return 0
    return 3


_COMMANDS = {"build": _build, "up": _up, "down": _down, "status": _status}

if __name__ == "__main__":
    sys.exit(main())

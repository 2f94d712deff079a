"""Pulls and pushes between two processes: GB/s, microseconds, and CPU time on both sides.

Every carrier moves the same bytes by turns, in the same run; medians, and ratios to raw TCP. The
rows "rows" and "dense" are a parameter server's: they find and update what they carry, too. What
travels as bfloat16 is counted as long as it is at both ends.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.figures import Figure
from benchmarks.machine import describe_machine
from benchmarks.wire import carriers, partition
from elasticdl.freed_memory import keep_freed_memory

MIB = 1 << 20
SIZES = [64 << 10, MIB, 4 * MIB, 16 * MIB, 64 * MIB, 256 * MIB]
SMALL_BYTES = 64
BYTES_A_TURN = 64 * MIB
DIRECTIONS = ("pull", "push")
PRODUCT = ("rows", "dense", "rows-bfloat16", "dense-bfloat16")
BASES = ("tcp", "memcpy")
LEAST = 0.5
LEAST_OF_MEMCPY = 0.7
Call = Callable[[], object]
Cpu = Callable[[], float]


@dataclass(frozen=True)
class Figures:
    """Of one call: seconds, and CPU seconds of client and server."""

    seconds: float
    client_cpu: float
    server_cpu: float

    def described(self, num_bytes: int) -> dict[str, float]:
        """Return them in the units of the report."""
        mib = num_bytes / MIB
        return {
            "us": 1e6 * self.seconds,
            "gb_per_s": num_bytes / self.seconds / 1e9,
            "client_cpu_us_per_mib": 1e6 * self.client_cpu / mib,
            "server_cpu_us_per_mib": 1e6 * self.server_cpu / mib,
        }


def own_cpu() -> float:
    """Return the CPU seconds of this process."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def serve(kind: str) -> None:
    """Be a server until standard input ends; a line there asks for this process's CPU seconds."""
    keep_freed_memory()  # As every parameter server does.
    address = partition.serve() if kind in PRODUCT else carriers.SERVERS[kind]()
    print(address, flush=True)
    for _ in sys.stdin:
        print(own_cpu(), flush=True)
    os._exit(0)


@contextmanager
def served(kind: str) -> Iterator[tuple[str, Cpu]]:
    """Start a server process; yield its address, and what asks for its CPU seconds."""
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.wire", "--serve", kind],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    to_server, from_server = process.stdin, process.stdout

    def cpu() -> float:
        to_server.write("\n")
        to_server.flush()
        return float(from_server.readline())

    try:
        yield from_server.readline().strip(), cpu
    finally:
        process.kill()
        process.wait()


def measure(call: Call, server_cpu: Cpu, repeats: int) -> Figures:
    """Call once to warm up, then so often; return the mean."""
    call()
    client, server, start = own_cpu(), server_cpu(), time.perf_counter()
    for _ in range(repeats):
        call()
    seconds = time.perf_counter() - start
    return Figures(
        seconds / repeats,
        (own_cpu() - client) / repeats,
        (server_cpu() - server) / repeats,
    )


def repeats_of(num_bytes: int) -> int:
    """Return how many calls make a turn."""
    return max(2, min(100, BYTES_A_TURN // num_bytes))


class Contest:
    """All carriers, their servers started."""

    def __init__(self, kinds: Sequence[str], stack: ExitStack) -> None:
        self._stack = stack
        self._servers = {
            kind: stack.enter_context(served(kind)) for kind in kinds if kind in carriers.SERVERS
        }
        self._clients = {
            kind: carriers.CLIENTS[kind](address) for kind, (address, _) in self._servers.items()
        }
        self._product = [kind for kind in kinds if kind in PRODUCT]
        self._copies = "memcpy" in kinds
        for kind, client in self._clients.items():
            reply = np.frombuffer(client.call(np.ones(MIB, np.uint8), MIB), np.uint8)
            if len(reply) != MIB or not (reply == 1).all():
                raise RuntimeError(f"{kind} brings other bytes than were sent")

    @contextmanager
    def calls(self, num_bytes: int) -> Iterator[dict[tuple[str, str], tuple[Call, Cpu]]]:
        """Yield what moves so many bytes, by carrier and direction."""
        found: dict[tuple[str, str], tuple[Call, Cpu]] = {}
        data, small = np.ones(num_bytes, np.uint8), np.ones(SMALL_BYTES, np.uint8)
        if self._copies:
            target = np.zeros(num_bytes, np.uint8)
            for direction in DIRECTIONS:
                found["memcpy", direction] = lambda: np.copyto(target, data), lambda: 0.0
        for kind, client in self._clients.items():
            cpu = self._servers[kind][1]
            found[kind, "pull"] = _call(client, small, num_bytes), cpu
            found[kind, "push"] = _call(client, data, SMALL_BYTES), cpu
        with ExitStack() as stack:
            for kind in self._product:
                address, cpu = stack.enter_context(served(kind))
                what, _, wire_dtype = kind.partition("-")
                minibatches = partition.Minibatches(
                    address, num_bytes, what == "dense", wire_dtype or "float32"
                )
                stack.callback(minibatches.close)
                for direction, call in minibatches.calls.items():
                    found[kind, direction] = call, cpu
            yield found


def _call(client: carriers.Client, data: np.ndarray, reply_bytes: int) -> Call:
    return lambda: client.call(data, reply_bytes)


def run(kinds: Sequence[str], sizes: Sequence[int], rounds: int) -> dict[str, Any]:
    """Measure; return figures by carrier, direction and size, and ratios to TCP and memcpy."""
    results: dict[str, dict[str, dict[str, dict[str, float]]]] = {}
    with ExitStack() as stack:
        contest = Contest(kinds, stack)
        for size in [SMALL_BYTES, *sizes]:
            found: dict[tuple[str, str], list[Figures]] = {}
            with contest.calls(size) as calls:
                for _ in range(rounds):
                    for key, (call, cpu) in calls.items():
                        found.setdefault(key, []).append(measure(call, cpu, repeats_of(size)))
            for (kind, direction), figures in found.items():
                of_carrier = results.setdefault(kind, {}).setdefault(direction, {})
                of_carrier[str(size)] = _median(figures).described(size)
    for of_kind in results.values():
        for direction, of_direction in of_kind.items():
            for size_text, figures_of_size in of_direction.items():
                for base in BASES:
                    of_base = results.get(base, {}).get(direction, {}).get(size_text)
                    if of_base is not None:
                        ratio = figures_of_size["gb_per_s"] / of_base["gb_per_s"]
                        figures_of_size[f"of_{base}"] = ratio
    return results


def figures_of(results: dict[str, Any]) -> list[Figure]:
    """Return what is demanded at 1 MiB and above: of raw TCP, and on one machine of memcpy."""
    wanted = [(kind, "tcp", "TCP", LEAST) for kind in ("streams", "rows", "dense")]
    return [
        Figure(
            f"{kind}, {direction}, {int(size) >> 20} MiB / {name}",
            found[f"of_{base}"],
            at_least=least,
        )
        for kind, base, name, least in [*wanted, ("streams", "memcpy", "memcpy", LEAST_OF_MEMCPY)]
        for direction, sizes in results.get(kind, {}).items()
        for size, found in sizes.items()
        if int(size) >= MIB and f"of_{base}" in found
    ]


def _median(figures: Sequence[Figures]) -> Figures:
    columns = zip(*(asdict(each).values() for each in figures), strict=True)
    return Figures(*(statistics.median(column) for column in columns))


def show(results: dict[str, Any]) -> None:
    """Print one table for each direction."""
    for direction in DIRECTIONS:
        table = Table(
            title=f"{direction}: GB/s (of raw TCP; of memcpy), CPU µs per MiB client + server"
        )
        table.add_column("carrier")
        sizes = list(next(iter(results.values()))[direction])
        for size in sizes:
            small = int(size) < MIB
            table.add_column(
                f"{int(size) / 1024:,.4g} KiB" if small else f"{int(size) // MIB} MiB",
                justify="right",
            )
        for kind, of_kind in results.items():
            table.add_row(kind, *(_cell(int(size), of_kind[direction][size]) for size in sizes))
        Console(width=180).print(table)


def _cell(size: int, figures: dict[str, float]) -> str:
    if size == SMALL_BYTES:
        return f"{figures['us']:,.0f} µs"
    ratios = [f"{figures[name]:.2f}" for name in map("of_{}".format, BASES) if name in figures]
    ratio = f" ({'; '.join(ratios)})" if ratios else ""
    cpu = f"{figures['client_cpu_us_per_mib']:,.0f}+{figures['server_cpu_us_per_mib']:,.0f}"
    return f"{figures['gb_per_s']:.2f}{ratio}  {cpu}"


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.wire", description=__doc__)
    kinds = ["memcpy", *carriers.SERVERS, *PRODUCT]
    for package, kind in (("pyarrow", "flight"), ("cryptography", "tls")):
        if find_spec(package) is None:
            kinds.remove(kind)
    parser.add_argument("--only", default=",".join(kinds), help="carriers")
    parser.add_argument("--rounds", type=int, default=4, help="turns of each; medians count")
    parser.add_argument("--check", action="store_true", help="short: 1 round, up to 1 MiB")
    parser.add_argument("--json", type=Path, help="write everything to this file")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    parsed = parser.parse_args(arguments)
    parsed.kinds = parsed.only.split(",")
    for unknown in set(parsed.kinds) - set(kinds):
        parser.error(f"--only: there is no '{unknown}'; there are {kinds}")
    return parsed


def main() -> None:
    """Measure and print."""
    arguments = parse()
    if arguments.serve:
        serve(arguments.serve)
    sizes, rounds = (SIZES[:2], 1) if arguments.check else (SIZES, arguments.rounds)
    results = run(arguments.kinds, sizes, rounds)
    show(results)
    if arguments.json:
        document = {
            "machine": describe_machine(),
            "rounds": rounds,
            "results": results,
            "figures": {each.name: each.as_dict() for each in figures_of(results)},
        }
        arguments.json.write_text(json.dumps(document, indent=2))
    os._exit(0)  # Flight waits for its exchange to end.


if __name__ == "__main__":
    main()

"""Machines within this one: network, `/run`, `/var/log`, `/var/lib` and sysctls are their own.

All of it belongs to the processes: their namespaces hold every mount and every interface, and a
cgroup holds all processes. Once those are killed, nothing is left; this machine's own network and
settings are never changed.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from tests.cluster import packages
from tests.cluster.packages import NotHere
from tests.cluster.processes import Daemon, wait_until

CGROUP = "elasticdl-test-cluster"
_HIERARCHIES = Path("/sys/fs/cgroup")
_PROCESSES = _HIERARCHIES / "pids" / CGROUP
_DAEMONS = _PROCESSES / "daemons"
# What a kubelet sets for the whole machine: here it sets files that lie above them.
_SYSCTLS = (
    "vm/overcommit_memory",
    "vm/panic_on_oom",
    "kernel/panic",
    "kernel/panic_on_oops",
    "kernel/keys/root_maxkeys",
    "kernel/keys/root_maxbytes",
)
_SET_UP = """
set -e
directory=$1; shift
mount --make-rshared /
mount -t tmpfs tmpfs /run
mount -t overlay overlay /var/lib \
  -o "lowerdir=/var/lib,upperdir=$directory/lib,workdir=$directory/lib.work"
mount --bind "$directory/log" /var/log
for name; do mount --bind "$directory/sysctl/$name" "/proc/sys/$name"; done
ip link set lo up
touch "$directory/ready"
exec sleep infinity
"""
_START_S = 10
_KILL_S = 60


def check_machine() -> None:
    """Raises:
    NotHere: a cluster cannot run here; the message says why.
    """
    if os.geteuid() != 0:
        raise NotHere("the test cluster needs root: it makes namespaces, mounts and cgroups")
    if not (_HIERARCHIES / "pids").is_dir() or not (_HIERARCHIES / "cpu").is_dir():
        raise NotHere("the test cluster needs cgroup v1, whose pids and cpu are not mounted here")
    needed = ("unshare", "nsenter", "ip", "mount", "setpriv")
    if missing := [name for name in needed if shutil.which(name) is None]:
        raise NotHere(f"no {', '.join(missing)} here: apt-get install util-linux iproute2")


def make_cgroups(nodes: Sequence[str], cores: Sequence[int] = ()) -> None:
    """Make a cgroup for each node, in every hierarchy, and one for the daemons.

    Args:
      nodes: their names.
      cores: the one that each node's pods have; by default all have all.
    """
    for hierarchy in _hierarchies():
        for name in (CGROUP, *(f"{CGROUP}/{node}" for node in nodes)):
            made = hierarchy / name
            made.mkdir(exist_ok=True)
            if (made / "cpuset.cpus").exists():  # Empty at first, and then nothing may run there.
                for file in ("cpuset.cpus", "cpuset.mems"):
                    (made / file).write_text((hierarchy / file).read_text())
        if cores and hierarchy.name == "cpuset":
            for node, core in zip(nodes, cores, strict=True):
                (hierarchy / CGROUP / node / "cpuset.cpus").write_text(str(core))
    _DAEMONS.mkdir(exist_ok=True)


def in_cgroup() -> tuple[str, ...]:
    """Return the command that puts what follows among the cluster's processes."""
    return ("sh", "-c", f'echo $$ >{_DAEMONS}/cgroup.procs && exec "$@"', "sh")


def processes() -> list[int]:
    """The ids of all processes of the cluster, those in pods too."""
    found: list[int] = []
    for file in _PROCESSES.glob("**/cgroup.procs"):
        with suppress(OSError):  # The cgroup goes meanwhile.
            found += [int(line) for line in file.read_text().split()]
    return found


def kill_all() -> None:
    """Kill them all, and wait until none is there.

    Raises:
      TimeoutError: some do not end.
    """

    def is_empty() -> bool:
        for pid in (left := processes()):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return not left

    wait_until(is_empty, "all processes of the cluster have ended", _KILL_S)


def remove_cgroups() -> None:
    """Remove what `make_cgroups` made and what was made below it; no process may be there."""
    for hierarchy in _hierarchies():
        for directory, _, _ in os.walk(hierarchy / CGROUP, topdown=False):
            os.rmdir(directory)


def left_cgroups() -> list[str]:
    return [str(one / CGROUP) for one in _hierarchies() if (one / CGROUP).exists()]


def _hierarchies() -> list[Path]:
    return [path for path in _HIERARCHIES.iterdir() if path.is_dir() and not path.is_symlink()]


class Machine:
    """One of them, held by a process that sleeps.

    Args:
      directory: for its files.
    """

    def __init__(self, directory: Path) -> None:
        self.directory, self.name = directory, directory.name
        self._holder = Daemon(directory, "machine")

    def start(self) -> None:
        """Make it: no interface is in it but a loopback one."""
        for name in ("log", "lib", "lib.work"):
            (self.directory / name).mkdir(parents=True)
        for name in _SYSCTLS:
            file = self.directory / "sysctl" / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text((Path("/proc/sys") / name).read_text())
        unshare = ["unshare", "--mount", "--net", "--propagation", "private"]
        set_up = ["sh", "-c", _SET_UP, "sh", str(self.directory), *_SYSCTLS]
        self._holder.start([*in_cgroup(), *unshare, *set_up], packages.environment())

        def is_ready() -> bool:
            if not self._holder.is_running():
                raise RuntimeError(f"{self.name} has ended:\n{self._holder.end_of_log()}")
            return (self.directory / "ready").exists()

        wait_until(is_ready, f"{self.name} is there", _START_S)

    @property
    def pid(self) -> int:
        """Of the process that holds it."""
        return self._holder.pid

    @property
    def enter(self) -> tuple[str, ...]:
        """The command that runs what follows there, as one of the cluster's processes."""
        nsenter = ("nsenter", "--target", str(self.pid), "--mount", "--net", "--")
        return (*in_cgroup(), *nsenter)

    def run(self, *command: str | Path) -> str:
        """Run a command there; returns what it prints.

        Raises:
          RuntimeError: it failed; the message is what it said.
        """
        ended = subprocess.run(
            [*self.enter, *command],
            env=packages.environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
        )
        if ended.returncode != 0:
            raise RuntimeError(f"{self.name}: {' '.join(map(str, command))}: {ended.stderr}")
        return ended.stdout

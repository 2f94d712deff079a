"""Nothing of a cluster is left, however it ended; this comes before the tests that bring one up."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cluster import cluster as clusters
from tests.cluster.machines import processes
from tests.cluster.processes import wait_until

pytestmark = pytest.mark.kubernetes
SYSCTLS = ["vm/overcommit_memory", "vm/panic_on_oom", "kernel/panic", "kernel/panic_on_oops"]


def of_this_machine() -> dict[str, object]:
    """What nobody but its owner may change, and where leftovers would be."""
    mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    command = ["ip", "-oneline", "link"]
    links = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    cgroups = {str(path) for path in Path("/sys/fs/cgroup").glob("*/*") if path.is_dir()}
    names = ("/run/netns", "/run/containerd", "/var/lib/kubelet", "/var/lib/cni", "/var/log/pods")
    places = [Path(name) for name in names]
    return {
        "mounts": sorted(line.split()[4] for line in mounts),
        "links": sorted(line.split(":")[1] for line in links.splitlines()),
        "routes": Path("/proc/net/route").read_text(),
        "sysctls": {name: (Path("/proc/sys") / name).read_text() for name in SYSCTLS},
        "cgroups": {one for one in cgroups if "kube" in one or "k8s" in one or "elasticdl" in one},
        "places": {str(one): one.exists() and os.listdir(one) for one in places},
    }


@pytest.mark.parametrize("reached", ["plane/etcd", "node-0/containerd", "node-1/kubelet"])
def test_who_brings_it_up_is_killed_and_down_leaves_nothing(reached: str) -> None:
    if reason := clusters.why_not():
        pytest.skip(reason)
    if clusters.is_up():
        pytest.skip("a cluster is up, which is not taken down for this")
    clusters.down()
    before = of_this_machine()
    process = subprocess.Popen([sys.executable, "-m", "tests.cluster", "up"])
    try:
        file = clusters.STATE / f"{reached}.json"
        wait_until(file.exists, f"{reached} is started", 60)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert processes(), "nothing of it was there"
    assert not clusters.is_up() or reached == "node-1/kubelet"
    clusters.down()
    assert clusters.left() == []
    assert of_this_machine() == before

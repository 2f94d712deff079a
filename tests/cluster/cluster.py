"""A whole cluster: brought up, found by any process, and taken down."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.cluster import kubernetes, machines, network, packages
from tests.cluster.api import SUBMITTER, Api, Namespace, write_kubeconfig
from tests.cluster.control_plane import ControlPlane, Place
from tests.cluster.forward import forward
from tests.cluster.images import write_images
from tests.cluster.machines import Machine
from tests.cluster.node import Node, machine_memory
from tests.cluster.processes import wait_until

STATE = Path("/var/tmp/elasticdl-test-cluster")
MOST_NODES = 2
_CONTROL_CPUS = 0.5
_CONTROL_BYTES = 2 << 30
_READY_S = 120
_ACCOUNT_S = 30


class Cluster:
    """The cluster of this machine, that `up` has brought up.

    Attributes:
      plane: etcd, apiserver, controllers and scheduler; each may be killed and started again.
      nodes: with their kubelets, which may be killed and started again.
      api: how an administrator calls the apiserver.
    """

    def __init__(self) -> None:
        known = json.loads((STATE / "cluster.json").read_text())
        self.control = Machine(STATE / "control")
        self.plane = ControlPlane(STATE / "plane", _place(self.control))
        self.nodes = [Node(STATE / f"node-{i}", i) for i in range(known["nodes"])]
        self.api: Api = self.plane.api(known["server"])
        self.admin = Path(known["admin"])

    def new_namespace(self) -> Namespace:
        """Make a namespace with the two Roles, in which pods can be made at once."""
        made = self.api.new_namespace(STATE / "plane", self.plane.token(SUBMITTER))

        def has_tokens() -> bool:
            accounts = self.api.call("GET", f"/api/v1/namespaces/{made.name}/serviceaccounts")
            return len([one for one in accounts["items"] if one.get("secrets")]) >= 2

        wait_until(has_tokens, f"the service accounts of {made.name}", _ACCOUNT_S)
        return made

    def restart_apiserver(self) -> None:
        self.plane.apiserver.kill()
        self.start_apiserver()

    def start_apiserver(self) -> None:
        self.plane.apiserver.start_again()
        self.plane.wait_until_ready(self.api)

    def reachable(self, port: int) -> str:
        """Make a port of this machine's loopback interface reachable; returns its address there."""
        address = f"{network.CONTROL}:{port}"
        return forward(
            STATE / "control", address, f"127.0.0.1:{port}", into=self.control, from_outside=False
        )

    def add_registry(self, port: int) -> None:
        """Have the nodes pull images of `127.0.0.1:PORT` from this machine's registry there."""
        url = f"http://{self.reachable(port)}"
        for node in self.nodes:
            node.add_registry(f"127.0.0.1:{port}", url)

    def cut(self, node: Node) -> None:
        """Take a node off the network; what runs there runs on."""
        network.cut(self.control, node.name)

    def mend(self, node: Node) -> None:
        network.mend(self.control, node.name)

    def ready_nodes(self) -> list[str]:
        """The nodes on which pods may be placed."""
        nodes = self.api.call("GET", "/api/v1/nodes")["items"]
        return sorted(one["metadata"]["name"] for one in nodes if _is_ready(one))

    def wait_for_nodes(self) -> None:
        def are_ready() -> bool:
            for node in self.nodes:
                node.check()
            return len(self.ready_nodes()) == len(self.nodes)

        wait_until(are_ready, "the nodes are ready", _READY_S)


def why_not() -> str:
    """Why there can be no cluster here; empty: there can."""
    try:
        machines.check_machine()
        packages.check_release()
        kubernetes.check_built()
    except packages.NotHere as reason:
        return str(reason)
    return ""


def is_up() -> bool:
    """Whether a cluster was brought up, and not down again, and answers."""
    try:
        return Cluster().api.is_ready()
    except (OSError, ValueError):
        return False


def up(
    nodes: int = MOST_NODES,
    cpus: float | None = None,
    memory_bytes: int | None = None,
    show: Callable[[str], None] = lambda _: None,
    cores: Sequence[int] = (),
) -> Cluster:
    """Bring up a cluster.

    Args:
      nodes: how many, at most `MOST_NODES`.
      cpus: what pods may request on each of them; by default all together are the machine's
        cores, less half a core for the control plane.
      memory_bytes: the same of memory, by default less 2 GiB.
      show: called with what is being done.
      cores: the one that each node's pods have; by default all have all.

    Raises:
      NotHere: it cannot be here.
      RuntimeError: there is one already, or a part of it ended.
      TimeoutError: a part of it is not ready in time.
    """
    if reason := why_not():
        raise packages.NotHere(reason)
    cpus = ((os.cpu_count() or 1) - _CONTROL_CPUS) / nodes if cpus is None else cpus
    memory = (machine_memory() - _CONTROL_BYTES) // nodes if memory_bytes is None else memory_bytes
    with packages.lock("cluster"):
        if is_up():
            raise RuntimeError("there is a cluster already: python -m tests.cluster down")
        _take_down()
        try:
            return _bring_up(nodes, cpus, memory, cores, show)
        except BaseException:
            _keep_logs()
            _take_down()
            raise


def down() -> None:
    """Take the cluster down, whatever is left of it, and leave nothing."""
    with packages.lock("cluster"):
        _take_down()


def left() -> list[str]:
    """What of a cluster is on this machine."""
    found = [f"process {pid}" for pid in machines.processes()]
    found += machines.left_cgroups() + _mounts()
    return found + ([str(STATE)] if STATE.exists() else [])


def _bring_up(
    num_nodes: int,
    cpus: float,
    memory: int,
    cores: Sequence[int],
    show: Callable[[str], None],
) -> Cluster:
    STATE.mkdir(mode=0o700)
    names = [f"node-{index}" for index in range(num_nodes)]
    machines.make_cgroups(names, cores)
    show("etcd and apiserver")
    control = Machine(STATE / "control")
    control.start()
    network.make_bridge(control)
    plane = ControlPlane(STATE / "plane", _place(control))
    plane.write_secrets()
    plane.start_etcd()
    plane.start_apiserver()
    server = "https://" + forward(
        STATE / "control",
        "127.0.0.1:0",
        f"{network.CONTROL}:{plane.place.port}",
        into=control,
        from_outside=True,
    )
    archives = write_images(STATE)

    def prepare(index: int) -> Node:
        node = Node(STATE / names[index], index)
        node.machine.start()
        network.connect(control, node.machine, index)
        node.start_containerd()
        for archive in archives:
            node.ctr("images", "import", archive)
        return node

    with ThreadPoolExecutor(num_nodes) as pool:
        prepared = [pool.submit(prepare, index) for index in range(num_nodes)]
        api = plane.api(server)
        plane.wait_until_ready(api)
        plane.start_controllers()
        show("nodes")
        nodes = [one.result() for one in prepared]
    for node in nodes:
        node.start_kubelet(plane, cpus, memory)
    admin = write_kubeconfig(STATE / "kubeconfig", server, plane.authority, plane.token("admin"))
    known = {"nodes": num_nodes, "server": server, "admin": str(admin)}
    (STATE / "cluster.json").write_text(json.dumps(known))
    cluster = Cluster()
    cluster.wait_for_nodes()
    return cluster


def _take_down() -> None:
    machines.kill_all()
    machines.remove_cgroups()
    if mounts := _mounts():
        raise RuntimeError(f"mounted still, not removed: {', '.join(mounts)}")
    if STATE.exists():
        shutil.rmtree(STATE)


def _keep_logs() -> None:
    """Keep the logs of a cluster that did not come up, in the cache."""
    kept = packages.CACHE / "failed-logs"
    shutil.rmtree(kept, ignore_errors=True)
    for log in STATE.glob("*/*.log"):
        (kept / log.parent.name).mkdir(parents=True, exist_ok=True)
        shutil.copy(log, kept / log.parent.name)


def _mounts() -> list[str]:
    places = (line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines())
    return [place for place in places if place.startswith(f"{STATE}/")]


def _place(control: Machine) -> Place:
    return Place(address=network.CONTROL, enter=control.enter)


def _is_ready(node: dict) -> bool:
    conditions = {one["type"]: one["status"] for one in node["status"].get("conditions") or ()}
    return conditions.get("Ready") == "True" and not node["spec"].get("taints")

"""The network of the cluster: a bridge in the control plane's machine, and a link to each node.

Nothing outside can be reached from it, but for what `forward` lets in and out.
"""

from __future__ import annotations

from tests.cluster.machines import Machine

CONTROL = "10.90.0.1"
PODS = "10.244.0.0/16"
_LENGTH = 24


def node_address(index: int) -> str:
    return f"10.90.0.{10 + index}"


def pods_of(index: int) -> str:
    """The addresses that a node gives to pods."""
    return f"10.244.{index}.0/24"


def make_bridge(control: Machine) -> None:
    control.run("ip", "link", "add", "br0", "type", "bridge")
    control.run("ip", "address", "add", f"{CONTROL}/{_LENGTH}", "dev", "br0")
    control.run("ip", "link", "set", "br0", "up")
    control.run("ip", "route", "add", "unreachable", "default")
    control.run("sh", "-c", "echo 1 >/proc/sys/net/ipv4/ip_forward")


def connect(control: Machine, node: Machine, index: int) -> None:
    """Link a node with the bridge; all that is not on the node goes there."""
    veth = ("type", "veth", "peer", "name", "eth0", "netns", str(node.pid))
    control.run("ip", "link", "add", node.name, *veth)
    control.run("ip", "link", "set", node.name, "master", "br0", "up")
    control.run("ip", "route", "add", pods_of(index), "via", node_address(index))
    node.run("ip", "address", "add", f"{node_address(index)}/{_LENGTH}", "dev", "eth0")
    node.run("ip", "link", "set", "eth0", "up")
    node.run("ip", "route", "add", "default", "via", CONTROL)
    node.run("sh", "-c", "echo 1 >/proc/sys/net/ipv4/ip_forward")


def cut(control: Machine, node: str) -> None:
    """Take a node off the network, as if its power failed."""
    control.run("ip", "link", "set", node, "down")


def mend(control: Machine, node: str) -> None:
    control.run("ip", "link", "set", node, "up")

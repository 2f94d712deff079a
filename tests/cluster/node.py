"""A node: containerd, kubelet and kube-proxy in a machine of their own."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from tests.cluster import packages
from tests.cluster.control_plane import ControlPlane
from tests.cluster.images import PAUSE
from tests.cluster.machines import CGROUP, Machine
from tests.cluster.network import PODS, node_address, pods_of
from tests.cluster.processes import Daemon, wait_until

_SOCKET = "/run/containerd/containerd.sock"
_START_S = 60


class Node:
    """One node.

    Args:
      directory: for its files; its name is the node's.
      index: which one.
    """

    def __init__(self, directory: Path, index: int) -> None:
        self.directory, self.index, self.name = directory, index, directory.name
        self.machine = Machine(directory)
        self.containerd = Daemon(directory, "containerd")
        self.kubelet = Daemon(directory, "kubelet")
        self.proxy = Daemon(directory, "kube-proxy")

    def start_containerd(self) -> None:
        registries = self.directory / "registries"
        registries.mkdir()
        network = self.directory / "network"
        network.mkdir()
        (network / "pods.conflist").write_text(json.dumps(self._pod_network(), indent=1))
        config = self.directory / "containerd.toml"
        config.write_text(
            _CONTAINERD.format(
                directory=self.directory,
                pause=PAUSE,
                plugins=packages.ROOT / "usr/lib/cni",
                socket=_SOCKET,
            )
        )
        self._choose_iptables()
        self._start(self.containerd, "containerd", f"--config={config}")

        def is_ready() -> bool:
            self.check(self.containerd)
            try:
                self.ctr("version")
            except RuntimeError:
                return False
            return True

        wait_until(is_ready, f"containerd of {self.name} answers", _START_S)

    def start_kubelet(self, plane: ControlPlane, cpus: float, memory_bytes: int) -> None:
        """Start kubelet and kube-proxy.

        Args:
          cpus: what of the machine's cores pods may request.
          memory_bytes: what of its memory they may request.
        """
        config = self.directory / "kubelet.config"
        config.write_text(json.dumps(self._kubelet_config(cpus, memory_bytes), indent=1))
        files = self.directory / "kubelet"
        self._start(
            self.kubelet,
            "kubelet",
            f"--config={config}",
            f"--kubeconfig={plane.kubeconfig(f'system:node:{self.name}')}",
            f"--hostname-override={self.name}",
            f"--node-ip={node_address(self.index)}",
            f"--root-dir={files}",
            f"--cert-dir={files}/certificates",
            "--container-runtime=remote",
            f"--container-runtime-endpoint=unix://{_SOCKET}",
        )
        self._start(
            self.proxy,
            "kube-proxy",
            f"--kubeconfig={plane.kubeconfig('system:kube-proxy')}",
            f"--hostname-override={self.name}",
            "--proxy-mode=iptables",
            f"--cluster-cidr={PODS}",
            "--conntrack-max-per-core=0",
            "--conntrack-min=0",
            "--conntrack-tcp-timeout-established=0",
            "--conntrack-tcp-timeout-close-wait=0",
        )

    def check(self, *daemons: Daemon) -> None:
        """Raises:
        RuntimeError: one of these has ended; the message is the end of its log.
        """
        for daemon in daemons or (self.containerd, self.kubelet, self.proxy):
            if not daemon.is_running():
                said = daemon.end_of_log()
                raise RuntimeError(f"{daemon.name} of {self.name} has ended:\n{said}")

    def ctr(self, *arguments: str | Path) -> str:
        """Ask containerd."""
        command = ("ctr", f"--address={_SOCKET}", "--namespace=k8s.io")
        return self.machine.run(*command, *arguments)

    def add_registry(self, name: str, url: str) -> None:
        """Have images of a registry pulled from another address, without TLS.

        Args:
          name: as images have it, `host:port`.
          url: where the node finds it.
        """
        directory = self.directory / "registries" / name
        directory.mkdir(exist_ok=True)
        (directory / "hosts.toml").write_text(
            f'server = "{url}"\n[host."{url}"]\n  capabilities = ["pull", "resolve"]\n'
        )

    def _start(self, daemon: Daemon, *command: str) -> None:
        daemon.start([*self.machine.enter, *command], self._environment())

    def _environment(self) -> dict[str, str]:
        environment = packages.environment()
        return {**environment, "PATH": f"{self.directory}/bin:{environment['PATH']}"}

    def _choose_iptables(self) -> None:
        """Have `iptables` be the one of two that this kernel can do."""
        programs = self.directory / "bin"
        programs.mkdir()
        for kind in ("nft", "legacy"):
            try:
                self.machine.run(f"xtables-{kind}-multi", "iptables", "-t", "nat", "-S")
            except RuntimeError as error:
                failed = error
                continue
            target = packages.ROOT / f"usr/sbin/xtables-{kind}-multi"
            for name in ("iptables", "ip6tables"):
                for what in ("", "-save", "-restore"):
                    os.symlink(target, programs / f"{name}{what}")
            return
        raise failed

    def _pod_network(self) -> dict[str, Any]:
        # Not a bridge: pods of one node would answer each other past the rules of a Service.
        addresses = {
            "type": "host-local",
            "ranges": [[{"subnet": pods_of(self.index)}]],
            "routes": [{"dst": "0.0.0.0/0"}],
            "dataDir": str(self.directory / "addresses"),
        }
        plugins = [{"type": "ptp", "ipMasq": False, "ipam": addresses}, {"type": "portmap"}]
        plugins[1]["capabilities"] = {"portMappings": True}
        return {"cniVersion": "0.4.0", "name": "pods", "plugins": plugins}

    def _kubelet_config(self, cpus: float, memory_bytes: int) -> dict[str, Any]:
        reserved_cpus = max(0.0, (os.cpu_count() or 1) - cpus)
        reserved_memory = max(0, machine_memory() - memory_bytes)
        return {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            # Nobody but the cluster reaches it.
            "authentication": {"anonymous": {"enabled": True}, "webhook": {"enabled": False}},
            "authorization": {"mode": "AlwaysAllow"},
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": f"/{CGROUP}/{self.name}",
            "kubeReserved": {"cpu": f"{reserved_cpus * 1000:.0f}m", "memory": str(reserved_memory)},
            "enforceNodeAllocatable": ["pods"],
            "evictionHard": {
                "memory.available": "64Mi",
                "nodefs.available": "1%",
                "imagefs.available": "1%",
            },
            "imageGCHighThresholdPercent": 100,
            "evictionPressureTransitionPeriod": "5s",
            # Nobody answers there, which is known at once; with none, each pod is warned of that.
            "clusterDNS": ["10.97.0.10"],
            "oomScoreAdj": 0,
            "failSwapOn": False,
            "resolvConf": "",
            "readOnlyPort": 0,
            "serializeImagePulls": False,
            "featureGates": {"DevicePlugins": False},  # Their directory is the whole machine's.
            "volumePluginDir": str(self.directory / "plugins"),
        }


def machine_memory() -> int:
    """The memory of this machine, in bytes."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


_CONTAINERD = """
version = 2
root = "{directory}/containerd"
state = "/run/containerd"
oom_score = 0
disabled_plugins = [
  "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs",
]
[grpc]
  address = "{socket}"
[plugins."io.containerd.internal.v1.opt"]
  path = "{directory}/opt"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{pause}"
  restrict_oom_score_adj = true
  disable_apparmor = true
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    default_runtime_name = "runc"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        SystemdCgroup = false
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{plugins}"
    conf_dir = "{directory}/network"
  [plugins."io.containerd.grpc.v1.cri".registry]
    config_path = "{directory}/registries"
"""

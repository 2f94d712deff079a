"""Builds Kubernetes 1.20 from Debian's source package, once: no package has its servers."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from tests.cluster import packages
from tests.cluster.packages import CACHE, NotHere

VERSION = "v1.20.2"
BINARIES = ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy")
BIN = CACHE / "bin"
"""Where they lie, with the `pause` of all pods."""
_BUILD_S = 3600
_PAUSE = """package main

import (
	"os"
	"os/signal"
	"syscall"
)

// The first process of a pod: holds its namespaces, reaps, and ends when it is told to.
func main() {
	signals := make(chan os.Signal, 16)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGCHLD)
	for one := range signals {
		if one != syscall.SIGCHLD {
			os.Exit(0)
		}
		for pid := 1; pid > 0; {
			pid, _ = syscall.Wait4(-1, nil, syscall.WNOHANG, nil)
		}
	}
}
"""


def is_built() -> bool:
    """Whether all that the cluster runs is in the cache."""
    return all((BIN / name).exists() for name in (*BINARIES, "pause", f"built-{VERSION}"))


def check_built() -> None:
    """Raises:
    NotHere: `python -m tests.cluster build` has to be run first.
    """
    if not is_built():
        raise NotHere("Kubernetes is not built: python -m tests.cluster build (about 10 minutes)")


def build() -> None:
    """Have everything in the cache that the cluster needs: about 10 minutes the first time.

    Raises:
      NotHere: not on this system.
      subprocess.CalledProcessError: it could not be fetched or built; `build.log` says more.
    """
    packages.check_release()
    packages.unpack(*packages.CLUSTER)
    with packages.lock("build"):
        if is_built():
            return
        if shutil.which("make") is None:
            raise NotHere("no make here: apt-get install make")
        packages.unpack(*packages.BUILD)
        directory = CACHE / "build"
        directory.mkdir(exist_ok=True)
        BIN.mkdir(exist_ok=True)
        environment = _go_environment(directory)
        _build_pause(directory, environment)
        _build_kubernetes(directory / "tree", environment)
        (BIN / f"built-{VERSION}").touch()
        shutil.rmtree(directory)  # 3 GB.


def _go_environment(directory: Path) -> dict[str, str]:
    environment = packages.environment()
    go = packages.ROOT / "usr/lib/go-1.19/bin"
    return {
        **environment,
        "PATH": f"{go}:{environment['PATH']}",
        "CGO_ENABLED": "0",
        "GOPROXY": "off",
        "HOME": str(directory),
        "GOCACHE": str(directory / "go-cache"),
    }


def _build_pause(directory: Path, environment: dict[str, str]) -> None:
    source = directory / "pause.go"
    source.write_text(_PAUSE)
    command = ["go", "build", "-ldflags=-s -w", "-o", BIN / "pause", source]
    subprocess.run(command, env={**environment, "GO111MODULE": "off"}, check=True)


def _build_kubernetes(directory: Path, environment: dict[str, str]) -> None:
    # A build that was stopped half-way goes on from the compiler's cache.
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir()
    tree = packages.source("kubernetes", directory)
    version = directory / "version"
    version.write_text(
        f"KUBE_GIT_VERSION='{VERSION}'\nKUBE_GIT_MAJOR='1'\nKUBE_GIT_MINOR='20'\n"
        "KUBE_GIT_COMMIT='debian'\nKUBE_GIT_TREE_STATE='archive'\n"
    )
    gopath = tree / ".go"
    (gopath / "src/k8s.io").mkdir(parents=True)
    os.symlink("../../..", gopath / "src/k8s.io/kubernetes")
    what = " ".join(f"cmd/{name}" for name in BINARIES)
    environment = {
        **environment,
        "GOPATH": str(gopath),
        "KUBE_GIT_VERSION_FILE": str(version),
    }
    with (CACHE / "build.log").open("w") as log:
        subprocess.run(
            ["make", f"WHAT={what}"],
            cwd=tree,
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
            timeout=_BUILD_S,
            check=True,
        )
    for name in BINARIES:
        shutil.move((tree / "_output/bin" / name).resolve(), BIN / name)

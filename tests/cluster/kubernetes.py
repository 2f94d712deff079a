"""Builds Kubernetes 1.20 from Debian's source package, once: no package has its servers."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path

from tests.cluster import packages
from tests.cluster.packages import CACHE, NotHere

VERSION = "v1.20.2"
BINARIES = ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy")
BIN = CACHE / "bin"
"""Where they lie, with the `pause` of all pods."""
_BUILD_S = 3600
_SHOW_S = 60.0
_MINUTES = {"all": 10, "apiserver": 5}
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


class Part(StrEnum):
    """How much of it is built."""

    ALL = "all"
    APISERVER = "apiserver"
    """etcd and kube-apiserver: what tests need that have no nodes."""

    @property
    def command(self) -> str:
        """What builds it."""
        only = "" if self is Part.ALL else f" --only={self}"
        return f"python -m tests.cluster build{only}"

    @property
    def programs(self) -> tuple[str, ...]:
        """Those that are built for it."""
        return ("kube-apiserver",) if self is Part.APISERVER else (*BINARIES, "pause")


def is_built(part: Part = Part.ALL) -> bool:
    """Whether that part of it is in the cache."""
    marks = {_mark(part), _mark(Part.ALL)}
    return any(mark.exists() for mark in marks) and all(
        (BIN / name).exists() for name in part.programs
    )


def check_built(part: Part = Part.ALL) -> None:
    """Raises:
    NotHere: `python -m tests.cluster build` has to be run first.
    """
    if not is_built(part):
        what = "Kubernetes" if part is Part.ALL else "kube-apiserver"
        raise NotHere(f"{what} is not built: {part.command} (about {_MINUTES[part]} minutes)")


def build(part: Part = Part.ALL, show: Callable[[str], None] = print) -> None:
    """Have everything in the cache that the cluster, or that part of it, needs.

    About 10 minutes the first time, about 5 for the apiserver alone; what is there is not made
    again.

    Args:
      part: of what is to be there.
      show: told what begins.

    Raises:
      NotHere: not on this system.
      subprocess.SubprocessError: it could not be fetched.
      RuntimeError: it could not be built.
    """
    packages.check_release()
    show("Debian's packages to run it with")
    packages.unpack(*(packages.CLUSTER if part is Part.ALL else packages.APISERVER))
    with packages.lock("build"):
        if is_built(part):
            return
        if shutil.which("make") is None:
            raise NotHere("no make here: apt-get install make")
        show("Debian's packages to build it with")
        packages.unpack(*packages.BUILD)
        directory = CACHE / "build"
        directory.mkdir(exist_ok=True)
        BIN.mkdir(exist_ok=True)
        environment = _go_environment(directory)
        there = Part.APISERVER.programs if is_built(Part.APISERVER) else ()
        names = [name for name in part.programs if name not in there]
        if "pause" in names:
            names.remove("pause")
            _build_pause(directory, environment)
        _build_kubernetes(directory / "tree", names, environment, show)
        _mark(part).touch()
        shutil.rmtree(directory)  # 3 GB.


def _mark(part: Part) -> Path:
    """Return the file that is there once all of a part is."""
    of = "" if part is Part.ALL else f"-{part}"
    return BIN / f"built{of}-{VERSION}"


def _go_environment(directory: Path) -> dict[str, str]:
    environment = packages.environment()
    go = packages.ROOT / "usr/lib/go-1.19/bin"
    cache = directory / "go-cache"
    cache.mkdir(exist_ok=True)
    return {
        **environment,
        "PATH": f"{go}:{environment['PATH']}",
        "CGO_ENABLED": "0",
        "GOPROXY": "off",
        "HOME": str(directory),
        "GOCACHE": str(cache),
    }


def _build_pause(directory: Path, environment: dict[str, str]) -> None:
    source = directory / "pause.go"
    source.write_text(_PAUSE)
    command = ["go", "build", "-ldflags=-s -w", "-o", BIN / "pause", source]
    subprocess.run(command, env={**environment, "GO111MODULE": "off"}, check=True)


def _build_kubernetes(
    directory: Path, names: list[str], environment: dict[str, str], show: Callable[[str], None]
) -> None:
    # A build that was stopped half-way goes on from the compiler's cache.
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir()
    show("Debian's source of Kubernetes")
    tree = packages.source("kubernetes", directory)
    version = directory / "version"
    version.write_text(
        f"KUBE_GIT_VERSION='{VERSION}'\nKUBE_GIT_MAJOR='1'\nKUBE_GIT_MINOR='20'\n"
        "KUBE_GIT_COMMIT='debian'\nKUBE_GIT_TREE_STATE='archive'\n"
    )
    gopath = tree / ".go"
    (gopath / "src/k8s.io").mkdir(parents=True)
    os.symlink("../../..", gopath / "src/k8s.io/kubernetes")
    # Its scripts have the compiler's cache here.
    output = tree / "_output/local/go"
    output.mkdir(parents=True)
    os.symlink(environment["GOCACHE"], output / "cache")
    environment = {
        **environment,
        "GOPATH": str(gopath),
        "KUBE_GIT_VERSION_FILE": str(version),
    }
    show(f"building {', '.join(names)}")
    _make(tree, " ".join(f"cmd/{name}" for name in names), environment, show)
    for name in names:
        shutil.move((tree / "_output/bin" / name).resolve(), BIN / name)


def _make(tree: Path, what: str, environment: dict[str, str], show: Callable[[str], None]) -> None:
    """Run make, and show now and then that it does."""
    path = CACHE / "build.log"
    ends = time.monotonic() + _BUILD_S
    with (
        path.open("w") as log,
        subprocess.Popen(
            ["make", f"WHAT={what}"],
            cwd=tree,
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
        ) as make,
    ):
        while time.monotonic() < ends:
            try:
                make.wait(_SHOW_S)
                break
            except subprocess.TimeoutExpired:
                show("building")
        else:
            make.kill()
    if make.returncode != 0:
        last = path.read_text().splitlines()[-1:] or ["nothing was printed"]
        raise RuntimeError(f"make ended with {make.returncode}; the end of {path}: {last[0]}")

"""Small images that the cluster's own pods are made of, written without a Docker engine."""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.cluster import packages
from tests.cluster.kubernetes import BIN

PAUSE = "elasticdl.test/pause:1"
BUSYBOX = "elasticdl.test/busybox:1"
"""A shell and the usual small programs; on every node from the start."""
_PROGRAMS = [
    *("sh", "sleep", "cat", "echo", "true", "false", "tail", "head", "dd", "seq", "date", "ps"),
    *("wget", "nc", "httpd", "kill", "ls", "id", "env", "yes", "mkdir", "touch", "ip", "df"),
]
_EPOCH = "1970-01-01T00:00:00Z"


def write_images(directory: Path) -> list[Path]:
    """Write the images as archives that `ctr images import` reads."""
    pause, busybox = directory / "pause.tar", directory / "busybox.tar"
    _write(pause, PAUSE, {"pause": BIN / "pause"}, {}, ["/pause"])
    programs = {f"bin/{name}": "busybox" for name in _PROGRAMS}
    files = {"bin/busybox": packages.ROOT / "bin/busybox"}
    _write(busybox, BUSYBOX, files, programs, ["/bin/sh"])
    return [pause, busybox]


def _write(
    path: Path,
    name: str,
    files: Mapping[str, Path],
    links: Mapping[str, str],
    entry_point: Sequence[str],
) -> None:
    """Write an image of one layer: programs, links to them, and a directory for anybody."""
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as tar:
        for target, source in files.items():
            entry = tarfile.TarInfo(target)
            content = source.read_bytes()
            entry.size, entry.mode = len(content), 0o755
            tar.addfile(entry, io.BytesIO(content))
        for target, linked in links.items():
            entry = tarfile.TarInfo(target)
            entry.type, entry.linkname = tarfile.SYMTYPE, linked
            tar.addfile(entry)
        entry = tarfile.TarInfo("tmp")
        entry.type, entry.mode = tarfile.DIRTYPE, 0o1777
        tar.addfile(entry)
    digest = hashlib.sha256(layer.getvalue()).hexdigest()
    config = {
        "architecture": _architecture(),
        "os": "linux",
        "created": _EPOCH,
        "config": {"Entrypoint": list(entry_point), "Env": ["PATH=/bin"]},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}"]},
        "history": [{"created": _EPOCH}],
    }
    manifest = [{"Config": "config.json", "RepoTags": [name], "Layers": ["layer.tar"]}]
    with tarfile.open(path, "w") as tar:
        for target, content in (
            ("layer.tar", layer.getvalue()),
            ("config.json", json.dumps(config).encode()),
            ("manifest.json", json.dumps(manifest).encode()),
        ):
            entry = tarfile.TarInfo(target)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))


def _architecture() -> str:
    machine = os.uname().machine
    return {"x86_64": "amd64", "aarch64": "arm64"}.get(machine, machine)

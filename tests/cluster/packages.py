"""Debian's packages that the cluster is made of, unpacked into a cache: nothing is installed.

Installed, some would start services, and containerd would take the place of a Docker engine's own.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "elasticdl-test-cluster"
ROOT = CACHE / "root"
"""Where packages lie as they would below `/`."""
RELEASE = "bookworm"
_MIRROR = "http://deb.debian.org/debian"
_KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
_APT = CACHE / "apt"

APISERVER = ["etcd-server"]
CLUSTER = [
    *(*APISERVER, "containerd", "runc", "containernetworking-plugins", "busybox-static"),
    *("iptables", "libip4tc2", "libip6tc2", "libxtables12", "libmnl0", "libnfnetlink0"),
    *("libnetfilter-conntrack3", "libnftnl11", "libseccomp2"),
]
BUILD = ["golang-1.19-go", "golang-1.19-src", "rsync", "libpopt0", "jq", "libjq1", "libonig5"]


class NotHere(Exception):
    """This machine cannot have the cluster; the message says why."""


def check_release() -> None:
    """Raises:
    NotHere: this is not the release that the packages are of.
    """
    try:
        release = Path("/etc/os-release").read_text()
    except OSError:
        release = ""
    if f"VERSION_CODENAME={RELEASE}" not in release:
        raise NotHere(
            f"the test cluster's packages are of Debian {RELEASE}, this is another system"
        )
    missing = [name for name in ("apt-get", "dpkg-deb") if shutil.which(name) is None]
    if missing or not Path(_KEYRING).exists():
        raise NotHere(f"no {', '.join(missing) or _KEYRING} here to fetch Debian's packages with")


@contextmanager
def lock(name: str) -> Iterator[None]:
    """Hold a lock of the cache: one process at a time changes it."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / f"{name}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def unpack(*names: str) -> Path:
    """Have these packages unpacked, as named: not what they depend on. Returns `ROOT`.

    Raises:
      NotHere: not on this system.
      subprocess.CalledProcessError: they cannot be fetched.
    """
    unpacked = CACHE / "unpacked"
    with lock("packages"):
        if missing := [name for name in names if not (unpacked / name).exists()]:
            _update()
            archives = CACHE / "archives"
            shutil.rmtree(archives, ignore_errors=True)
            archives.mkdir()
            _apt_get("download", *missing, directory=archives)
            ROOT.mkdir(exist_ok=True)
            for archive in archives.iterdir():
                subprocess.run(["dpkg-deb", "--extract", archive, ROOT], check=True)
            shutil.rmtree(archives)
            unpacked.mkdir(exist_ok=True)
            for name in missing:
                (unpacked / name).touch()
    return ROOT


def source(name: str, directory: Path) -> Path:
    """Fetch a source package into a directory; returns where its tree is."""
    if shutil.which("dpkg-source") is None:
        raise NotHere("no dpkg-source here: apt-get install dpkg-dev")
    with lock("packages"):
        _update()
    _apt_get("source", "--only-source", name, directory=directory)
    return next(path for path in directory.iterdir() if path.is_dir())


def environment() -> dict[str, str]:
    """Return the environment in which unpacked programs are found, and find their libraries."""
    libraries = [str(path) for path in ROOT.glob("usr/lib/*-linux-gnu*")]
    programs = [str(ROOT / part) for part in ("usr/sbin", "usr/bin", "sbin", "bin")]
    path = [str(CACHE / "bin"), *programs, os.environ.get("PATH", ""), "/usr/sbin", "/sbin"]
    return {
        "PATH": ":".join(path),
        "LD_LIBRARY_PATH": ":".join(libraries),
        "XTABLES_LIBDIR": ":".join(f"{one}/xtables" for one in libraries),
    }


def _update() -> None:
    """Read the lists of packages, of this release alone; a newer one would want another libc."""
    check_release()
    sources = _APT / "sources.list.d"
    sources.mkdir(parents=True, exist_ok=True)
    (_APT / "lists" / "partial").mkdir(parents=True, exist_ok=True)
    (sources / "debian.sources").write_text(
        f"Types: deb deb-src\nURIs: {_MIRROR}\nSuites: {RELEASE}\nComponents: main\n"
        f"Signed-By: {_KEYRING}\n"
    )
    (_APT / "apt.conf").write_text(
        f'Dir::Etc::sourceparts "{sources}";\nDir::Etc::sourcelist "/dev/null";\n'
        f'Dir::State::lists "{_APT}/lists";\nDir::Cache "{_APT}/cache";\n'
        'APT::Sandbox::User "";\n'  # Another user may not write to the cache.
    )
    (_APT / "cache" / "archives" / "partial").mkdir(parents=True, exist_ok=True)
    _apt_get("update", directory=_APT)


def _apt_get(*arguments: str, directory: Path) -> None:
    environment = {**os.environ, "APT_CONFIG": str(_APT / "apt.conf")}
    command = ["apt-get", "--quiet=2", *arguments]
    subprocess.run(command, cwd=directory, env=environment, check=True, timeout=600)

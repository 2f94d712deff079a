"""What of Kubernetes is built: all of it, or the apiserver alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cluster import kubernetes
from tests.cluster.kubernetes import VERSION, Part
from tests.cluster.packages import NotHere


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(kubernetes, "BIN", tmp_path)
    return tmp_path


def test_the_apiserver_alone_is_not_the_whole(programs: Path) -> None:
    for name in ("kube-apiserver", f"built-apiserver-{VERSION}"):
        (programs / name).touch()
    kubernetes.check_built(Part.APISERVER)
    with pytest.raises(NotHere, match=r"^Kubernetes is not built: python -m tests.cluster build "):
        kubernetes.check_built()


def test_the_whole_has_the_apiserver(programs: Path) -> None:
    for name in (*Part.ALL.programs, f"built-{VERSION}"):
        (programs / name).touch()
    kubernetes.check_built()
    kubernetes.check_built(Part.APISERVER)


@pytest.mark.parametrize("there", [["kube-apiserver"], ["built-apiserver-v1.0.0"], []])
def test_what_is_there_in_part_is_not_built(programs: Path, there: list[str]) -> None:
    for name in there:
        (programs / name).touch()
    with pytest.raises(NotHere, match="build --only=apiserver"):
        kubernetes.check_built(Part.APISERVER)

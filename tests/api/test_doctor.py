"""``elasticdl doctor``: what it finds here, and what it says of what is broken."""

from __future__ import annotations

import json
import os
import resource
import socket
import subprocess
import sys
from importlib import metadata

import pytest

from elasticdl.api import doctor
from elasticdl.api.command_line import main
from elasticdl.api.doctor import Finding, works

NEEDED = {"Python", "TensorFlow", "Keras", "cores", "memory", "open files", "loopback"}


def found(check) -> dict[str, Finding]:
    return {one.name: one for one in check()}


def test_here_local_jobs_work(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("ELASTICDL_HOME", str(tmp_path))
    assert main(["doctor", "--quick", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["works"] is True
    by_name = {one["name"]: one for one in told["findings"]}
    assert {name for name, one in by_name.items() if one["is_needed"]} >= NEEDED
    assert by_name["ELASTICDL_HOME"]["state"] == "ok"
    assert all(one["do"] for one in told["findings"] if one["state"] in ("failed", "warning"))
    assert list(tmp_path.iterdir()) == []
    assert main(["doctor", "--quick"]) == 0
    assert capsys.readouterr().out.endswith("\nlocal jobs work here\n")


def test_tensorflow_is_imported_by_another_process():
    there = found(doctor.tensorflow_works)
    assert there["TensorFlow's import"].state == "ok"
    assert there["GPU"].is_needed is False


def test_a_tensorflow_that_does_not_import_is_said_with_its_own_words(monkeypatch):
    monkeypatch.setattr(doctor, "_IMPORT", "raise ImportError('libgone.so: no such file')")
    there = found(doctor.tensorflow_works)["TensorFlow's import"]
    assert (there.state, there.found) == ("failed", "ImportError: libgone.so: no such file")
    assert sys.executable in there.do
    monkeypatch.setattr(doctor, "_IMPORT", "import time; time.sleep(60)")
    monkeypatch.setattr(doctor, "IMPORT_S", 0.5)
    assert found(doctor.tensorflow_works)["TensorFlow's import"].state == "warning"


def test_versions_that_do_not_fit_are_named_with_what_to_install(monkeypatch, capsys):
    real = metadata.version
    old = {"keras": "2.15.0", "numpy": "1.26.4"}
    monkeypatch.setattr(metadata, "version", lambda name: old.get(name) or real(name))
    there = found(doctor.versions)
    assert there["Keras"].state == there["numpy"].state == "failed"
    assert there["Keras"].found.startswith("2.15.0, which is not ")
    assert there["Keras"].do.startswith("pip install 'keras")
    assert main(["doctor", "--quick"]) == 1
    assert capsys.readouterr().out.endswith("\njobs do not work: Keras, numpy\n")


def test_a_directory_that_cannot_hold_jobs_is_said(monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("ELASTICDL_HOME", str(tmp_path / "file" / "home"))
    there = found(doctor.job_directory)["ELASTICDL_HOME"]
    assert there.state == "failed"
    assert "ELASTICDL_HOME" in there.do
    assert not works([there])


def test_few_files_are_a_warning():
    code = (
        "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256));"
        "from elasticdl.api.doctor import open_files; print(next(open_files()).state)"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True
    )
    assert ended.stdout == "warning\n"
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] > 0


@pytest.mark.parametrize("answers", [True, False])
def test_a_cluster_is_reached_or_not(monkeypatch, tmp_path, answers):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        if not answers:
            server.close()
        config = {
            "current-context": "here",
            "contexts": [{"name": "here", "context": {"cluster": "one"}}],
            "clusters": [{"name": "one", "cluster": {"server": f"https://127.0.0.1:{port}"}}],
        }
        (tmp_path / "config").write_text(json.dumps(config))
        monkeypatch.setenv("KUBECONFIG", str(tmp_path / "config"))
        there = found(doctor.kubernetes)["Kubernetes"]
    assert there.state == ("ok" if answers else "warning")
    assert works([there])
    (tmp_path / "config").write_text("contexts: []")
    assert "no usable current context" in found(doctor.kubernetes)["Kubernetes"].found
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    assert found(doctor.kubernetes)["Kubernetes"].state == "absent"


@pytest.mark.parametrize(
    ("code", "state"), [("echo 27.3.1", "ok"), ("echo no daemon >&2; exit 1", "warning")]
)
def test_docker_is_asked(monkeypatch, tmp_path, code, state):
    program = tmp_path / "docker"
    program.write_text(f"#!/bin/sh\n{code}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    assert found(doctor.docker)["Docker"].state == state
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    assert found(doctor.docker)["Docker"].state == "absent"


def test_credentials_are_looked_for_where_their_own_tools_put_them(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("GOOGLE_APPLICATION_CREDENTIALS", "AWS_ACCESS_KEY_ID"):
        monkeypatch.delenv(name, raising=False)
    assert {one.state for one in doctor.object_stores()} == {"absent"}
    (tmp_path / ".aws").mkdir()
    (tmp_path / ".aws" / "credentials").touch()
    assert found(doctor.object_stores)["S3"].state == "ok"


def test_the_installed_ranges_are_those_of_the_project():
    python, others, tensorflow = doctor.requirements()
    assert python == ">=3.11"
    assert {"keras", "numba", "grpcio"} <= {one.name for one in others}
    assert tensorflow.contains("2.20.0")
    assert not tensorflow.contains("2.19.0")

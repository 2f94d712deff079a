"""``elasticdl doctor``: what it finds here, and what it says of what is broken."""

from __future__ import annotations

import json
import os
import re
import resource
import socket
import subprocess
import sys
from importlib import metadata

import pytest

from elasticdl.api import doctor, doctor_data
from elasticdl.api.command_line import main
from elasticdl.api.doctor import Finding, works
from elasticdl.api.doctor_data import look_at_data
from elasticdl.data.filesystems import file_system
from tests.job.clicks_data import write_clicks

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


def test_a_slow_disk_under_the_journal_is_a_warning(monkeypatch, tmp_path):
    monkeypatch.setenv("ELASTICDL_HOME", str(tmp_path))
    monkeypatch.setattr(doctor, "SLOW_ENTRY_S", 0.0)
    there = found(doctor.job_directory)["ELASTICDL_HOME"]
    assert there.state == "warning"
    assert there.do.startswith("its disk is slow, or busy; set ELASTICDL_HOME to ")
    assert works([there]), "jobs go on, slowly"


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


def test_data_of_this_machine_are_found_and_counted(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("ELASTICDL_HOME", str(tmp_path / "home"))
    pattern = write_clicks(tmp_path / "data", 20)
    (there,) = look_at_data(pattern)
    assert (there.state, there.found) == ("ok", f"'{pattern}': 2 files, 20 records")
    wrong = f"{tmp_path}/data/*.csv"
    assert main(["doctor", "--quick", f"--data={pattern},{wrong}"]) == 1
    told = capsys.readouterr().out
    assert f"'{pattern}': 2 files, 20 records" in told
    assert re.search(rf"failed +data +'{re.escape(wrong)}': matches no file\n +do: ", told)
    assert told.endswith("\njobs do not work: data\n")


def test_a_store_that_does_not_answer_is_given_up_in_time_and_its_secrets_are_not_shown(
    monkeypatch,
):
    monkeypatch.setattr(doctor_data, "ANSWER_S", 3.0)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        options = f"endpoint_override={address}&scheme=http&region=us-east-1"
        (there,) = look_at_data(f"s3://joe:s3cret@bucket/clicks/*.recordio?{options}")
    assert there.state == "failed"
    assert there.found == f"'s3://***@bucket/clicks/*.recordio?{options}': no answer in 3 s"
    assert "endpoint" in there.do


def test_what_is_no_store_is_said_with_what_would_be():
    (there,) = look_at_data("ftp://host/clicks.csv")
    assert there.state == "failed"
    assert there.do == "give s3://BUCKET/PATH, gs://BUCKET/PATH or a local path"


def test_an_object_store_is_listed_and_read_and_says_what_is_wrong(s3):
    files, bucket = file_system(s3.root)
    for name in ("a.csv", "b.csv", "c.txt"):
        files.put(f"{bucket}/some/{name}", b"x\n1\n")
    address = s3.endpoint.removeprefix("http://")
    options = f"?endpoint_override={address}&scheme=http&region=us-east-1"
    begin = f"s3://joe:s3cret@{bucket.removeprefix('s3://')}/some"
    places = [f"{begin}/*.csv{options}", f"{begin}/c.txt{options}", f"{begin}{options}"]
    found = look_at_data(",".join([*places, f"{begin}/d.csv{options}"]))
    assert [one.state for one in found] == ["warning"] * 3 + ["failed"]
    assert "2 files, and 'a.csv' can be read" in found[0].found
    assert "1 file, and 'c.txt' can be read" in found[1].found
    assert "3 files, and 'a.csv' can be read" in found[2].found
    assert "the store answers and has no such file" in found[3].found
    assert "aws s3 cp" in found[0].do
    assert "s3cret" not in str(found)
    (gone,) = look_at_data(f"s3://joe:s3cret@gone-bucket/a/*.csv{options}")
    assert gone.state == "failed"
    assert "bucket's name" in gone.do


def test_the_installed_ranges_are_those_of_the_project():
    python, others, tensorflow = doctor.requirements()
    assert python == ">=3.11"
    assert {"keras", "numba", "grpcio"} <= {one.name for one in others}
    assert tensorflow.contains("2.20.0")
    assert not tensorflow.contains("2.19.0")

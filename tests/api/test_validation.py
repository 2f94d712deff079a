"""What is refused before anything is launched, and that nothing is written by then."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from elasticdl.api.validation import validate
from elasticdl.data.example import encode
from elasticdl.data.filesystems import file_system
from elasticdl.data.recordio import Writer
from elasticdl.errors import UsageError
from elasticdl.job_spec import JobSpec
from elasticdl.model.params import parse_params
from elasticdl.options import params_text
from elasticdl.proto import trained_model_pb2
from tests.object_stores import Store

MODULE = "UNITS = 3\nclass B: pass\ndef dataset(records): pass\n"


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current directory with a zoo, data and a trained model."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ELASTICDL_HOME", str(tmp_path / "home"))
    (tmp_path / "zoo" / "deep").mkdir(parents=True)
    (tmp_path / "zoo" / "a.py").write_text(MODULE)
    (tmp_path / "zoo" / "deep" / "one.py").write_text("class Deep: pass\n")
    (tmp_path / "zoo" / "broken.py").write_text("\nclass B(:\n")
    (tmp_path / "file").write_text("a file")
    (tmp_path / "model").mkdir()
    definition = trained_model_pb2.TrainedModel(model_def="mnist.Mnist")
    (tmp_path / "model" / "model_zoo").mkdir()
    (tmp_path / "model" / "model_zoo" / "mnist.py").write_text("class Mnist: pass\n")
    (tmp_path / "model" / "trained_model.pb").write_bytes(definition.SerializeToString())
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("years of work")
    with Writer(tmp_path / "data.recordio") as writer:
        writer.write(b"record")
    with Writer(tmp_path / "empty.recordio"):
        pass
    with Writer(tmp_path / "rows.recordio") as writer:
        writer.write(encode({"id": 1, "label": 0}))
    return tmp_path


RIGHT = {
    "train": {"model_zoo": "zoo", "model_def": "a.B", "data": "data.recordio", "output": "out"},
    "evaluate": {"trained_model": "model", "data": "*ata.recordio"},
    "predict": {"trained_model": "model", "data": "data.recordio", "output": "out.csv"},
    "check": {"model_zoo": "zoo", "model_def": "a.B", "data": "data.recordio"},
}


NOWHERE = {"s3_endpoint": "http://127.0.0.1:1"}
NO_ANSWER = r"(cannot be written: )?no answer from http://127.0.0.1:1 \(Connection refused\)$"


def files_under(place: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in place.rglob("*")}


@pytest.mark.parametrize("command", RIGHT)
def test_a_right_job_passes_and_nothing_is_written(place: Path, command: str) -> None:
    before = files_under(place)
    validate(JobSpec.resolve(command, RIGHT[command]))
    assert files_under(place) == before


@pytest.mark.parametrize(
    ("command", "options", "complaint"),
    [
        ("train", {"model_zoo": "none"}, r"model_zoo '.*none': no such directory; give"),
        ("train", {"model_zoo": "file"}, r"model_zoo '.*file': is a file, not a directory; give"),
        ("train", {"params": "units"}, r"params 'units': not of the form name=value"),
        (
            "train",
            {"model_def": "a.C"},
            r"model_def 'a.C': module 'a' \(.*/a.py\) has no 'C'; it defines 'B', 'dataset'$",
        ),
        ("check", {"model_def": "b.B"}, r"has neither b.py nor b/; it has 'a', 'broken', 'deep'$"),
        ("train", {"model_def": "deep.B"}, r"no file of '.*deep' defines 'B'; they define 'Deep'$"),
        ("train", {"model_def": "broken.B"}, r"/broken.py cannot be read: line 2: "),
        ("train", {"model_def": "broken"}, r"/broken.py cannot be read: line 2: "),
        ("train", {"input_fn": "datasets"}, r"input_fn 'a.datasets': module 'a' .*'dataset'$"),
        ("train", {"callbacks": "a.none"}, r"callbacks 'a.none': module 'a' .* has no 'none'; it"),
        ("train", {"params": "units=[1"}, r"params 'units.*': "),
        ("train", {"data": "none.recordio"}, r"data '.*none.recordio': no such file"),
        ("train", {"data": "none-*"}, r"data '.*none-\*': matches no file"),
        ("train", {"data": "empty.recordio"}, r"data '.*empty.recordio': has no records"),
        ("train", {"data": "file"}, r"file'?: "),
        ("train", {"data": ","}, r"data .*names no file"),
        ("train", {"validation_data": "none"}, r"validation_data '.*none': no such file"),
        ("train", {"data": "ftp://host/a"}, r"'ftp://host/a': no such kind of place; give"),
        ("train", {"job_dir": "s3://bucket/a"}, r"job_dir 's3://.*': a job of processes has it"),
        *(
            (
                command,
                {option: "s3://bucket/a.csv", **NOWHERE},
                rf"^{option} 's3://.*': {NO_ANSWER}",
            )
            for command, option in [
                ("train", "data"),
                ("train", "validation_data"),
                ("train", "output"),
                ("train", "warm_start"),
                ("train", "model_zoo"),
                ("predict", "trained_model"),
                ("predict", "output"),
            ]
        ),
        (
            "train",
            {"output": "model"},
            r"output '.*': holds a trained model already; .*--overwrite",
        ),
        ("train", {"output": "full"}, r"output '.*full': holds other files; give"),
        ("train", {"output": "full", "overwrite": True}, r"full': holds other files"),
        ("train", {"output": "file"}, r"output '.*file': is a file; give"),
        ("train", {"output": "file/below"}, r"output '.*below': cannot be written in '.*file'"),
        ("train", {"output": "/proc/model"}, r"output '/proc/model': cannot be written in '/proc'"),
        ("train", {"job_dir": "file"}, r"job_dir '.*file': is a file"),
        (
            "train",
            {"job_dir": "full"},
            r"job_dir '.*full': holds other files \('thesis.txt'\); give",
        ),
        ("train", {"job_dir": "file/below"}, r"job_dir '.*file/below': cannot be written"),
        ("train", {"output": "j", "job_dir": "j"}, r"output '.*j': is the job's directory as well"),
        (
            "train",
            {"output": "j/out", "job_dir": "j"},
            r"output '.*out': lies in the job's .*; give",
        ),
        ("train", {"output": "j", "job_dir": "j/job"}, r"output '.*j': the job's dir.* lies in it"),
        ("predict", {"output": "j/a.csv", "job_dir": "j"}, r"output '.*a.csv': lies in the job's"),
        (
            "predict",
            {"data": "rows.recordio", "keep_columns": "id,labl"},
            r"'labl': .*has id, label",
        ),
        ("train", {"job_dir": "/proc/job"}, r"job_dir '/proc/job.*': cannot be written"),
        ("evaluate", {"trained_model": "none"}, r"trained_model '.*none': no such directory"),
        (
            "evaluate",
            {"trained_model": "full"},
            r"trained_model '.*full': holds no trained_model.pb",
        ),
        ("train", {"warm_start": "none"}, r"warm_start '.*none': no such directory; give"),
        ("check", {"warm_start": "full"}, r"'.*full': no checkpoint and no trained model; give"),
        ("train", {"warm_start": "model"}, r"parameters '.*': cannot be read"),
        ("predict", {"output": "out.txt"}, r"output '.*out.txt': unknown suffix '.txt'; one of"),
        ("predict", {"output": "out"}, r"output '.*out': unknown suffix ''; one of"),
        ("predict", {"output": "data.recordio"}, r"output '.*': is one of the data's files"),
        ("predict", {"output": "here.csv"}, r"here.csv': exists already; .*--overwrite"),
        ("predict", {"output": "file/a.csv"}, r"output '.*a.csv': cannot be written"),
    ],
)
def test_what_cannot_work_is_one_line_and_nothing_is_written(
    place: Path, command: str, options: Mapping[str, Any], complaint: str
) -> None:
    (place / "here.csv").write_text("old")
    before = files_under(place)
    job_spec = JobSpec.resolve(command, {**RIGHT[command], **options})
    with pytest.raises(UsageError, match=complaint) as caught:
        validate(job_spec)
    assert "\n" not in str(caught.value)
    assert "job.yaml" not in str(caught.value)
    assert files_under(place) == before


def test_overwrite_lets_a_model_and_predictions_be_replaced(place: Path) -> None:
    (place / "here.csv").write_text("old")
    validate(JobSpec.resolve("train", RIGHT["train"] | {"output": "model", "overwrite": True}))
    validate(
        JobSpec.resolve("predict", RIGHT["predict"] | {"output": "here.csv", "overwrite": True})
    )


def test_a_job_of_that_name_that_exists_already_is_refused(place: Path) -> None:
    options = RIGHT["train"] | {"job_name": "mine"}
    JobSpec.resolve("train", options).save()
    with pytest.raises(UsageError, match=r"holds a job already; give another --job_name"):
        validate(JobSpec.resolve("train", options))


def test_a_new_or_empty_job_dir_beside_the_output_is_accepted(place: Path) -> None:
    (place / "empty").mkdir()
    for job_dir in ("empty", "new/below"):
        validate(JobSpec.resolve("train", RIGHT["train"] | {"job_dir": job_dir}))


def test_pods_may_have_a_new_or_empty_place_of_a_store_as_job_dir(place: Path, s3: Store) -> None:
    right = RIGHT["train"] | {"cluster": "kubernetes", "image": "i", "output": f"{s3.root}/o"}

    def validated(**options: Any) -> None:
        described = JobSpec.resolve("train", right | {"data": f"{s3.root}/x", **options})
        # As it is inside a pod, where these are.
        validate(described.model_copy(update={"model_zoo": "zoo", "data": "data.recordio"}))

    validated()
    files, root = file_system(s3.root)
    assert files.files(root) == [], "nothing is left of the trial"
    files.put(f"{root}/used/thesis.txt", b"")
    with pytest.raises(UsageError, match=r"job_dir 's3://.*/used': holds other files; give"):
        validated(job_dir=f"{s3.root}/used")
    with pytest.raises(UsageError, match="lies in the job's directory"):
        validated(job_dir=f"{s3.root}//j/", output=f"{s3.root}/j/out")
    with pytest.raises(UsageError, match=r"the job's directory '.*' lies in it"):
        validated(job_dir=f"{s3.root}/o/job")
    with pytest.raises(UsageError, match="job_dir 's3://none/j': there is no bucket 'none' at"):
        validated(job_dir="s3://none/j")


@pytest.mark.parametrize("job_dir", ["link/job", "real/job"])
def test_a_link_does_not_hide_that_the_output_lies_in_the_job_dir(
    place: Path, job_dir: str
) -> None:
    (place / "real").mkdir()
    (place / "link").symlink_to("real")
    options = RIGHT["train"] | {"job_dir": job_dir, "output": "real/job/out"}
    with pytest.raises(UsageError, match="lies in the job's directory"):
        validate(JobSpec.resolve("train", options))


def test_columns_of_the_first_record_may_be_kept_and_other_records_are_left_to_the_check(
    place: Path,
) -> None:
    for data, names in (("rows.recordio", "label,id"), ("data.recordio", "anything")):
        options = RIGHT["predict"] | {"data": data, "keep_columns": names}
        validate(JobSpec.resolve("predict", options))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_an_output_without_permission_is_refused(place: Path) -> None:
    (place / "locked").mkdir(mode=0o500)
    with pytest.raises(UsageError, match="Permission denied"):
        validate(JobSpec.resolve("train", RIGHT["train"] | {"output": "locked/out"}))


_LITERALS = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@settings(deadline=None)
@given(st.dictionaries(st.from_regex(r"\A[a-z_][a-z0-9_]{0,8}\Z"), _LITERALS, max_size=4))
def test_params_given_as_a_dict_arrive_as_they_were(params: dict[str, Any]) -> None:
    assert parse_params(params_text(params)) == params


def test_an_endpoint_is_an_address_without_keys() -> None:
    for endpoint in ("minio:9000", "http://key:secret@minio", "http://minio/path", "ftp://minio"):
        with pytest.raises(UsageError, match=r"s3_endpoint=.*: not the address of a server; give"):
            JobSpec.resolve("train", {**RIGHT["train"], "s3_endpoint": endpoint})
    spec = JobSpec.resolve("train", {**RIGHT["train"], "s3_endpoint": "http://127.0.0.1:9000"})
    assert spec.to_options()["s3_endpoint"] == "http://127.0.0.1:9000"

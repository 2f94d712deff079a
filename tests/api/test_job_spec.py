"""One description of a job: what it accepts, refuses and keeps."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from elasticdl.errors import UsageError
from elasticdl.job_options.commands import COMMANDS
from elasticdl.job_spec import (
    OPTIONS,
    JobSpec,
    option_value,
    options_of,
    resolve_job_dir,
)
from elasticdl.options import GROUPS, Option

TRAIN = {
    "model_zoo": "model_zoo",
    "model_def": "mnist.MnistElasticDLSpec",
    "data": "data/*.recordio",
    "output": "output",
}


def wrong_values() -> list[tuple[str, str]]:
    """Wrong values of every option, derived from how it is declared."""
    found = []
    for one in OPTIONS.values():
        found += [(one.name, text) for text in _wrong_texts(one)]
    return found


def _wrong_texts(one: Option) -> list[str]:
    low, high = one.bounds
    if one.value_type is int:
        return [
            "abc",
            "",
            "1.5",
            "1e3x",
            "None",
            "True",
            "3; import os",
            f"{low - 1}",
            f"{high + 1}",
        ]
    if one.value_type is float:
        return ["abc", "", "nan", "inf", f"{low - 1}", f"{high + 1}"]
    if one.is_flag:
        return ["maybe", "2", ""]
    if one.choices:
        return ["other", ""]
    if one.metavar == "MODULE.NAME":
        return ["", "a b", "3", "os.system('x')", "a..b"]
    if one.metavar == "FUNCTION":
        return ["", "a b", "3", "a..b", "Adam(1", "Adam(1) + 1"]
    if one.name == "job_name":
        return ["", "a b", "../a", "a/b", ".hidden", "x" * 200]
    if one.name == "keep_columns":
        return ["", ",", "a,,b", "a, a"]
    return [] if one.name == "params" else ["", "  "]


@pytest.mark.parametrize(("name", "text"), wrong_values())
def test_a_wrong_value_is_one_line_naming_option_value_and_remedy(name: str, text: str) -> None:
    with pytest.raises(UsageError) as caught:
        option_value(name, text, "--")
    line = str(caught.value)
    assert "\n" not in line
    assert line.startswith(f"--{name}={text!r}: "[:70])
    assert f"e.g. --{name}=" in line
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("name", OPTIONS)
def test_an_options_example_is_a_right_value(name: str) -> None:
    option_value(name, OPTIONS[name].example, "--")


@pytest.mark.parametrize("name", OPTIONS)
def test_an_option_is_fully_declared(name: str) -> None:
    one = OPTIONS[name]
    assert one.description
    assert one.group in GROUPS
    assert one.commands
    assert set(one.required_by) <= set(one.commands) <= set(COMMANDS)
    if one.value_type in (int, float):
        assert None not in one.bounds


def test_the_message_for_a_wrong_number_says_what_is_right() -> None:
    with pytest.raises(UsageError) as caught:
        JobSpec.resolve("train", {**TRAIN, "num_epochs": "abc"}, "--")
    assert str(caught.value) == (
        "--num_epochs='abc': not a whole number; give one ≥ 1, e.g. --num_epochs=3"
    )


def test_values_may_be_strings_or_python_values() -> None:
    texts = {"num_epochs": "3", "shuffle": "false", "lease_s": "2.5", "keep_columns": "a, b"}
    values = {"num_epochs": 3, "shuffle": False, "lease_s": 2.5, "keep_columns": ["a", "b"]}
    for name, text in texts.items():
        assert option_value(name, text) == option_value(name, values[name])


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("num_epochs", True),
        ("num_epochs", 1.5),
        ("data", 3),
        ("data", [5]),
        ("data", ["a", b"b"]),
        ("keep_columns", 3),
        ("keep_columns", ["a", "a"]),
        ("keep_columns", [[1]]),
        ("seed", [1]),
        ("output", "a\0b"),
        ("data", ["a\0b"]),
    ],
)
def test_a_python_value_of_another_type_is_refused(name: str, value: object) -> None:
    with pytest.raises(UsageError, match=f"^{name}="):
        option_value(name, value)


def test_several_data_patterns_may_be_a_list(tmp_path: Path) -> None:
    spec = JobSpec.resolve("train", {**TRAIN, "data": [tmp_path / "a", "/b/*.recordio"]})
    assert spec.data == f"{tmp_path}/a,/b/*.recordio"


def test_params_may_be_a_dict_of_literals() -> None:
    params = {"hidden_units": [10, 100], "activation": "relu", "scale": 0.5, "bias": None}
    spec = JobSpec.resolve("train", {**TRAIN, "params": params})
    assert spec.params == "hidden_units=[10, 100], activation='relu', scale=0.5, bias=None"


@pytest.mark.parametrize(
    "value", [object(), print, float("inf"), {"a": object()}, {1, 2}.__iter__()]
)
def test_a_param_that_is_no_literal_is_refused(value: object) -> None:
    with pytest.raises(UsageError, match="params: x="):
        JobSpec.resolve("train", {**TRAIN, "params": {"x": value}})


def test_a_param_that_is_not_finite_is_called_that() -> None:
    with pytest.raises(UsageError, match="params: x=nan is not finite; give"):
        JobSpec.resolve("train", {**TRAIN, "params": {"x": float("nan")}})


@pytest.mark.parametrize("example", ["--output=predictions.csv", "--trained_model=output"])
def test_what_predict_lacks_is_suggested_as_predict_takes_it(example: str) -> None:
    with pytest.raises(UsageError, match=example):
        JobSpec.resolve("predict", {"data": "a"}, "--")


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("seed: 1\nseed: 2\n", "line 2: 'seed' is given twice"),
        ("params: {a: 1, a: 2}\n", "line 1: 'a' is given twice"),
        ("command: [1]\n", r"command \[1\]; it should be one of train"),
        ("validation_data: [5]\n", r"data=\[5\]: not text; give PATTERN"),
        ("[1]: 2\n", "line 1: found unhashable key"),
        ("seed: 2024-13-45\n", "month must be in 1..12|not YAML"),
    ],
)
def test_a_wrong_config_is_one_line(tmp_path: Path, text: str, complaint: str) -> None:
    (tmp_path / "job.yaml").write_text(text)
    with pytest.raises(UsageError, match=complaint) as caught:
        JobSpec.resolve("train", {**TRAIN, "config": tmp_path / "job.yaml"}, "--")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("num_epoch", "num_epochs"),
        ("num-epochs", "num_epochs"),
        ("epochs", "num_epochs"),
        ("batch_size", "minibatch_size"),
        ("learning_rate", "params"),
        ("outptu", "output"),
        ("workers", "num_workers"),
        ("use_async", "consistency"),
        ("get_model_steps", "staleness"),
        ("training_data", "data"),
        ("model_params", "params"),
        ("lr_staleness_modulation", "staleness_aware_learning_rate"),
    ],
)
def test_an_unknown_option_names_the_one_that_is_meant(typed: str, meant: str) -> None:
    with pytest.raises(UsageError, match=f"--{typed}: no such option .* did you mean --{meant}"):
        JobSpec.resolve("train", {**TRAIN, typed: "1"}, "--")


def test_an_option_without_a_counterpart_says_to_leave_it_out() -> None:
    with pytest.raises(UsageError, match=r"--distribution_strategy: no such .* leave it out"):
        JobSpec.resolve("train", {**TRAIN, "distribution_strategy": "ParameterServer"}, "--")


def test_an_option_of_another_command_says_whose_it_is() -> None:
    options = {"trained_model": "m", "data": "d", "num_epochs": 3}
    with pytest.raises(
        UsageError, match=r"num_epochs: `evaluate` does not take it \(`train` does\)"
    ):
        JobSpec.resolve("evaluate", options)


def test_all_missing_options_are_named_at_once() -> None:
    with pytest.raises(UsageError) as caught:
        JobSpec.resolve("train", {}, "--")
    assert str(caught.value).startswith(
        "`train` needs --model_zoo, --model_def, --data, --output; e.g. --model_zoo="
    )


def test_parameter_servers_do_not_outnumber_bucket_groups() -> None:
    with pytest.raises(UsageError, match=r"num_ps=65: .* num_bucket_groups=65"):
        JobSpec.resolve("train", {**TRAIN, "num_ps": 65})


def test_a_job_of_one_process_has_no_warm_spares() -> None:
    options = {**TRAIN, "warm_spares": "1", "num_workers": "0"}
    with pytest.raises(UsageError, match=r"^--warm_spares=1: .* leave it out, or .*num_workers=1"):
        JobSpec.resolve("train", options, "--")
    assert JobSpec.resolve("train", TRAIN).warm_spares == 0


def test_options_of_one_consistency_are_errors_in_the_other() -> None:
    with pytest.raises(UsageError, match=r"--grads_to_wait=2: .* add --consistency=sync"):
        JobSpec.resolve("train", {**TRAIN, "grads_to_wait": "2"}, "--")
    for option in ({"staleness": 3}, {"staleness_aware_learning_rate": True}):
        with pytest.raises(UsageError, match=r"staleness.*: in sync mode no gradient is stale"):
            JobSpec.resolve("train", {**TRAIN, "consistency": "sync", **option})
    spec = JobSpec.resolve("train", {**TRAIN, "consistency": "sync", "grads_to_wait": 2})
    assert spec.grads_to_wait == 2


def test_a_standby_needs_another_parameter_server_and_async_mode() -> None:
    with pytest.raises(UsageError, match=r"^--ps_standby=1: there is no other .* --num_ps=2"):
        JobSpec.resolve("train", {**TRAIN, "ps_standby": "1"}, "--")
    options = {**TRAIN, "ps_standby": "1", "num_ps": "2"}
    with pytest.raises(UsageError, match=r"^--ps_standby=1: in sync mode .* --checkpoint_steps"):
        JobSpec.resolve("train", {**options, "consistency": "sync"}, "--")
    with pytest.raises(UsageError, match=r"^--ps_standby=1: in a job of one process .*=1 or more"):
        JobSpec.resolve("train", {**options, "num_workers": "0"}, "--")
    with pytest.raises(UsageError, match="ps_standby"):
        JobSpec.resolve("train", {**options, "ps_standby": "2"}, "--")
    assert JobSpec.resolve("train", options, "--").ps_standby == 1


def test_paths_are_absolute_and_uris_untouched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    options = {**TRAIN, "data": "a/*.recordio, b.recordio", "output": "gs://bucket/model"}
    spec = JobSpec.resolve("train", options)
    assert spec.model_zoo == f"{tmp_path}/model_zoo"
    assert spec.data == f"{tmp_path}/a/*.recordio,{tmp_path}/b.recordio"
    assert spec.output == "gs://bucket/model"


def test_jobs_get_different_names_and_a_directory_under_the_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ELASTICDL_HOME", str(tmp_path))
    names = {JobSpec.resolve("train", TRAIN).job_name for _ in range(20)}
    assert len(names) == 20
    assert all(name.startswith("mnist-") for name in names)
    assert JobSpec.resolve("train", TRAIN | {"job_name": "a"}).job_dir == f"{tmp_path}/jobs/a"


def test_a_saved_job_is_read_back_where_it_lies(tmp_path: Path) -> None:
    options = {**TRAIN, "params": {"units": [1, 2]}, "json": True, "max_steps": 5, "seed": 1 << 62}
    spec = JobSpec.resolve("train", {**options, "job_dir": tmp_path / "job"})
    spec.save()
    assert JobSpec.load(tmp_path / "job") == spec
    (tmp_path / "job").rename(tmp_path / "moved")
    assert JobSpec.load(tmp_path / "moved").job_dir == f"{tmp_path}/moved"


def test_a_spec_made_by_hand_can_be_saved(tmp_path: Path) -> None:
    spec = JobSpec(**TRAIN, num_epochs=2)
    spec.save(tmp_path)
    assert JobSpec.load(tmp_path).num_epochs == 2


def test_arguments_hold_over_the_config_file(tmp_path: Path) -> None:
    config = tmp_path / "job.yaml"
    config.write_text(yaml.safe_dump({**TRAIN, "num_epochs": 5, "seed": 7, "params": {"a": [1]}}))
    spec = JobSpec.resolve("train", {"config": config, "num_epochs": "2"}, "--")
    assert (spec.num_epochs, spec.seed, spec.minibatch_size) == (2, 7, 64)
    assert spec.params == "a=[1]"


def test_a_saved_job_serves_as_config(tmp_path: Path) -> None:
    path = JobSpec.resolve("train", {**TRAIN, "num_epochs": 4}).save(tmp_path)
    again = JobSpec.resolve("train", {"config": path, "job_name": "again"})
    assert (again.num_epochs, again.job_name) == (4, "again")
    check = {"config": path}
    assert JobSpec.resolve("check", check).model_def == TRAIN["model_def"]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("num_epochs: abc", r"job.yaml: num_epochs='abc': not a whole number.* num_epochs: 3"),
        ("num_epohcs: 3", r"job.yaml: num_epohcs: no such option .* did you mean .*num_epochs"),
        ("- a\n- b", "not a mapping of options"),
        ("just text", "not a mapping of options"),
        ("a: [1", "line 1"),
        ("? {a: b}\n: c", "not a mapping|unhashable"),
        ("!!python/object:os.system {}", "could not determine a constructor"),
        ("command: predict", "describes a job of `predict`, not of `train`"),
    ],
)
def test_a_wrong_config_file_is_one_line(tmp_path: Path, text: str, complaint: str) -> None:
    config = tmp_path / "job.yaml"
    config.write_text(text)
    with pytest.raises(UsageError, match=complaint) as caught:
        JobSpec.resolve("train", {**TRAIN, "config": str(config)}, "--")
    assert "\n" not in str(caught.value)


def test_a_missing_or_binary_config_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"none.yaml': No such file"):
        JobSpec.resolve("train", {**TRAIN, "config": tmp_path / "none.yaml"})
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(UsageError, match="binary': not a text file"):
        JobSpec.resolve("train", {**TRAIN, "config": tmp_path / "binary"})


def test_a_job_is_found_by_name_or_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ELASTICDL_HOME", str(tmp_path))
    spec = JobSpec.resolve("train", {**TRAIN, "job_name": "mnist-1"})
    spec.save()
    assert resolve_job_dir("mnist-1") == tmp_path / "jobs" / "mnist-1"
    assert resolve_job_dir(spec.job_dir) == tmp_path / "jobs" / "mnist-1"
    with pytest.raises(UsageError, match="did you mean 'mnist-1'"):
        resolve_job_dir("mnist-2")
    with pytest.raises(UsageError, match="no such job"):
        resolve_job_dir("")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_takes_data(command: str) -> None:
    assert "data" in options_of(command)

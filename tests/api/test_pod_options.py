"""Options of a job of pods: what they mean, and what is refused."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from elasticdl.api.parser import job_parser
from elasticdl.errors import UsageError
from elasticdl.job_spec import JobSpec
from elasticdl.pod_options import mebibytes, parse_priority, parse_quantity, parse_volumes

TRAIN: dict[str, Any] = {
    "cluster": "kubernetes",
    "image": "registry/model:1",
    "model_zoo": "model_zoo",
    "model_def": "mnist.MnistElasticDLSpec",
    "data": "/data/*.recordio",
    "output": "/data/output",
    "volume": ["claim_name=data,mount_path=/data"],
}
LOCAL = {name: TRAIN[name] for name in ("model_zoo", "model_def", "data", "output")}


def resolve(**options: Any) -> JobSpec:
    return JobSpec.resolve("train", {**TRAIN, **options}, "--")


def complaint(**options: Any) -> str:
    with pytest.raises(UsageError) as caught:
        resolve(**options)
    line = str(caught.value)
    assert caught.value.exit_code == 2
    assert "\n" not in line
    return line


def test_a_range_of_workers_is_kept_as_most_and_least(tmp_path: Path) -> None:
    spec = resolve(num_workers="2..8")
    assert (spec.num_workers, spec.min_workers, spec.grads_to_wait) == (8, 2, None)
    assert spec.to_options()["num_workers"] == "2..8"
    spec.save(tmp_path)
    loaded = JobSpec.load(tmp_path)
    assert (loaded.num_workers, loaded.min_workers) == (8, 2)
    assert resolve(num_workers=3).min_workers == 0


def test_steps_of_a_range_do_not_depend_on_room(tmp_path: Path) -> None:
    spec = resolve(num_workers="2..8", consistency="sync")
    assert spec.grads_to_wait == 2
    assert resolve(num_workers="2..8", consistency="sync", grads_to_wait=4).grads_to_wait == 4
    spec.save(tmp_path)
    assert JobSpec.load(tmp_path).grads_to_wait == 2


@pytest.mark.parametrize("text", ["8..2", "0..2"])
def test_a_range_that_is_none_is_refused(text: str) -> None:
    assert complaint(num_workers=text) == (
        f"--num_workers='{text}': not from 1 worker or more to as many or more; "
        "e.g. --num_workers=2..8"
    )


@pytest.mark.parametrize("text", ["2..", "..8", "a..b", "2..8..9"])
def test_what_is_no_number_in_a_range_is_refused(text: str) -> None:
    assert "not a whole number" in complaint(num_workers=text)


def test_a_range_is_for_pods() -> None:
    with pytest.raises(UsageError, match=r"^--num_workers=2\.\.8: on one machine no worker waits"):
        JobSpec.resolve("train", {**LOCAL, "num_workers": "2..8"}, "--")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("namespace", "training"),
        ("dry_run", "true"),
        ("image", "registry/model:1"),
        ("worker_resource_request", "cpu=2"),
        ("volume", ["claim_name=data,mount_path=/data"]),
        ("pod_template", "pod.yaml"),
    ],
)
def test_an_option_of_pods_is_an_error_in_a_local_job(name: str, value: Any) -> None:
    with pytest.raises(UsageError) as caught:
        JobSpec.resolve("train", {**LOCAL, name: value}, "--")
    assert str(caught.value).startswith(f"--{name}=")
    assert "means something with --cluster=kubernetes only" in str(caught.value)


def test_a_local_jobs_description_says_nothing_of_pods() -> None:
    options = JobSpec.resolve("train", LOCAL).to_options()
    assert options["cluster"] == "local"
    assert not {"namespace", "volume", "image_pull_policy", "grace_s"} & options.keys()


@pytest.mark.parametrize(
    ("options", "start", "way_out"),
    [
        ({"num_workers": 0}, "--num_workers=0: with --cluster=kubernetes", "--cluster=local"),
        ({"warm_spares": 1}, "--warm_spares=1: with --cluster=kubernetes", "--num_workers"),
        ({"dashboard_host": "0.0.0.0"}, "--dashboard_host=0.0.0.0: ", "leave it out"),
        ({"data": "/elsewhere/x"}, "--data=/elsewhere/x: no pod has", "--volume=claim_name="),
        ({"data": "/data/a,/database/b"}, "--data=/database/b: no pod has", "a URI"),
        ({"output": "/output"}, "--output=/output: no pod has", "--volume"),
        ({"checkpoint_dir": "/c"}, "--checkpoint_dir=/c: no pod has", "--volume"),
        ({"job_dir": "/jobs/1"}, "--job_dir=/jobs/1: no pod has", "--volume"),
        ({"output": "s3://b/o", "profile": True}, "--profile=true: with", "--job_dir"),
        ({"output": "s3://b/o", "tensorboard": True}, "--tensorboard=true: with", "--job_dir"),
        ({"worker_resource_request": "cpu"}, "--worker_resource_request=cpu: 'cpu'", "cpu=1"),
        ({"ps_resource_limit": "cpu=0"}, "--ps_resource_limit=cpu=0: cpu=0 is nothing", "more"),
        ({"ps_resource_limit": "memory=1Gi"}, "--ps_resource_limit=memory=1Gi: less", "2Gi"),
        ({"memory_limit_max": "much"}, "--memory_limit_max=much: 'much' is no quantity", "4Gi"),
        ({"ps_pod_priority": "high=0.5"}, "--ps_pod_priority=high=0.5: only workers", "one class"),
        ({"worker_pod_priority": "high=2"}, "--worker_pod_priority=high=2: give a", "0.5,low"),
        ({"volume": ["mount_path=/x"]}, "--volume=mount_path=/x: give one of", "claim_name="),
        ({"volume": ["host_path=/x,mount_path=x"]}, "--volume=host_path", "absolute mount_path"),
        ({"volume": ["a=/x,mount_path=x"]}, "--volume=a=/x", "claim_name"),
        ({"dashboard_port": 2222}, "--dashboard_port=2222: with --cluster=kubernetes", "another"),
        ({"dashboard_port": 2223}, "--dashboard_port=2223: with --cluster=kubernetes", "another"),
        ({"toleration": ["a=b:Sometimes"]}, "--toleration=a=b:Sometimes: ", "NoSchedule"),
        ({"env": ["1A=2"]}, "--env=1A=2: '1A' is no NAME=VALUE", "AWS_REGION"),
        ({"run_as": "0:0"}, "--run_as=0:0: give two numbers", "10001:10001"),
        ({"node_selector": "a"}, "--node_selector=a: 'a' is not NAME=VALUE", "disktype=ssd"),
        ({"image_pull_secret": ["A"]}, "--image_pull_secret=A: 'A' is no object", "letters"),
        ({"image": "http://x/y"}, "--image='http://x/y': leave out http://", "--image=registry."),
        ({"base_image": "a b"}, "--base_image='a b': a name is of small letters", "=python:3.11"),
        ({"image": "UPPER"}, "--image='UPPER': a name has small letters alone", "e.g. --image"),
        ({"image": "a:b c"}, "--image='a:b c': a tag is at most", "e.g. --image=registry."),
        ({"image": "a@sha256:0"}, "--image='a@sha256:0': a digest is sha256:", "64 digits"),
        ({"namespace": "A b"}, "--namespace='A b': not an object's name", "--namespace=training"),
    ],
)
def test_what_pods_cannot_do_is_one_line_with_a_way_out(
    options: dict[str, Any], start: str, way_out: str
) -> None:
    line = complaint(**options)
    assert line.startswith(start)
    assert way_out in line


@pytest.mark.parametrize(
    "path",
    [
        *("/tmp", "/tmp/", "//tmp", "/etc", "/etc/elasticdl", "/etc/elasticdl/job/x"),
        *("/etc/elasticdl/./job", "/etc/elasticdl/credentials", "/var/lib/elasticdl"),
        "/var/run/secrets/kubernetes.io/serviceaccount",
    ],
)
def test_a_volume_that_hides_what_pods_have_of_their_own_is_refused(path: str) -> None:
    volumes = ["claim_name=data,mount_path=/data", f"claim_name=a,mount_path={path}"]
    line = complaint(volume=volumes)
    assert line.startswith("--volume=")
    assert "hides what pods have there" in line
    assert resolve(volume=[*volumes[:1], "claim_name=a,mount_path=/tmp/more"]).volume


@pytest.mark.parametrize("path", ["/model_zoo", "/model_zoo/custom", "/opt/elasticdl"])
def test_a_volume_may_hide_the_zoo_of_an_image_that_was_given_alone(path: str) -> None:
    volumes = ["claim_name=data,mount_path=/data", f"claim_name=zoo,mount_path={path}"]
    assert resolve(volume=volumes).volume == tuple(volumes)
    assert "hides what pods have there" in complaint(volume=volumes, image=None)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("http://x/y", "leave out http://"),
        ("https://registry.example.com:5000/team", "leave out https://"),
        ("registry.example.com/team:1", "leave out the tag"),
        (f"registry/team@sha256:{64 * '0'}", "leave out the tag or digest"),
        ("a b", "a name is of small letters"),
        ("registry.example.com/UPPER", "a name has small letters alone"),
        ("UPPER", "a name has small letters alone"),
        ("registry.example.com//team", "a name is of small letters"),
        ("/team", "a name is of small letters"),
        ("registry_example.com/team", "'registry_example.com' is no host"),
        (f"registry.example.com/{250 * 'x'}", "a name has at most 255 characters"),
    ],
)
def test_what_images_cannot_be_pushed_to_is_refused_before_one_is_built(
    text: str, problem: str
) -> None:
    line = complaint(image=None, docker_image_repository=text)
    assert line.startswith("--docker_image_repository=")
    assert problem in line
    assert "; e.g. --docker_image_repository=registry.example.com/team" in line


@pytest.mark.parametrize(
    "text",
    [
        "team",
        "a__b/c---d/e.f_g",
        "localhost/team",
        "localhost:5000",
        "127.0.0.1:5000/team/",
        "[::1]:5000/team",
        "Registry.example.com/team",
    ],
)
def test_any_repository_is_one_that_docker_takes(text: str) -> None:
    spec = resolve(image=None, docker_image_repository=text)
    assert spec.docker_image_repository == text


@pytest.mark.parametrize(
    "text",
    [
        "scratch",
        "python:3.11-slim",
        "localhost:5000/a",
        "registry.example.com:5000/team/model:V_1.2-x",
        f"a/b@sha256:{64 * 'f'}",
        f"a/b:1@sha256:{64 * 'f'}",
    ],
)
def test_any_image_is_one_that_docker_takes(text: str) -> None:
    assert resolve(image=text, base_image=text).image == text


def test_the_jobs_own_files_are_beside_what_every_pod_reaches() -> None:
    assert resolve(job_name="a").job_dir == "/data/.elasticdl/a"
    assert resolve(job_name="a", output="s3://bucket/x/y").job_dir == "s3://bucket/x/.elasticdl/a"
    evaluate = {"trained_model": "/data/output", "data": "/data/x", "job_name": "a"}
    places = {name: TRAIN[name] for name in ("cluster", "image", "volume")}
    assert JobSpec.resolve("evaluate", {**evaluate, **places}).job_dir == "/var/lib/elasticdl"


def test_a_description_does_not_say_where_the_jobs_directory_is(tmp_path: Path) -> None:
    spec = resolve(output="s3://bucket/x", job_dir="/data/jobs/1", profile=True)
    spec.save(tmp_path)
    assert JobSpec.load(tmp_path).profile


def test_with_an_image_the_zoo_is_inside_it() -> None:
    assert resolve(model_zoo="model_zoo").model_zoo == "/model_zoo"
    assert resolve(model_zoo="/zoos/mine").model_zoo == "/zoos/mine"


def test_an_option_may_be_given_several_times() -> None:
    parser = job_parser("train", "Train.", [])
    words = ["--env=A=1", "--env=B=2;3,4"]
    assert vars(parser.parse(words)) == {"env": ["A=1", "B=2;3,4"]}
    assert resolve(env=["A=1", "B=2"]).env == ("A=1", "B=2")
    assert resolve(env="A=1").env == ("A=1",)


def test_volumes_may_stand_in_one_text() -> None:
    volumes = parse_volumes(["claim_name=a,mount_path=/a; host_path=/b,mount_path=/b,sub_path=c"])
    assert [volume.mount_path for volume in volumes] == ["/a", "/b"]
    with pytest.raises(ValueError, match="given twice"):
        parse_volumes(["claim_name=a,mount_path=/a", "claim_name=b,mount_path=/a/"])


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("2", 2),
        ("500m", "0.5"),
        ("1.5", "1.5"),
        (".5", "0.5"),
        ("1k", 1000),
        ("1Ki", 1024),
        ("4Gi", 4 << 30),
        ("2E", 2 * 10**18),
        ("1Ei", 1 << 60),
        ("2e3", 2000),
        ("1E3", 1000),
    ],
)
def test_a_quantity_is_read_as_the_cluster_reads_it(text: str, number: Any) -> None:
    assert parse_quantity(text) == Decimal(number)


@pytest.mark.parametrize("text", ["", "x", "1 Gi", "-1", "1gi", "1GiB", "e3", "1e", "1e999"])
def test_what_is_no_quantity_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is no quantity"):
        parse_quantity(text)


def test_memory_is_rounded_up() -> None:
    assert mebibytes(Decimal((1 << 30) + 1)) == "1025Mi"


@pytest.mark.parametrize(("share", "numerator"), [("0.5", 50), ("0.3", 30), ("1", 100), ("0", 0)])
def test_any_number_of_workers_has_its_share_of_the_first_class(share: str, numerator: int) -> None:
    priority = parse_priority(f"high={share},low")
    classes = [priority.of_index(index) for index in range(200)]
    assert set(classes) <= {"high", "low"}
    for number in range(201):
        assert classes[:number].count("high") == number * numerator // 100


def test_a_class_alone_is_everybodys_and_none_is_the_clusters() -> None:
    assert {parse_priority("high").of_index(index) for index in range(9)} == {"high"}
    assert parse_priority("").of_index(3) == ""
    assert [parse_priority("high=0.5").of_index(index) for index in range(2)] == ["", "high"]

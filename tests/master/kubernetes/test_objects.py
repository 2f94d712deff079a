"""The objects of a job: whole, right by the API's own types, and with the least that they need."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from elasticdl.api.kubernetes.pods_checked import jobs_of_pods
from elasticdl.errors import UsageError
from elasticdl.job_spec import JobSpec
from elasticdl.master.cluster.kubernetes.names import (
    checked_name,
    claim_name,
    dashboard_service_name,
    instance_labels,
    instance_of,
    master_service_name,
    object_name,
    partition_service_name,
    pod_name,
)
from elasticdl.master.cluster.kubernetes.objects import (
    RESUMES_VARIABLE,
    Objects,
    check_pod,
    master_job,
    partition_service,
    selector_patch,
    submission_objects,
)
from elasticdl.master.cluster.kubernetes.rbac import rbac_objects
from elasticdl.master.cluster.kubernetes.resources import memory_limit
from elasticdl.master.instances import Needs
from tests.master.kubernetes.jobs import BY, OPTIONS, SECRET, job, main_of, pod_of, server, worker

TEMPLATE = "spec: {hostNetwork: true, containers: [{name: elasticdl, env: [{name: Z, value: z}]}]}"
EVERYTHING: dict[str, Any] = {
    "namespace": "training",
    "dashboard_service": "NodePort",
    "worker_pod_priority": "high=0.5,low",
    "master_pod_priority": "high",
    "node_selector": "disktype=ssd",
    "toleration": ["dedicated=training:NoSchedule", "gpu"],
    "env": ["A=1", "B=x=y"],
    "image_pull_secret": ["login"],
    "worker_resource_request": "cpu=2,memory=4Gi,nvidia.com/gpu=1",
    "worker_resource_limit": "memory=8Gi",
    "volume": [
        "claim_name=data,mount_path=/data",
        "claim_name=data,mount_path=/more,sub_path=more,read_only=true",
        "host_path=/mnt,mount_path=/mnt",
        "secret_name=keys,mount_path=/keys",
    ],
}


def all_objects(spec: JobSpec) -> Objects:
    owner = BY.owner
    return [
        *submission_objects(spec, BY.image, SECRET),
        *submission_objects(spec, BY.image, SECRET, owner)[1:],
        *submission_objects(job(**EVERYTHING), BY.image, SECRET, owner),
        partition_service(spec, server(1, 4), owner),
        check_pod(spec, 1, Needs(), BY),
        *(pod_of(who, **EVERYTHING) for who in (worker(3, 7), server(1, 4))),
        *(pod_of(who) for who in (worker(), server())),
        master_job(job(output="gs://bucket/model"), BY.image),
        *rbac_objects("training", "elasticdl-master", "ada"),
        *rbac_objects("", "elasticdl-master"),
    ]


@pytest.mark.parametrize("options", [{}, EVERYTHING], ids=["plain", "everything"])
def test_every_object_is_one_by_the_types_of_the_api(options: dict[str, Any]) -> None:
    client = pytest.importorskip("kubernetes.client", reason="the kubernetes extra is missing")
    api = client.ApiClient(client.Configuration())
    for made in all_objects(job(**options)):
        group, _, version = made["apiVersion"].rpartition("/")
        assert (group, version) in {
            ("", "v1"),
            ("batch", "v1"),
            ("rbac.authorization.k8s.io", "v1"),
        }
        name = {"Role": "V1Role", "RoleBinding": "V1RoleBinding"}.get(
            made["kind"], f"V1{made['kind']}"
        )
        # Their reader drops what it does not know, so all of it has to come back.
        read = api.deserialize(json.dumps(made), name, "application/json")
        assert api.sanitize_for_serialization(read) == made


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("mnist-1", "mnist-1"),
        ("Mnist_1", r"mnist-1-[0-9a-f]{8}"),
        ("1st", r"job-1st-[0-9a-f]{8}"),
        ("a" * 41, r"a{31}-[0-9a-f]{8}"),
        ("a" * 40, "a{40}"),
        ("a.b", r"a-b-[0-9a-f]{8}"),
        ("a-", r"a-[0-9a-f]{8}"),
        ("9" * 128, r"job-9{27}-[0-9a-f]{8}"),
        ("-_.", r"job-[0-9a-f]{8}"),
    ],
)
def test_a_jobs_name_becomes_one_that_objects_may_have(given: str, expected: str) -> None:
    name = object_name(given)
    assert re.fullmatch(expected, name)
    for made in (
        name,
        master_service_name(name),
        dashboard_service_name(name),
        partition_service_name(name, 1023),
        claim_name(name),
        checked_name(name),
        pod_name(name, worker(9999, 1_000_000)),
    ):
        assert re.fullmatch(r"[a-z]([a-z0-9-]*[a-z0-9])?", made)
        assert len(made) <= 63


def test_jobs_of_different_names_have_different_objects() -> None:
    names = ["a.b", "a-b", "a_b", "A-b", "a-b-", "a" * 50, "a" * 51]
    assert len({object_name(name) for name in names}) == len(names)


def test_an_instance_is_read_back_from_its_labels() -> None:
    assert instance_of(instance_labels("mnist-1", worker(3, 7))) == worker(3, 7)
    assert instance_of({}) is None
    labels = check_pod(job(), 2, Needs(), BY)["metadata"]["labels"]
    assert instance_of(labels) is None


def test_everything_belongs_to_the_job_and_has_its_label() -> None:
    spec = job(**EVERYTHING)
    made = all_objects(spec)
    for one in [each for each in made if each["kind"] in ("Pod", "Service", "Secret")][3:]:
        (owner,) = one["metadata"]["ownerReferences"]
        assert (owner["kind"], owner["uid"]) == ("Job", "uid-1")
        assert not owner["blockOwnerDeletion"]
    for one in made[:-9]:
        assert one["metadata"]["labels"]["app.kubernetes.io/instance"] == "mnist-1"
        assert not {"job-name", "controller-uid"} & one["metadata"]["labels"].keys()


def test_no_pod_but_the_masters_may_speak_to_the_cluster() -> None:
    spec = job()
    for pod in (pod_of(worker()), pod_of(server()), check_pod(spec, 1, Needs(), BY)):
        assert pod["spec"]["automountServiceAccountToken"] is False
        assert "serviceAccountName" not in pod["spec"]
    template = master_job(spec, BY.image)["spec"]["template"]["spec"]
    assert template["serviceAccountName"] == "elasticdl-master"
    assert template["automountServiceAccountToken"] is True


def test_a_pod_has_no_more_rights_than_it_needs() -> None:
    for pod in (pod_of(worker()), master_job(job(), BY.image)["spec"]["template"]):
        context = main_of(pod)["securityContext"]
        assert context["readOnlyRootFilesystem"]
        assert not context["allowPrivilegeEscalation"]
        assert context["capabilities"] == {"drop": ["ALL"]}
        assert pod["spec"]["securityContext"]["runAsUser"] == 10001
        assert pod["spec"]["securityContext"]["runAsNonRoot"]


@pytest.mark.parametrize("role", ["master", "ps", "worker"])
def test_a_pod_mounts_its_own_keys_alone(role: str) -> None:
    spec = job()
    pods = {
        "master": master_job(spec, BY.image)["spec"]["template"],
        "ps": pod_of(server()),
        "worker": pod_of(worker()),
    }
    volumes = {one["name"]: one for one in pods[role]["spec"]["volumes"]}
    items = {item["key"]: item["path"] for item in volumes["credentials"]["secret"]["items"]}
    assert items == {
        "token": "token",
        "job": "job",
        "ca.crt": "ca.crt",
        f"{role}.crt": "tls.crt",
        f"{role}.key": "tls.key",
    }
    described = volumes["job"]["projected"]["sources"][0]["secret"]["items"]
    assert [item["key"] for item in described] == ["job.yaml"]


def test_nothing_secret_is_outside_of_the_secret() -> None:
    spec = job(data="mysql://ada:hidden@host/db")
    for made in all_objects(spec):
        if made["kind"] != "Secret":
            assert "hidden" not in str(made)


def test_the_secret_describes_the_job_as_its_pods_see_it(tmp_path: Path) -> None:
    template = tmp_path / "pod.yaml"
    template.write_text(TEMPLATE)
    spec = job(image=None, model_zoo=str(tmp_path), pod_template=str(template), num_workers="2..8")
    image = f"registry/built@sha256:{64 * '1'}"
    secret = submission_objects(spec, image, SECRET)[1]
    data = {name: base64.b64decode(text) for name, text in secret["data"].items()}
    assert data.keys() == {*SECRET, "job.yaml", "pod_template.yaml"}
    assert data["pod_template.yaml"].decode() == TEMPLATE
    (tmp_path / "job.yaml").write_bytes(data["job.yaml"])
    loaded = JobSpec.load(tmp_path / "job.yaml")
    assert loaded.image == image
    assert loaded.model_zoo == "/model_zoo/custom"
    assert loaded.pod_template == "/etc/elasticdl/job/pod_template.yaml"
    assert (loaded.cluster, loaded.num_workers, loaded.min_workers) == ("kubernetes", 8, 2)


def test_a_pod_is_told_who_it_is_and_what_launches_it() -> None:
    arguments = main_of(pod_of(server(1, 4)))["args"]
    assert arguments == [
        "ps",
        "--description=/etc/elasticdl/job",
        "--credentials=/etc/elasticdl/credentials",
        "--job_dir=/data/.elasticdl/mnist-1",
        "--index=1",
        "--incarnation=4",
        "--master=10.0.0.1:2222",
        "--master_incarnation=3",
        "--session=s1",
        "--listen=0.0.0.0:2222",
        "--advertise=10.0.0.2:2222",
    ]
    assert main_of(pod_of(worker(2, 5)))["args"][0] == "worker"


def test_the_masters_pod_waits_for_what_it_mounts() -> None:
    assert master_job(job(), BY.image, parallelism=0)["spec"]["parallelism"] == 0
    made = master_job(job(), BY.image)
    assert made["spec"]["backoffLimit"] == 2**31 - 1
    assert made["spec"]["template"]["spec"]["restartPolicy"] == "OnFailure"


def test_a_partitions_service_leads_to_one_incarnation_alone() -> None:
    spec = job()
    service = partition_service(spec, server(1, 4), BY.owner)
    selector = service["spec"]["selector"]
    assert selector.items() <= pod_of(server(1, 4))["metadata"]["labels"].items()
    for other in (server(1, 5), server(0, 4), worker(1, 4)):
        assert not selector.items() <= pod_of(other)["metadata"]["labels"].items()
    patched = selector_patch(spec, server(1, 5))["spec"]["selector"]
    assert patched.items() <= pod_of(server(1, 5))["metadata"]["labels"].items()
    assert patched.keys() == selector.keys()


def test_what_is_not_limited_is_limited_to_what_is_requested_but_for_cores() -> None:
    resources = main_of(pod_of(worker(), **EVERYTHING))["resources"]
    assert resources == {
        "requests": {"cpu": "2", "memory": "4Gi", "nvidia.com/gpu": "1"},
        "limits": {"memory": "8Gi", "nvidia.com/gpu": "1"},
    }
    limited = main_of(pod_of(worker(), worker_resource_limit="cpu=3"))["resources"]
    assert limited["limits"] == {"cpu": "3", "memory": "4Gi"}


def test_every_pod_is_told_how_many_cores_it_asked_for() -> None:
    asked = {"resourceFieldRef": {"resource": "requests.cpu"}}
    for pod in (pod_of(worker()), pod_of(server()), master_job(job(), "image")["spec"]["template"]):
        assert {"name": "ELASTICDL_CORES", "valueFrom": asked} in main_of(pod)["env"]


def test_memory_that_was_too_little_grows_up_to_its_bound() -> None:
    resources = main_of(pod_of(worker(), Needs(memory_factor=1.5)))["resources"]
    assert resources["requests"]["memory"] == resources["limits"]["memory"] == "6144Mi"
    bounded = main_of(pod_of(worker(), Needs(memory_factor=2.25), memory_limit_max="6Gi"))
    assert bounded["resources"]["limits"]["memory"] == "6144Mi"
    assert memory_limit(job(), "worker", Needs(memory_factor=1.5)) == 6 << 30
    assert memory_limit(job(), "check", Needs()) == 4 << 30
    spec = job(worker_resource_request="cpu=1")
    assert memory_limit(spec, "worker", Needs()) is None


def test_a_share_of_the_workers_has_the_first_class() -> None:
    classes = [
        pod_of(worker(index), worker_pod_priority="high=0.5,low")["spec"]["priorityClassName"]
        for index in range(4)
    ]
    assert classes == ["low", "high", "low", "high"]
    assert "priorityClassName" not in pod_of(worker())["spec"]


def test_a_lost_node_is_left_soon_and_a_taint_tolerated() -> None:
    tolerations = pod_of(worker(), **EVERYTHING)["spec"]["tolerations"]
    assert tolerations[:2] == [
        {"key": "dedicated", "operator": "Equal", "value": "training", "effect": "NoSchedule"},
        {"key": "gpu", "operator": "Exists"},
    ]
    assert [one["tolerationSeconds"] for one in tolerations[2:]] == [30, 30]


def test_a_volume_that_is_mounted_twice_is_one() -> None:
    pod = pod_of(worker(), **EVERYTHING)
    claims = [one for one in pod["spec"]["volumes"] if "persistentVolumeClaim" in one]
    assert len(claims) == 1
    mounts = {one["mountPath"]: one for one in main_of(pod)["volumeMounts"]}
    assert mounts["/data"]["name"] == mounts["/more"]["name"] == claims[0]["name"]
    assert mounts["/more"]["readOnly"]
    assert mounts["/more"]["subPath"] == "more"
    assert "/keys" in mounts


def test_a_job_without_output_keeps_its_files_in_its_pod() -> None:
    places = {name: OPTIONS[name] for name in ("cluster", "image", "volume")}
    evaluate = {"trained_model": "/data/output", "data": "/data/x", **places}
    spec = JobSpec.resolve("evaluate", evaluate)
    pod = master_job(spec, BY.image)["spec"]["template"]
    (volume,) = (one for one in pod["spec"]["volumes"] if one["name"] == "job-dir")
    assert volume == {"name": "job-dir", "emptyDir": {}}
    assert f"--job_dir={spec.job_dir}" in main_of(pod)["args"]


def test_a_master_whose_files_are_at_a_store_has_a_directory_for_its_journal() -> None:
    spec = job(output="s3://bucket/model")
    pod = master_job(spec, BY.image)["spec"]["template"]
    (volume,) = (one for one in pod["spec"]["volumes"] if one["name"] == "state")
    assert volume == {"name": "state", "emptyDir": {}}
    mounts = {one["mountPath"] for one in main_of(pod)["volumeMounts"]}
    assert "/var/lib/elasticdl" in mounts
    assert {"--state=/var/lib/elasticdl", "--job_dir=s3://bucket/.elasticdl/mnist-1"} <= {
        *main_of(pod)["args"]
    }
    for pod in (pod_of(worker(), output="s3://bucket/model"), master_job(job(), BY.image)):
        assert "/var/lib/elasticdl" not in json.dumps(pod)


def test_a_template_is_laid_over_every_pod(tmp_path: Path) -> None:
    template = tmp_path / "pod.yaml"
    template.write_text(TEMPLATE)
    spec = job(pod_template=str(template))
    pods = [
        pod_of(worker(), pod_template=str(template)),
        check_pod(spec, 1, Needs(), BY),
        master_job(spec, BY.image)["spec"]["template"],
    ]
    for pod in pods:
        assert pod["spec"]["hostNetwork"] is True
        assert {"name": "Z", "value": "z"} in main_of(pod)["env"]


@pytest.mark.parametrize(
    "template",
    [
        "{containers: [{name: elasticdl, volumeMounts: null}], volumes: null}",
        "{containers: [{name: elasticdl, volumeMounts: null}]}",
        "{volumes: null}",
        "{volumes: [{name: credentials, $patch: delete}]}",
        "{containers: [{name: elasticdl, volumeMounts: [{$patch: replace}]}]}",
        "{containers: [{name: elasticdl, "
        "volumeMounts: [{mountPath: /etc/elasticdl/job, name: tmp}]}]}",
    ],
)
def test_a_template_leaves_pods_their_description_and_their_keys(
    tmp_path: Path, template: str
) -> None:
    file = tmp_path / "pod.yaml"
    file.write_text(f"spec: {template}")
    with pytest.raises(
        UsageError, match=r"'(job|credentials)' of volume(Mount)?s cannot"
    ) as caught:
        pod_of(worker(), pod_template=str(file))
    file.write_text(f"master: {{spec: {template}}}")
    with pytest.raises(UsageError, match="cannot be changed by a template"):
        jobs_of_pods(job(pod_template=str(file)), "image")
    assert "\n" not in str(caught.value)


def test_no_volume_may_be_where_a_pod_of_a_job_has_its_own() -> None:
    stored = job(output="s3://bucket/model", job_dir="s3://bucket/job")
    pods = [master_job(stored, "image")["spec"]["template"], pod_of(worker())]
    own = {mount["mountPath"] for pod in pods for mount in main_of(pod)["volumeMounts"]}
    for path in own - {"/data"}:
        with pytest.raises(UsageError, match="hides what pods have there"):
            job(volume=["claim_name=data,mount_path=/data", f"claim_name=a,mount_path={path}"])
    assert len(own) >= 4


def test_a_template_of_one_role_leaves_the_others_alone(tmp_path: Path) -> None:
    template = tmp_path / "pod.yaml"
    template.write_text("ps: {spec: {hostNetwork: true}}")
    assert "hostNetwork" not in pod_of(worker(), pod_template=str(template))["spec"]
    assert pod_of(server(), pod_template=str(template))["spec"]["hostNetwork"] is True
    template.write_text("worker: {metadata: {name: x}}")
    with pytest.raises(UsageError, match=r"metadata\.name"):
        pod_of(worker(), pod_template=str(template))


def test_the_roles_have_no_right_to_grant_or_to_read_secrets_of_others() -> None:
    objects = {
        (one["kind"], one["metadata"]["name"]): one
        for one in rbac_objects("training", "robot", "ada")
    }
    rules = {
        name: {resource: rule["verbs"] for rule in one["rules"] for resource in rule["resources"]}
        for (kind, name), one in objects.items()
        if kind == "Role"
    }
    assert "secrets" not in rules["elasticdl-master"]
    for resources in rules.values():
        assert not {"roles", "rolebindings", "*", "pods/exec"} & resources.keys()
        assert all("*" not in verbs for verbs in resources.values())
    (subject,) = objects["RoleBinding", "elasticdl-master"]["subjects"]
    assert subject == {"kind": "ServiceAccount", "name": "robot", "namespace": "training"}
    assert yaml.safe_dump_all(objects.values())


def test_a_page_is_open_only_where_that_was_asked_for() -> None:
    kinds = [one["metadata"]["name"] for one in submission_objects(job(), BY.image, SECRET)]
    assert kinds == ["mnist-1", "mnist-1", "mnist-1-master"]
    spec = job(dashboard_service="LoadBalancer", dashboard_port=8080)
    page = submission_objects(spec, BY.image, SECRET, BY.owner)[-1]
    assert page["metadata"]["name"] == "mnist-1-dashboard"
    assert page["metadata"]["ownerReferences"][0]["uid"] == BY.owner.uid
    assert page["spec"]["type"] == "LoadBalancer"
    assert page["spec"]["ports"] == [{"name": "dashboard", "port": 8080, "targetPort": 8080}]
    pod = submission_objects(spec, BY.image, SECRET)[0]["spec"]["template"]
    assert page["spec"]["selector"].items() <= pod["metadata"]["labels"].items()


def test_the_check_of_a_job_that_goes_on_is_told_so() -> None:
    def told(resumes: bool) -> bool:
        pod = check_pod(job(), 1, Needs(), BY, resumes)
        return RESUMES_VARIABLE in [one["name"] for one in pod["spec"]["containers"][0]["env"]]

    assert told(True)
    assert not told(False)

"""The objects of a job, as plain dictionaries of what the apiserver takes.

Only core/v1 and batch/v1 as of Kubernetes 1.20. `docs/decisions/kubernetes.md` says why each is.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from elasticdl.cores import VARIABLE as CORES
from elasticdl.credentials import credential_items
from elasticdl.data.filesystems import is_object, is_remote
from elasticdl.job_spec import CHECKED_FILE, JOB_FILE, JobSpec
from elasticdl.master.cluster.kubernetes.names import (
    CHECK,
    INCARNATION_LABEL,
    INDEX_LABEL,
    PREFIX,
    SESSION_ANNOTATION,
    check_pod_name,
    checked_name,
    claim_name,
    dashboard_service_name,
    instance_labels,
    labels,
    master_service_name,
    object_name,
    partition_service_name,
    pod_name,
    result_name,
    selecting,
)
from elasticdl.master.cluster.kubernetes.pod_template import MAIN, merged, read_template
from elasticdl.master.cluster.kubernetes.resources import resources
from elasticdl.master.instances import InstanceSpec, Needs, Role
from elasticdl.pod_options import (
    parse_node_selector,
    parse_priority,
    parse_toleration,
    parse_user,
    parse_variable,
    parse_volumes,
)
from elasticdl.pod_rules import ETC, JOB_DIR_OF_POD, PORTS_OF_MASTER, ZOO_OF_IMAGE

Object = dict[str, Any]
Objects = list[Object]

DESCRIPTION = f"{ETC}/job"
CREDENTIALS = f"{ETC}/credentials"
TEMPLATE_FILE = "pod_template.yaml"
ZOO = ZOO_OF_IMAGE
OWN_ZOO = f"{ZOO_OF_IMAGE}/custom"
"""Where an image has a zoo that was cloned, and one that was a directory of the submitter."""
PORT, HEALTH_PORT = PORTS_OF_MASTER
"""HEALTH_PORT: of a master, for `GET /healthz` alone; it answers from the start."""
DASHBOARD_PORT = 2224
"""Of a master's page, where no other is asked for; on the pod's loopback interface, unless a
service opens it."""
RESUMES_VARIABLE = "ELASTICDL_RESUMES"
"""Of a check: the job goes on with what is in its directory."""
STATE = "/var/lib/elasticdl"
"""Of a master whose job's directory is a URI: its journal, which is mirrored there."""
NODE_LOST_S = 30
_RESTARTS = 2**31 - 1  # The Job never decides that a job has failed.
_ENTRY = ["python", "-m", "elasticdl.api.pod"]


@dataclass(frozen=True)
class Owner:
    """The Job to which everything else of a job belongs: what is deleted with it."""

    name: str
    uid: str


@dataclass(frozen=True)
class LaunchedBy:
    """The master that launches pods: what they are told of it.

    address: host:port. session: which life of the job it is.
    """

    owner: Owner
    image: str
    address: str
    incarnation: int
    session: str


def submission_objects(
    spec: JobSpec, image: str, secret: Mapping[str, bytes], owner: Owner | None = None
) -> Objects:
    """The Job, Secret and Services with which a job begins.

    Args:
      image: what the pods run.
      secret: the token, the keys and the certificates: `make_certificates`.
      owner: of all but the Job; none before there is that.
    """
    return [
        master_job(spec, image),
        job_secret(spec, image, secret, owner),
        *services(spec, owner),
    ]


def described(spec: JobSpec, image: str) -> dict[str, bytes]:
    """The files that describe a job to its pods, whose paths are theirs."""
    zoo = spec.model_zoo
    if zoo is not None and not spec.image:
        zoo = ZOO if "://" in zoo and not is_object(zoo) else OWN_ZOO
    template = f"{DESCRIPTION}/{TEMPLATE_FILE}" if spec.pod_template else None
    changes = {"image": image, "model_zoo": zoo, "dry_run": False, "pod_template": template}
    files = {JOB_FILE: spec.model_copy(update=changes).to_yaml().encode()}
    if spec.pod_template:
        files[TEMPLATE_FILE] = Path(spec.pod_template).read_bytes()
    return files


def job_secret(
    spec: JobSpec, image: str, secret: Mapping[str, bytes], owner: Owner | None = None
) -> Object:
    """What describes the job, which may hold passwords of where data is, and its keys."""
    files = {**described(spec, image), **secret}
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": _metadata(spec, object_name(spec.job_name), "master", owner),
        "type": "Opaque",
        "data": {name: base64.b64encode(content).decode() for name, content in files.items()},
    }


def master_job(spec: JobSpec, image: str, parallelism: int = 1) -> Object:
    """The Job of one pod that launches the master again until it has written the result.

    Args:
      parallelism: 0 where the pod is to wait for what it mounts.
    """
    name = object_name(spec.job_name)
    arguments = [
        Role.MASTER.value,
        *_common_arguments(spec),
        f"--listen=0.0.0.0:{PORT}",
    ]
    if is_remote(spec.job_dir):
        arguments.append(f"--state={STATE}")
    pod = _pod(spec, image, Role.MASTER.value, 0, Needs(), arguments, "OnFailure")
    if is_remote(spec.job_dir):
        _mount(pod, "state", STATE, {"emptyDir": {}})
    pod["metadata"] = _metadata(spec, "", Role.MASTER.value, None)
    pod["spec"]["serviceAccountName"] = spec.service_account
    container = pod["spec"]["containers"][0]
    container["env"] += [
        _of_field("ELASTICDL_JOB_UID", "metadata.labels['controller-uid']"),
        _of_field("ELASTICDL_POD_NAME", "metadata.name"),
        _of_field("ELASTICDL_POD_UID", "metadata.uid"),
        _of_field("ELASTICDL_POD_NAMESPACE", "metadata.namespace"),
    ]
    # Who waits for the claim does not listen, so nobody is sent to a master that is none yet.
    container["readinessProbe"] = {
        "tcpSocket": {"port": PORT},
        "periodSeconds": 2,
        "failureThreshold": 1,
    }
    container["livenessProbe"] = {
        "httpGet": {"path": "/healthz", "port": HEALTH_PORT},
        "initialDelaySeconds": 30,
        "periodSeconds": 20,
        "timeoutSeconds": 10,
        "failureThreshold": 3,
    }
    _add_credentials(spec, pod, Role.MASTER.value)
    pod = _laid_over(spec, Role.MASTER.value, pod)
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": _metadata(spec, name, "master", None),
        "spec": {
            "parallelism": parallelism,
            "completions": 1,
            "backoffLimit": _RESTARTS,
            "template": {key: pod[key] for key in ("metadata", "spec")},
        },
    }


def master_service(spec: JobSpec, owner: Owner | None = None) -> Object:
    """Where the master is, whichever pod it is."""
    name = object_name(spec.job_name)
    service = _service(spec, master_service_name(name), "master", owner)
    service["spec"]["selector"] = selecting(name, Role.MASTER.value)
    return service


def services(spec: JobSpec, owner: Owner | None = None) -> Objects:
    """Where the master is, and its page where that is to be open."""
    made = [master_service(spec, owner)]
    if spec.dashboard_service != "none":
        name = object_name(spec.job_name)
        page = _service(spec, dashboard_service_name(name), "master", owner)
        port = page_port(spec)
        page["spec"] = {
            "type": spec.dashboard_service,
            "selector": selecting(name, Role.MASTER.value),
            "ports": [{"name": "dashboard", "port": port, "targetPort": port}],
        }
        made.append(page)
    return made


def page_port(spec: JobSpec) -> int:
    """Where in its pod a master's page listens."""
    return spec.dashboard_port or DASHBOARD_PORT


def claim_map(spec: JobSpec, owner: Owner) -> Object:
    """What says who is master, as the first one creates it."""
    return _config_map(spec, claim_name(object_name(spec.job_name)), owner)


def checked_map(spec: JobSpec, owner: Owner, checked: str) -> Object:
    """What the check resolved of the job's options, in YAML."""
    made = _config_map(spec, checked_name(object_name(spec.job_name)), owner)
    return {**made, "data": {CHECKED_FILE: checked}}


def result_map(spec: JobSpec) -> Object:
    """What keeps a job's result; it belongs to nothing, so that it outlives the job."""
    return _config_map(spec, result_name(object_name(spec.job_name)), None)


def partition_service(spec: JobSpec, who: InstanceSpec, owner: Owner | None = None) -> Object:
    """Where the parameter server of an index is, from its first incarnation to the job's end."""
    name = partition_service_name(object_name(spec.job_name), who.index)
    service = _service(spec, name, Role.PS.value, owner)
    service["metadata"]["labels"][INDEX_LABEL] = str(who.index)
    service["spec"] |= selector_patch(spec, who)["spec"]
    # It is ready when it has registered, and it registers with what it can be reached at.
    service["spec"]["publishNotReadyAddresses"] = True
    return service


def selector_patch(spec: JobSpec, who: InstanceSpec) -> Object:
    """What a partition's service is patched with before the pod of an incarnation is created.

    Whoever does so adds the `metadata.resourceVersion` that it has read.
    """
    selector = {
        **selecting(object_name(spec.job_name), Role.PS.value),
        INDEX_LABEL: str(who.index),
        INCARNATION_LABEL: str(who.incarnation),
    }
    return {"spec": {"selector": selector}}


def instance_pod(
    spec: JobSpec, who: InstanceSpec, needs: Needs, by: LaunchedBy, address: str = ""
) -> Object:
    """The pod of a worker or a parameter server.

    Args:
      address: where others reach a parameter server: host:port.
    """
    role = who.role.value
    arguments = [
        role,
        *_common_arguments(spec),
        f"--index={who.index}",
        f"--incarnation={who.incarnation}",
        *_launched_by(by),
    ]
    if who.role is Role.PS:
        arguments += [f"--listen=0.0.0.0:{PORT}", f"--advertise={address}"]
    pod = _pod(spec, by.image, role, who.index, needs, arguments, "Never")
    name = object_name(spec.job_name)
    pod["metadata"] = _metadata(spec, pod_name(name, who), role, by.owner)
    pod["metadata"]["annotations"][SESSION_ANNOTATION] = by.session
    pod["metadata"]["labels"] = instance_labels(name, who)
    _add_credentials(spec, pod, role)
    return _laid_over(spec, role, pod)


def check_pod(
    spec: JobSpec, number: int, needs: Needs, by: LaunchedBy, resumes: bool = False
) -> Object:
    """The pod that tries the model and the data before others are launched.

    Args:
      resumes: what the job writes is there already, and is its own.
    """
    arguments = [CHECK, *_common_arguments(spec), *_launched_by(by), f"--incarnation={number}"]
    pod = _pod(spec, by.image, CHECK, 0, needs, arguments, "Never")
    name = check_pod_name(object_name(spec.job_name), number)
    pod["metadata"] = _metadata(spec, name, CHECK, by.owner)
    pod["metadata"]["labels"] |= {INDEX_LABEL: "0", INCARNATION_LABEL: str(number)}
    pod["metadata"]["annotations"][SESSION_ANNOTATION] = by.session
    if resumes:
        pod["spec"]["containers"][0]["env"].append({"name": RESUMES_VARIABLE, "value": "1"})
    _add_credentials(spec, pod, Role.WORKER.value)  # What it asks of others, a worker does.
    return _laid_over(spec, CHECK, pod)


def _common_arguments(spec: JobSpec) -> list[str]:
    return [
        f"--description={DESCRIPTION}",
        f"--credentials={CREDENTIALS}",
        f"--job_dir={spec.job_dir}",
    ]


def _launched_by(by: LaunchedBy) -> list[str]:
    return [
        f"--master={by.address}",
        f"--master_incarnation={by.incarnation}",
        f"--session={by.session}",
    ]


def _metadata(spec: JobSpec, name: str, component: str, owner: Owner | None) -> Object:
    found: Object = {"name": name} if name else {}
    if spec.namespace and name:
        found["namespace"] = spec.namespace
    found["labels"] = labels(object_name(spec.job_name), component)
    found["annotations"] = {f"{PREFIX}/job-name": spec.job_name}
    if owner is not None:
        found["ownerReferences"] = [
            {
                "apiVersion": "batch/v1",
                "kind": "Job",
                "name": owner.name,
                "uid": owner.uid,
                "controller": False,
                "blockOwnerDeletion": False,
            }
        ]
    return found


def _config_map(spec: JobSpec, name: str, owner: Owner | None) -> Object:
    metadata = _metadata(spec, name, Role.MASTER.value, owner)
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata}


def _service(spec: JobSpec, name: str, component: str, owner: Owner | None) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": _metadata(spec, name, component, owner),
        "spec": {"ports": [{"name": "elasticdl", "port": PORT, "targetPort": PORT}]},
    }


def _pod(
    spec: JobSpec,
    image: str,
    component: str,
    index: int,
    needs: Needs,
    arguments: list[str],
    restart_policy: str,
) -> Object:
    user, group = parse_user(spec.run_as)
    variables = {"PYTHONUNBUFFERED": "1", "TF_CPP_MIN_LOG_LEVEL": "2", "HOME": "/tmp"}
    variables |= dict(parse_variable(item) for item in spec.env)
    container: Object = {
        "name": MAIN,
        "image": image,
        "imagePullPolicy": spec.image_pull_policy,
        "command": _ENTRY,
        "args": arguments,
        "env": [
            *({"name": name, "value": value} for name, value in variables.items()),
            {"name": CORES, "valueFrom": {"resourceFieldRef": {"resource": "requests.cpu"}}},
        ],
        "resources": resources(spec, component, needs),
        "volumeMounts": [],
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
    }
    if component in (Role.MASTER.value, Role.PS.value):
        container["ports"] = [{"containerPort": PORT}]
    pod: Object = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {},
        "spec": {
            "restartPolicy": restart_policy,
            "terminationGracePeriodSeconds": spec.grace_s,
            "enableServiceLinks": False,
            "automountServiceAccountToken": component == Role.MASTER.value,
            "securityContext": {
                "runAsUser": user,
                "runAsGroup": group,
                "fsGroup": group,
                "runAsNonRoot": True,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "tolerations": _tolerations(spec),
            "containers": [container],
            "volumes": [],
        },
    }
    role = "worker" if component == CHECK else component
    if priority := parse_priority(getattr(spec, f"{role}_pod_priority")).of_index(index):
        pod["spec"]["priorityClassName"] = priority
    if spec.node_selector:
        pod["spec"]["nodeSelector"] = parse_node_selector(spec.node_selector)
    if spec.image_pull_secret:
        pod["spec"]["imagePullSecrets"] = [{"name": name} for name in spec.image_pull_secret]
    _add_description(spec, pod)
    _mount(pod, "tmp", "/tmp", {"emptyDir": {}})
    _add_volumes(spec, pod)
    if spec.job_dir == JOB_DIR_OF_POD:
        _mount(pod, "job-dir", JOB_DIR_OF_POD, {"emptyDir": {}})
    return pod


def _tolerations(spec: JobSpec) -> Objects:
    """What is asked for; and nodes that are lost, for less than the five minutes of default."""
    found: Objects = []
    for item in spec.toleration:
        one = parse_toleration(item)
        toleration = {"key": one.key, "operator": "Equal" if one.value else "Exists"}
        toleration |= {"value": one.value} if one.value else {}
        found.append(toleration | ({"effect": one.effect} if one.effect else {}))
    for condition in ("not-ready", "unreachable"):
        found.append(
            {
                "key": f"node.kubernetes.io/{condition}",
                "operator": "Exists",
                "effect": "NoExecute",
                "tolerationSeconds": NODE_LOST_S,
            }
        )
    return found


def _mount(pod: Object, name: str, path: str, source: Object, **mount: Any) -> None:
    """Mount a volume into the pod's container; several mounts may be of one volume."""
    volumes = pod["spec"]["volumes"]
    if all(volume["name"] != name for volume in volumes):
        volumes.append({"name": name, **source})
    mounts = pod["spec"]["containers"][0]["volumeMounts"]
    mounts.append({"name": name, "mountPath": path, **mount})


def _add_description(spec: JobSpec, pod: Object) -> None:
    name = object_name(spec.job_name)
    files = [JOB_FILE, *([TEMPLATE_FILE] if spec.pod_template else [])]
    sources = [
        {"secret": {"name": name, "items": [{"key": file, "path": file} for file in files]}},
        {
            "configMap": {
                "name": checked_name(name),
                "items": [{"key": CHECKED_FILE, "path": CHECKED_FILE}],
                "optional": True,
            }
        },
    ]
    source = {"projected": {"sources": sources, "defaultMode": 0o440}}
    _mount(pod, "job", DESCRIPTION, source, readOnly=True)


def _add_credentials(spec: JobSpec, pod: Object, role: str) -> None:
    """Mount what an instance of a role shows others, and nothing else of the job's Secret."""
    items = [{"key": key, "path": path} for key, path in credential_items(role).items()]
    name = object_name(spec.job_name)
    source = {"secret": {"secretName": name, "items": items, "defaultMode": 0o440}}
    _mount(pod, "credentials", CREDENTIALS, source, readOnly=True)


def _add_volumes(spec: JobSpec, pod: Object) -> None:
    names: dict[tuple[str, str, str], str] = {}
    for volume in parse_volumes(spec.volume):
        what = (volume.claim_name, volume.host_path, volume.secret_name)
        name = names.setdefault(what, f"volume-{len(names)}")
        if volume.claim_name:
            source: Object = {"persistentVolumeClaim": {"claimName": volume.claim_name}}
        elif volume.secret_name:
            source = {"secret": {"secretName": volume.secret_name, "defaultMode": 0o440}}
        else:
            source = {"hostPath": {"path": volume.host_path}}
        more = {"subPath": volume.sub_path} if volume.sub_path else {}
        _mount(pod, name, volume.mount_path, source, readOnly=volume.read_only, **more)


def _of_field(name: str, path: str) -> Object:
    return {"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}}


def _laid_over(spec: JobSpec, component: str, pod: Object) -> Object:
    """The pod with the person's own template over it, if there is one for its component."""
    if spec.pod_template is None:
        return pod
    template = read_template(spec.pod_template).get(component)
    return pod if template is None else merged(pod, template)

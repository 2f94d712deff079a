"""A template over a pod: merged as kubectl merges it, and it changes nothing that is the job's."""

from __future__ import annotations

import copy
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from elasticdl.errors import UsageError
from elasticdl.master.cluster.kubernetes.pod_template import (
    merged,
    read_template,
    strategic_merge,
)

POD: dict[str, Any] = yaml.safe_load(
    """
apiVersion: v1
kind: Pod
metadata:
  name: mnist-worker-0-1
  labels: {app.kubernetes.io/name: elasticdl}
  annotations: {elasticdl.org/session: a.1}
  finalizers: [example.com/a]
spec:
  restartPolicy: Never
  terminationGracePeriodSeconds: 30
  nodeSelector: {disktype: ssd}
  securityContext: {runAsUser: 1, fsGroup: 1}
  tolerations: [{key: a, operator: Exists}]
  imagePullSecrets: [{name: login}]
  containers:
  - name: elasticdl
    image: registry/model:1
    command: [python]
    args: [worker]
    env: [{name: A, value: "1"}, {name: B, value: "2"}, {name: C, value: "3"}]
    ports: [{containerPort: 2222, name: main}]
    volumeMounts: [{name: tmp, mountPath: /tmp}, {name: data, mountPath: /data}]
    resources: {requests: {cpu: "1", memory: 4Gi}}
  volumes: [{name: tmp, emptyDir: {}}, {name: data, persistentVolumeClaim: {claimName: data}}]
"""
)
# Patches of the spec; what comes of them is what kubectl makes of them.
PATCHES = {
    "a field is set": "{hostNetwork: true}",
    "a field of a map is set": "{securityContext: {runAsGroup: 2}}",
    "null removes a field": "{securityContext: {fsGroup: null}, nodeSelector: null}",
    "null of what is not there is nothing": "{affinity: null, dnsConfig: {options: null}}",
    "a map is deleted": "{nodeSelector: {$patch: delete}}",
    "a map is replaced": "{securityContext: {$patch: replace, runAsUser: 7}}",
    "a list without a key is replaced": "{tolerations: [{key: b, operator: Exists}]}",
    "a container is added": "{containers: [{name: side, image: x}]}",
    "a container is changed": "{containers: [{name: elasticdl, image: y, tty: true}]}",
    "a container is changed and one added": (
        "{containers: [{name: side, image: x}, {name: elasticdl, tty: true}]}"
    ),
    "variables are merged": (
        "{containers: [{name: elasticdl, env: [{name: B, value: x}, {name: D, value: '4'}]}]}"
    ),
    "variables are merged in another order": (
        "{containers: [{name: elasticdl, env: [{name: C, value: x}, {name: A, value: y}]}]}"
    ),
    "a variable is deleted": (
        "{containers: [{name: elasticdl, env: [{name: B, $patch: delete}, {name: E, value: e}]}]}"
    ),
    "all variables are replaced": (
        "{containers: [{name: elasticdl, env: [{$patch: replace}, {name: E, value: e}]}]}"
    ),
    "ports are merged by number": (
        "{containers: [{name: elasticdl, ports: [{containerPort: 2222, protocol: TCP}, "
        "{containerPort: 9, name: other}]}]}"
    ),
    "mounts are merged by path": (
        "{containers: [{name: elasticdl, volumeMounts: [{mountPath: /data, readOnly: true}, "
        "{mountPath: /x, name: x}]}], volumes: [{name: x, emptyDir: {medium: Memory}}]}"
    ),
    "resources are merged": (
        "{containers: [{name: elasticdl, "
        "resources: {requests: {memory: 8Gi}, limits: {a/b: '1'}}}]}"
    ),
    "a volume keeps the fields that it is to keep": (
        "{volumes: [{name: tmp, $retainKeys: [name, hostPath], hostPath: {path: /x}}]}"
    ),
    "pull secrets are merged": "{imagePullSecrets: [{name: other}]}",
    "an init container begins a list": (
        "{initContainers: [{name: first, image: x, env: [{name: A, value: '1'}]}]}"
    ),
    "affinity is as it is": (
        "{affinity: {nodeAffinity: {requiredDuringSchedulingIgnoredDuringExecution: "
        "{nodeSelectorTerms: [{matchExpressions: [{key: a, operator: Exists}]}]}}}}"
    ),
    "spread is merged by its key": (
        "{topologySpreadConstraints: [{topologyKey: zone, maxSkew: 1, "
        "whenUnsatisfiable: ScheduleAnyway}]}"
    ),
    "aliases are merged by address": "{hostAliases: [{ip: 10.0.0.1, hostnames: [a]}]}",
    "finalizers are added": "",
}


def patch_of(name: str) -> dict[str, Any]:
    if name == "finalizers are added":
        return {"metadata": {"finalizers": ["example.com/b"], "labels": {"team": "a"}}}
    return {"spec": yaml.safe_load(PATCHES[name])}


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="needs kubectl")
@pytest.mark.parametrize("name", PATCHES)
def test_what_comes_of_a_patch_is_what_kubectl_makes_of_it(name: str, tmp_path: Path) -> None:
    (tmp_path / "pod.json").write_text(json.dumps(POD))
    patch = patch_of(name)
    command = ["kubectl", "patch", "--local", "--type=strategic", "--output=json"]
    command += [f"--filename={tmp_path / 'pod.json'}", f"--patch={json.dumps(patch)}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    expected = json.loads(done.stdout)
    ours = strategic_merge(POD, patch)
    assert _without_empty(ours) == _without_empty(expected)


def _without_empty(value: Any) -> Any:
    """What kubectl's types leave out: empty maps of fields that may be there or not."""
    if isinstance(value, dict):
        inside = {name: _without_empty(each) for name, each in value.items()}
        return {name: each for name, each in inside.items() if each not in ({}, [], None)}
    if isinstance(value, list):
        return [_without_empty(each) for each in value]
    return value


def test_the_order_of_variables_is_kept_and_what_is_new_goes_first() -> None:
    patch = yaml.safe_load(
        "{spec: {containers: [{name: elasticdl, env: [{name: B, value: x}, {name: D, value: y}]}]}}"
    )
    (container,) = merged(POD, patch)["spec"]["containers"]
    assert [one["name"] for one in container["env"]] == ["A", "B", "D", "C"]


def test_the_pod_is_left_as_it_is() -> None:
    before = copy.deepcopy(POD)
    patch = patch_of("variables are merged")
    merged(POD, patch)["spec"]["containers"][0]["env"].clear()
    assert before == POD


@pytest.mark.parametrize(
    ("patch", "complaint"),
    [
        ("{metadata: {name: other}}", "metadata.name cannot"),
        ("{metadata: {labels: {app.kubernetes.io/name: x}}}", "label app.kubernetes.io/name can"),
        ("{metadata: {labels: null}}", "label app.kubernetes.io/name cannot"),
        ("{metadata: {labels: {job-name: x}}}", "label job-name cannot"),
        ("{metadata: {ownerReferences: [{uid: x}]}}", "metadata.ownerReferences cannot"),
        ("{metadata: {annotations: null}}", "annotation elasticdl.org/session cannot"),
        ("{metadata: {annotations: {$patch: replace}}}", "annotation elasticdl.org/session can"),
        ("{spec: {$patch: delete}}", "spec as a whole cannot"),
        ("{spec: {$retainKeys: 5}}", "spec.$retainKeys: 5; give a list"),
        ("{spec: {containers: [{name: [a]}]}}", "name: ['a'] names nothing"),
        ("{spec: {containers: [{name: null}]}}", "name: None names nothing"),
        ("{spec: {restartPolicy: Always}}", "spec.restartPolicy cannot"),
        ("{spec: {terminationGracePeriodSeconds: 1}}", "--grace_s"),
        ("{spec: {containers: [{$patch: replace}]}}", "container elasticdl cannot"),
        ("{spec: {containers: [{name: elasticdl, $patch: delete}]}}", "container elasticdl cannot"),
        ("{spec: {containers: [{name: elasticdl, command: [x]}]}}", "command of the container"),
        ("{spec: {containers: [{name: elasticdl, args: [x]}]}}", "args of the container"),
        ("{spec: {containers: [{image: x}]}}", "an element without name"),
        ("{spec: {containers: [x]}}", "'x' is no mapping"),
        ("{spec: {containers: 5}}", "spec.containers: 5 is no list"),
        ("{metadata: {labels: a}}", "metadata.labels: 'a' is no mapping"),
        ("{spec: {$setElementOrder/containers: []}}", "no directive"),
        ("{spec: {$patch: upside-down}}", "give merge, replace or delete"),
    ],
)
def test_what_makes_a_pod_the_jobs_own_cannot_be_changed(patch: str, complaint: str) -> None:
    with pytest.raises(UsageError) as caught:
        merged(POD, yaml.safe_load(patch))
    assert str(caught.value).startswith("pod_template: ")
    assert complaint in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_is_for_all_pods_or_for_each_kind(tmp_path: Path) -> None:
    file = tmp_path / "pod.yaml"
    file.write_text("spec: {hostNetwork: true}")
    template = read_template(str(file))
    assert set(template) == {"master", "ps", "worker", "check"}
    file.write_text("worker: {spec: {hostNetwork: true}}")
    assert read_template(str(file)) == {"worker": {"spec": {"hostNetwork": True}}}


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "no pod"),
        ("[1]", "no pod"),
        ("worker: 3", "worker: no pod"),
        ("spec: null", "spec: None is no mapping"),
        ("containers: []", "'containers' is no field of a pod"),
        ("worker: {containers: []}", "worker: 'containers' is no field of a pod"),
        ("a: [", "while parsing"),
        ("{kind: Deployment, spec: {replicas: 3}}", "kind: 'Deployment', and it is laid over"),
        ("worker: {apiVersion: v2}", "worker: apiVersion: 'v2'"),
        ("&a {spec: *a}", "a part holds itself"),
        ("metadata: {annotations: {since: 2024-01-01}}", "annotations.since: datetime.date("),
        ("spec: {nodeSelector: {1: a}}", "spec.nodeSelector: 1 is no text"),
        ("spec: {activeDeadlineSeconds: .nan}", "nan is read as float; put it in quotes"),
    ],
)
def test_a_wrong_file_is_one_line(tmp_path: Path, text: str, complaint: str) -> None:
    file = tmp_path / "pod.yaml"
    file.write_text(text)
    with pytest.raises(UsageError, match=f"^pod_template '{file}': ") as caught:
        read_template(str(file))
    assert complaint in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="No such file"):
        read_template(str(tmp_path / "pod.yaml"))

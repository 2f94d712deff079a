"""Options under the heading Kubernetes: where a job's pods run, and with what."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel

from elasticdl.job_options.commands import JOB
from elasticdl.options import option

_GROUP = "Kubernetes"
_OBJECT = r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$"


class KubernetesOptions(BaseModel):
    """Where a job's pods run, with what, and what becomes of them."""

    cluster: Literal["local", "kubernetes"] = option(
        "local",
        "where the instances run: as processes of this machine, or as pods of a cluster",
        group=_GROUP,
        commands=JOB,
        metavar="local|kubernetes",
        example="kubernetes",
        of_machine=True,
    )

    namespace: str = option(
        "",
        "namespace of the job's objects (default: that of the kubeconfig's context)",
        group=_GROUP,
        commands=JOB,
        metavar="NAME",
        example="training",
        of_machine=True,
        pattern=_OBJECT,
    )

    service_account: str = option(
        "elasticdl-master",
        "service account of the master's pod; `elasticdl kubernetes rbac` prints what it needs",
        group=_GROUP,
        commands=JOB,
        metavar="NAME",
        example="elasticdl-master",
        of_machine=True,
        pattern=_OBJECT,
    )

    dry_run: bool = option(
        False,
        "print the job's objects as YAML for `kubectl apply -f`, private keys included, and submit "
        "nothing",
        group=_GROUP,
        commands=JOB,
        metavar="true|false",
        example="true",
    )

    master_resource_request: str = option(
        "cpu=1,memory=1Gi",
        "what is reserved for the master's pod",
        group=_GROUP,
        commands=JOB,
        metavar="NAME=QUANTITY,…",
        example="cpu=1,memory=1Gi",
        min_length=1,
    )

    master_resource_limit: str = option(
        "",
        "what the master's pod may use at most (default: its request, and any cores)",
        group=_GROUP,
        commands=JOB,
        metavar="NAME=QUANTITY,…",
        example="memory=2Gi",
        min_length=1,
    )

    ps_resource_request: str = option(
        "cpu=1,memory=2Gi",
        "what is reserved for the pod of a parameter server",
        group=_GROUP,
        commands=JOB,
        metavar="NAME=QUANTITY,…",
        example="cpu=1,memory=2Gi",
        min_length=1,
    )

    ps_resource_limit: str = option(
        "",
        "what the pod of a parameter server may use at most (default: its request, and any cores)",
        group=_GROUP,
        commands=JOB,
        metavar="NAME=QUANTITY,…",
        example="memory=4Gi",
        min_length=1,
    )

    worker_resource_request: str = option(
        "cpu=1,memory=4Gi",
        "what is reserved for a worker's pod",
        group=_GROUP,
        commands=JOB,
        metavar="NAME=QUANTITY,…",
        example="cpu=1,memory=4Gi",
        min_length=1,
    )

    worker_resource_limit: str = option(
        "",
        "what a worker's pod may use at most (default: its request, and any cores)",
        group=_GROUP,
        commands=JOB,
        metavar="NAME=QUANTITY,…",
        example="memory=8Gi",
        min_length=1,
    )

    oom_memory_factor: float = option(
        1.5,
        "how much more memory a role's pods get once one of them had too little",
        group=_GROUP,
        commands=JOB,
        metavar="F",
        example="1.5",
        ge=1,
        le=16,
    )

    memory_limit_max: str = option(
        "",
        "memory beyond which no pod is given more: the job fails (default: no bound)",
        group=_GROUP,
        commands=JOB,
        metavar="QUANTITY",
        example="16Gi",
        min_length=1,
    )

    master_pod_priority: str = option(
        "",
        "priority class of the master's pod (default: the cluster's)",
        group=_GROUP,
        commands=JOB,
        metavar="CLASS",
        example="high",
        min_length=1,
    )

    ps_pod_priority: str = option(
        "",
        "priority class of the parameter servers' pods (default: the cluster's)",
        group=_GROUP,
        commands=JOB,
        metavar="CLASS",
        example="high",
        min_length=1,
    )

    worker_pod_priority: str = option(
        "",
        "priority class of the workers' pods; high=0.5,low: half of them get high, the rest low "
        "(default: the cluster's)",
        group=_GROUP,
        commands=JOB,
        metavar="CLASS[=SHARE][,CLASS]",
        example="high=0.5,low",
        min_length=1,
    )

    volume: tuple[str, ...] = option(
        (),
        "volume mounted in every pod; may be given several times; claim_name=NAME, host_path=PATH "
        "or secret_name=NAME, then mount_path=PATH[,sub_path=PATH][,read_only=true]",
        group=_GROUP,
        commands=JOB,
        metavar="KEY=VALUE,…",
        example="claim_name=data,mount_path=/data",
        form="items",
        also=("volumes",),
        of_machine=True,
    )

    node_selector: str = option(
        "",
        "labels of the nodes that pods may run on",
        group=_GROUP,
        commands=JOB,
        metavar="KEY=VALUE,…",
        example="disktype=ssd",
        min_length=1,
    )

    toleration: tuple[str, ...] = option(
        (),
        "taint of nodes that pods may run on all the same; may be given several times",
        group=_GROUP,
        commands=JOB,
        metavar="KEY[=VALUE][:EFFECT]",
        example="dedicated=training:NoSchedule",
        form="items",
        also=("tolerations",),
    )

    env: tuple[str, ...] = option(
        (),
        "environment variable of every pod, nothing secret; may be given several times",
        group=_GROUP,
        commands=JOB,
        metavar="NAME=VALUE",
        example="AWS_REGION=eu-west-1",
        form="items",
        also=("envs", "environment"),
    )

    run_as: str = option(
        "10001:10001",
        "user and group that the pods' processes run as",
        group=_GROUP,
        commands=JOB,
        metavar="UID:GID",
        example="10001:10001",
        min_length=1,
    )

    pod_template: str | None = option(
        None,
        "YAML file of a pod that is merged over every pod of the job, or of one for each of "
        "master, ps, worker and check",
        group=_GROUP,
        commands=JOB,
        metavar="FILE",
        example="pod.yaml",
        form="path",
        also=("cluster_spec",),
        min_length=1,
    )

    grace_s: int = option(
        30,
        "seconds that a pod has to push what it has and say goodbye when it is to go",
        group=_GROUP,
        commands=JOB,
        metavar="SECONDS",
        example="30",
        ge=1,
        le=3600,
    )

    start_deadline: float = option(
        120.0,
        "seconds after which a pod that cannot start, for want of its image or so, fails the job",
        group=_GROUP,
        commands=JOB,
        metavar="SECONDS",
        example="120",
        ge=1,
        le=86_400,
    )

    keep_objects: Literal["none", "result", "pods", "all"] = option(
        "none",
        "objects of the job that are left when it has ended",
        group=_GROUP,
        commands=JOB,
        metavar="none|result|pods|all",
        example="result",
    )

    dashboard_service: Literal["none", "NodePort", "LoadBalancer"] = option(
        "none",
        "service that opens the job's page to whoever reaches the cluster; it has no login",
        group=_GROUP,
        commands=JOB,
        metavar="none|NodePort|LoadBalancer",
        example="NodePort",
    )

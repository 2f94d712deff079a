"""How much more memory the instances of a job may get, as its options say."""

from __future__ import annotations

from decimal import Decimal

from elasticdl.job_spec import JobSpec
from elasticdl.master.cluster.kubernetes.resources import memory_limit
from elasticdl.master.instances import Needs, Role
from elasticdl.master.replacement import Memory
from elasticdl.pod_options import mebibytes, parse_quantity


def growth_of(spec: JobSpec) -> Memory:
    """What those instances of a job get that run out of memory."""
    most: dict[Role, float] = {}
    if spec.memory_limit_max:
        for role in (Role.PS, Role.WORKER):
            limit = memory_limit(spec, role.value, Needs())
            if limit:
                wanted = float(parse_quantity(spec.memory_limit_max)) / limit
                most[role] = max(1.0, wanted)

    def text(role: Role, needs: Needs) -> str:
        limit = memory_limit(spec, role.value, needs)
        return "no limit" if limit is None else mebibytes(Decimal(limit))

    return Memory(spec.oom_memory_factor, most, text)

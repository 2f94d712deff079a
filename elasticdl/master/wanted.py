"""What instances a job wants, as its options say."""

from __future__ import annotations

from decimal import Decimal

from elasticdl.job_spec import JobSpec
from elasticdl.master.cluster.kubernetes.resources import memory_limit
from elasticdl.master.instances import Needs, Role
from elasticdl.master.membership import Membership
from elasticdl.master.replacement import Memory
from elasticdl.pod_options import mebibytes, parse_priority, parse_quantity

START_S = 180.0


def membership_of(spec: JobSpec, restart_together: bool) -> Membership:
    """The membership with which a job begins."""
    of_ps, of_workers = (
        parse_priority(spec.ps_pod_priority),
        parse_priority(spec.worker_pod_priority),
    )

    def gives_room(index: int) -> bool:
        """Whether a worker is as important as partitions: the scheduler takes from lower ones."""
        return of_workers.of_index(index) in {of_ps.of_index(one) for one in range(spec.num_ps)}

    return Membership(
        max(1, spec.num_workers),
        spec.num_ps,
        silence_s=spec.lease_s,
        start_s=max(START_S, spec.lease_s),
        restart_together=restart_together,
        start_deadline_s=spec.start_deadline,
        waits_for_room=spec.cluster == "kubernetes",
        memory=growth_of(spec),
        gives_room=gives_room,
    )


def growth_of(spec: JobSpec) -> Memory:
    """What those instances of a job get that run out of memory."""
    most: dict[Role, float] = {}
    if spec.memory_limit_max:
        for role in (Role.PS, Role.WORKER):
            limit = memory_limit(spec, role.value, Needs())
            if limit:
                most[role] = max(1.0, float(parse_quantity(spec.memory_limit_max)) / limit)

    def text(role: Role, needs: Needs) -> str:
        limit = memory_limit(spec, role.value, needs)
        return "no limit" if limit is None else mebibytes(Decimal(limit))

    return Memory(spec.oom_memory_factor, most, text)

"""How much memory and how many cores a pod gets."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from elasticdl.job_spec import JobSpec
from elasticdl.master.cluster.kubernetes.names import CHECK
from elasticdl.master.instances import Needs
from elasticdl.pod_options import mebibytes, parse_quantity, parse_resources


def resources(spec: JobSpec, component: str, needs: Needs) -> dict[str, Any]:
    """The requests and limits of a pod's container.

    What has no limit of its own is limited to what is requested, but for cores: one that nobody
    else wants is not left idle. Memory, of both, is multiplied by what the instance needs, up to
    `--memory_limit_max`.
    """
    role = "worker" if component == CHECK else component
    requests = parse_resources(getattr(spec, f"{role}_resource_request"))
    given = getattr(spec, f"{role}_resource_limit")
    limits = {name: quantity for name, quantity in requests.items() if name != "cpu"}
    limits |= parse_resources(given) if given else {}
    for quantities in (requests, limits):
        if "memory" in quantities:
            quantities["memory"] = _grown(spec, quantities["memory"], needs)
    return {"requests": requests, "limits": limits}


def memory_limit(spec: JobSpec, component: str, needs: Needs) -> int | None:
    """The bytes that a pod may use; None where nothing limits them."""
    quantity = resources(spec, component, needs)["limits"].get("memory")
    return None if quantity is None else int(parse_quantity(quantity))


def _grown(spec: JobSpec, quantity: str, needs: Needs) -> str:
    if needs.memory_factor == 1:
        return quantity
    grown = parse_quantity(quantity) * Decimal(str(needs.memory_factor))
    if spec.memory_limit_max:
        most = parse_quantity(spec.memory_limit_max)
        grown = max(min(grown, most), parse_quantity(quantity))
    return mebibytes(grown)

"""Writes trained models: the parameters as they are, as they were pinned, or a copy."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import numpy as np

from elasticdl.data.filesystems import file_system
from elasticdl.job_spec import JobSpec
from elasticdl.model.parameters import Parameters, TableRows
from elasticdl.model.source import ModelSource
from elasticdl.model.trained_model import copy_trained_model, write_trained_model
from elasticdl.proto import master_pb2
from elasticdl.ps.client import ParameterClient
from elasticdl.worker.two_phase import TwoPhaseModel


def export(
    spec: JobSpec,
    source: ModelSource,
    model: TwoPhaseModel,
    client: ParameterClient,
    task: master_pb2.Task,
) -> dict[str, Any]:
    """Do an EXPORT task and return where its model is.

    Its payload says what of: ``{}`` the current parameters, to the job's output; ``pin`` and
    ``path``: those of a pin, in the place of what is at the path; ``replaces``: a model that is not
    wanted any more then; ``copy``: the model at that path, to the job's output.

    Raises:
      PinGone: a partition does not have the pin.
    """
    payload = json.loads(task.payload or "{}")
    if not isinstance(payload, dict):
        payload = {}
    assert spec.output is not None
    if "copy" in payload:
        copy_trained_model(payload["copy"], spec.output, spec.overwrite, spec.job_name)
        return {"output": spec.output}
    pin = payload.get("pin", 0)
    path = payload.get("path", spec.output)
    parameters = pull_parameters(model, client, pin)
    overwrite = spec.overwrite or "path" in payload
    write_trained_model(path, source, parameters, overwrite, spec.job_name)
    if "replaces" in payload:
        files, replaced = file_system(payload["replaces"])
        with suppress(OSError):
            files.delete_directory(replaced)
    return {"output": path}


def pull_parameters(model: TwoPhaseModel, client: ParameterClient, pin: int = 0) -> Parameters:
    """Return all parameters there are; nothing may be pushed meanwhile, or a pin must be named.

    Raises:
      PinGone: a partition does not have the pin.
    """
    tables = {
        table.name: TableRows(*client.export_rows(position, pin))
        for position, table in enumerate(model.table_definitions)
    }
    dense, _ = pull_dense(model, client, pin)
    return Parameters.of_flat(model.variables, dense, tables)


def pull_dense(
    model: TwoPhaseModel, client: ParameterClient, pin: int = 0
) -> tuple[np.ndarray, int]:
    """Return the flat vector of all variables, float32 ``[D]``, and how many updates it has seen.

    Raises:
      PinGone: a partition does not have the pin.
    """
    no_ids = [np.zeros(0, np.int64) for _ in model.table_definitions]
    pulled = client.start_pull(client.prepare(no_ids), pin=pin, exact=True).result()
    assert pulled.dense is not None
    return pulled.dense, max(pulled.versions)

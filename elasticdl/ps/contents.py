"""What a partition holds: made from the model's definition and the routing, then given values."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from elasticdl.proto import ps_pb2
from elasticdl.ps.dense_variables import DenseSlices, plan_slices
from elasticdl.ps.embedding_table import EmbeddingTable
from elasticdl.ps.initializers import RowInitializer
from elasticdl.ps.lifetime_rules import LifetimeRules
from elasticdl.ps.optimizers import OptimizerConfig
from elasticdl.ps.progress import Progress

MAX_DENSE_ELEMENTS = 1 << 33


@dataclass
class Contents:
    """Tables, dense slices and progress of the groups that one partition hosts.

    Attributes:
      groups: hosted, ascending, int64; their positions here are the *local* ones.
      position_of_group: local position by group, -1 for those hosted elsewhere, int64.
    """

    model: ps_pb2.ModelDefinition
    routing_version: int
    partition_of_group: np.ndarray
    groups: np.ndarray
    position_of_group: np.ndarray
    optimizer: OptimizerConfig
    dense: DenseSlices
    tables: list[EmbeddingTable]
    progress: Progress

    @classmethod
    def nothing(cls) -> Contents:
        """Return what a partition without a model holds."""
        nobody, optimizer = np.zeros(0, np.int64), OptimizerConfig(name="sgd")
        return cls(
            ps_pb2.ModelDefinition(),
            -1,
            np.zeros(0, np.int32),
            nobody,
            nobody,
            optimizer,
            DenseSlices([], optimizer),
            [],
            Progress(0),
        )

    @classmethod
    def define(
        cls, model: ps_pb2.ModelDefinition, routing: ps_pb2.Routing, partition: int
    ) -> Contents:
        """Make what a partition is to hold: no rows, dense zeros, nothing applied.

        Raises:
          ValueError: the definition is out of bounds.
        """
        partition_of_group = np.array(routing.partition_of_group, np.int32)
        groups = np.flatnonzero(partition_of_group == partition)
        position_of_group = np.full(len(partition_of_group), -1, np.int64)
        position_of_group[groups] = np.arange(len(groups))
        optimizer = OptimizerConfig.from_json(model.optimizer)
        optimizer.load_kernels()
        counts = len(groups), len(partition_of_group)
        return cls(
            model,
            routing.version,
            partition_of_group,
            groups,
            position_of_group,
            optimizer,
            _dense_slices(model, optimizer, partition_of_group, partition),
            [_table(table, optimizer, *counts) for table in model.tables],
            Progress(len(groups)),
        )


def optimizer_of(table: ps_pb2.TableDefinition, optimizer: OptimizerConfig) -> OptimizerConfig:
    """Return what updates a table."""
    if table.frozen:
        return OptimizerConfig(name="sgd")  # needs no slots
    return optimizer.without_weight_decay() if table.excluded_from_weight_decay else optimizer


def rules_of(table: ps_pb2.TableDefinition) -> LifetimeRules:
    """Return which rows of a table are made and kept."""
    rules = table.rules
    return LifetimeRules(rules.admission_count, rules.max_rows, rules.evict_after_steps)


def _dense_slices(
    model: ps_pb2.ModelDefinition,
    optimizer: OptimizerConfig,
    partition_of_group: np.ndarray,
    partition: int,
) -> DenseSlices:
    sizes = [math.prod(variable.shape) for variable in model.variables]
    if any(size < 0 for size in sizes) or sum(sizes) > MAX_DENSE_ELEMENTS:
        raise ValueError(f"{sum(sizes)} dense elements; a model has at most {MAX_DENSE_ELEMENTS}")
    slices = plan_slices(
        [
            (variable.name, size, variable.trainable)
            for variable, size in zip(model.variables, sizes, strict=True)
        ],
        len(partition_of_group),
    )
    return DenseSlices(
        [item for item in slices if partition_of_group[item.group] == partition],
        optimizer,
        {each.name for each in model.variables if each.excluded_from_weight_decay},
        {each.name: each.momentum for each in model.variables if each.HasField("momentum")},
    )


def _table(
    table: ps_pb2.TableDefinition, optimizer: OptimizerConfig, num_groups: int, total_groups: int
) -> EmbeddingTable:
    return EmbeddingTable(
        table.name,
        table.dim,
        optimizer_of(table, optimizer),
        RowInitializer(
            kind=table.initializer.kind,
            seed=table.initializer.seed,
            a=table.initializer.a,
            b=table.initializer.b,
        ),
        rules=rules_of(table),
        num_groups=num_groups,
        total_groups=total_groups,
    )

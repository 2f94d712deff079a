"""Partitions of a small model, and a client of them, in one process."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from elasticdl.proto import master_pb2, ps_pb2
from elasticdl.ps.client import ModelLayout, ParameterClient
from elasticdl.ps.optimizers import OptimizerConfig
from elasticdl.ps.partition import Partition
from elasticdl.ps.routing_table import RoutingTable
from elasticdl.rpc import DirectTransport, Service

DESCRIPTOR = ps_pb2.DESCRIPTOR.services_by_name["ParameterServer"]
MODEL = ps_pb2.ModelDefinition(
    tables=[
        ps_pb2.TableDefinition(
            name="rows",
            dim=3,
            initializer=ps_pb2.RowInitializer(kind="uniform", seed=5, a=-1.0, b=1.0),
        )
    ],
    variables=[
        ps_pb2.VariableDefinition(name="kernel", shape=[40, 7], trainable=True),
        ps_pb2.VariableDefinition(name="moving_mean", shape=[7], trainable=False),
    ],
    optimizer=OptimizerConfig(name="sgd", learning_rate=0.5).to_json(),
)
DENSE = np.arange(287, dtype=np.float32)


class Servers:
    """Some partitions and a client of them, in this process."""

    def __init__(
        self,
        num_partitions: int = 3,
        initialize: bool = True,
        model: ps_pb2.ModelDefinition = MODEL,
        rates: Callable[[int], np.ndarray] | None = None,
        wire_dtype: ps_pb2.WireDtype = ps_pb2.WIRE_FLOAT32,
    ) -> None:
        self.layout, self.rates, self.wire_dtype = ModelLayout(model), rates, wire_dtype
        routing = RoutingTable.initial(64, num_partitions)
        self.partitions = [Partition(index, 1) for index in range(num_partitions)]
        self.cluster = master_pb2.Cluster(
            routing=ps_pb2.Routing(
                version=routing.version, partition_of_group=routing.partition_of_group
            ),
            partitions=[
                master_pb2.Partition(index=index, incarnation=1) for index in range(num_partitions)
            ],
        )
        self.client = self.connect(self.cluster)
        if initialize:
            self.client.initialize(DENSE)

    def connect(
        self, cluster: master_pb2.Cluster, is_stale: Callable[[], bool] = lambda: False
    ) -> ParameterClient:
        return ParameterClient(
            cluster,
            lambda one: DirectTransport(Service(DESCRIPTOR, self.partitions[one.index])),
            self.layout,
            rates=self.rates,
            is_stale=is_stale,
            wire_dtype=self.wire_dtype,
        )

    def pull(self, ids: np.ndarray, pin: int = 0, exact: bool = False):
        lookup = self.client.prepare([ids])
        pulled = self.client.start_pull(lookup, pin=pin, exact=exact).result()
        return pulled.dense, pulled.rows[0][lookup.inverses[0]]

    def push(
        self, k: int, ids: np.ndarray, row_gradient: float, dense_gradient: float, **header_fields
    ):
        lookup = self.client.prepare([ids])
        rows = np.full((len(lookup.unique[0]), 3), row_gradient, np.float32)
        dense = np.full(287, dense_gradient, np.float32)
        header = ps_pb2.PushHeader(
            **({"task": 9, "k": k, "num_records": 4, "loss": 1.0} | header_fields)
        )
        return [
            self.client.push(index, header, lookup, [rows], dense)
            for index in range(len(self.partitions))
        ]


IDS = np.array([5, -3, 2**62, 5, 0, 77], np.int64)

"""A parameter server of one table, or of one variable, and its client, for pulls and pushes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from elasticdl.credentials import Credentials
from elasticdl.proto import master_pb2, ps_pb2
from elasticdl.ps.client import WIRE_DTYPES, ModelLayout, ParameterClient
from elasticdl.ps.optimizers import OptimizerConfig
from elasticdl.ps.partition import Partition
from elasticdl.ps.routing_table import RoutingTable
from elasticdl.rpc import Service, StreamServer, StreamTransport

DIM = 16
_CREDENTIALS = Credentials("token")
_SERVICE = ps_pb2.DESCRIPTOR.services_by_name["ParameterServer"]
_servers: list[StreamServer] = []


def serve() -> str:
    """Serve an empty partition; return its address."""
    server = StreamServer([Service(_SERVICE, Partition(0, 1))], _CREDENTIALS)
    _servers.append(server)
    return server.address


class Minibatches:
    """What a worker asks of one parameter server, of as many bytes each time.

    Args:
      address: of the server; empty so far.
      num_bytes: of the rows, or of the dense variable.
      is_dense: a variable, instead of rows of `DIM` weights.
      wire_dtype: what they travel as; the bytes are those of float32 all the same.
    """

    def __init__(
        self, address: str, num_bytes: int, is_dense: bool, wire_dtype: str = "float32"
    ) -> None:
        size = num_bytes // 4
        model = ps_pb2.ModelDefinition(optimizer=OptimizerConfig("adagrad").to_json())
        if is_dense:
            model.variables.add(name="kernel", shape=[size], trainable=True)
        else:
            uniform = ps_pb2.RowInitializer(kind="uniform", seed=1, a=-0.05, b=0.05)
            model.tables.add(name="rows", dim=DIM, initializer=uniform)
        routing = RoutingTable.initial(64, 1)
        self._client = ParameterClient(
            master_pb2.Cluster(
                routing=ps_pb2.Routing(
                    version=routing.version, partition_of_group=routing.partition_of_group
                ),
                partitions=[master_pb2.Partition(incarnation=1, address=address)],
            ),
            lambda one: StreamTransport(one.address, _CREDENTIALS),
            ModelLayout(model),
            wire_dtype=WIRE_DTYPES[wire_dtype],
        )
        self._client.initialize(np.ones(size if is_dense else 0, np.float32))
        ids = [] if is_dense else [np.random.default_rng(0).permutation(size // DIM) * 7919]
        self._lookup = self._client.prepare(ids)
        self._rows = [np.ones((len(one), DIM), np.float32) for one in self._lookup.unique]
        self._dense = np.ones(size if is_dense else 0, np.float32)
        self._k = 0
        self.push()

    def pull(self) -> None:
        """Pull once."""
        self._client.start_pull(self._lookup).result()

    def push(self) -> None:
        """Push once."""
        header = ps_pb2.PushHeader(task=1, k=self._k, num_records=1)
        self._client.push(0, header, self._lookup, self._rows, self._dense)
        self._k += 1

    def close(self) -> None:
        """Free the connections."""
        self._client.close()

    @property
    def calls(self) -> dict[str, Callable[[], None]]:
        """The two directions."""
        return {"pull": self.pull, "push": self.push}

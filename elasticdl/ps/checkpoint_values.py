"""The weights that a checkpoint holds, for whoever begins another training with them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from elasticdl.errors import JobError
from elasticdl.proto import ps_pb2
from elasticdl.ps import part_schemas
from elasticdl.ps.contents import optimizer_of, rules_of
from elasticdl.ps.manifest import part_chains, read_manifest
from elasticdl.ps.optimizers import OptimizerConfig
from elasticdl.ps.part_files import PlacedPart
from elasticdl.ps.part_reader import model_of, numbers, read_batches, vectors


class CheckpointValues:
    """Reads variables and rows of a checkpoint; slots and progress are left there.

    Args:
      checkpoint: its directory.

    Raises:
      JobError: it is not whole, as far as names and sizes tell; one line.
    """

    def __init__(self, checkpoint: str | Path) -> None:
        self._checkpoint = checkpoint
        manifest = read_manifest(checkpoint, patience_s=None)
        try:
            self.model: ps_pb2.ModelDefinition = model_of(manifest)
            self._optimizer = OptimizerConfig.from_json(self.model.optimizer)
        except ValueError as error:
            raise self._damaged(error) from None
        self._chains = list(part_chains(checkpoint, manifest))

    def dense(self) -> dict[str, np.ndarray]:
        """Return every variable in its shape, float32.

        Raises:
          JobError: some are missing, or a file is damaged.
        """
        values = {
            one.name: np.zeros(int(np.prod(one.shape)), np.float32) for one in self.model.variables
        }
        missing = sum(len(one) for one in values.values())
        schema = part_schemas.dense_schema(self._optimizer.slot_names)
        try:
            parts = [chain[-1] for chain in self._chains]
            for batch in read_batches(parts, "dense", schema):
                places = zip(batch[0].to_pylist(), batch[1].to_pylist(), strict=True)
                for row, (name, offset) in enumerate(places):
                    found = numbers(batch[3][row].values, np.float32)
                    values[name][offset : offset + len(found)] = found
                    missing -= len(found)
        except (ValueError, KeyError) as error:
            raise self._damaged(error) from None
        if missing:
            raise self._damaged(ValueError(f"{missing} elements of variables are missing"))
        return {one.name: values[one.name].reshape(one.shape) for one in self.model.variables}

    def rows(self, table: str) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield ids, int64 ``[n]``, and weights, float32 ``[n, dim]``; each id once, unordered.

        Raises:
          JobError: a file is damaged.
        """
        try:
            for chain in self._chains:
                yield from self._rows_of(table, chain)
        except ValueError as error:
            raise self._damaged(error) from None

    def _rows_of(
        self, name: str, chain: Sequence[PlacedPart]
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        table = next(one for one in self.model.tables if one.name == name)
        slot_names = optimizer_of(table, self._optimizer).slot_names
        schema = part_schemas.rows_schema(table.dim, slot_names, rules_of(table).are_any)
        gone_schema = part_schemas.gone_schema()
        # What a later part says of an id is what counts.
        later = [np.zeros(0, np.int64)]
        for placed in reversed(chain):
            known = np.concatenate(later)
            for batch in read_batches([placed], "rows", schema, name):
                ids = numbers(batch[0], np.int64)
                newest = ~np.isin(ids, known)
                yield ids[newest], vectors(batch[2], table.dim)[newest]
                if placed is not chain[0]:
                    later.append(ids.copy())
            for batch in read_batches([placed], "gone", gone_schema, name):
                later.append(numbers(batch[0], np.int64).copy())

    def _damaged(self, error: Exception) -> JobError:
        return JobError(f"checkpoint '{self._checkpoint}': {error}; use another one")

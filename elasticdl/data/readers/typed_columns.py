"""Files that say of what type their columns are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pyarrow as pa

from elasticdl.data.schema import Column, Schema, schema_of


class TypedColumns:
    """What the readers of such files answer alike; see `Reader`.

    Attributes:
      arrow_schema: the file's own.
    """

    path: str
    arrow_schema: pa.Schema
    is_table = True

    def schema(
        self, names: Sequence[str] | None = None, given: Mapping[str, Column] | None = None
    ) -> Schema:
        """Return the columns."""
        return schema_of(self.arrow_schema, self.path, names, given)

    def names(self) -> list[str]:
        """Return the names of the columns."""
        return list(self.arrow_schema.names)

"""Old import path of `elasticdl.Mode`."""

from elasticdl.model.mode import Mode as Mode

__all__ = ["Mode"]

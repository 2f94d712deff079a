"""Every service that a .proto of the package describes, also those of tomorrow."""

from __future__ import annotations

import importlib
import pkgutil

from google.protobuf.descriptor import ServiceDescriptor

import elasticdl.proto

_NAMES = [one.name for one in pkgutil.iter_modules(elasticdl.proto.__path__)]
DESCRIPTORS: list[ServiceDescriptor] = [
    descriptor
    for name in sorted(_NAMES)
    if name.endswith("_pb2")
    for descriptor in importlib.import_module(
        f"elasticdl.proto.{name}"
    ).DESCRIPTOR.services_by_name.values()
]

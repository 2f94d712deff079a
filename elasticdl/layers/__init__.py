"""Layers that model code imports; importing this package imports TensorFlow."""

from elasticdl.layers.embedding import Embedding as Embedding

__all__ = ["Embedding"]

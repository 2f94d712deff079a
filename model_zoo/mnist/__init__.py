"""Handwritten digits: the first model to train."""

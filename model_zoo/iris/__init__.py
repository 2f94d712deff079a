"""Iris flowers: four lengths, three species."""

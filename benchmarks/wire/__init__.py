"""Bytes between two processes: what carries them, how fast, and what it costs either side."""

"""Jobs of pods, from outside of their cluster."""

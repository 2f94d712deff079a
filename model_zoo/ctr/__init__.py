"""Click-through rates: categorical ids by the million and a few numbers."""

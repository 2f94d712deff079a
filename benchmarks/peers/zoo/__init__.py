"""The models of `benchmarks.peers` that are not of the model zoo, as a model zoo."""

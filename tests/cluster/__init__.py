"""A real Kubernetes on one machine: `python -m tests.cluster up|down|status|build`."""

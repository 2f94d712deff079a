"""Instances as pods: what is created for a job, and what the cluster tells of it."""

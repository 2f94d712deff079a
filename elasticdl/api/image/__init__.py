"""Images of a job's pods: what is in them, how they are built, pushed and found again."""

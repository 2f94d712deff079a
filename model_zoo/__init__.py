"""Models people start from, each with its data recipe."""

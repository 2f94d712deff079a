"""How fast jobs are next to everything else that trains the same models on the same machine."""

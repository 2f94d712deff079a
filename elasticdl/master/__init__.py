"""The master: who works on what, who is alive, and what became of every record."""

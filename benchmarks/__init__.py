"""Programs that print this project's figures."""

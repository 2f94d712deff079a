"""Parameter servers: tables, dense variables, optimizers, and the account of what was applied."""

"""The ways people define models: one module for each contract."""

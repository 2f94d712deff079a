"""The role that computes: input pipeline, two-phase step, evaluation and prediction."""

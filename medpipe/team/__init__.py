"""The team: one workflow for rollouts, evaluation and serving."""

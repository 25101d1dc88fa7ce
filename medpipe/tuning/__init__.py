"""The search for good settings: trials of real trainings, driven by Optuna. It never reads a benchmark."""

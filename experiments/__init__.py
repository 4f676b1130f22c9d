"""Experiments with example selection: a Hydra application, run from the root as `python -m experiments.NAME`."""

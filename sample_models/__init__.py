"""Seeded builders of the models that the docs, tests and benchmarks use."""

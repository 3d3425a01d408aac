"""Decide which device runs which operator: pure functions from costs to a plan."""

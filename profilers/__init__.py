"""Measure, replay or model what every operator and transfer costs on each device."""

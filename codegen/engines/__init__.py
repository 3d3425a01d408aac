"""Engines of the GPU stages: what they must take, building them, and planning again without what does not build."""

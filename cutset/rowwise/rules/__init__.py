"""What each operator does to the rows of a joint run; importing this package fills the table of rules."""

from cutset.rowwise.rules import attention, contractions, elementwise, indexing, reductions, shaping, trees

__all__ = ["attention", "contractions", "elementwise", "indexing", "reductions", "shaping", "trees"]

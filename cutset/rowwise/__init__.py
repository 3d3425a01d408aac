"""Whether the rows of several requests stay apart in one run: a proof over the graph, which runs nothing.

Each value of a graph gets the dimension that carries the rows; each operator has a rule that says where its result
carries the rows, or why rows may mix. An operator without a rule is refused. The second, independent judge is
`codegen.batchability`, which compares numbers.
"""

from cutset.rowwise.analysis import RowFlow, follow_rows

__all__ = ["RowFlow", "follow_rows"]

"""Groups of values, one for each kernel, and what a schedule says of a graph's values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field

from tapefuse._records import dataclass
from tapefuse.codegen.access import Access, is_squeeze
from tapefuse.codegen.bounds import bound
from tapefuse.codegen.choices import AS_MEASURED, AsMeasured
from tapefuse.codegen.updates import is_placed, is_scatter
from tapefuse.ir.graph import Graph, Value
from tapefuse.ir.types import Dim, Shape


@dataclass(eq=False)
class Group:
    """Values computed by one kernel. `rows` leading axes of `shape` are its outer loops; None while undecided."""

    level: int
    kind: str  # "rows", "gemm", "scatter"
    shape: Shape
    nodes: list[Value] = field(default_factory=list)
    rows: int | None = None
    limit: int = 1 << 30  # most row axes its column sinks allow
    weight: int = 0
    why: str = ""  # why it did not join the group of its operands
    updates: list[Value] = field(default_factory=list)  # members that are written into the memory of their bases

    @property
    def row_shape(self) -> Shape:
        return self.shape[: self.rows or 0]


@dataclass(frozen=True)
class Schedule:
    graph: Graph
    groups: tuple[Group, ...]  # in an order in which they can run
    kept: frozenset[Value]  # values with memory of their own
    inline: frozenset[Value]
    group_of: dict[Value, Group]
    reads: dict[Value, tuple[Access, ...]]  # what computing one element of a grouped value reads
    why_kept: dict[Value, str] = field(default_factory=dict)
    choices: AsMeasured = AS_MEASURED
    ends: Mapping[str, Dim] = field(default_factory=dict)  # what indices of loops around stay below, outermost first
    serial: bool = False  # within a piece of a kernel

    def most(self, d: Dim) -> Dim:
        """What a dimension is at most, in any iteration of the loops around."""
        for index, end in reversed([*self.ends.items()]):
            d = bound(d, index, end)
        return d

    def base(self, value: Value) -> Value:
        """The value whose memory `value` is: itself, or what it is another name or a reshape of."""
        while value.op is not None and value.op.name in ("reshape", "after") and value not in self.group_of:
            value = value.args[0]
        return value


def is_sink(node: Value) -> bool:
    """A reduction over leading axes: it accumulates across rows, so its result is known after the whole kernel."""
    if node.op is None or node.op.reduction is None:
        return False
    axes = node.attributes["axes"]
    return bool(axes) and axes == tuple(range(len(axes)))


def is_row_reduction(node: Value) -> bool:
    return node.op is not None and node.op.reduction is not None and not is_sink(node) and bool(node.attributes["axes"])


def domain(node: Value) -> Shape:
    """The index space of the loops that compute a value."""
    if node.op is not None and (is_scatter(node) or is_placed(node)):
        return node.args[node.op.has_base].shape
    return node.args[0].shape if is_sink(node) or is_row_reduction(node) else node.shape


def is_memory(node: Value) -> bool:
    """Whether a value is memory that nothing computes. A single element is a literal instead, as registers that hold
    such arrays have a value from the start."""
    return node.op is not None and node.op.name == "empty" and node.type.size != 1


def is_alias(node: Value) -> bool:
    if node.op is None or node.op.name not in ("after", "reshape"):
        return False
    if node.op.name == "after":
        return node.args[0].op is None or bool(node.args[0].args)  # literals have no memory
    return not is_squeeze(node)


def unaliased(value: Value) -> Value:
    """The value that one is another name or a reshape of."""
    while is_alias(value):
        value = value.args[0]
    return value

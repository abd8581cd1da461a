"""Which values share a kernel: Graph -> Schedule.

Every value is *inline* (recomputed where it is read: literals, index views, cheap functions of inputs), an *alias*
(a reshape of something kept in memory), or a member of a *group*. A group is one kernel: a library product, a scatter,
or a nest of loops over common leading *rows*. Groups have levels: a group reads what groups of lower levels keep in
memory, and the registers of its own members; groups of one level never read each other, so they may be merged freely
and no cycle can arise.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from tapefuse.codegen.access import Access, Axis, accesses
from tapefuse.codegen.choices import AS_MEASURED, AsMeasured
from tapefuse.codegen.convolution_shape import is_tiled
from tapefuse.codegen.costs import CALL, LIMIT, weight
from tapefuse.codegen.groups import Group, Schedule, domain, is_alias, is_memory, is_row_reduction, is_sink, unaliased
from tapefuse.codegen.inline_values import chained, inline_values, needs_memory
from tapefuse.codegen.products_operands import bases, called_bases, is_contraction, is_product
from tapefuse.codegen.updates import Reads, is_placed, is_scatter, reads_of_base
from tapefuse.ir.graph import Graph, Value
from tapefuse.ir.op import OPS
from tapefuse.ir.types import Shape, show_shape

_NONE: frozenset = frozenset()
_FULL = f"the kernel has reached {LIMIT} instructions"


def schedule(graph: Graph, choices: AsMeasured = AS_MEASURED, fixed: frozenset[Value] = _NONE) -> Schedule:
    """Decide. `graph` is prepared (`prepare.prepared`). `fixed`: parameters whose memory is never written to, so that
    updates of them are updates of copies. Linear in the size of the graph.

    Done twice: the first time shows which values are kept in memory anyway; the second time, cheap functions of those
    are computed where they are read, instead of being kept as well.
    """
    needed = needs_memory(graph, fixed)
    inline = inline_values(graph, needed, frozenset(), choices)
    first = _Scheduler(graph, inline, choices, fixed=fixed).run()
    again = inline_values(graph, needed, first.kept, choices)
    return first if again == inline else _Scheduler(graph, again, choices, first, fixed).run()


class _Scheduler:
    def __init__(
        self,
        graph: Graph,
        inline: frozenset[Value],
        choices: AsMeasured = AS_MEASURED,
        before: Schedule | None = None,
        fixed: frozenset[Value] = _NONE,
    ):
        self.graph, self.inline, self.choices, self.fixed = graph, inline, choices, fixed
        self.why_kept: dict[Value, str] = dict.fromkeys(graph.outs, "an output")
        self.reads = {n: self._accesses(n, before) for n in graph.nodes if n not in inline and not is_alias(n)}
        self.readers = Counter(a.value for found in self.reads.values() for a in found)
        self.group_of: dict[Value, Group] = {}
        self.moved: dict[int, Group] = {}  # merged groups, by id
        self.open: dict[tuple[int, Shape], Group] = {}
        self.kept: set[Value] = set(graph.outs)
        self.groups: list[Group] = []

    def run(self) -> Schedule:
        for node in self.graph.nodes:
            if node not in self.inline and not is_alias(node):
                self._place(node)
        groups = [g for g in self.groups if g.nodes]
        groups.sort(key=lambda g: g.level)
        group_of = {n: g for g in groups for n in g.nodes}
        kept = frozenset(self.kept)
        return Schedule(self.graph, tuple(groups), kept, self.inline, group_of, self.reads, self.why_kept, self.choices)

    def _accesses(self, node: Value, before: Schedule | None) -> tuple[Access, ...]:
        if before is not None:
            known = before.reads.get(node)
            if known is not None and all(a.value not in self.inline or a.value in before.inline for a in known):
                return known
        if is_sink(node) or is_row_reduction(node):
            return self._elements(node.args[0])
        if node.op is OPS["result"]:
            return ()
        if is_product(node):
            return tuple(Access(base, ()) for base in bases(node))
        if node.op is not None and node.op.calls is not None:
            return tuple(Access(base, ()) for base in called_bases(node))
        if node.op is not None and node.op.is_region:
            return tuple(Access(a, ()) for a in node.args)
        if is_placed(node):
            base, v = node.args
            return (Access(base, ()), *self._elements(v))
        if is_scatter(node):
            chain = chained(node, self.inline)
            return tuple(Access(a, ()) for n in chain for a in n.args if a not in chain)
        return accesses(node, self.inline.__contains__)

    def _elements(self, operand: Value) -> tuple[Access, ...]:
        """What a kernel reads that goes through the elements of an operand."""
        if operand not in self.inline:
            return (Access(operand, tuple(Axis(k) for k in range(len(operand.shape)))),)
        return accesses(operand, self.inline.__contains__)

    def _group(self, value: Value) -> Group:
        return self._current(self.group_of[value])

    def _current(self, group: Group) -> Group:
        """The group that one has become part of, or itself."""
        while id(group) in self.moved:
            group = self.moved[id(group)]
        return group

    def _available(self, value: Value) -> int:
        """The level after which a value is in memory; -1 for what is there from the start."""
        if value in self.group_of:
            return self._group(value).level
        return max(map(self._available, value.args), default=-1)  # an alias (`after` has two operands), or inline

    def _keep(self, value: Value, why: str) -> None:
        while is_alias(value):
            value = value.args[0]
        if value.op is not None:
            self.kept.add(value)
            self.why_kept.setdefault(value, why)

    def _place(self, node: Value) -> None:
        assert node.op is not None
        reads = self.reads[node]
        if node.op is OPS["result"]:
            return self._place_result(node)
        if is_memory(node):
            self._keep(node, "memory for rows")
            return self._start(node, 0, "empty", "nothing computes it")
        if is_placed(node):
            return self._place_update(node)
        if node.op.library is not None or is_scatter(node):
            for value in self._bases(reads):
                self._keep(value, f"{node.op.name} reads it as a whole")
            level = 1 + max((self._available(v) for v in self._bases(reads)), default=-1)
            kind = "scatter" if is_scatter(node) else "rows"
            kind = "gemm" if is_product(node) and not is_contraction(node) else kind
            kind = "conv" if is_tiled(node) else kind
            kind = node.op.library if node.op.library in ("scan", "sort", "region", "numpy", "numpy_whole") else kind
            return self._start(node, level, kind, f"{node.op.name} has a kernel of its own")
        if (pooled := self._pooled(node, reads)) is not None:
            return self._join(node, pooled, (a.value for a in reads if self.group_of.get(a.value) is not pooled))
        level = max((self._earliest(a.value) for a in reads), default=0)
        inside = [a for a in reads if self._fusible(a.value) and self._group(a.value).level == level]
        why = self._boundary(reads, level)
        if inside:
            group = self._merged({id(g): g for g in (self._group(a.value) for a in inside)}.values())
            why = "its operands' kernels do not fit together" if group is None else self._fit(node, group, inside)
            if not why and not self.choices.decide(f"join {len(self.group_of)}", True):
                why = "the choice was not to join"
            if group is not None and not why:
                return self._join(node, group, [a.value for a in reads if a not in inside])
            level += 1
        for a in reads:
            self._keep(a.value, f"{node.op.name} of another kernel reads it")
        sibling = self.open.get((level, domain(node)))
        if sibling is not None:
            sibling = self._current(sibling)
        shares = sibling is not None and (why == _FULL or self._shares(node, sibling))
        if sibling is not None and not self.choices.decide(f"share {len(self.group_of)}", shares):
            sibling = None
        if sibling is not None and any(self._disturbs([node], u) for u in sibling.updates):
            sibling = None
        if sibling is not None and not self._fit(node, sibling, []):
            return self._join(node, sibling, [])
        self._start(node, level, "rows", why)

    def _place_result(self, node: Value) -> None:
        """With its region, which writes it to memory."""
        self._keep(node, "the result of a region")
        self._join(node, self._group(node.args[0]), [])

    def _place_update(self, node: Value) -> None:
        """Into the kernel that computes what is written, unless the base is not there yet, or must stay until all of
        that is known."""
        base, reads = node.args[0], self.reads[node][1:]
        self._keep(base, f"{node.op.name} writes into it")  # type: ignore[union-attr]
        self._keep(node, "an array with a part changed")
        level = max((self._earliest(a.value) for a in reads), default=0)
        inside = [a for a in reads if self._fusible(a.value) and self._group(a.value).level == level]
        why = "the array that it changes is known later" if level <= self._available(base) else ""
        if inside and not why:
            group = self._merged({id(g): g for g in (self._group(a.value) for a in inside)}.values())
            why = "its operands' kernels do not fit together"
            if group is not None:
                why = self._fit_update(node, group, inside)
            if group is not None and not why and self.choices.decide(f"join {len(self.group_of)}", True):
                group.updates.append(node)
                return self._join(node, group, [a.value for a in reads if a not in inside])
        for a in reads:
            self._keep(a.value, f"{node.op.name} of another kernel reads it")  # type: ignore[union-attr]
        group = Group(1 + max(self._available(a.value) for a in self.reads[node]), "rows", domain(node), why=why)
        group.updates.append(node)
        self.groups.append(group)
        self._join(node, group, [])

    def _fit_update(self, node: Value, group: Group, inside: list[Access]) -> str:
        if any(n.op is not None and n.op.library is not None for n in group.nodes):
            return "what is written is computed by a library"
        if self._disturbs(group.nodes, node):
            return "what is written is computed from other elements of the same array"
        return self._fit(node, group, inside)

    def _disturbs(self, members: Iterable[Value], update: Value) -> bool:
        """Whether members of one kernel may read elements that the update in it has written already."""
        base = unaliased(update.args[0])
        if base in self.fixed:
            return False
        of_base = [n for n in members if base in map(unaliased, self._bases(self.reads[n]))]
        found = (reads_of_base(n, update, self.inline.__contains__, unaliased) for n in of_base)
        return any(reads is Reads.OTHERS for reads in found)

    def _pooled(self, node: Value, reads: Iterable[Access]) -> Group | None:
        """The convolution whose kernel computes `node` as well: from windows within each image of its result."""
        if not node.op.name.startswith("window_"):  # type: ignore[union-attr]
            return None
        groups = {g: a.prefix for a in reads if (g := self.group_of.get(a.value)) is not None and g.kind == "conv"}
        if len(groups) != 1:
            return None
        ((group, prefix),) = groups.items()
        first, shape = group.nodes[0], node.shape[:1]
        of_images = first.op is not None and first.op.name != "conv_kernel" and shape == first.shape[:1] and prefix > 0
        inner = [a for a in reads if self.group_of.get(a.value) is group]
        before = all(self._available(a.value) < group.level for a in reads if a not in inner)
        fits = of_images and before and all(a.value is first and a.prefix > 0 for a in inner)
        return group if fits and self.choices.decide(f"pool {len(self.group_of)}", True) else None

    def _boundary(self, reads: Iterable[Access], level: int) -> str:
        """Why a value that reads these begins a kernel at `level`, if it does."""
        for a in reads:
            value = a.value
            while is_alias(value):
                value = value.args[0]
            if value in self.group_of and self._group(value).level == level - 1 and not self._fusible(a.value):
                name = f"{value.op.name} {show_shape(value.shape)}"  # type: ignore[union-attr]
                if is_sink(value):
                    return f"{name} is a sum over rows, known when all rows are done"
                kind = self._group(value).kind
                return f"{name} is computed as a whole" if kind != "rows" else f"{name} is read in another shape"
        return ""

    def _code(self, node: Value) -> int:
        """Roughly the instructions that a value adds to a kernel: its own, its loads, and what is inline before it."""
        return min(weight(node), CALL) + len(self.reads[node]) + sum(a in self.inline for a in node.args)

    def _bases(self, reads: Iterable[Access]) -> list[Value]:
        """The values in memory that whole-array reads touch, looking through inline operands."""
        found = []
        for a in reads:
            if a.value in self.inline:
                found += [r.value for r in accesses(a.value, self.inline.__contains__)]
            else:
                found.append(a.value)
        return found

    def _fusible(self, value: Value) -> bool:
        return value in self.group_of and self._group(value).kind == "rows" and not (is_sink(value) or is_placed(value))

    def _earliest(self, value: Value) -> int:
        return self._available(value) + (0 if self._fusible(value) else 1)

    def _shares(self, node: Value, group: Group) -> bool:
        if not group.shape:
            return True
        theirs = {a.value for n in group.nodes for a in self.reads[n]}
        return any(a.value in theirs for a in self.reads[node])

    def _start(self, node: Value, level: int, kind: str, why: str = "") -> None:
        group = Group(level, kind, domain(node), why=why)
        self.groups.append(group)
        self._join(node, group, [])
        if kind == "rows":
            self.open[level, group.shape] = group

    def _join(self, node: Value, group: Group, outside: Iterable[Value]) -> None:
        for value in outside:
            self._keep(value, f"{node.op.name} of another kernel reads it")  # type: ignore[union-attr]
        group.nodes.append(node)
        group.weight += self._code(node)
        self.group_of[node] = group
        if is_sink(node):
            self._keep(node, "a sum over rows is added up in memory" if node.shape else "the result of a whole kernel")
            if node.shape:
                group.limit = min(group.limit, len(node.attributes["axes"]))
        if is_row_reduction(node):
            group.rows = len(node.shape)
        if node.op is not None and node.op.library == "matmul":
            group.rows = len(node.shape) - is_contraction(node)

    def _merged(self, groups: Iterable[Group]) -> Group | None:
        """Groups of one level as one group, or None."""
        first, *rest = groups
        for other in rest:
            a, b = (first, other) if first.rows is not None or other.rows is None else (other, first)
            rows = b.rows if a.rows is None else a.rows
            fits = (
                a.shape == b.shape
                and a.rows is None
                and b.rows is None
                or (
                    a.rows is not None
                    and b.rows in (None, a.rows)
                    and len(b.shape) >= a.rows
                    and a.row_shape == b.shape[: a.rows]
                    and a.rows <= b.limit
                )
            )
            if not fits or a.weight + b.weight > LIMIT or a.updates or b.updates:
                return None
            a.nodes = sorted((*a.nodes, *b.nodes), key=lambda n: n.id)
            a.weight, a.limit, a.rows = a.weight + b.weight, min(a.limit, b.limit), rows
            b.nodes = []
            self.moved[id(b)] = a
            first = a
        return first

    def _fit(self, node: Value, group: Group, inside: list[Access]) -> str:
        """Empty if `node` can be computed inside `group` (whose `rows` may become fixed), else the reason it cannot."""
        if group.weight + self._code(node) > LIMIT:
            return _FULL
        dom = domain(node)
        exact = {len(node.shape)} if is_row_reduction(node) else set()
        if group.rows is not None:
            exact.add(group.rows)
        most = min(group.limit, len(dom))
        if is_sink(node) and node.shape:
            most = min(most, len(node.attributes["axes"]))
        aligned = True
        for a in inside:
            if a.is_prefix and len(a.index) == len(dom):
                continue
            if a.is_prefix:
                exact.add(len(a.index))
            elif a.data or self.readers[a.value] > 1 or a.prefix == 0:
                return f"{a.value.op.name} {show_shape(a.value.shape)} is read at other indices"  # type: ignore[union-attr]
            else:
                most, aligned = min(most, a.prefix), False
                group.weight += LIMIT // 16  # pulled at another index, by recursion: not too often in one kernel
        if len(exact) > 1:
            return f"it needs rows of {' and '.join(str(r) for r in sorted(exact))} axes"
        rows = exact.pop() if exact else None
        if rows is None and aligned and dom == group.shape:
            group.limit = min(group.limit, most)
            return ""
        rows = most if rows is None else rows
        if rows > most or rows == 0 and dom or dom[:rows] != group.shape[:rows] or len(group.shape) < rows:
            return f"rows {show_shape(group.row_shape)} do not fit {show_shape(dom)}"
        group.rows, group.limit = rows, min(group.limit, most)
        return ""

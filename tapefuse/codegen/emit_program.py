"""The launch plan as the LLVM function `tapefuse_program`, with the kernels it calls: Plan -> LLVM text.

The plan itself is data: a constant table of steps that `tapefuse_run` (runtime/launch.ll) goes through, and a constant
table of the `values` that steps refer to: numbers, and addresses in the table of pointers or in the arena. The function
only computes values that depend on dimension symbols, so that launching kernels costs next to nothing to compile.
"""

from __future__ import annotations

from dataclasses import replace

from tapefuse.codegen.context import Place, Step
from tapefuse.codegen.costs import GRAIN
from tapefuse.codegen.emit_llvm import PARAMETERS
from tapefuse.codegen.llvm_instructions import Declarations, dim_text
from tapefuse.codegen.llvm_vectors import kernel_text
from tapefuse.codegen.loops import HI, INT, LO, For, If, Kernel, Num, Poll, Stmt, While
from tapefuse.codegen.memory import ALIGN, memory_of
from tapefuse.codegen.plan import Plan, pieces
from tapefuse.codegen.rounding import may_fuse
from tapefuse.ir.program import NO_MEMORY, STOPPED
from tapefuse.ir.types import Dim

_STEP = "{ ptr, ptr, i64, i64, i64, i64 }"
_RUN = "declare i64 @tapefuse_run(ptr, ptr, i64, i64, ptr, i64, ptr, ptr, ptr, ptr)"
_FIXED = "{ i64, i64 }"  # kind (a number, a pointer of the table, an address in the arena) and number
_FEW = 64  # rows from which kernels of different sizes rather share their code
_POOL = """\
@tapefuse_threads = external global i32
declare void @numba_parallel_for(ptr, ptr, ptr, ptr, ptr, i64, i64, i32)"""


def program_text(plan: Plan) -> tuple[str, frozenset[str]]:
    """The module and the external symbols it imports."""
    writer = _Program(plan)
    text = writer.text()
    pool = {"numba_parallel_for", "tapefuse_threads"} if writer.needs.parallel else set()
    return text, frozenset(writer.needs.externals | pool | {"tapefuse_run"})


class _Program:
    def __init__(self, plan: Plan):
        request = plan.request
        self.plan, self.needs = plan, Declarations(request.strict, may_fuse(request.graph))
        self.symbols = {s: f"%dim.{k}" for k, s in enumerate(plan.graph.symbols)}
        self.lines: list[str] = []
        self.tables: dict[tuple[int, ...], str] = {}  # arguments of a kernel, as numbers of values -> the table's name
        self.values: dict[str, int] = {}  # an operand, or "pointer 3", "arena 64": what steps refer to, numbered
        self.steps: list[tuple[str, str, int, int, int, int]] = []
        self.needs.printed = lambda kernel: kernel_text(kernel, self.needs)
        self.writing: int | None = None  # the first of the steps that write states
        self.count = 0

    def text(self) -> str:
        self._load_dims()
        self._load_pointers()
        pieces_of: dict[str, int] = {}
        for number, step in enumerate(self.plan.steps):
            if self.writing is None and self._writes_state(step):
                self.writing = len(self.steps)
            self._step(number, step, pieces_of)
        writing = len(self.steps) if self.writing is None else self.writing
        fixed = [v for v in self.values if not v.startswith("%")]
        place = {v: k for k, v in enumerate([*fixed, *(v for v in self.values if v.startswith("%"))])}
        stores = []
        for value in list(place)[len(fixed) :]:
            type = "ptr" if value.startswith("%slot") else "i64"
            stores.append(f"  {value}.value = getelementptr i64, ptr %values, i64 {place[value]}")
            stores.append(f"  store {type} {value}, ptr {value}.value")
        pool = "ptr @numba_parallel_for, ptr @tapefuse_threads" if self.needs.parallel else "ptr null, ptr null"
        n, arena = len(self.steps), "%arena" if self.plan.layout.slots else "null"
        body = [
            "define i64 @tapefuse_program(ptr %pointers, ptr %dims) nounwind {",
            f"  %values = alloca [{max(len(self.values), 1)} x i64]",
            *self.lines,
            *stores,
            f"  %status = call i64 @tapefuse_run(ptr %values, ptr @steps, i64 {n}, i64 {writing}, "
            f"ptr @fixed, i64 {len(fixed)}, ptr %pointers, ptr {arena}, {pool})",
            "  ret i64 %status",
            "}",
        ]
        names = list(self.values)
        tables = [
            f"@{name} = private constant [{len(ids)} x i64] [{', '.join(f'i64 {place[names[k]]}' for k in ids)}]"
            for ids, name in self.tables.items()
        ]
        steps = ", ".join(
            f"{_STEP} {{ ptr @{kernel}, ptr @{indices}, i64 {place[names[rows]]}, i64 {place[names[cut]]}, "
            f"i64 {place[names[flag]] if flag >= 0 else -1}, i64 {status} }}"
            for kernel, indices, rows, cut, flag, status in self.steps
        )
        entries = ", ".join(f"{_FIXED} {{ {_fixed(v)} }}" for v in fixed)
        data = [
            f"@steps = private constant [{n} x {_STEP}] [{steps}]",
            f"@fixed = private constant [{len(fixed)} x {_FIXED}] [{entries}]",
        ]
        head = [_RUN, *([_POOL] if self.needs.parallel else []), *tables, *data]
        return "\n".join([*head, "", *self.needs.texts, *body, self.needs.text()]) + "\n"

    # -- what steps refer to ----------------------------------------------------------------------
    def new(self, text: str) -> str:
        self.count += 1
        self.lines.append(f"  %v{self.count} = {text}")
        return f"%v{self.count}"

    def dim(self, d: Dim) -> str:
        return dim_text(d, self.symbols.__getitem__, self.new)

    def _load_dims(self) -> None:
        for k, name in enumerate(self.symbols.values()):
            self.lines.append(f"  {name}.at = getelementptr i64, ptr %dims, i64 {k}")
            self.lines.append(f"  {name} = load i64, ptr {name}.at")

    def _load_pointers(self) -> None:
        """The arena, and the slots in it whose offsets depend on symbols."""
        if not self.plan.layout.slots:
            return
        self.lines.append(f"  %arena.at = getelementptr ptr, ptr %pointers, i64 {len(self.plan.pointers)}")
        self.lines.append("  %arena = load ptr, ptr %arena.at")
        end = str(self.plan.layout.fixed)
        for k, slot in enumerate(self.plan.layout.slots):
            if slot.offset is None:
                self.lines.append(f"  %slot{k} = getelementptr i8, ptr %arena, i64 {end}")
                past = self.new(f"add i64 {end}, {self.dim(slot.nbytes + (ALIGN - 1))}")
                end = self.new(f"and i64 {past}, {-ALIGN}")

    def _value(self, operand: str) -> int:
        return self.values.setdefault(operand, len(self.values))

    def _place(self, place: Place) -> int:
        index = self.plan.pointer(place)
        if index is not None:
            return self._value(f"pointer {index}")
        slot = self.plan.slot(place)
        offset = self.plan.layout.slots[slot].offset
        return self._value(f"%slot{slot}" if offset is None else f"arena {offset}")

    def _table(self, numbers: list[int]) -> str:
        return self.tables.setdefault(tuple(numbers), f"indices{len(self.tables)}")

    # -- steps ------------------------------------------------------------------------------------
    def _step(self, number: int, step: Step, pieces_of: dict[str, int]) -> None:
        kernel, bound = step.kernel, dict(step.bindings)
        sizes = [self._value(self.dim(bound[s]) if s in bound else self.symbols[s]) for s in kernel.symbols]
        indices = self._table([*map(self._place, step.places), *sizes])
        if step.rows_of:
            rows, cut = pieces_of[step.rows_of], self._value("1")
        else:
            rows, cut = self._value(self.dim(kernel.rows)), self._value(self._pieces(step))
        pieces_of[kernel.name] = cut
        checks = [*self._ends(step), *((self._flag(c), c + 1) for c in self.plan.checks_after.get(number, ()))]
        checks = checks or [(-1, 0)]
        name = self.needs.function(self._bounded(step))
        one = self._value("1")
        for k, (flag, status) in enumerate(checks):
            step_of = (name, indices, rows, cut) if k == 0 else ("nothing", indices, one, one)
            self.steps.append((*step_of, flag, status))
        if len(checks) > 1 and "nothing" not in self.needs.kernels:
            self.needs.kernels["nothing"] = "nothing"
            self.needs.texts.append(f"define internal void @nothing({PARAMETERS}) {{ ret void }}")

    def _ends(self, step: Step) -> list[tuple[int, int]]:
        """Flags of a region that was told to stop, or found no memory, and what the program's status is then."""
        if step.status is None:
            return []
        slot = self.plan.layout.slots[self.plan.slot(step.status)]
        assert slot.offset is not None
        return [(self._value(f"arena {slot.offset + k}"), status) for k, status in enumerate((STOPPED, NO_MEMORY))]

    def _bounded(self, step: Step) -> Kernel:
        """The kernel; if it runs over few rows, in one piece, with their number in its loops: a third of the code."""
        kernel, rows = step.kernel, step.kernel.rows
        if self.writing is not None and step.status is not None:
            return replace(kernel, body=_without_polls(kernel.body))  # states are half written: too late to stop
        if step.rows_of or pieces(step) != 1 or not isinstance(rows, int) or not 0 < rows < _FEW:
            return kernel
        lo, hi = Num(0, INT), Num(rows, INT)
        body = tuple(
            replace(s, start=lo, stop=hi) if isinstance(s, For) and s.start is LO and s.stop is HI else s
            for s in kernel.body
        )
        return replace(kernel, body=body)

    def _writes_state(self, step: Step) -> bool:
        request = self.plan.request
        states = self.plan.graph.params[request.inputs : request.inputs + len(request.states)]
        return any(memory_of(p).value in states for p in step.written if not p.tag)

    def _pieces(self, step: Step) -> str:
        count = pieces(step)
        self.needs.parallel |= count != 1
        if isinstance(count, int):
            return str(count)
        most, cost = count
        smax, smin = (self.needs.intrinsic(f"llvm.{f}.i64", "i64", "i64", "i64") for f in ("smax", "smin"))
        grains = self.new(f"sdiv i64 {self.dim(cost)}, {GRAIN}")
        return self.new(f"call i64 {smax}(i64 1, i64 {self.new(f'call i64 {smin}(i64 {most}, i64 {grains})')})")

    def _flag(self, check: int) -> int:
        outs = self.plan.graph.outs
        value = outs[len(outs) - len(self.plan.request.checks) + check]
        return self._place(Place(value, value.type))


def _without_polls(body: tuple[Stmt, ...]) -> tuple[Stmt, ...]:
    found: list[Stmt] = []
    for s in body:
        match s:
            case Poll():
                continue
            case For():
                s = replace(s, body=_without_polls(s.body))
            case While():
                s = replace(s, before=_without_polls(s.before), body=_without_polls(s.body))
            case If():
                s = replace(s, then=_without_polls(s.then), otherwise=_without_polls(s.otherwise))
        found.append(s)
    return tuple(found)


def _fixed(value: str) -> str:
    """The entry of a value in the table of fixed ones."""
    kind, _, number = value.rpartition(" ")
    return f"i64 {('', 'pointer', 'arena').index(kind)}, i64 {number}"

"""The launch plan as the LLVM function `tapefuse_program`, with the kernels it calls: Plan -> LLVM text.

The plan itself is data: a constant table of steps that `tapefuse_run` (runtime/launch.ll) goes through. The function
only computes the `values` that steps refer to - addresses, dimensions, numbers of rows and pieces -, so that launching
kernels costs next to nothing to compile.
"""

from __future__ import annotations

from tapefuse.codegen.llvm_instructions import Declarations, dim_text
from tapefuse.codegen.llvm_vectors import kernel_text
from tapefuse.codegen.loops import Kernel
from tapefuse.codegen.lower import GRAIN, Place, Step
from tapefuse.codegen.memory import ALIGN
from tapefuse.codegen.plan import Plan, pieces
from tapefuse.ir.types import Dim

_STEP = "{ ptr, ptr, i64, i64, i64, i64 }"
_RUN = "declare i64 @tapefuse_run(ptr, ptr, i64, ptr, ptr)"
_POOL = """\
@tapefuse_threads = external global i32
declare void @numba_parallel_for(ptr, ptr, ptr, ptr, ptr, i64, i64, i32)"""


def program_text(plan: Plan) -> tuple[str, frozenset[str]]:
    """The module and the external symbols it imports."""
    writer = _Program(plan)
    text = writer.text()
    pool = {"numba_parallel_for", "tapefuse_threads"} if writer.parallel else set()
    return text, frozenset(writer.needs.externals | pool | {"tapefuse_run"})


class _Program:
    def __init__(self, plan: Plan):
        self.plan, self.needs = plan, Declarations(plan.request.strict)
        self.symbols = {s: f"%dim.{k}" for k, s in enumerate(plan.graph.symbols)}
        self.lines: list[str] = []
        self.functions: dict[str, str] = {}  # body without its name -> name: equal kernels are compiled once
        self.texts: list[str] = []
        self.tables: dict[str, str] = {}  # contents of a constant array -> its name
        self.values: dict[str, int] = {}  # operand -> its index in `values`
        self.steps: list[str] = []
        self.parallel = False
        self.count = 0

    def text(self) -> str:
        self._load_dims()
        self._load_pointers()
        pieces_of: dict[str, int] = {}
        for number, step in enumerate(self.plan.steps):
            self._step(number, step, pieces_of)
        stores = []
        for k, value in enumerate(self.values):
            type = "i64" if not value.startswith(("%p", "%slot")) else "ptr"
            stores.append(f"  %value{k} = getelementptr i64, ptr %values, i64 {k}")
            stores.append(f"  store {type} {value}, ptr %value{k}")
        pool = "ptr @numba_parallel_for, ptr @tapefuse_threads" if self.parallel else "ptr null, ptr null"
        n = len(self.steps)
        body = [
            "define i64 @tapefuse_program(ptr %pointers, ptr %dims) nounwind {",
            f"  %values = alloca [{max(len(self.values), 1)} x i64]",
            *self.lines,
            *stores,
            f"  %status = call i64 @tapefuse_run(ptr %values, ptr @steps, i64 {n}, {pool})",
            "  ret i64 %status",
            "}",
        ]
        tables = [f"@{name} = private constant {contents}" for contents, name in self.tables.items()]
        steps = f"@steps = private constant [{n} x {_STEP}] [{', '.join(self.steps)}]"
        head = [_RUN, *([_POOL] if self.parallel else []), *tables, steps]
        return "\n".join([*head, "", *self.texts, *body, self.needs.text()]) + "\n"

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
        count = len(self.plan.pointers)
        for k in range(count + (1 if self.plan.layout.slots else 0)):
            name = f"%p{k}" if k < count else "%arena"
            self.lines.append(f"  {name}.at = getelementptr ptr, ptr %pointers, i64 {k}")
            self.lines.append(f"  {name} = load ptr, ptr {name}.at")
        end = str(self.plan.layout.fixed)
        for k, slot in enumerate(self.plan.layout.slots):
            offset = str(slot.offset) if slot.offset is not None else end
            self.lines.append(f"  %slot{k} = getelementptr i8, ptr %arena, i64 {offset}")
            if slot.offset is None:
                past = self.new(f"add i64 {end}, {self.dim(slot.nbytes + (ALIGN - 1))}")
                end = self.new(f"and i64 {past}, {-ALIGN}")

    def _value(self, operand: str) -> int:
        return self.values.setdefault(operand, len(self.values))

    def _place(self, place: Place) -> int:
        index = self.plan.pointer(place)
        return self._value(f"%p{index}" if index is not None else f"%slot{self.plan.slot(place)}")

    def _table(self, numbers: list[int]) -> str:
        contents = f"[{len(numbers)} x i64] [{', '.join(f'i64 {n}' for n in numbers)}]"
        return self.tables.setdefault(contents, f"indices{len(self.tables)}")

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
        checks = [(self._flag(c), c + 1) for c in self.plan.checks_after.get(number, ())] or [(-1, 0)]
        name = self._function(kernel)
        for k, (flag, status) in enumerate(checks):
            function, count = (f"ptr @{name}", rows) if k == 0 else ("ptr @nothing", self._value("1"))
            fields = f"{function}, ptr @{indices}, i64 {count}, i64 {cut if k == 0 else self._value('1')}"
            self.steps.append(f"{_STEP} {{ {fields}, i64 {flag}, i64 {status} }}")
        if len(checks) > 1 and "nothing" not in self.functions:
            self.functions["nothing"] = "nothing"
            self.texts.append("define internal void @nothing(ptr %v, ptr %i, i64 %l, i64 %h, i64 %c) { ret void }")

    def _pieces(self, step: Step) -> str:
        count = pieces(step)
        self.parallel |= count != 1
        if isinstance(count, int):
            return str(count)
        most, cost = count
        smax, smin = (self.needs.intrinsic(f"llvm.{f}.i64", "i64", "i64", "i64") for f in ("smax", "smin"))
        grains = self.new(f"sdiv i64 {self.dim(cost)}, {GRAIN}")
        return self.new(f"call i64 {smax}(i64 1, i64 {self.new(f'call i64 {smin}(i64 {most}, i64 {grains})')})")

    def _function(self, kernel: Kernel) -> str:
        text = kernel_text(kernel, self.needs)
        rest = text.split("(", 1)[1]
        if rest not in self.functions:
            self.functions[rest] = kernel.name
            self.texts.append(text)
        return self.functions[rest]

    def _flag(self, check: int) -> int:
        outs = self.plan.graph.outs
        value = outs[len(outs) - len(self.plan.request.checks) + check]
        return self._place(Place(value, value.type))

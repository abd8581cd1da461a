"""The launch plan as the LLVM function `tapefuse_program`, with the kernels it calls: Plan -> LLVM text."""

from __future__ import annotations

from tapefuse.codegen.emit_llvm import kernel_parameters
from tapefuse.codegen.llvm_instructions import Declarations, dim_text
from tapefuse.codegen.llvm_vectors import kernel_text
from tapefuse.codegen.loops import Kernel
from tapefuse.codegen.lower import CHUNKS, GRAIN, Place, Step
from tapefuse.codegen.memory import ALIGN
from tapefuse.codegen.plan import Plan, pieces
from tapefuse.ir.types import Dim

# Cuts a kernel into pieces and runs them here or on the thread pool. The pieces depend on sizes only, never on threads.
_LAUNCH = """
%tapefuse.job = type { ptr, ptr, i64, i64 }
@tapefuse.numbers = private constant [CHUNKS x i64] [NUMBERS]
@tapefuse_threads = external global i32
declare void @numba_parallel_for(ptr, ptr, ptr, ptr, ptr, i64, i64, i32)

define internal void @tapefuse.piece(ptr %job, i64 %c) nounwind {
  %fn = load ptr, ptr %job
  %pack.at = getelementptr %tapefuse.job, ptr %job, i32 0, i32 1
  %pack = load ptr, ptr %pack.at
  %rows.at = getelementptr %tapefuse.job, ptr %job, i32 0, i32 2
  %rows = load i64, ptr %rows.at
  %pieces.at = getelementptr %tapefuse.job, ptr %job, i32 0, i32 3
  %pieces = load i64, ptr %pieces.at
  %a = mul i64 %c, %rows
  %lo = udiv i64 %a, %pieces
  %c1 = add i64 %c, 1
  %b = mul i64 %c1, %rows
  %hi = udiv i64 %b, %pieces
  call void %fn(ptr %pack, i64 %lo, i64 %hi, i64 %c)
  ret void
}

define internal void @tapefuse.task(ptr %args, ptr %dims, ptr %steps, ptr %job) nounwind {
entry:
  %first = load ptr, ptr %args
  %n = load i64, ptr %dims
  %none = icmp eq i64 %n, 0
  br i1 %none, label %done, label %next
next:
  %k = phi i64 [ 0, %entry ], [ %k1, %next ]
  %at = getelementptr i64, ptr %first, i64 %k
  %c = load i64, ptr %at
  call void @tapefuse.piece(ptr %job, i64 %c)
  %k1 = add i64 %k, 1
  %more = icmp ult i64 %k1, %n
  br i1 %more, label %next, label %done
done:
  ret void
}

define internal void @tapefuse.launch(ptr %fn, ptr %pack, i64 %rows, i64 %pieces) nounwind {
entry:
  %job = alloca %tapefuse.job
  %args = alloca ptr
  %dims = alloca i64
  %steps = alloca i64
  store ptr %fn, ptr %job
  %pack.at = getelementptr %tapefuse.job, ptr %job, i32 0, i32 1
  store ptr %pack, ptr %pack.at
  %rows.at = getelementptr %tapefuse.job, ptr %job, i32 0, i32 2
  store i64 %rows, ptr %rows.at
  %pieces.at = getelementptr %tapefuse.job, ptr %job, i32 0, i32 3
  store i64 %pieces, ptr %pieces.at
  %threads = load i32, ptr @tapefuse_threads
  %many = icmp sgt i32 %threads, 1
  %cut = icmp sgt i64 %pieces, 1
  %parallel = and i1 %many, %cut
  br i1 %parallel, label %pool, label %here
pool:
  store ptr @tapefuse.numbers, ptr %args
  store i64 %pieces, ptr %dims
  store i64 8, ptr %steps
  call void @numba_parallel_for(ptr @tapefuse.task, ptr %args, ptr %dims, ptr %steps, ptr %job, i64 0, i64 1, i32 %threads)
  ret void
here:
  %c = phi i64 [ 0, %entry ], [ %c1, %here ]
  call void @tapefuse.piece(ptr %job, i64 %c)
  %c1 = add i64 %c, 1
  %more = icmp ult i64 %c1, %pieces
  br i1 %more, label %here, label %done
done:
  ret void
}
""".replace("CHUNKS", str(CHUNKS)).replace("NUMBERS", ", ".join(f"i64 {k}" for k in range(CHUNKS)))


def program_text(plan: Plan) -> tuple[str, frozenset[str]]:
    """The module and the external symbols it imports."""
    writer = _Program(plan)
    text = writer.text()
    externals = writer.needs.externals | ({"numba_parallel_for", "tapefuse_threads"} if writer.launches else set())
    return text, frozenset(externals)


class _Program:
    def __init__(self, plan: Plan):
        self.plan, self.needs = plan, Declarations()
        self.symbols = {s: f"%dim.{k}" for k, s in enumerate(plan.graph.symbols)}
        self.lines: list[str] = []
        self.slots: list[str] = []
        self.functions: dict[str, str] = {}  # body with its name left out -> name: equal kernels are compiled once
        self.texts: list[str] = []
        self.launches = False
        self.count = 0

    def text(self) -> str:
        self._load_dims()
        self._load_pointers()
        pieces_of: dict[str, str] = {}
        for number, step in enumerate(self.plan.steps):
            self._step(step, pieces_of)
            for check in self.plan.checks_after.get(number, ()):
                self._check(check)
        head = "define i64 @tapefuse_program(ptr %pointers, ptr %dims) nounwind {\nentry:"
        body = [head, *self.slots, *self.lines, "  ret i64 0", "}"]
        launch = [_LAUNCH] if self.launches else []
        return "\n".join([*launch, *self.texts, *body, self.needs.text()]) + "\n"

    def line(self, text: str) -> None:
        self.lines.append(f"  {text}")

    def new(self, text: str) -> str:
        self.count += 1
        self.line(f"%v{self.count} = {text}")
        return f"%v{self.count}"

    def dim(self, d: Dim) -> str:
        return dim_text(d, self.symbols.__getitem__, self.new)

    def _load_dims(self) -> None:
        for k, name in enumerate(self.symbols.values()):
            self.line(f"{name}.at = getelementptr i64, ptr %dims, i64 {k}")
            self.line(f"{name} = load i64, ptr {name}.at")

    def _load_pointers(self) -> None:
        count = len(self.plan.pointers)
        for k in range(count + (1 if self.plan.layout.slots else 0)):
            name = f"%p{k}" if k < count else "%arena"
            self.line(f"{name}.at = getelementptr ptr, ptr %pointers, i64 {k}")
            self.line(f"{name} = load ptr, ptr {name}.at")
        end = str(self.plan.layout.fixed)
        for k, slot in enumerate(self.plan.layout.slots):
            offset = str(slot.offset) if slot.offset is not None else end
            self.line(f"%slot{k} = getelementptr i8, ptr %arena, i64 {offset}")
            if slot.offset is None:
                past = self.new(f"add i64 {end}, {self.dim(slot.nbytes + (ALIGN - 1))}")
                end = self.new(f"and i64 {past}, {-ALIGN}")

    def _place(self, place: Place) -> str:
        index = self.plan.pointer(place)
        return f"%p{index}" if index is not None else f"%slot{self.plan.slot(place)}"

    def _step(self, step: Step, pieces_of: dict[str, str]) -> None:
        kernel = step.kernel
        name = self._function(kernel)
        arguments = [f"ptr {self._place(p)}" for p in step.places]
        arguments += [f"i64 {self.symbols[s]}" for s in kernel.symbols]
        if step.rows_of:
            self.line(f"call void @{name}({', '.join([*arguments, 'i64 0', f'i64 {pieces_of[step.rows_of]}', 'i64 0'])})")
            return
        count, rows = pieces(step), self.dim(kernel.rows)
        if count == 1:
            pieces_of[kernel.name] = "1"
            self.line(f"call void @{name}({', '.join([*arguments, 'i64 0', f'i64 {rows}', 'i64 0'])})")
            return
        self.launches = True
        number = str(count) if isinstance(count, int) else self._pieces(*count)
        pieces_of[kernel.name] = number
        self.line(f"call void @tapefuse.launch(ptr @{self._packed(name, kernel)}, ptr {self._pack(arguments)}, i64 {rows}, i64 {number})")

    def _pieces(self, most: int, cost: Dim) -> str:
        smax, smin = (self.needs.intrinsic(f"llvm.{f}.i64", "i64", "i64", "i64") for f in ("smax", "smin"))
        grains = self.new(f"sdiv i64 {self.dim(cost)}, {GRAIN}")
        return self.new(f"call i64 {smax}(i64 1, i64 {self.new(f'call i64 {smin}(i64 {most}, i64 {grains})')})")

    def _pack(self, arguments: list[str]) -> str:
        """The kernel's arguments in memory, for the pool's threads to read."""
        self.count += 1
        pack = f"%pack{self.count}"
        self.slots.append(f"  {pack} = alloca [{max(len(arguments), 1)} x i64]")
        for k, argument in enumerate(arguments):
            self.line(f"store {argument}, ptr {self.new(f'getelementptr i64, ptr {pack}, i64 {k}')}")
        return pack

    def _function(self, kernel: Kernel) -> str:
        text = kernel_text(kernel, self.needs)
        head, rest = text.split("(", 1)
        if rest not in self.functions:
            self.functions[rest] = kernel.name
            self.texts.append(text)
        return self.functions[rest]

    def _packed(self, name: str, kernel: Kernel) -> str:
        """A function of (pack, lo, hi, chunk) that unpacks a kernel's arguments and calls it."""
        packed = f"{name}.packed"
        if packed in self.functions.values():
            return packed
        self.functions[packed] = packed
        lines, arguments = [], []
        for k, type in enumerate(kernel_parameters(kernel)[:-3]):
            lines += [f"  %a{k} = getelementptr i64, ptr %pack, i64 {k}", f"  %x{k} = load {type}, ptr %a{k}"]
            arguments.append(f"{type} %x{k}")
        call = ", ".join([*arguments, "i64 %lo", "i64 %hi", "i64 %chunk"])
        head = f"define internal void @{packed}(ptr %pack, i64 %lo, i64 %hi, i64 %chunk) nounwind {{"
        self.texts.append("\n".join([head, *lines, f"  call void @{name}({call})", "  ret void", "}"]))
        return packed

    def _check(self, number: int) -> None:
        value = self.plan.graph.outs[len(self.plan.graph.outs) - len(self.plan.request.checks) + number]
        failed = self.new(f"load i8, ptr {self._place(Place(value, value.type))}")
        bad = self.new(f"icmp ne i8 {failed}, 0")
        self.count += 1
        here = self.count
        self.line(f"br i1 {bad}, label %failed{here}, label %passed{here}")
        self.lines += [f"failed{here}:", f"  ret i64 {number + 1}", f"passed{here}:"]

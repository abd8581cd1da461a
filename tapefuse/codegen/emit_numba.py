"""The launch plan as Python source: Plan -> the text of a module that runs under `@njit` and as plain Python alike.

One function per kernel (`emit_numba_kernel`), another for each that is cut into pieces, and `program`:

    @njit(nogil=True, error_model="numpy", parallel=True)
    def k1_pieces(b0, b1, n0, rows, pieces):
        for piece in prange(pieces):
            chunk = int64(piece)
            k1(b0, b1, n0, chunk * rows // pieces, (chunk + 1) * rows // pieces, chunk)

    @njit(nogil=True, error_model="numpy")
    def program(x0, x1, y0, arena, n0):
        m0 = carve(arena, 0, (n0, 10), float32)
        matmul_rows(x0, x1, m0, 0, n0)
        p1 = max(1, min(16, 6320 * n0 // 1024000))
        k1_pieces(m0, y0, n0, n0, p1)
        return 0
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from tapefuse.codegen.context import Place, Step
from tapefuse.codegen.costs import GRAIN
from tapefuse.codegen.emit_numba_kernel import grouped, kernel_text, parameters, taken
from tapefuse.codegen.emit_numba_names import Imports, dim_text, shape_text
from tapefuse.codegen.loops import INT, Kernel
from tapefuse.codegen.memory import ALIGN
from tapefuse.codegen.plan import Plan, pieces
from tapefuse.ir.types import Dim, Shape, Type, show_dtype

OPTIONS = 'nogil=True, error_model="numpy"'


def program_text(plan: Plan) -> str:
    """The module's source. Raises CompileError for what the Numba backend cannot express."""
    return _Program(plan).text()


class _Program:
    def __init__(self, plan: Plan):
        self.plan, self.imports = plan, Imports()
        self.symbols = {s: f"n{k}" for k, s in enumerate(plan.graph.symbols)}
        self.names = self._names()
        self.functions: dict[str, str] = {}  # text with its name left out -> name: equal kernels are compiled once
        self.texts: list[str] = []
        self.launchers: set[str] = set()
        self.lines: list[str] = []
        self.arrays: dict[tuple[str, Type], str] = {}  # memory in the shape that a kernel sees it in -> name
        self.offsets: dict[int, str] = {}

    def _names(self) -> list[str]:
        """A name for each array in the program's table of pointers."""
        request, params = self.plan.request, len(self.plan.graph.params)
        counts = {"x": request.inputs, "s": len(request.states)}
        counts |= {"c": params - sum(counts.values()), "y": len(self.plan.outputs)}
        return [f"{letter}{k}" for letter, count in counts.items() for k in range(count)]

    def text(self) -> str:
        counts: dict[str, str] = {}
        self._slots()
        for number, step in enumerate(self.plan.steps):
            self._step(step, counts)
            for check in self.plan.checks_after.get(number, ()):
                self._check(check)
        self.line("return 0")
        head = f"def program({', '.join([*self.names, 'arena', *self.symbols.values()])}):"
        program = "\n".join([f"@njit({OPTIONS})", head, *self._about(), *self.lines])
        return "\n\n\n".join([self.imports.text(), *self.texts, program]) + "\n"

    def _about(self) -> Iterator[str]:
        letters = {"x": "inputs", "s": "states", "c": "constants", "y": "outputs"}
        for letter, title in letters.items():
            named = zip(self.names, self.plan.pointers, strict=True)
            if mine := [f"{name} {self._type(t)}" for name, t in named if name[0] == letter]:
                yield f"    # {title}: {', '.join(mine)}"

    def _type(self, type: Type) -> str:
        return f"{show_dtype(type.dtype)}[{','.join(map(self.dim, type.shape)).replace(' ', '')}]"

    def line(self, text: str) -> None:
        self.lines.append(f"    {text}")

    def dim(self, d: Dim) -> str:
        return dim_text(d, self.symbols)

    def shape(self, shape: Shape) -> str:
        return shape_text(shape, self.symbols)

    # -- memory ------------------------------------------------------------------------------------
    def _slots(self) -> None:
        """Offsets of the arena's slots; those of symbolic size follow each other."""
        end = str(self.plan.layout.fixed)
        for k, slot in enumerate(self.plan.layout.slots):
            if slot.offset is not None:
                self.offsets[k] = str(slot.offset)
                continue
            self.offsets[k] = end
            self.line(f"end{k} = {end} + ({self.dim(slot.nbytes + (ALIGN - 1))}) // {ALIGN} * {ALIGN}")
            end = f"end{k}"

    def _array(self, place: Place, type: Type) -> str:
        """A place as an array of a kernel's buffer type; a scalar as one element, which a parallel loop can write."""
        type = Type(type.dtype, type.shape or (1,))
        index = self.plan.pointer(place)
        if index is not None and self.plan.pointers[index] == type:
            return self.names[index]
        memory = f"slot{self.plan.slot(place)}" if index is None else self.names[index]
        if (memory, type) not in self.arrays:
            self.arrays[memory, type] = name = f"m{len(self.arrays)}"
            shape = self.shape(type.shape)
            if index is None:
                offset, dtype = self.offsets[self.plan.slot(place)], self.imports.dtype(type.dtype)
                self.line(f"{name} = {self.imports.function('carve')}(arena, {offset}, {shape}, {dtype})")
            else:
                self.line(f"{name} = {self.imports.function('reshaped')}({memory}, {shape})")
        return self.arrays[memory, type]

    # -- steps -------------------------------------------------------------------------------------
    def _step(self, step: Step, counts: dict[str, str]) -> None:
        """The call of one kernel; `counts`: into how many pieces each kernel is cut, as text."""
        kernel = step.kernel
        name = self._function(kernel)
        bound = dict(step.bindings)
        types = [b.type.substitute(bound) for b in kernel.buffers]
        arrays = [self._array(p, t) for p, t in zip(step.places, types, strict=True)]
        sizes = [self.dim(bound[s]) if s in bound else self.symbols[s] for s in kernel.symbols]
        arguments = grouped([*arrays, *sizes])
        if step.rows_of:
            self.line(f"{name}({', '.join([*arguments, '0', counts[step.rows_of], '0'])})")
            return
        count, rows = pieces(step), self.dim(kernel.rows)
        if count == 1:
            counts[kernel.name] = "1"
            self.line(f"{name}({', '.join([*arguments, '0', rows, '0'])})")
            return
        if not isinstance(count, int):
            most, cost = count
            number = f"p{len(counts)}"
            self.line(f"{number} = max(1, min({most}, ({self.dim(cost)}) // {GRAIN}))")
        counts[kernel.name] = number if not isinstance(count, int) else str(count)
        self.line(f"{self._launcher(name, kernel)}({', '.join([*arguments, rows, counts[kernel.name]])})")

    def _function(self, kernel: Kernel) -> str:
        rest = kernel_text(kernel, self.imports, self._launched).split("(", 1)[1]
        if rest not in self.functions:
            self.functions[rest] = kernel.name
            self.texts.append(f"@njit({OPTIONS})\ndef {kernel.name}({rest}")
        return self.functions[rest]

    def _launched(self, kernel: Kernel, in_pieces: bool) -> str:
        """The function for a kernel that another one runs."""
        name = self._function(kernel)
        return self._launcher(name, kernel) if in_pieces else name

    def _launcher(self, name: str, kernel: Kernel) -> str:
        """A function that runs a kernel in pieces, on Numba's threads."""
        launcher = f"{name}_pieces"
        if launcher not in self.launchers:
            self.launchers.add(launcher)
            (given, unpacked), int64 = taken(parameters(kernel)), self.imports.dtype(INT)
            bounds = ["chunk * rows // pieces", "(chunk + 1) * rows // pieces", "chunk"]
            self.texts.append(
                f"@njit({OPTIONS}, parallel=True)\n"
                f"def {launcher}({', '.join([*given, 'rows', 'pieces'])}):\n"
                + "".join(f"{line}\n" for line in unpacked)
                + "    for piece in prange(pieces):\n"
                f"        chunk = {int64}(piece)  # Numba makes it unsigned\n"
                f"        {name}({', '.join([*grouped(parameters(kernel)), *bounds])})"
            )
        return launcher

    def _check(self, number: int) -> None:
        value = self.plan.graph.outs[len(self.plan.graph.outs) - len(self.plan.request.checks) + number]
        failed = self._array(Place(value, value.type), Type(np.dtype(bool), ()))
        self.line(f"if {failed}[0]:")
        self.line(f"    return {number + 1}")

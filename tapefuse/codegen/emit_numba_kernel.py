"""Kernels as Python source: Kernel -> the text of a function that runs under Numba's `@njit` and as plain Python alike.

A kernel that adds a bias and applies relu prints as

    def k0(b0, b1, b2, n0, lo, hi, chunk):
        # add, relu: b0 f32[:,:], b1 f32[:], b2 f32[:,:]
        for i0 in range(lo, hi):
            for i1 in range(10):
                t2 = b0[i0, i1] + b1[i1]
                b2[i0, i1] = select(t2 <= float32(0.0), float32(0.0), t2)

Every name is made here: no string of the user's gets into the text. Scalars keep their dtype: where Numba would widen
(32-bit integers), results are cast back; functions come from `tapefuse.runtime.numba_library`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np

from tapefuse._errors import CompileError
from tapefuse.codegen import vector_math
from tapefuse.codegen.emit_numba_names import Imports, dim_text, shape_text
from tapefuse.codegen.loops import (
    CHUNK,
    HI,
    INT,
    LO,
    MOST_TERMS,
    ZERO,
    Allocate,
    Assign,
    Buffer,
    Call,
    Contract,
    Declare,
    For,
    Free,
    Gemm,
    Grow,
    If,
    Kernel,
    Launch,
    Let,
    Load,
    Move,
    Num,
    Poll,
    Scalar,
    Stmt,
    Store,
    Substitute,
    Term,
    Transpose,
    Update,
    Var,
    View,
    While,
    dimension,
)
from tapefuse.codegen.loops_walk import defined_symbols, reads, walk
from tapefuse.ir.ops.scalar import COMPARISONS, HALVES
from tapefuse.ir.types import Type, show_dtype, size

LONGEST = 72  # an expression longer than this gets a name of its own
OPERATORS = {
    "add": "+", "sub": "-", "mul": "*", "div": "/", "and": "&", "or": "|", "xor": "^", "shl": "<<", "shr": ">>",
    "eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">=",
}  # fmt: skip
FLOAT_FUNCTIONS = frozenset({*vector_math.UNARY, "atan2", "sqrt", "rsqrt", "floor", "ceil", "round"})
FUNCTIONS = FLOAT_FUNCTIONS | {"floordiv", "mod", "pow", "maximum", "minimum", "abs", "sign", "select", "threefry"}
BYTE = np.dtype(np.uint8)
RENAMED = {"abs": "absolute", "round": "round_even", "pow": "power"}  # Python's own names stay what they are
Launched = Callable[[Kernel, bool], str]  # a kernel, whether it runs in pieces -> the function that runs it


def _no_launch(kernel: Kernel, in_pieces: bool) -> str:
    raise TypeError(f"{kernel.name} runs within another kernel, but there is nobody to define it")


def kernel_text(kernel: Kernel, imports: Imports, launched: Launched = _no_launch) -> str:
    """The definition of one kernel, without its decorator. `launched` defines the kernels that it runs."""
    return _Writer(kernel, imports, launched).text()


def parameters(kernel: Kernel) -> list[str]:
    """A kernel's buffers and sizes, by their names in the text."""
    return [b.name for b in kernel.buffers] + [f"n{k}" for k in range(len(kernel.symbols))]


MOST_ARGUMENTS = 24  # Python calls functions with more than 30 in a way that Numba does not compile


def grouped(arguments: Sequence[str]) -> list[str]:
    """The arguments of a call; many of them as tuples."""
    if len(arguments) <= MOST_ARGUMENTS:
        return list(arguments)
    return [f"({', '.join(arguments[k : k + MOST_ARGUMENTS])},)" for k in range(0, len(arguments), MOST_ARGUMENTS)]


def taken(names: Sequence[str]) -> tuple[list[str], list[str]]:
    """The parameters of a function that is called with `grouped` arguments, and the lines that take tuples apart."""
    tuples = grouped(names)
    if len(tuples) == len(names):
        return tuples, []
    return [f"g{k}" for k in range(len(tuples))], [f"    {t} = g{k}" for k, t in enumerate(tuples)]


class _Writer:
    def __init__(self, kernel: Kernel, imports: Imports, launched: Launched):
        self.kernel, self.imports, self.launched = kernel, imports, launched
        inner = dict.fromkeys(s for s in defined_symbols(kernel.body) if s not in kernel.symbols)
        self.inner = {dimension(s) for s in inner}  # sizes and indices that this kernel gives a value
        self.symbols = {s: f"n{k}" for k, s in enumerate(kernel.symbols)} | {s: f"d{k}" for k, s in enumerate(inner)}
        self.names: dict[Var, str] = {v: v.name for v in (LO, HI, CHUNK)}
        self.names |= {dimension(s): name for s, name in self.symbols.items()}
        self.uses = Counter(v for s in walk(kernel.body) for v in reads(s))
        self.pending: dict[Var, str] = {}  # expressions whose only reader follows with nothing but expressions between
        self.lines: list[str] = []
        self.depth = 1

    def text(self) -> str:
        about = ", ".join(f"{b.name} {_any_size(b.type)}" for b in self.kernel.buffers)
        self.line(f"# {self.kernel.title or 'kernel'}: {about}")
        self.statements(self.kernel.body)
        given, unpacked = taken(parameters(self.kernel))
        head = f"def {self.kernel.name}({', '.join([*given, 'lo', 'hi', 'chunk'])}):"
        return "\n".join([head, *unpacked, *self.lines, *["    pass"] * (len(self.lines) == 1)])

    # -- statements --------------------------------------------------------------------------------
    def statements(self, body: Sequence[Stmt]) -> None:
        self.unfinished(body)
        self.flush()

    def unfinished(self, body: Sequence[Stmt]) -> None:
        """Statements; expressions at the end may be pending."""
        for s in body:
            match s:
                case Let(dst, op, args):
                    self.let(dst, self.expression(op, args, dst.dtype))
                case Load(dst, buffer, index):
                    self.let(dst, self.element(buffer, index))
                case Store(buffer, index, value):
                    self.effect(f"{self.element(buffer, index)} = {self.plain(value)}")
                case Declare(acc, init):
                    self.names[acc] = acc.name
                    text = self.plain(init)
                    self.effect(f"{acc.name} = {f'{self.imports.dtype(INT)}({text})' if acc.dtype == INT else text}")
                case Update(acc, op, value):
                    self.effect(self.update(acc, op, value))
                case For() if s.body:
                    self.loop(s)
                case Gemm():
                    self.effect(self.gemm(s))
                case Contract():
                    self.effect(self.contract(s))
                case Transpose():
                    self.effect(self.transpose(s))
                case Substitute():
                    self.effect(self.substitute(s))
                case Call():
                    self.names[s.failed] = s.failed.name
                    self.effect(f"{s.failed.name} = {self.call(s)}")
                case Assign(acc, value):
                    self.effect(f"{acc.name} = {self.plain(value)}")
                case While():
                    self.repeat(s)
                case If():
                    self.branch(s)
                case View():
                    self.effect(f"{s.buffer.name} = {self.view(s)}")
                case Move(targets, sources):
                    self.effect(" = ".join(", ".join(b.name for b in buffers) for buffers in (targets, sources)))
                case Launch():
                    self.effect(self.launch(s))
                case Allocate(buffer, nbytes):
                    self.effect(f"{buffer.name} = {self.imports.function('allocated')}({self.plain(nbytes)})")
                case Grow(buffer, used, nbytes):
                    grown, sizes = self.imports.function("grown"), f"{self.plain(used)}, {self.plain(nbytes)}"
                    self.effect(f"{buffer.name} = {grown}({buffer.name}, {sizes})")
                case Free(buffer):
                    self.effect(f"{self.imports.function('release')}({buffer.name})")
                case Poll():
                    pass  # calls of this engine are not stopped

    def block(self, body: Sequence[Stmt]) -> None:
        """An indented body."""
        self.depth += 1
        before = len(self.lines)
        self.statements(body)
        if len(self.lines) == before:
            self.line("pass")
        self.depth -= 1

    def loop(self, s: For) -> None:
        name = self.names.setdefault(s.var, s.var.name)
        bounds = [self.plain(s.stop)] if s.start == Num(0, INT) else [self.plain(s.start), self.plain(s.stop)]
        self.effect(f"for {name} in range({', '.join(bounds)}):")
        self.block(s.body)

    def repeat(self, s: While) -> None:
        """`while condition:`, or a loop left in its middle where the condition takes more than an expression."""
        self.effect("while True:")
        head = len(self.lines)
        self.depth += 1
        self.unfinished(s.before)
        condition = self.plain(s.condition)
        self.flush()
        self.depth -= 1
        if len(self.lines) == head:
            self.lines.pop()
            self.line(f"while {condition}:")
        else:
            self.line(f"    if not ({condition}):")
            self.line("        break")
        self.block(s.body)

    def branch(self, s: If) -> None:
        then, otherwise = (tuple(x for x in body if not isinstance(x, Poll)) for body in (s.then, s.otherwise))
        if not then and not otherwise:
            return
        condition = self.plain(s.condition)
        self.effect(f"if {condition}:" if then else f"if not ({condition}):")
        self.block(then or otherwise)
        if then and otherwise:
            self.line("else:")
            self.block(otherwise)

    def view(self, s: View) -> str:
        buffer, source = s.buffer, s.source
        sizes = shape_text(buffer.type.shape or (1,), self.symbols)
        start = self.plain(s.at)
        if buffer.type.dtype == source.type.dtype and s.at == ZERO:
            return f"{self.imports.function('reshaped')}({source.name}, {sizes})"
        if source.type.dtype != BYTE or len(source.type.shape) != 1:
            raise TypeError(f"{buffer.type} is no view of {source.type}")
        dtype = self.imports.dtype(buffer.type.dtype)
        return f"{self.imports.function('carve')}({source.name}, {start}, {sizes}, {dtype})"

    def launch(self, s: Launch) -> str:
        operands = [*(b.name for b in s.buffers), *map(self.plain, s.sizes)]
        if s.pieces == Num(1, INT):
            bounds = [self.plain(s.first), self.plain(s.rows), "0"]
            return f"{self.launched(s.kernel, False)}({', '.join([*grouped(operands), *bounds])})"
        rows, pieces = self.plain(s.rows), self.plain(s.pieces)
        return f"{self.launched(s.kernel, True)}({', '.join([*grouped(operands), rows, pieces])})"

    def update(self, acc: Var, op: str, value: Scalar) -> str:
        text = self.expression(op, (acc, value), acc.dtype)
        name, mark, *rest = text.split(" ", 2)
        if name != acc.name or mark not in OPERATORS.values():
            return f"{acc.name} = {text}"
        term = rest[0]
        whole = term.startswith("(") and _is_call(f"f{term}")  # one pair of brackets around everything
        return f"{name} {mark}= {term[1:-1] if whole else term}"

    def line(self, text: str) -> None:
        self.lines.append("    " * self.depth + text)

    def let(self, dst: Var, text: str) -> None:
        name = self.names.setdefault(dst, dst.name)
        if dst in self.inner:  # shapes may read it
            self.effect(f"{name} = {text}")
        elif self.uses[dst] == 1 and len(text) <= LONGEST:
            self.pending[dst] = text
        elif self.uses[dst]:
            self.line(f"{dst.name} = {text}")

    def effect(self, text: str) -> None:
        """A statement that changes something: what has not been written yet is computed before it."""
        self.flush()
        self.line(text)

    def flush(self) -> None:
        for var, text in self.pending.items():
            self.line(f"{var.name} = {text}")
        self.pending.clear()

    # -- expressions -------------------------------------------------------------------------------
    def plain(self, x: Scalar) -> str:
        """An operand between commas or brackets."""
        if isinstance(x, Num):
            return self.imports.literal(x)
        return self.pending.pop(x) if x in self.pending else self.names[x]

    def operand(self, x: Scalar) -> str:
        """An operand next to an operator."""
        text = self.plain(x)
        return f"({text})" if " " in text and not _is_call(text) or text.startswith("-") else text

    def element(self, buffer: Buffer, index: Sequence[Scalar]) -> str:
        return f"{buffer.name}[{', '.join(map(self.plain, index)) or '0'}]"

    def expression(self, op: str, args: Sequence[Scalar], dtype: np.dtype) -> str:
        of = args[-1].dtype
        if op == "read":
            return self.plain(args[0])
        if op == "cast":
            return self.cast(args[0], dtype)
        if op == "not" and of.kind == "b":
            return f"not {self.operand(args[0])}"
        if of.kind == "b" and op in ("add", "mul", "maximum", "minimum"):
            op = "or" if op in ("add", "maximum") else "and"
        if op in OPERATORS:
            x, y = map(self.operand, args)
            text = f"{x} {OPERATORS[op]} {y}"
            return text if op in COMPARISONS else self.narrow(text, dtype)
        if op in ("bits", "floating", *HALVES):
            return f"{self.imports.function(op)}({self.plain(args[0])})"
        if op in ("neg", "not"):
            return self.narrow(f"{'-' if op == 'neg' else '~'}{self.operand(args[0])}", dtype)
        if op in ("floordiv", "mod") and of.kind in "iu" and isinstance(args[1], Num) and args[1].value > 0:
            mark = "//" if op == "floordiv" else "%"
            return self.narrow(f"{self.operand(args[0])} {mark} {self.operand(args[1])}", dtype)
        if op not in FUNCTIONS or op in FLOAT_FUNCTIONS and of.kind != "f":
            raise CompileError(f"no Numba instruction for {op} of {show_dtype(of)}")
        return f"{self.imports.function(RENAMED.get(op, op))}({', '.join(map(self.plain, args))})"

    def narrow(self, text: str, dtype: np.dtype) -> str:
        """Numba computes with small integers in 64 bits."""
        return f"{self.imports.dtype(dtype)}({text})" if dtype.kind in "iu" and dtype != INT else text

    def cast(self, x: Scalar, target: np.dtype) -> str:
        """NumPy's astype; out-of-range floats saturate."""
        if target.kind == "b":
            return f"{self.operand(x)} != {self.imports.literal(Num(x.dtype.type(0).item(), x.dtype))}"
        name = self.imports.dtype(target)
        if np.can_cast(x.dtype, target) or target.kind == "f":
            return f"{name}({self.plain(x)})"
        return f"{self.imports.function('cast')}({self.plain(x)}, {name})"

    def gemm(self, s: Gemm) -> str:
        def matrix(buffer: Buffer, at: Sequence[Scalar], transposed: bool) -> str:
            return (self.element(buffer, at) if at else buffer.name) + (".T" if transposed else "")

        name = self.imports.function("matmul_rows" if s.split == "m" else "matmul_columns")
        operands = [matrix(s.a, s.at_a, s.transpose_a), matrix(s.b, s.at_b, s.transpose_b), matrix(s.c, s.at_c, False)]
        return f"{name}({', '.join([*operands, self.plain(s.start), self.plain(s.stop)])})"

    def contract(self, s: Contract) -> str:
        places = ((s.c, s.at_c), (s.a, s.at_a), (s.b, s.at_b))
        operands = [text for buffer, at in places for text in (buffer.name, self.linear(buffer, at))]
        sizes = [self.plain(x) for x in (s.rows, s.columns, s.row_c, s.row_a)]
        none = [Term(Num(1, INT), ZERO, ZERO)] * (MOST_TERMS - len(s.terms))
        sizes += [self.plain(x) for t in (*none, *s.terms) for x in (t.extent, t.a, t.b)]
        return f"{self.imports.function('contract')}({', '.join([*operands, *sizes, str(s.add)])})"

    def transpose(self, s: Transpose) -> str:
        operands = [text for x, at in ((s.y, s.at_y), (s.x, s.at_x)) for text in (x.name, self.linear(x, at))]
        sizes = [self.plain(x) for x in (s.rows, s.columns, s.row_y, s.row_x)]
        return f"{self.imports.function('transposed')}({', '.join([*operands, *sizes])})"

    def substitute(self, s: Substitute) -> str:
        operands = [text for x, at in ((s.a, s.at_a), (s.y, s.at_y)) for text in (x.name, self.linear(x, at))]
        sizes = [self.plain(x) for x in (s.rows, s.columns)]
        kind = map(str, (s.lower, s.transpose, s.unit))
        name = "substituted_complex" if s.is_complex else "substituted"
        return f"{self.imports.function(name)}({', '.join([*operands, *sizes, *kind])})"

    def call(self, s: Call) -> str:
        given = [[o.buffer.name for o in s.operands], [self.linear(o.buffer, o.at) for o in s.operands]]
        given += [[self.plain(x) for x in s.sizes], [self.plain(o.steps[0]) for o in s.operands]]
        given[-1] += [self.plain(x) for o in s.operands for x in o.steps[1:]]
        tuples = (f"({', '.join(xs)}{',' * (len(xs) == 1)})" for xs in given)
        return f"{self.imports.call(s.function)}({', '.join(tuples)})"

    def linear(self, buffer: Buffer, index: Sequence[Scalar]) -> str:
        """The linear index of an element."""
        terms = []
        for axis, i in enumerate(index):
            stride = size(buffer.type.shape[axis + 1 :])
            if not (isinstance(i, Num) and i.value == 0):
                terms.append(
                    self.operand(i) if stride == 1 else f"{self.operand(i)} * ({dim_text(stride, self.symbols)})"
                )
        return " + ".join(terms) or "0"


def _any_size(type: Type) -> str:
    """A type as far as a kernel depends on it: its code takes arrays of any size."""
    return f"{show_dtype(type.dtype)}[{','.join(':' for _ in type.shape)}]"


def _is_call(text: str) -> bool:
    """Whether a text is one call or element, `f(...)` or `b[...]`, so that an operator may stand beside it."""
    start = next((k for k, c in enumerate(text) if not (c.isalnum() or c == "_")), len(text))
    if start in (0, len(text)) or text[start] not in "([":
        return False
    depth = 0
    for k, c in enumerate(text[start:], start):
        depth += (c in "([") - (c in ")]")
        if depth == 0:
            return k == len(text) - 1
    return False

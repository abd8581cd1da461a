"""Random programs with loops and branches as people write them: Python source over NumPy arrays and scalars.

    program = random_program(7)
    print(program.source)                     # def program(s, r, z, m, k, n): ...
    plain = load(program, directory)          # a function of a module, whose source `inspect` finds
    plain(*program.arguments(0))

`s` and `r` are floats, `z` is f64[5], `m` f64[4,3], `k` and `n` are integers from 0 to 6. Values stay near 1. What is
read is never an array that something else can change: NumPy's views are no matter here.
"""

from __future__ import annotations

import hashlib
import importlib.util
import itertools
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FunctionType
from typing import Any

import numpy as np

SIZES = {"z": (5,), "m": (4, 3)}  # shapes of arrays by kind
MOST_ROUNDS = 80  # iterations of all loops around a statement together
DEEPEST = 3  # compound statements in each other
CONSTANTS = ("0.37", "-0.61", "0.83", "0.1", "-0.25", "1.3")


@dataclass(frozen=True)
class Line:
    """A statement; a compound one has a body, and `head` ends in a colon."""

    head: str
    body: tuple[Line, ...] = ()


@dataclass(frozen=True)
class Program:
    lines: tuple[Line, ...]

    @property
    def source(self) -> str:
        head = ["import numpy as np", "", "", "def program(s, r, z, m, k, n):"]
        return "\n".join([*head, *_rendered(self.lines, 1)]) + "\n"

    def arguments(self, seed: int) -> list[Any]:
        """New ones, of NumPy's scalar types and arrays."""
        rng = np.random.default_rng(seed)
        s, r = rng.uniform(-1.5, 1.5, 2)
        z, m = (rng.uniform(-1, 1, shape) for shape in SIZES.values())
        return [np.float64(s), np.float64(r), z, m, np.int64(rng.integers(0, 7)), np.int64(rng.integers(0, 7))]


def _rendered(lines: Sequence[Line], depth: int) -> Iterator[str]:
    for line in lines:
        yield "    " * depth + line.head
        if line.head.endswith(":"):
            yield from _rendered(line.body, depth + 1) if line.body else ["    " * (depth + 1) + "pass"]


def lines_of(text: str) -> list[Line]:
    """Statements from their indented text: a program that was found and is kept."""
    lines: list[Line] = []
    for k, line in enumerate(rest := text.splitlines()):
        depth = len(line) - len(line.lstrip())
        if depth > len(rest[0]) - len(rest[0].lstrip()):
            continue  # in the body of the one before
        inner = itertools.takewhile(lambda x, d=depth: len(x) - len(x.lstrip()) > d, rest[k + 1 :])
        lines.append(Line(line.strip(), tuple(lines_of("\n".join(inner)))))
    return lines


def load(program: Program, directory: Path) -> FunctionType:
    """The function, defined in a file of its own."""
    path = directory / f"program_{hashlib.sha256(program.source.encode()).hexdigest()[:16]}.py"
    path.write_text(program.source)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.program


def random_program(seed: int | str, largest: int = 5) -> Program:
    """A program of 2 to `largest` statements that may hold others."""
    return _Writer(random.Random(seed)).program(largest)


@dataclass
class _Scope:
    """What is defined for certain, and the loops around."""

    floats: list[str]
    integers: list[str]
    arrays: dict[str, list[str]]  # by kind
    flags: list[str]
    indices: dict[str, int]  # loop indices, each with the number it stays below
    loops: int = 0
    rounds: int = 1
    depth: int = 0
    fixed: frozenset[str] = field(default_factory=frozenset)  # names that must not be assigned here

    def inner(self, **changes: Any) -> _Scope:
        arrays = {kind: list(names) for kind, names in self.arrays.items()}
        copies = [list(self.floats), list(self.integers), arrays, list(self.flags), dict(self.indices)]
        scope = _Scope(*copies, self.loops, self.rounds, self.depth + 1, self.fixed)
        for name, value in changes.items():
            setattr(scope, name, value)
        return scope


class _Writer:
    def __init__(self, rng: random.Random):
        self.rng, self.count = rng, 0
        self.kinds = [rng.choice("fffzmi") for _ in range(rng.randint(1, 2))]  # of the results
        if "f" not in self.kinds and "z" not in self.kinds and "m" not in self.kinds:
            self.kinds.append("f")

    # -- choices -------------------------------------------------------------------------------------------------------
    def chance(self, n: int) -> bool:
        return self.rng.randrange(n) == 0

    def pick(self, *items: Any) -> Any:
        return self.rng.choice(items)

    def fresh(self, prefix: str) -> str:
        self.count += 1
        return f"{prefix}{self.count}"

    # -- programs ------------------------------------------------------------------------------------------------------
    def program(self, largest: int) -> Program:
        scope = _Scope(["s", "r", "a", "b"], ["k", "n", "p"], {"z": ["z", "u"], "m": ["m", "w"]}, [], {})
        scope.fixed = frozenset({"z", "m"})
        lines = [Line(f"a = {self.pick('s', '0.5', '0.5 * s + 0.1', 'np.tanh(r)')}")]
        lines += [Line(f"b = {self.pick('r', '-0.3', 'r * s', '0.4 * r')}")]
        lines += [Line("u = 1.0 * z"), Line("w = 0.5 * m"), Line(f"p = {self.pick('0', '1', 'k', 'k % 3')}")]
        lines += self.block(scope, self.rng.randint(2, largest))
        return Program((*lines, self.result(scope)))

    def result(self, scope: _Scope) -> Line:
        found = [self.value(scope, kind) for kind in self.kinds]
        return Line(f"return {', '.join(found)}")

    def value(self, scope: _Scope, kind: str) -> str:
        if kind == "i":
            return f"{self.pick(*scope.integers)} + 0"
        if kind == "f":
            return self.pick("a", "b", "a + 0.5 * b", self.pick(*scope.floats))
        arrays = scope.arrays[kind]
        return f"1.0 * {self.pick(arrays[1], self.pick(*arrays))}"

    def block(self, scope: _Scope, count: int) -> list[Line]:
        lines: list[Line] = []
        for _ in range(count):
            lines += self.statement(scope)
            if lines[-1].head in ("break", "continue") or lines[-1].head.startswith("return"):
                break
        return lines

    def statement(self, scope: _Scope) -> list[Line]:
        compound = scope.depth < DEEPEST and self.chance(2)
        choices: tuple = SIMPLE
        if compound:
            choices = COMPOUND if scope.rounds < MOST_ROUNDS // 2 else (_Writer.branch,)
        elif scope.loops and scope.depth and self.chance(6):
            choices = (_Writer.leave,)
        elif scope.depth and self.chance(25):
            return [Line(f"if {self.condition(scope)}:", (self.result(scope),))]
        return self.pick(*choices)(self, scope)

    # -- expressions ---------------------------------------------------------------------------------------------------
    def index(self, scope: _Scope, n: int) -> str:
        """An integer that indexes an axis of n elements."""
        inside = [i for i, limit in scope.indices.items() if limit <= n]
        way = self.rng.randrange(8)
        if inside and way <= 4:
            i = self.pick(*inside)
            return self.pick(i, i, i, f"{i} - 1", f"{n - 1} - {i}", f"-1 - {i}")
        if way <= 6:
            return f"({self.integer(scope)}) % {n}"
        return str(self.rng.randrange(-n, n))

    def integer(self, scope: _Scope) -> str:
        known = [*scope.integers, *scope.indices]
        x = self.pick(*known)
        return self.pick(x, x, f"{x} + {self.pick(*known)}", f"2 * {x} + 1", f"{x} // 2", str(self.rng.randrange(4)))

    def element(self, scope: _Scope, written: bool = False) -> str:
        kind = self.pick("z", "z", "m")
        names = [x for x in scope.arrays[kind] if not (written and x in scope.fixed)]
        return f"{self.pick(*names)}[{', '.join(self.index(scope, n) for n in SIZES[kind])}]"

    def leaf(self, scope: _Scope) -> str:
        way = self.rng.randrange(12)
        if way <= 5:
            return self.pick(*scope.floats)
        if way <= 7:
            return self.element(scope)
        if way == 8:
            return self.pick(*CONSTANTS)
        if way == 9:
            return f"0.1 * ({self.integer(scope)})"
        if way == 10:
            return f"0.2 * np.sum({self.pick(*scope.arrays['z'], *scope.arrays['m'])})"
        rows = self.pick(*scope.arrays["m"])
        return f"0.2 * np.sum({rows}[{self.index(scope, 4)}])"

    def real(self, scope: _Scope, depth: int = 2) -> str:
        """A float of magnitude 2 or less, if the leaves' is."""
        if depth == 0:
            return self.leaf(scope)
        x = self.real(scope, depth - 1)
        y = self.real(scope, self.rng.randrange(depth))
        way = self.rng.randrange(14)
        forms = [f"np.tanh({x})", f"np.sin({x} + {y})", f"np.tanh({x} * {y})", f"0.5 * ({x}) + 0.4 * ({y})"]
        forms += [f"np.cos({x})", f"np.sin({x}) * np.tanh({y})", f"({x}) / (1.5 + ({y}) ** 2)", f"0.6 * ({x}) - 0.3"]
        forms += [f"np.tanh({x}) if {self.condition(scope, 1)} else np.sin({y})", f"-np.tanh({x})"]
        forms += [f"np.where({self.comparison(scope)}, np.tanh({x}), np.sin({y}))", f"np.exp(-(({x}) ** 2))"]
        forms += [f"np.maximum(np.sin({x}), 0.21)", f"np.sqrt(1.0 + ({x}) ** 2) - 1.0"]
        return f"({forms[way]})" if " if " in forms[way] else forms[way]

    def vector(self, scope: _Scope, kind: str) -> str:
        x, y = self.pick(*scope.arrays[kind]), self.pick(*scope.arrays[kind])
        f = self.leaf(scope)
        forms = [f"np.tanh({x})", f"0.5 * {x} + 0.4 * {y}", f"np.sin({x} + {f})", f"0.5 * np.tanh({x} * {y})"]
        forms += [f"0.7 * {x} - 0.2 * {f}", f"np.where({x} > 0.13, {x}, 0.5 * {y})"]
        return self.pick(*forms)

    def comparison(self, scope: _Scope) -> str:
        way = self.rng.randrange(8)
        x = self.pick(*scope.floats)
        if way <= 2:
            return f"{x} {self.pick('<', '>', '<=', '>=')} {self.pick(*CONSTANTS)}"
        if way == 3:
            return f"{x} < {self.leaf(scope)} + 0.0731"
        if way == 4:
            return f"({self.integer(scope)}) % {self.pick(2, 3)} == {self.pick(0, 1)}"
        if way == 5:
            return f"{self.integer(scope)} {self.pick('<', '>=', '!=')} {self.rng.randrange(4)}"
        if way == 6:
            return f"abs({x}) > 0.442"
        return self.pick(*scope.flags) if scope.flags else f"{x} * {self.pick(*scope.floats)} < 0.2"

    def condition(self, scope: _Scope, depth: int = 0) -> str:
        way = self.rng.randrange(8) if depth == 0 else 7
        x = self.comparison(scope)
        if way <= 1:
            return f"{x} {self.pick('and', 'or')} {self.comparison(scope)}"
        if way == 2:
            return f"not {x}" if " and " not in x else x
        if way == 3:
            return f"-0.52 < {self.pick(*scope.floats)} < 0.71"
        return x

    # -- simple statements ---------------------------------------------------------------------------------------------
    def assigned(self, scope: _Scope) -> list[Line]:
        name = self.pick("a", "b", "a", "b", self.fresh("t"))
        line = Line(f"{name} = {self.real(scope)}")
        if name not in scope.floats:
            scope.floats.append(name)
        return [line]

    def changed(self, scope: _Scope) -> list[Line]:
        name = self.pick("a", "b")
        return [
            Line(
                self.pick(f"{name} *= 0.7", f"{name} -= 0.3 * {name}", f"{name} += 0.1 * np.sin({self.real(scope, 1)})")
            )
        ]

    def exchanged(self, scope: _Scope) -> list[Line]:
        return [Line(f"a, b = b, {self.real(scope, 1)}")]

    def counted(self, scope: _Scope) -> list[Line]:
        x = self.integer(scope)
        return [Line(self.pick(f"p = ({x} + p) % 5", "p += 1", f"p = {x}", f"p = (p * 3 + {x}) % 7"))]

    def flagged(self, scope: _Scope) -> list[Line]:
        name = "f" if "f" in scope.flags or scope.depth == 0 else self.fresh("f")
        line = Line(f"{name} = {self.comparison(scope)}")
        if name not in scope.flags:
            scope.flags.append(name)
        return [line]

    def stored(self, scope: _Scope) -> list[Line]:
        target, x = self.element(scope, written=True), self.real(scope, 1)
        return [Line(self.pick(f"{target} = np.tanh({x})", f"{target} += 0.1 * np.sin({x})", f"{target} *= 0.8"))]

    def part_stored(self, scope: _Scope) -> list[Line]:
        u = self.pick(*[x for x in scope.arrays["z"] if x not in scope.fixed])
        w = self.pick(*[x for x in scope.arrays["m"] if x not in scope.fixed])
        f, row, column = self.leaf(scope), self.index(scope, 4), self.index(scope, 3)
        forms = [f"{u}[1:] = 0.5 * {u}[:-1] + 0.4 * {u}[1:]", f"{u}[1:-1] += 0.1 * np.sin({u}[2:] - {u}[:-2])"]
        forms += [f"{u}[::2] *= 0.9", f"{u}[:3] = np.tanh({f})", f"{u}[:] = 0.6 * {u}", f"{u}[1:4] = {w}[{row}] * 0.5"]
        forms += [f"{w}[{row}] = 0.5 * {w}[{self.index(scope, 4)}] + 0.2", f"{w}[{row}, 1:] *= 0.9"]
        forms += [
            f"{w}[:, {column}] += 0.1 * np.tanh({w}[:, {self.index(scope, 3)}])",
            f"{w}[1:-1, 1:] = 0.2 * {w}[:2, :2]",
        ]
        forms += [f"{w}[{row}] = {f}", f"{u}[np.array([0, 2])] += 0.05", f"{u} *= 0.9", f"{w} += 0.05 * {w}"]
        inside = [i for i, limit in scope.indices.items() if limit <= 5]
        if inside:
            i = self.pick(*inside)
            forms += [
                f"{u}[{i}] = 0.3 * np.sum({u}[:{i}]) + 0.1",
                f"{u}[{i}:] *= 0.9",
                f"a = 0.2 * np.sum({u}[{i}:] * z[{i}:])",
            ]
        return [Line(self.pick(*forms))]

    def made(self, scope: _Scope) -> list[Line]:
        kind = self.pick("z", "m")
        name = self.pick({"z": "u", "m": "w"}[kind], {"z": "u", "m": "w"}[kind], self.fresh("v"))
        line = Line(f"{name} = {self.vector(scope, kind)}")
        if name not in scope.arrays[kind]:
            scope.arrays[kind].append(name)
        return [line]

    def leave(self, scope: _Scope) -> list[Line]:
        way = self.pick("break", "continue", "break", "return")
        line = self.result(scope) if way == "return" else Line(way)
        return [Line(f"if {self.condition(scope)}:", (line,))]

    # -- compound statements -------------------------------------------------------------------------------------------
    def branch(self, scope: _Scope) -> list[Line]:
        lines = []
        for k in range(self.rng.randint(1, 3)):
            head = "else:" if k == 2 or k and self.chance(2) else f"{'elif' if k else 'if'} {self.condition(scope)}:"
            lines.append(Line(head, tuple(self.block(scope.inner(), self.rng.randint(1, 2)))))
            if head == "else:":
                break
        return lines

    def loop(self, scope: _Scope) -> list[Line]:
        i = self.fresh("i")
        heads = [("range(4)", 4, 4), ("range(3)", 3, 3), ("range(1, 4)", 4, 3), ("range(4, -1, -1)", 5, 5)]
        heads += [
            ("range(n)", 7, 6),
            ("range(n)", 7, 6),
            ("range(0, n, 2)", 7, 3),
            ("range(1, k)", 7, 5),
            ("range(12)", 12, 12),
        ]
        heads += [(f"range({j}, 4)", 4, 4) for j in scope.indices] + [
            (f"range({j})", limit, limit) for j, limit in scope.indices.items()
        ]
        heads += [("range(p % 4)", 4, 4), ("range(3, p % 3, -1)", 4, 4)]
        head, limit, rounds = self.pick(*heads)
        inner = scope.inner(loops=scope.loops + 1, rounds=scope.rounds * rounds)
        inner.indices[i] = limit
        return [Line(f"for {i} in {head}:", tuple(self.block(inner, self.rng.randint(1, 3))))]

    def elements(self, scope: _Scope) -> list[Line]:
        x = self.fresh("x")
        inner = scope.inner(loops=scope.loops + 1, rounds=scope.rounds * 5)
        if self.chance(2):
            inner.floats.append(x)
            return [Line(f"for {x} in {self.pick('z', '0.5 * u')}:", tuple(self.block(inner, self.rng.randint(1, 2))))]
        row = Line(f"{(v := self.fresh('t'))} = 0.3 * np.sum({x})")
        inner.floats.append(v)
        return [Line(f"for {x} in {self.pick('m', '0.5 * w')}:", (row, *self.block(inner, self.rng.randint(1, 2))))]

    def repeat(self, scope: _Scope) -> list[Line]:
        """A loop that a counter ends at the latest."""
        c, most = self.fresh("c"), self.rng.randint(1, 6)
        test = self.pick(
            f"{c} < {most} and {self.comparison(scope)}", f"{c} < {most}", f"{self.comparison(scope)} and {c} < {most}"
        )
        inner = scope.inner(loops=scope.loops + 1, rounds=scope.rounds * most)
        inner.integers.append(c)
        inner.fixed = inner.fixed | {c}
        body = (Line(f"{c} += 1"), *self.block(inner, self.rng.randint(1, 3)))
        scope.integers.append(c)
        return [Line(f"{c} = 0"), Line(f"while {test}:", body)]


SIMPLE = (_Writer.assigned, _Writer.assigned, _Writer.changed, _Writer.exchanged, _Writer.counted, _Writer.flagged)
SIMPLE += (_Writer.stored, _Writer.stored, _Writer.part_stored, _Writer.part_stored, _Writer.made)
COMPOUND = (_Writer.branch, _Writer.loop, _Writer.loop, _Writer.repeat, _Writer.elements)


# -- making a failing program small -----------------------------------------------------------------------------------


def reduced(program: Program, fails: Callable[[Program], bool]) -> Program:
    """A program of fewer statements that fails too. `fails` gives False for programs that Python itself refuses."""
    while (smaller := next((p for p in map(Program, _fewer(program.lines)) if fails(p)), None)) is not None:
        program = smaller
    return program


def _fewer(lines: tuple[Line, ...]) -> Iterator[tuple[Line, ...]]:
    for k, line in enumerate(lines):
        before, after = lines[:k], lines[k + 1 :]
        if not line.head.endswith("+= 1") and (
            line.body or not line.head.startswith("return ")
        ):  # loops end, functions too
            yield (*before, *after)
        if line.body:
            yield (*before, *line.body, *after)
            yield from ((*before, Line(line.head, body), *after) for body in _fewer(line.body))

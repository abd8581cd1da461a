"""Random small functions of three integers, full of control flow, as source text that Python and tracebacks find."""

from __future__ import annotations

import itertools
import linecache
import random
from collections.abc import Callable

_numbers = itertools.count()
NAMES = "abc"


class Writer:
    """Writes a function. `pure`: without what only Python can do (try, with, calls that log)."""

    def __init__(self, seed: int, pure: bool):
        self.rng = random.Random(seed)
        self.pure = pure
        self.loops = 0
        self.lines: list[str] = []

    def text(self) -> str:
        self.lines = ["def f(a, b, c):"]
        self.block(1, 0, in_loop=False, n=self.rng.randint(2, 4))
        self.put(1, f"return {self.number()}" if self.pure else "return a, b, c")
        return "\n".join(self.lines) + "\n"

    def put(self, depth: int, line: str) -> None:
        self.lines.append("    " * depth + line)

    # -- expressions
    def number(self, depth: int = 0) -> str:
        kinds = ["name", "name", "const", "sum", "product", "choice"]
        kind = self.rng.choice(kinds[:3] if depth > 1 else kinds)
        if kind == "name":
            return self.rng.choice(NAMES)
        if kind == "const":
            return str(self.rng.randint(-3, 5))
        x, y = self.number(depth + 1), self.number(depth + 1)
        if kind == "choice":
            return f"({x} if {self.test(depth + 1)} else {y})"
        return f"({x} {'-+'[self.rng.random() < 0.6] if kind == 'sum' else '*'} {y}) % 13"

    def test(self, depth: int = 0) -> str:
        kind = self.rng.choice(["compare", "compare", "chain", "and", "or", "not"] if depth < 2 else ["compare"])
        if kind == "compare":
            return f"{self.number(2)} {self.rng.choice(['<', '<=', '==', '!=', '>'])} {self.number(2)}"
        if kind == "chain":
            return f"{self.number(2)} < {self.number(2)} <= {self.number(2)}"
        if kind == "not":
            return f"not ({self.test(depth + 1)})"
        return f"({self.test(depth + 1)}) {kind} ({self.test(depth + 1)})"

    # -- statements
    def block(self, depth: int, nesting: int, in_loop: bool, n: int) -> None:
        for _ in range(n):
            self.statement(depth, nesting, in_loop)

    def statement(self, depth: int, nesting: int, in_loop: bool) -> None:
        kinds = ["assign", "assign", "if", "if", "for", "while", "return"] + ["break", "continue"] * in_loop
        kinds += [] if self.pure else ["try", "with", "log"]
        kind = self.rng.choice(kinds if nesting < 3 else ["assign"])
        inner = (depth + 1, nesting + 1)
        if kind == "assign":
            name = self.rng.choice(NAMES)
            self.put(
                depth, self.rng.choice([f"{name} = {self.number()}", f"{name} += {self.number(1)}", f"{name} %= 7"])
            )
        elif kind == "if":
            self.put(depth, f"if {self.test()}:")
            self.block(*inner, in_loop, self.rng.randint(1, 2))
            if self.rng.random() < 0.3:
                self.put(depth, f"elif {self.test()}:")
                self.block(*inner, in_loop, 1)
            if self.rng.random() < 0.5:
                self.put(depth, "else:")
                self.block(*inner, in_loop, 1)
        elif kind in ("break", "continue", "return"):
            self.put(depth, f"if {self.test()}:")
            value = self.number() if self.pure else f"'early', {self.number()}"
            self.put(depth + 1, f"return {value}" if kind == "return" else kind)
        elif kind == "for":
            self.loops += 1
            bound = self.rng.choice([str(self.rng.randint(0, 4)), f"{self.rng.choice(NAMES)} % 4", "1, 8, 3"])
            self.put(depth, f"for i{self.loops} in range({bound}):")
            self.put(depth + 1, f"{self.rng.choice(NAMES)} += i{self.loops}")
            self.block(*inner, True, self.rng.randint(1, 2))
            self.otherwise(depth, inner, in_loop)
        elif kind == "while":
            self.loops += 1
            k = f"k{self.loops}"
            self.put(depth, f"{k} = 0")
            self.put(depth, f"while {k} < {self.rng.randint(1, 4)} and ({self.test(1)}):")
            self.put(depth + 1, f"{k} += 1")
            self.block(*inner, True, self.rng.randint(1, 2))
            self.otherwise(depth, inner, in_loop)
        elif kind == "try":
            self.put(depth, "try:")
            self.block(*inner, in_loop, self.rng.randint(1, 2))
            self.put(depth + 1, f"a = 7 // ({self.number(1)})")
            self.put(depth, "except ZeroDivisionError as error:")
            self.put(depth + 1, "log(type(error).__name__)")
            self.block(*inner, in_loop, 1)
            if self.rng.random() < 0.5:
                self.put(depth, "else:")
                self.block(*inner, in_loop, 1)
            if self.rng.random() < 0.5:
                self.put(depth, "finally:")
                self.put(depth + 1, "log('finally')")
        elif kind == "with":
            self.put(depth, "with manager(log) as m:")
            self.block(*inner, in_loop, self.rng.randint(1, 2))
        else:
            self.put(depth, "log((a, b, c))")

    def otherwise(self, depth: int, inner: tuple[int, int], in_loop: bool) -> None:
        if self.rng.random() < 0.3:
            self.put(depth, "else:")
            self.block(*inner, in_loop, 1)


def program(seed: int, pure: bool, **names: object) -> tuple[Callable, str]:
    """A function, and its text. `names` are its globals."""
    text = Writer(seed, pure).text()
    file = f"<staged program {next(_numbers)}>"
    linecache.cache[file] = (len(text), None, text.splitlines(True), file)
    scope = dict(names)
    exec(compile(text, file, "exec"), scope)
    return scope["f"], text

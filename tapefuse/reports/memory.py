"""How much memory a call of a compiled function takes, told from its plan before it runs.

>>> print(step.memory_report(x, y))             # doctest: +SKIP
step: a call takes 1.61 MB beside its arguments
  arguments   100.5 kB   yours
  ...
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tapefuse._config import Options
from tapefuse._records import dataclass
from tapefuse.codegen.loops import Allocate
from tapefuse.codegen.loops_walk import walk
from tapefuse.codegen.memory import memory_of
from tapefuse.codegen.plan import Plan
from tapefuse.codegen.recompute import within
from tapefuse.compiler import request
from tapefuse.ir.graph import bind_symbols
from tapefuse.ir.types import Dim, Type, substitute
from tapefuse.tracer.trace import Traced

LARGEST = 8  # arrays that the report names


@dataclass(frozen=True, slots=True)
class Alive:
    """An array in scratch memory: made by the kernel `first`, last used by the kernel `last`."""

    type: Type
    nbytes: int
    first: str
    last: str


@dataclass(frozen=True, slots=True)
class MemoryReport:
    """Bytes of one call, by whose they are.

    `arguments`, `variables` and `constants` are there before and after the call; `outputs` are allocated by it;
    `scratch` is for intermediate values: one block, kept for the next call as long as the function lives (calls that
    run at the same time have a block each). `alive`: the largest arrays in it while the kernel `at` runs, when most of
    it is in use. `grows`: a call allocates more, as much as numbers say that it computes: what loops of unknown length
    keep. Not counted: that, what the BLAS library packs (a few MB a thread, once in a process), the compiler's own
    memory, and copies of arguments that are not C-contiguous.
    """

    name: str
    arguments: int
    variables: int
    constants: int
    outputs: int
    scratch: int
    at: str
    alive: tuple[Alive, ...]
    grows: bool = False

    @property
    def peak(self) -> int:
        """Bytes that a call takes beside what is there already: outputs and scratch."""
        return self.outputs + self.scratch

    def __str__(self) -> str:
        rows = [
            ("arguments", self.arguments, "yours"),
            ("variables", self.variables, "updated in place"),
            ("constants", self.constants, "of the program"),
            ("outputs", self.outputs, "allocated by a call"),
            ("scratch", self.scratch, "one block, kept between calls"),
        ]
        lines = [f"{self.name}: a call takes {show_bytes(self.peak)} beside its arguments"]
        lines += [f"  {what:<10}{show_bytes(n):>10}   {whose}" for what, n, whose in rows]
        if self.grows:
            lines.append("  and what loops of unknown length keep, while they run")
        if self.alive:
            lines.append(f"  largest in scratch while {self.at} runs:")
            lines += [f"    {show_bytes(a.nbytes):>10}   {a.type}, {a.first} to {a.last}" for a in self.alive]
        return "\n".join(lines)


def show_bytes(n: int) -> str:
    """Decimal units, three digits: `1.61 MB`."""
    scaled, unit = float(n), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if scaled < 999.5:
            break
        scaled, unit = scaled / 1000, larger
    return f"{n} B" if unit == "B" else f"{scaled:.3g} {unit}"


def memory_report(traced: Traced, shapes: Sequence[tuple], options: Options) -> MemoryReport:
    """The report for a traced function and inputs of these shapes. Raises ValueError when they leave one open."""
    types = [v.type for v in traced.graph.params]
    return report(within(request(traced, options)), [_with_parts(s, t) for s, t in zip(shapes, types, strict=False)])


def _with_parts(shape: tuple, type: Type) -> tuple:
    """A shape in memory: of complex numbers, with an axis for their parts."""
    return (*shape, 2) if type.dtype.kind == "c" else shape


def report(plan: Plan, shapes: Sequence[tuple]) -> MemoryReport:
    """The report of a plan."""
    request, params = plan.request, plan.graph.params
    states = params[request.inputs : request.inputs + len(request.states)]
    env = _sizes(plan, shapes)

    def total(types: Sequence[Type]) -> int:
        return sum(_bytes(t.nbytes, env) for t in types)

    at, alive = _fullest(plan, env)
    return MemoryReport(
        name=request.name,
        arguments=total([v.type for v in params[: request.inputs]]),
        variables=total([v.type for v in states]),
        constants=total([v.type for v in params[request.inputs + len(states) :]]),
        outputs=total([v.type for v in plan.outputs]),
        scratch=_bytes(plan.layout.nbytes, env),
        at=at,
        alive=alive[:LARGEST],
        grows=any(isinstance(s, Allocate) for step in plan.steps for s in walk(step.kernel.body)),
    )


def _sizes(plan: Plan, shapes: Sequence[tuple]) -> dict[str, int]:
    """The symbols' values. Axes of argument types that were given without an extent stay open, which is an error."""
    inputs = plan.graph.params[: plan.request.inputs]
    concrete = [s if all(type(n) is int for n in s) else None for s in shapes]
    known = [(v.type, s) for v, s in zip(inputs, concrete, strict=True) if s is not None]
    env = bind_symbols([t for t, _ in known], [s for _, s in known])
    missing = sorted(set(plan.graph.symbols) - set(env))
    if missing:
        raise ValueError(
            f"memory_report of {plan.request.name!r}: the extent of {', '.join(missing)} is open; pass arrays, or "
            "TensorSpecs with every extent"
        )
    return env


def _bytes(dim: Dim, env: Mapping[str, int]) -> int:
    return int(substitute(dim, env))


def _fullest(plan: Plan, env: Mapping[str, int]) -> tuple[str, tuple[Alive, ...]]:
    """The kernel that runs when most of the scratch memory is in use, and what is in it then, largest first."""
    names = [f"{s.kernel.name} ({s.kernel.title})" for s in plan.steps]
    spans = [(p, _bytes(p.type.nbytes, env), *span) for p, span in plan.layout.lifetimes.items()]
    at = plan.layout.fullest(env)
    here = [(p, n, a, b) for p, n, a, b in spans if a <= at <= b]
    here.sort(key=lambda span: -span[1])
    alive = [Alive(memory_of(p).type.substitute(env), n, names[a], names[b]) for p, n, a, b in here]
    return (names[at] if names else ""), tuple(alive)

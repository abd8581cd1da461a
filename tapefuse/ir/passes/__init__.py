"""The passes on graphs, and the order in which a traced graph goes through them.

    graph = optimise(graph)                        # tiles, complex, loops, ..., strips, recordings
    graph, fired = BY_NAME["simplify"].run(graph)  # one of them, with how often each of its rules fired

With TAPEFUSE_CHECK=1 the graph is verified before the first pass and after each that changes it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

from tapefuse._config import config
from tapefuse._errors import VerifyError
from tapefuse._records import dataclass
from tapefuse.ir.graph import Graph
from tapefuse.ir.passes import (
    adjoint,
    batching,
    branch_totals,
    checks,
    complex,
    custom_rules,  # noqa: F401  fills `ops.custom.RULES`
    dce,
    first_writes,
    fold,
    forward,
    half,
    loops,
    parts,
    recordings,
    region_rules,  # noqa: F401  fills `ops.region.RULES`
    regions,
    rows,
    simplify,
    strips,
    tiles,
    totals,
    units,
)
from tapefuse.ir.passes.bodies import deep
from tapefuse.ir.verify import verify


@dataclass(frozen=True, slots=True)
class Pass:
    """`run` gives the new graph (the same one if nothing applies) and how often each rule fired."""

    name: str
    run: Callable[[Graph], tuple[Graph, Counter[str]]]
    meaning: str
    exact: bool = True  # whether sums keep the order of their terms
    spends_memory: bool = False  # so that it is left out where memory is limited


PASSES = (
    Pass("tiles", tiles.run, "time loops over stencils as loops over tiles of a few rows", spends_memory=True),
    Pass("complex", complex.run, "pairs of real numbers in place of complex ones"),
    Pass("loops", loops.run, "one region in place of two that do the same work"),
    Pass("fold", fold.run, "compute what depends on small constants only"),
    Pass("simplify", simplify.run, "algebraic identities that are exact in IEEE arithmetic"),
    Pass("first_writes", first_writes.run, "rows that a loop adds to zeros are written"),
    Pass("regions", regions.run, "loops and branches without what nobody needs"),
    Pass("units", units.run, "select by unit vectors, do not multiply by them", exact=False),
    Pass("branch_totals", branch_totals.run, "branches add what is added to what they give"),
    Pass("rows", deep(rows.run), "add a scatter at the rows it names, not to a whole table", exact=False),
    Pass("totals", totals.run, "loops that add up begin with what is added to their sums", exact=False),
    Pass("parts", parts.run, "loops read parts of arrays where they lie"),
    Pass("dce", dce.run, "drop elements that nobody reads"),
    Pass("strips", strips.run, "loops over independent rows as loops of some rows each", exact=False),
    Pass("recordings", recordings.run, "a loop of unknown length keeps what its derivative reads"),
)
DERIVED = (  # graphs with another signature: not part of `optimise`
    Pass("adjoint", adjoint.run, "append seeds to the parameters and gradients to the outputs"),
    Pass("forward", forward.run, "append tangents to the parameters and to the outputs"),
    Pass("batch", batching.run, "put an axis of examples in front of every parameter and output"),
    Pass("half", half.run, "keep float16 and bfloat16 as bits, compute in float32"),
    Pass("checks", checks.run, "append to the outputs whether indices are out of range"),
)
EXACT = tuple(p for p in PASSES if p.exact)
BY_NAME = {p.name: p for p in (*PASSES, *DERIVED)}


def optimise(
    graph: Graph,
    passes: Sequence[Pass] = PASSES,
    seen: Callable[[Pass, Graph, Graph], None] | None = None,
) -> Graph:
    """The graph after `passes`, read left to right. `seen(pass, before, after)` is called after each."""
    if config.check:
        verify(graph)
    for p in passes:
        before, (graph, _) = graph, p.run(graph)
        if config.check and graph is not before:
            _verify_after(p, graph)
        if seen is not None:
            seen(p, before, graph)
    return graph


def _verify_after(p: Pass, graph: Graph) -> None:
    try:
        verify(graph)
    except VerifyError as e:
        raise VerifyError(f"after pass {p.name}: {e}") from None

"""The lowering of regions: a group of kind "region" -> one kernel with loops and branches in it.

Each graph inside is planned like a program (`region_body`); the kernels of these plans become parts of the region's.
"""

from __future__ import annotations

from collections.abc import Mapping

from tapefuse.codegen.groups import Group, Schedule
from tapefuse.codegen.region_body import Body, Planned
from tapefuse.codegen.region_branches import Sized, Switch
from tapefuse.codegen.region_loops import ForLoop, WhileLoop
from tapefuse.codegen.region_parallel import ParallelLoop
from tapefuse.codegen.region_small import SmallLoop, SmallParallelLoop
from tapefuse.codegen.region_stacks import Recording
from tapefuse.codegen.small_bodies import is_small
from tapefuse.ir.graph import Value

_KINDS: dict[str, type[Body]] = {
    "for": ForLoop,
    "while": WhileLoop,
    "recording": Recording,
    "switch": Switch,
    "sized": Sized,
}


def lowering(
    planned: Planned, plan: Schedule, group: Group, in_place: Mapping[Value, Value], strict: bool = False
) -> Body:
    """What builds the kernel of a region. `planned` makes the plan of a graph inside."""
    token = group.nodes[0]
    assert token.op is not None
    a = token.attributes
    is_parallel = a.get("parallel") and not plan.serial and isinstance(a["trips"], int)
    question = f"small arrays in {plan.groups.index(group)}"
    if is_small(token) and plan.choices.decide(question, True):
        kind: type[Body] = SmallParallelLoop if is_parallel else SmallLoop
    else:
        kind = ParallelLoop if is_parallel else _KINDS[token.op.name]
    return kind(planned, plan, group, in_place, strict)

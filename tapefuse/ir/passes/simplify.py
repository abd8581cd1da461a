"""Algebra: one bottom-up rewrite with the rules on elementwise ops (`arithmetic`), moves (`shapes`), matrix `products`,
windows (`pooling`) and stored parts (`updates`).

    %0 = neg %y : f32[B]
    %1 = add %x, %0 : f32[B]   ->   sub %x, %y

Derivatives were taken before: `stop_gradient` becomes the identity here.
"""

from __future__ import annotations

from collections import Counter

from tapefuse.ir.graph import Graph
from tapefuse.ir.passes import arithmetic, pooling, products, shapes, updates
from tapefuse.ir.rewrite import Rewriter

RULES = Rewriter((*arithmetic.RULES, *shapes.RULES, *products.RULES, *pooling.RULES, *updates.RULES))


def run(graph: Graph) -> tuple[Graph, Counter[str]]:
    return RULES.run(graph)

"""Print what a stage of compilation makes of a function or of a graph.

    tapefuse dump model.py:loss --args "f32[B,784], i64[B]" --stage optimized
    tapefuse dump examples/digits.py:train_step --stage llvm -o step.ll
    tapefuse dump graph.ir --grad --pass simplify

--args gives dtype and shape of each argument, with names for dimensions of any size; a tape_function with an input
signature needs none. --grad adds the gradients of the sum of the outputs by all floating arguments and variables.
"""

from __future__ import annotations

import argparse

from tapefuse.cli import output
from tapefuse.cli.errors import UsageError
from tapefuse.cli.opt import named
from tapefuse.cli.source import Subject, from_function, from_graph
from tapefuse.cli.target import is_ir, load_function, load_graph, parse_specs
from tapefuse.ir.passes import PASSES, optimise
from tapefuse.ir.print import show

GRAPH_STAGES = ("trace", "adjoint", "optimized")
STAGES = (*GRAPH_STAGES, "schedule", "loops", "numba", "llvm", "asm", "memory")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("target", metavar="TARGET", help="file.py:function, module:function or file.ir")
    parser.add_argument("--stage", default="optimized", metavar="STAGE",
                        help=f"one of {', '.join(STAGES)}; default: %(default)s")  # fmt: skip
    parser.add_argument("--args", dest="specs", metavar="SPEC", help='types of arguments, e.g. "f32[B,784], i64[B]"')
    parser.add_argument("--grad", action="store_true", help="value and gradient")
    parser.add_argument("--pass", dest="only", metavar="NAME", help="the graph before and after that pass")
    parser.add_argument("-o", dest="out", metavar="FILE", help="write there instead of stdout")


def main(options: argparse.Namespace) -> int:
    if options.stage not in STAGES:
        raise UsageError(f"{options.stage!r} is not a stage; expected one of {', '.join(STAGES)}")
    if options.only is not None:
        named(options.only)
    subject = load(options.target, options.specs)
    text = around_pass(subject, options) if options.only else stage_text(subject, options.stage, options.grad)
    output.write(text, options.stage if not options.only else "optimized", options.out)
    return 0


def load(target: str, specs: str | None) -> Subject:
    """The traced function or parsed graph that a target means. Raises `UsageError`."""
    if not is_ir(target):
        function = load_function(target)
        return from_function(function, None if specs is None else parse_specs(specs), target)
    if specs is not None:
        raise UsageError("--args is for functions; the parameters of a graph have types already")
    return from_graph(load_graph(target))


def stage_text(subject: Subject, stage: str, grad: bool) -> str:
    """The product of one stage as text."""
    if stage == "trace":
        return show(subject.graph)
    if grad:
        subject = subject.with_gradient()
    if stage == "adjoint":
        return show(subject.graph)
    if stage == "optimized":
        return show(optimise(subject.graph))
    return subject.native(stage)


def around_pass(subject: Subject, options: argparse.Namespace) -> str:
    """The graph before and after one pass, at its place in the order of passes."""
    p = named(options.only)
    graph = subject.with_gradient().graph if options.grad else subject.graph
    before = optimise(graph, PASSES[: PASSES.index(p)]) if p in PASSES else graph
    after, _ = p.run(before)
    return f"# before {p.name}\n{show(before)}\n\n# after {p.name}\n{show(after)}"

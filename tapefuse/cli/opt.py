"""Run passes on the text of a graph and print the result.

    tapefuse opt graph.ir --passes simplify,dce
    tapefuse opt graph.ir --passes adjoint -o gradient.ir
"""

from __future__ import annotations

import argparse
import sys

from tapefuse.cli import output
from tapefuse.cli.errors import UsageError
from tapefuse.cli.target import load_graph
from tapefuse.ir.passes import BY_NAME, PASSES, Pass
from tapefuse.ir.print import show
from tapefuse.ir.verify import verify


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE.ir")
    parser.add_argument("--passes", metavar="A,B", default=",".join(p.name for p in PASSES),
                        help=f"of {', '.join(BY_NAME)}; default: %(default)s")  # fmt: skip
    parser.add_argument("-o", dest="out", metavar="FILE", help="write there instead of stdout")


def main(options: argparse.Namespace) -> int:
    passes = [named(name.strip()) for name in options.passes.split(",") if name.strip()]
    graph = load_graph(options.file)
    for p in passes:
        graph, fired = p.run(graph)
        verify(graph)
        rules = ", ".join(f"{rule} {n}" for rule, n in sorted(fired.items()) if n) or "nothing fired"
        print(f"{p.name}: {rules}", file=sys.stderr)
    output.write(show(graph), "optimized", options.out)
    return 0


def named(name: str) -> Pass:
    """The pass of that name. Raises `UsageError`."""
    if name not in BY_NAME:
        raise UsageError(f"{name!r} is not a pass; expected one of {', '.join(BY_NAME)}")
    return BY_NAME[name]

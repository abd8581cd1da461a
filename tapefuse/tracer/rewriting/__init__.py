"""Python's control flow inside of `@tape_function`: on traced values it becomes loops and branches of the program.

sources     a function -> its syntax tree
jumps       break, continue, return -> flags
names       which variables a statement binds and reads, and which are read later
syntax      tree -> tree that calls `staging.Stager`, and a `Statement` for each `if`, `while` and `for`
functions   puts it together; which functions that calls reach are the user's
staging     decides at run time whether Python or the program does it, with the help of the other files
"""

from __future__ import annotations

from tapefuse.tracer.rewriting.calls import stage, unroll
from tapefuse.tracer.rewriting.functions import as_written, rewritten
from tapefuse.tracer.rewriting.notes import collected

__all__ = ["as_written", "collected", "rewritten", "stage", "unroll"]

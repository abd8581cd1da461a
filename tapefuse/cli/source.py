"""What `dump` looks at: a traced function or a parsed graph, with or without its gradient, down to machine code."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tapefuse._errors import TapefuseError
from tapefuse._tree import flatten, unflatten
from tapefuse.cli.errors import UsageError
from tapefuse.ir.graph import Graph, Value
from tapefuse.ir.interp import replay
from tapefuse.ir.op import constant
from tapefuse.ir.passes.adjoint import gradient_graph, is_differentiable
from tapefuse.ir.types import Type

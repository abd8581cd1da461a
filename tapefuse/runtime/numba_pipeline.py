"""Numba's compiler with the passes that generated programs need.

Their variables have one type each, their loops are plain ones, nothing in them owns memory: static single assignment,
the inlining of closures, rewrites and the marks where variables end would cost a third of the time and change nothing.
Imports Numba.
"""

from __future__ import annotations

from numba.core.compiler import CompilerBase
from numba.core.compiler_machinery import PassManager
from numba.core.typed_passes import AnnotateTypes, NativeLowering, NoPythonBackend, NopythonTypeInference
from numba.core.untyped_passes import FixupArgs, IRProcessing, TranslateByteCode

PASSES = (
    (TranslateByteCode, "analyzing bytecode"),
    (FixupArgs, "fix up args"),
    (IRProcessing, "processing IR"),
    (NopythonTypeInference, "nopython frontend"),
    (AnnotateTypes, "annotate types"),
    (NativeLowering, "native lowering"),
    (NoPythonBackend, "nopython mode backend"),
)


class Compiler(CompilerBase):
    """For functions that Numba's threads do not run."""

    def define_pipelines(self) -> list[PassManager]:
        manager = PassManager("tapefuse")
        for made, title in PASSES:
            manager.add_pass(made, title)
        manager.finalize()
        return [manager]

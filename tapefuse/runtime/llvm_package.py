"""LLVM through llvmlite's Python package: for versions of it whose C functions `llvm_library` does not know."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

from tapefuse.runtime.llvm_options import give


class Package:
    """The same as `llvm_library.Library`; the package lets one thread at a time into LLVM."""

    def __init__(self) -> None:
        self.binding = binding()
        give(lambda option: self.binding.set_option("tapefuse", option))

    @property
    def triple(self) -> str:
        return self.binding.get_process_triple()

    @property
    def cpu(self) -> str:
        return self.binding.get_host_cpu_name()

    @property
    def features(self) -> str:
        return self.binding.get_host_cpu_features().flatten()

    def emit(self, text: str, passes: Sequence[str], level: int, model: tuple[str, str], assembly: bool) -> bytes:
        """Object code, or assembler text, of a module's text after `passes`."""
        llvm = self.binding
        module = llvm.parse_assembly(text, llvm.create_context())
        module.verify()
        reloc, code_model = model
        target = llvm.Target.from_triple(self.triple)
        machine = target.create_target_machine(
            cpu=self.cpu, features=self.features, opt=level, reloc=reloc, codemodel=code_model
        )
        if passes:
            manager = llvm.create_new_module_pass_manager()
            for name in passes:
                getattr(manager, f"add_{name}_pass")()
            manager.run(module, llvm.create_pass_builder(machine, llvm.create_pipeline_tuning_options(speed_level=2)))
        return machine.emit_assembly(module).encode() if assembly else machine.emit_object(module)


@cache
def binding() -> Any:
    """llvmlite's binding, ready to generate code for this machine."""
    import llvmlite.binding as llvm

    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    return llvm

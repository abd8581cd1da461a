"""The frameworks that are compared: where each is installed and how its cache of compiled programs is set."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
ENVIRONMENTS = FOLDER / ".venv"


@dataclass(frozen=True, slots=True)
class Framework:
    """`name`: its key in a workload's FRAMEWORKS. `module`: what is imported. `distributions`: whose versions are told.
    `peer`: its line in requirements.txt, which several may share; None for tapefuse. `cache(folder)`: environment
    variables that make it keep compiled programs there; None if it keeps none, so that all its first calls are cold.
    `first_calls`: they are measured, each in processes of their own; else one process goes through a workload's cases.
    `yardstick`: shows what can be had, but is no framework and takes no part in ratios.
    """

    name: str
    label: str
    module: str
    distributions: tuple[str, ...]
    peer: str | None = None
    cache: Callable[[str], Mapping[str, str]] | None = None
    first_calls: bool = False
    yardstick: bool = False

    @property
    def python(self) -> Path:
        """The interpreter that has it."""
        return Path(sys.executable) if self.peer is None else ENVIRONMENTS / self.peer / "bin" / "python"

    @property
    def is_installed(self) -> bool:
        return self.peer is None or (ENVIRONMENTS / self.peer / "installed").exists()


def environment() -> dict[str, str]:
    """For processes that are measured: without Python's own settings, such as that byte code is not to be kept."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}


def _tapefuse_cache(folder: str) -> dict[str, str]:
    return {"TAPEFUSE_CACHE": "1", "TAPEFUSE_CACHE_DIR": folder}


def _jax_cache(folder: str) -> dict[str, str]:
    return {
        "JAX_COMPILATION_CACHE_DIR": folder,
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }


def _torch_cache(folder: str) -> dict[str, str]:
    return {"TORCHINDUCTOR_CACHE_DIR": folder}


def _pytensor_cache(folder: str) -> dict[str, str]:
    return {"PYTENSOR_FLAGS": f"mode=NUMBA,base_compiledir={folder}", "NUMBA_CACHE_DIR": folder}


OURS = Framework(
    "tapefuse",
    "tapefuse",
    "tapefuse",
    ("tapefuse", "numpy", "numba", "llvmlite", "scipy-openblas32"),
    cache=_tapefuse_cache,
    first_calls=True,
)
TORCH, TENSORFLOW = ("torch", "numpy"), ("tensorflow-cpu", "numpy")
FRAMEWORKS = (
    OURS,
    Framework("jax", "JAX", "jax", ("jax", "jaxlib", "numpy"), "jax", _jax_cache, first_calls=True),
    Framework("jax_expert", "JAX, expert", "jax", ("jax", "jaxlib", "numpy"), "jax", _jax_cache),
    Framework("torch", "PyTorch", "torch", TORCH, "torch"),
    Framework("torch_compile", "torch.compile", "torch", TORCH, "torch", _torch_cache),
    Framework("tensorflow", "TensorFlow", "tensorflow", TENSORFLOW, "tensorflow-cpu"),
    Framework("tensorflow_xla", "TF-XLA", "tensorflow", TENSORFLOW, "tensorflow-cpu"),
    Framework("pytensor", "PyTensor", "pytensor", ("pytensor", "numba", "numpy"), "pytensor", _pytensor_cache),
    Framework("autograd", "autograd", "autograd", ("autograd", "numpy"), "autograd"),
    Framework("numba_by_hand", "by hand (Numba)", "numba", ("numba", "numpy"), yardstick=True),
)
BY_NAME = {f.name: f for f in FRAMEWORKS}

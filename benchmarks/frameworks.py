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
    `peer`: its line in requirements.txt, None for tapefuse. `cache(folder)`: environment variables that make it keep
    compiled programs there; None if it keeps none, so that all its first calls are cold.
    """

    name: str
    label: str
    module: str
    distributions: tuple[str, ...]
    peer: str | None = None
    cache: Callable[[str], Mapping[str, str]] | None = None

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


OURS = Framework(
    "tapefuse",
    "tapefuse",
    "tapefuse",
    ("tapefuse", "numpy", "numba", "llvmlite", "scipy-openblas32"),
    cache=_tapefuse_cache,
)
FRAMEWORKS = (OURS, Framework("jax", "JAX", "jax", ("jax", "jaxlib", "numpy"), "jax", _jax_cache))
BY_NAME = {f.name: f for f in FRAMEWORKS}

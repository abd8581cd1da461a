"""What each stage of compilation takes for short and long chains of operations, in a process of its own.

    python -m benchmarks.stages    # prints JSON: chain -> length -> stage -> seconds

`benchmarks.compile_scaling` measures and prints the same for people.
"""

from __future__ import annotations

import json
import subprocess
from typing import Any

from benchmarks.frameworks import FOLDER, OURS, environment


def measure_stages() -> dict[str, Any]:
    """Seconds by chain, length (as text) and stage."""
    command = [OURS.python, "-m", "benchmarks.stages"]
    done = subprocess.run(command, cwd=FOLDER.parent, env=environment(), capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    from benchmarks.compile_scaling import CHAINS, LENGTHS, times  # with it comes tapefuse, which others do not need

    print(json.dumps({chain: {f"{n:,}": times(chain, n) for n in LENGTHS} for chain in CHAINS}))


if __name__ == "__main__":
    main()

"""Installs the peers of requirements.txt, each in an environment of its own; one that cannot be installed is named.

    python -m benchmarks.peers

What is there already stays as it is; after a change of its line in requirements.txt a peer is installed anew.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import venv

from benchmarks.frameworks import ENVIRONMENTS, FOLDER


def requirements() -> dict[str, str]:
    """Name of the peer -> its line, the requirements with spaces between them."""
    lines = [line.split("#")[0].strip() for line in (FOLDER / "requirements.txt").read_text().splitlines()]
    return {re.split(r"[\[<>=!~; ]", line, maxsplit=1)[0]: line for line in lines if line}


def install(peer: str, requirement: str) -> str:
    """Make the peer's environment unless it is there. Returns what went wrong, or nothing."""
    folder = ENVIRONMENTS / peer
    stamp = folder / "installed"
    if stamp.exists() and stamp.read_text() == requirement:
        return ""
    print(f"installing {requirement} in {folder}", flush=True)
    shutil.rmtree(folder, ignore_errors=True)
    venv.create(folder, with_pip=True)
    pip = [folder / "bin" / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    done = subprocess.run([*pip, *requirement.split()], capture_output=True, text=True, check=False)
    if done.returncode:
        return next((s for s in reversed(done.stderr.splitlines()) if s.startswith("ERROR")), "pip failed")
    stamp.write_text(requirement)
    return ""


def main() -> None:
    for peer, requirement in requirements().items():
        if problem := install(peer, requirement):
            print(f"{peer} is left out, it cannot be installed: {problem}", file=sys.stderr)


if __name__ == "__main__":
    main()

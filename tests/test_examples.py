"""The examples run from beginning to end, as a user would run them."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def test_digits_are_learnt(tmp_path):
    pytest.importorskip("sklearn")
    pytest.importorskip("matplotlib")
    plot = tmp_path / "loss.png"
    command = [sys.executable, str(ROOT / "examples" / "digits.py"), "--plot", str(plot)]
    environment = {"PYTHONPATH": str(ROOT), "PATH": "", "HOME": str(tmp_path), "MPLCONFIGDIR": str(tmp_path)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    figures = dict(re.findall(r"^(\w+ \w+) +([\d.]+)", done.stdout, re.M))
    assert float(figures["test accuracy"]) >= 0.97
    assert float(figures["compiled step"]) < float(figures["eager step"])
    assert plot.read_bytes().startswith(b"\x89PNG")
    assert str(plot) in done.stdout

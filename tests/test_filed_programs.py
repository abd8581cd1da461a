"""Programs on disk, filed by the graph that was traced: what counts, what is found again, and every kind of damage."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tapefuse as tp
from tapefuse._config import Options
from tapefuse._errors import CacheWarning
from tapefuse.compilation import Compiled, compile_traced, filing_key
from tapefuse.ir import ops
from tapefuse.ir.digest import digest
from tapefuse.ir.graph import Graph, param
from tapefuse.ir.types import Type
from tapefuse.runtime import cache, host
from tapefuse.tracer.trace import Traced

X = np.linspace(-1, 2, 12, dtype=np.float32).reshape(3, 4)
posix = pytest.mark.skipif(not hasattr(os, "geteuid"), reason="needs POSIX")


def traced(f: Callable[..., Any], *arguments: Any) -> Traced:
    return tp.tape_function(f).specialise(*arguments).traced


def model(x: Any) -> Any:
    """Matrix products, a lifted constant, a reduction and an index."""
    table = tp.constant(np.arange(20, dtype=np.float32).reshape(4, 5) / 10)
    return tp.sum(tp.tanh(x @ table), axis=1) * tp.sin(x[:, 1])


def expected(x: np.ndarray) -> np.ndarray:
    return np.tanh(x @ (np.arange(20).reshape(4, 5) / 10)).sum(1) * np.sin(x[:, 1])


@pytest.fixture(autouse=True)
def unchanged_sources(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Whoever edits the sources while tests run does not change their outcome."""
    monkeypatch.setattr(host, "_sources", lambda: iter([("ir/graph.py", 1, 1)]))
    host.fingerprint.cache_clear()
    yield
    host.fingerprint.cache_clear()


@pytest.fixture
def folder(tmp_path: Path) -> Any:
    cache._warned.clear()
    with tp.config(cache_dir=str(tmp_path / "c"), cache=True):
        yield tmp_path / "c"


def run(t: Traced, x: np.ndarray = X) -> np.ndarray:
    return np.asarray(compile_traced(t).call(x))


def file_of(t: Traced, folder: Path) -> Path:
    return folder / f"{filing_key(t, Options())}.tfo"


# -- what counts -------------------------------------------------------------------------------------------------------


def key(f: Callable[..., Any], *shapes: Any, **options: Any) -> str | None:
    specs = [tp.TensorSpec(s) if isinstance(s, tuple) else s for s in shapes or [(3, 4)]]
    return filing_key(traced(f, *specs), Options(**options))


def test_equal_programs_have_one_key_wherever_they_stand() -> None:
    first = key(lambda x: tp.exp(x) * 2.0 + tp.constant([1.0, 2.0, 3.0, 4.0]))

    def moved_and_renamed(y: Any) -> Any:
        double = 2.0
        return (
            tp.exp(y) * double
            + tp.constant([1.0, 2.0, 3.0, 4.0])
        )  # fmt: skip

    assert first is not None and first == key(moved_and_renamed)


def test_what_the_process_has_built_before_does_not_count() -> None:
    code = (
        "import tapefuse as tp, numpy as np, sys\n"
        "from tapefuse.ir.digest import digest\n"
        "a = lambda x: tp.where(x > 0.5, x * 3.0, tp.arange(4) - 7.0) + 11.0\n"
        "b = lambda x: tp.arange(4) * 11.0 + 7.0 - 3.0 * x\n"
        "for f in (a, b) if sys.argv[1] == 'ab' else (b, a):\n"
        "    s = tp.tape_function(f).specialise(tp.TensorSpec((None, 4)))\n"
        "    globals().setdefault('kept', {})[f is a] = digest(s.graph), s\n"
        "print(kept[True][0], kept[False][0])\n"
    )
    outs = {subprocess.run([sys.executable, "-c", code, order], capture_output=True, check=True).stdout
            for order in ("ab", "ba")}  # fmt: skip
    assert len(outs) == 1 and len(set(outs.pop().split())) == 2


DIFFERENT: dict[str, Callable[..., Any]] = {
    "exp": tp.exp,
    "sin": tp.sin,
    "twice": lambda x: (tp.exp(x), tp.exp(x)),
    "zero": lambda x: x * 0.0,
    "minus zero": lambda x: x * -0.0,
    "nan": lambda x: x * np.float32("nan"),
    "axis 0": lambda x: tp.sum(x, axis=0),
    "axis 1": lambda x: tp.sum(x, axis=1),
    "order": lambda x: (x - 1.0) * 2.0,
    "other order": lambda x: x * 2.0 - 1.0,
    "f64": lambda x: tp.cast(x, np.float64),
    "constant": lambda x: x + tp.constant([1.0, 2.0, 3.0, 4.0]),
    "other constant": lambda x: x + tp.constant([1.0, 2.0, 3.0, 5.0]),
}


def test_different_programs_have_different_keys() -> None:
    keys = [key(f) for f in DIFFERENT.values()]
    keys += [key(DIFFERENT["exp"], (4, 3)), key(DIFFERENT["exp"], (None, 4))]
    keys += [key(DIFFERENT["exp"], strict=True), key(DIFFERENT["exp"], memory_budget=1 << 20)]
    keys.append(key(DIFFERENT["exp"], tp.TensorSpec((3, 4), np.float64)))
    assert None not in keys and len(set(keys)) == len(keys)


def test_threads_and_names_are_not_in_the_code() -> None:
    assert key(DIFFERENT["exp"]) == key(DIFFERENT["exp"], threads=1)


def test_operations_of_other_sources_are_not_filed() -> None:
    from dataclasses import replace

    x = param(Type(np.dtype(np.float32), (3,)))
    other = replace(ops.exp)
    assert digest(Graph((x,), (ops.exp.emit(x),))) is not None
    assert digest(Graph((x,), (other.emit(x),))) is None


def test_the_machine_is_part_of_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    before, t = host.fingerprint(), traced(model, tp.TensorSpec((3, 4)))
    mine = filing_key(t, Options())
    for name in ("_cpu", "_compiler"):
        host._machine.cache_clear(), host.fingerprint.cache_clear()
        with monkeypatch.context() as patch:
            patch.setattr(host, name, lambda: ("another",))
            assert host.fingerprint() not in (before, None) and filing_key(t, Options()) != mine
    host._machine.cache_clear(), host.fingerprint.cache_clear()
    assert host.fingerprint() == before


def test_changed_sources_are_not_filed_under(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    t = traced(model, tp.TensorSpec((3, 4)))
    monkeypatch.setattr("tapefuse._config.started", 0)
    host.fingerprint.cache_clear()
    assert host.fingerprint() is None and filing_key(t, Options()) is None
    np.testing.assert_allclose(run(t), expected(X), rtol=1e-5)
    assert compile_traced(t).loaded.cached  # by its text
    monkeypatch.undo()
    names = {row[0] for row in host._sources()}
    assert len(names) > 50 and {"runtime/pool.ll", "ir/ops/shape.py", "compiler.py"} <= names


def test_sources_that_change_while_it_compiles(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    t = traced(model, tp.TensorSpec((3, 4)))
    assert host.fingerprint()
    monkeypatch.setattr(host, "_sources", lambda: iter([("ir/graph.py", 2, 1)]))
    np.testing.assert_allclose(run(t), expected(X), rtol=1e-5)
    assert not file_of(t, folder).exists()


# -- what is found again -----------------------------------------------------------------------------------------------


def both(f: Callable[..., Any], *arguments: Any) -> tuple[Compiled, Compiled]:
    """A function compiled, and found on disk afterwards."""
    t = traced(f, *arguments)
    cold, warm = compile_traced(t), compile_traced(t)
    assert not cold.loaded.cached and warm.loaded.cached
    return cold, warm


def test_all_that_a_program_is_comes_back(folder: Path) -> None:
    w = tp.Variable(np.ones((4, 5), np.float32))

    def step(x: Any, k: Any) -> Any:
        y = tp.sum(tp.tanh(x @ w) * np.linspace(0, 1, 15, dtype=np.float32).reshape(3, 5).repeat(7, 0)[:3])
        w.assign_add(tp.ones_like(w) * y)
        return y, x[k]

    cold, warm = both(step, tp.TensorSpec((3, 4)), tp.TensorSpec((2,), np.int64))
    for name in ("name", "symbols", "inputs", "states", "outputs", "arena", "work", "checks", "externals"):
        assert getattr(cold.program, name) == getattr(warm.program, name), name
    for a, b in zip(cold.program.constants, warm.program.constants, strict=True):
        assert a.dtype == b.dtype and a.tobytes() == b.tobytes() and a.shape == b.shape
    assert cold.program.llvm() == warm.program.llvm() and cold.program.numba() == warm.program.numba()
    k = np.array([2, 0])
    before = w.numpy().copy()
    first = [np.asarray(y) for y in cold.call(X, k)]
    w.assign(before)
    second = [np.asarray(y) for y in warm.call(X, k)]
    assert all(a.tobytes() == b.tobytes() for a, b in zip(first, second, strict=True))
    with pytest.raises(IndexError, match="outside axis 0"):
        warm.call(X, np.array([3, 0]))


def test_sizes_are_open_in_a_program_that_was_found(folder: Path) -> None:
    cold, warm = both(lambda x: tp.cumsum(tp.softmax(x * 2.0)) if hasattr(tp, "nope") else tp.sum(tp.exp(x), axis=0),
                      tp.TensorSpec((None, 4)))  # fmt: skip
    for n in (0, 1, 7, 300):
        x = np.random.default_rng(n).standard_normal((n, 4)).astype(np.float32)
        np.testing.assert_array_equal(np.asarray(cold.call(x)), np.asarray(warm.call(x)))
        np.testing.assert_allclose(np.asarray(warm.call(x)), np.exp(x).sum(0), rtol=1e-5)


def test_a_failed_check_names_the_line_of_today(folder: Path) -> None:
    def pick(x: Any, k: Any) -> Any:
        return x[k]

    def pick_below(x: Any, k: Any) -> Any:
        # moved
        return x[k]

    arguments = tp.TensorSpec((3,)), tp.TensorSpec((), np.int64)
    first, second = compile_traced(traced(pick, *arguments)), compile_traced(traced(pick_below, *arguments))
    assert not first.loaded.cached and second.loaded.cached
    x = np.ones(3, np.float32)
    for compiled, function in ((first, pick), (second, pick_below)):
        line = function.__code__.co_firstlineno + (1 if function is pick else 2)
        with pytest.raises(IndexError, match=rf"test_filed_programs.py:{line}"):
            compiled.call(x, np.array(5))


WARM = """
import os, sys, numpy as np, tapefuse as tp
f = tp.tape_function(tp.value_and_grad(lambda x: tp.sum(tp.tanh(x @ x) * tp.sin(x))))
value, gradient = f(np.ones((64, 64), np.float32))
print(float(value), np.asarray(gradient).tobytes().hex()[:64])
print(sorted({"numba", "llvmlite", "tapefuse.compiler", "tapefuse.codegen.plan"} & set(sys.modules)), file=sys.stderr)
if os.path.exists("/proc/self/maps"):
    print("llvmlite" in open("/proc/self/maps").read(), file=sys.stderr)
"""


def test_a_second_process_needs_neither_compiler_nor_llvm(tmp_path: Path) -> None:
    environment = {**os.environ, "TAPEFUSE_CACHE_DIR": str(tmp_path), "PYTHONPATH": os.getcwd()}
    command = [sys.executable, "-W", "ignore::ResourceWarning", "-c", WARM]
    done = [subprocess.run(command, env=environment, capture_output=True, check=True) for _ in range(2)]
    assert done[0].stdout == done[1].stdout
    assert b"tapefuse.compiler" in done[0].stderr and b"numba" not in done[0].stderr
    assert done[1].stderr in (b"[]\nFalse\n", b"[]\n")


# -- damage ------------------------------------------------------------------------------------------------------------


def recovers(t: Traced, folder: Path, spoil: Callable[[Path], None]) -> None:
    """After the file was spoiled: right numbers, at once and afterwards, and the file is whole again."""
    spoil(file_of(t, folder))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CacheWarning)
        np.testing.assert_allclose(run(t), expected(X), rtol=1e-5)
    again = compile_traced(t)
    assert again.loaded.cached
    np.testing.assert_allclose(np.asarray(again.call(X)), expected(X), rtol=1e-5)


@pytest.fixture
def kept(folder: Path) -> Traced:
    t = traced(model, tp.TensorSpec((3, 4)))
    run(t)
    assert file_of(t, folder).exists()
    return t


def test_truncations(kept: Traced, folder: Path) -> None:
    whole = file_of(kept, folder).read_bytes()
    for n in np.linspace(0, len(whole) - 1, 20).astype(int):
        recovers(kept, folder, lambda path, n=n: path.write_bytes(whole[:n]) and None)


def test_bit_flips(kept: Traced, folder: Path) -> None:
    path = file_of(kept, folder)
    whole, rng = path.read_bytes(), np.random.default_rng(0)
    store = cache.ObjectCache(folder)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CacheWarning)
        for bit in rng.integers(0, 8 * len(whole), 400):
            data = bytearray(whole)
            data[bit // 8] ^= 1 << bit % 8
            path.write_bytes(data)
            assert store.load(path.stem) is None
    recovers(kept, folder, lambda path: path.write_bytes(bytes([whole[0] ^ 1]) + whole[1:]) and None)


def test_garbage_other_versions_links_and_folders(kept: Traced, folder: Path, tmp_path: Path) -> None:
    whole = file_of(kept, folder).read_bytes()
    version = whole[:8] + (cache.VERSION + 1).to_bytes(4, "little") + whole[12:]

    def link(path: Path) -> None:
        os.rename(path, tmp_path / "elsewhere")
        path.symlink_to(tmp_path / "elsewhere")

    def directory(path: Path) -> None:
        path.unlink()
        (path / "inside").mkdir(parents=True)

    for spoil in (
        lambda path: path.write_bytes(os.urandom(len(whole))) and None,
        lambda path: path.write_bytes(b"{}") and None,
        lambda path: path.write_bytes(version) and None,
        lambda path: path.unlink(),
        link,
        directory,
    ):
        recovers(kept, folder, spoil)


def test_a_program_under_anothers_name(kept: Traced, folder: Path) -> None:
    other = traced(lambda x: tp.sum(x, axis=1), tp.TensorSpec((3, 4)))
    run(other)
    data = file_of(other, folder).read_bytes()
    recovers(kept, folder, lambda path: path.write_bytes(data) and None)


@posix
@pytest.mark.filterwarnings("ignore::tapefuse._errors.CacheWarning")
def test_folders_that_cannot_be_used(kept: Traced, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 12345)  # another user's folder
    np.testing.assert_allclose(run(kept), expected(X), rtol=1e-5)
    assert not compile_traced(kept).loaded.cached
    monkeypatch.undo()
    folder.chmod(0o777)
    assert not compile_traced(kept).loaded.cached
    folder.chmod(0o700)
    assert compile_traced(kept).loaded.cached
    monkeypatch.setattr(cache.os, "replace", lambda *_: (_ for _ in ()).throw(OSError(30, "Read-only file system")))
    other = traced(lambda x: model(x) + 1.0, tp.TensorSpec((3, 4)))
    np.testing.assert_allclose(run(other), expected(X) + 1, rtol=1e-5)


ONCE = """
import numpy as np, tapefuse as tp, sys
x = np.linspace(-1, 2, 12, dtype=np.float32).reshape(3, 4)
f = tp.tape_function(lambda x: tp.sum(tp.tanh(x @ x.T) * 2.0, axis=0))
assert np.allclose(np.asarray(f(x)), (np.tanh(x @ x.T) * 2).sum(0), rtol=1e-5), f(x)
print("right", flush=True)
"""


def process(folder: Path, code: str = ONCE, **environment: str) -> subprocess.Popen:
    kept = {k: v for k, v in os.environ.items() if k not in ("TAPEFUSE_CHECK",)}
    there = {**kept, "TAPEFUSE_CACHE_DIR": str(folder), "PYTHONPATH": os.getcwd(), **environment}
    return subprocess.Popen([sys.executable, "-W", "ignore", "-c", code], env=there, stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE)  # fmt: skip


def ends_well(child: subprocess.Popen) -> bool:
    out, err = child.communicate()
    return (child.returncode, out, err) == (0, b"right\n", b"")


def test_processes_that_write_at_once(tmp_path: Path) -> None:
    children = [process(tmp_path) for _ in range(3)]
    assert [ends_well(c) for c in children] == [True] * 3
    assert not list(tmp_path.glob(".tmp-*"))
    assert ends_well(process(tmp_path))


@posix
def test_processes_killed_at_any_moment(tmp_path: Path) -> None:
    for delay in np.random.default_rng(0).uniform(0.2, 1.0, 6):
        child = process(tmp_path)
        time.sleep(delay)
        child.send_signal(signal.SIGKILL)
        child.communicate()
    assert ends_well(process(tmp_path)) and ends_well(process(tmp_path))


@posix
def test_a_full_disk_and_no_home(tmp_path: Path) -> None:
    limited = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n" + ONCE
    assert ends_well(process(tmp_path / "full", limited))
    assert not list((tmp_path / "full").glob("*.tfo"))
    assert ends_well(process(tmp_path / "full"))
    homeless = process(Path(""), TAPEFUSE_CACHE_DIR="", HOME=str(tmp_path / "nowhere" / "\0"[:0]), XDG_CACHE_HOME="")
    assert ends_well(homeless)
    assert ends_well(process(Path("/proc/nobody/can/write")))

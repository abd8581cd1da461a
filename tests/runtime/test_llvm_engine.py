"""Loading: text to a builtin, errors of compiler and linker, life time, callers in C, BLAS, threads of the pool."""

from __future__ import annotations

import ctypes
import gc
import os
import subprocess
import sys
import threading
import warnings
import weakref

import numpy as np
import pytest

from tapefuse._config import config
from tapefuse._errors import CompileError
from tapefuse.runtime import blas, llvm_engine
from tapefuse.runtime.compile import assembly, compile_object, fingerprint
from tapefuse.runtime.entry import entry_text
from tests.runtime.programs import LAYOUT, Variable, add, body, increment, parallel, program, refuse


def load(p, *states, **options):
    return llvm_engine.load(p, LAYOUT, states, refuse, **options)


def test_what_is_told_about_a_program(tmp_path):
    with config(cache_dir=str(tmp_path)):
        first, second = load(add()), load(add())
    assert not first.cached and first.compile_seconds > 0
    assert second.cached and second.compile_seconds == 0
    assert first.object_size == second.object_size > 50
    assert first.call.__name__ == "handmade" and first.threads is None


def test_without_a_cache():
    with config(cache=False):
        assert not load(add()).cached
        assert not load(add()).cached


def test_rejected_text_is_reported_with_its_place():
    text = "define i64 @f() {\n  %x = add i64 1, 2\n  ret i32 %x\n}\n"
    with pytest.raises(CompileError, match=r"(?s)LLVM rejects.*3 \|   ret i32 %x"):
        compile_object(text)
    with pytest.raises(CompileError, match="LLVM rejects"):  # well-formed text, ill-formed code
        compile_object(
            "define i64 @f() {\na:\n  br label %c\nb:\n  %x = add i64 1, 2\n  br label %c\nc:\n  ret i64 %x\n}"
        )
    with pytest.raises(CompileError, match="LLVM rejects"):
        load(program("no module"))


def test_a_missing_symbol_is_an_error():
    text = "declare i64 @nobody_has_this()\n" + body("  %x = call i64 @nobody_has_this()\n  ret i64 %x\n")
    with pytest.raises(CompileError, match="nobody_has_this"):
        load(program(text))
    with pytest.raises(CompileError, match="tapefuse_program"):
        load(program("define void @other() {\n  ret void\n}\n"))
    assert load(add()).call(np.ones(1, "f4"), np.ones(1, "f4"))._array.tolist() == [2]


def test_functions_of_the_c_library_are_found():
    text = "declare double @fmod(double, double)\n" + body(
        "  %a = call double @fmod(double 7.5, double 2.0)\n  store double %a, ptr %y\n  ret i64 0\n", "y"
    )
    assert load(program(text, (), ("f64[]",), externals=("fmod",))).call()._array[()] == 1.5


TWICE = """
define internal <8 x float> @twice(<8 x float> %x) alwaysinline {
  %y = fadd <8 x float> %x, %x
  ret <8 x float> %y
}
define void @f(ptr noalias %x, ptr noalias %y, i64 %n) {
entry:
  %i.p = alloca i64
  store i64 0, ptr %i.p
  br label %head
head:
  %i = load i64, ptr %i.p
  %go = icmp slt i64 %i, %n
  br i1 %go, label %loop, label %end
loop:
  %x.i = getelementptr float, ptr %x, i64 %i
  %a = load <8 x float>, ptr %x.i, align 4
  %b = call <8 x float> @twice(<8 x float> %a)
  %y.i = getelementptr float, ptr %y, i64 %i
  store <8 x float> %b, ptr %y.i, align 4
  %j = add nuw nsw i64 %i, 8
  store i64 %j, ptr %i.p
  br label %head
end:
  ret void
}
"""


def test_functions_are_inlined_and_counters_live_in_registers():
    listing = assembly(TWICE)
    assert "twice" not in listing and "rsp" not in listing
    if "+avx2" in fingerprint()[-1]:
        assert "vaddps" in listing and "ymm" in listing


def test_the_entry_is_well_formed_and_small():
    assert 2000 < len(compile_object(entry_text())) < 20_000


def test_unloading():
    w = Variable(np.zeros(4))
    loaded = load(increment(), w)
    call, variable = loaded.call, weakref.ref(w)
    table = weakref.ref(call.__self__)
    del loaded, w
    gc.collect()
    assert call(np.ones(4)) is not NotImplemented and table() is not None and variable() is not None
    del call
    gc.collect()
    assert table() is None and variable() is None


def test_callers_in_c():
    loaded = load(add())
    x, y = np.arange(5, dtype="f4"), np.empty(5, "f4")
    table = (ctypes.c_void_p * 4)(x.ctypes.data, x.ctypes.data, y.ctypes.data, None)
    f = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_void_p, ctypes.c_void_p)(loaded.pointer)
    assert f(table, (ctypes.c_int64 * 1)(5)) == 0
    assert y.tolist() == [0, 2, 4, 6, 8]


def test_many_threads_compile_and_call(tmp_path):
    results, x = [], np.ones(8, "f4")

    def work():
        with config(cache_dir=str(tmp_path)):
            call = load(add()).call
            results.extend(call(x, x)._array.tolist() == [2] * 8 for _ in range(300))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert results == [True] * 2400


def gemm(k: str, t: str) -> str:
    """c = a @ b for 3x4 and 4x5, row-major."""
    f = f"@scipy_cblas_{k}gemm"
    call = (
        f"  call void {f}(i32 101, i32 111, i32 111, i32 3, i32 5, i32 4, {t} 1.0, ptr %a, i32 4, ptr %b, i32 5, "
        f"{t} 0.0, ptr %c, i32 5)\n  ret i64 0\n"
    )
    types = f"i32, i32, i32, i32, i32, i32, {t}, ptr, i32, ptr, i32, {t}, ptr, i32"
    return f"declare void {f}({types})\n" + body(call, "a", "b", "c")


@pytest.mark.parametrize(("kind", "llvm", "type"), [("s", "float", "f32"), ("d", "double", "f64")])
def test_matrix_products(kind: str, llvm: str, type: str):
    p = program(
        gemm(kind, llvm), (f"{type}[3,4]", f"{type}[4,5]"), (f"{type}[3,5]",), externals=(f"scipy_cblas_{kind}gemm",)
    )
    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal(s).astype(type.replace("f32", "f4").replace("f64", "f8")) for s in ((3, 4), (4, 5)))
    np.testing.assert_allclose(load(p).call(a, b)._array, a @ b, rtol=1e-5)


def test_our_blas_is_ours_alone():
    assert os.path.isfile(blas.path()) and "OpenBLAS" in blas.description()
    assert blas._library().scipy_openblas_get_num_threads() == 1
    assert not hasattr(ctypes.CDLL(None), "scipy_cblas_sgemm")


def test_a_missing_blas(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(CompileError, match="pip install scipy-openblas32"):
        blas.path()


def test_nothing_heavy_is_imported_early():
    code = "import sys, tapefuse.runtime.llvm_engine; print({'numba', 'llvmlite'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout == b"set()\n"


def test_a_program_is_the_same_on_one_thread_and_more():
    x = np.arange(64.0)
    for threads in (1, 2, 3):
        loaded = load(parallel(), threads=threads)
        y, n = loaded.call(x)
        assert y._array.tolist() == (x + 1).tolist() and n._array[()] == threads
        loaded.threads.value = 1
        assert loaded.call(x)[1]._array[()] == 1


def test_exit_with_programs_alive():
    code = (
        "import numpy as np\nfrom tapefuse.runtime.llvm_engine import load\n"
        "from tests.runtime.programs import *\nkeep = load(parallel(), LAYOUT, (), refuse)\n"
        "scratched = load(scratch(1 << 16), LAYOUT, (), refuse)\nscratched.call(np.array([10]))\n"
        "class Late:\n    def __del__(self, call=scratched.call, x=np.array([10])):\n        call(x)\n"
        "late = Late()\nlate.me = late\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")


def test_warnings_are_not_swallowed():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load(add())


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_fork_while_another_thread_compiles():
    compiling = threading.Thread(target=lambda: [compile_object(TWICE) for _ in range(10)])
    compiling.start()
    for _ in range(4):
        child = os.fork()
        if not child:
            os._exit(0 if compile_object(TWICE) else 1)
        assert os.waitpid(child, 0)[1] == 0
    compiling.join()

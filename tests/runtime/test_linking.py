"""Our linker: what it does to references, what it refuses, and LLVM's linker in its place."""

from __future__ import annotations

import ctypes
import gc
import logging
import struct
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tapefuse._config import config
from tapefuse._errors import CompileError
from tapefuse.runtime import elf, linking, llvm_engine, llvm_library
from tapefuse.runtime.compile import PASSES, compile_object
from tapefuse.runtime.image import PAGE, Image, mapped, process_symbol
from tapefuse.runtime.llvm_package import Package, binding
from tests.runtime.programs import LAYOUT, add, parallel, refuse

elf_only = pytest.mark.skipif(not elf.is_supported(), reason="object files of another kind")

TEXT = """
@table = private constant [2 x ptr] [ptr @twice, ptr @counter]
@counter = internal global i64 40
@zeros = internal global [1000 x i64] zeroinitializer
@outside = external global i64
declare double @fmod(double, double)
define internal i64 @twice(i64 %x) noinline {
  %y = add i64 %x, %x
  ret i64 %y
}
define i64 @count() {
  %old = load i64, ptr @counter
  %new = add i64 %old, 1
  store i64 %new, ptr @counter
  store i64 %new, ptr getelementptr ([1000 x i64], ptr @zeros, i64 0, i64 999)
  ret i64 %new
}
define i64 @through(i64 %x) {
  %f.at = getelementptr [2 x ptr], ptr @table, i64 0, i64 0
  %f = load volatile ptr, ptr %f.at
  %y = call i64 %f(i64 %x)
  %o = load i64, ptr @outside
  %z = add i64 %y, %o
  ret i64 %z
}
define double @rest(double %x) {
  %y = call double @fmod(double %x, double 2.5)
  %z = fmul double %y, 0x3FF3C083126E978D
  ret double %z
}
"""


def function(address: int, result: type, *arguments: type):
    return ctypes.CFUNCTYPE(result, *arguments)(address)


@pytest.fixture(params=["image", "object"])
def code(request: pytest.FixtureRequest) -> linking.Code:
    object_code = compile_object(TEXT)
    return linking.code_of(object_code) if request.param == "image" else linking.Code(None, object_code)


def test_code_runs_and_refers(code: linking.Code) -> None:
    outside = ctypes.c_int64(7)
    exports = ("count", "through", "rest")
    one = linking.loaded(code, {"outside": ctypes.addressof(outside)}, exports)
    two = linking.loaded(code, {"outside": ctypes.addressof(outside)}, exports)
    i64, f64 = ctypes.c_int64, ctypes.c_double
    assert [function(one["count"], i64)() for _ in range(3)] == [41, 42, 43]
    assert function(two["count"], i64)() == 41  # data of their own
    assert function(one["through"], i64, i64)(4) == 15
    outside.value = 0
    assert function(one["through"], i64, i64)(4) == 8
    assert function(one["rest"], f64, f64)(6.0) == pytest.approx(1.0 * 1.2345)


def test_missing_symbols_and_exports_are_named(code: linking.Code) -> None:
    with pytest.raises(CompileError, match="cannot be linked"):
        linking.loaded(code, {}, ("count",))
    with pytest.raises(CompileError, match="cannot be linked"):
        linking.loaded(code, {"outside": 8}, ("nobody",))


@elf_only
def test_an_image_survives_packing() -> None:
    code = linking.code_of(compile_object(TEXT))
    data, described = code.pack()
    again = linking.Code.unpack(data, described)
    assert again.image is not None and code.image is not None
    assert again.image.content == code.image.content and again.image.exports == code.image.exports
    assert again.image.imports == code.image.imports and again.image.relative.tolist() == code.image.relative.tolist()
    assert len(code.image.content) < code.image.size  # zeros take no room
    assert code.image.writable % PAGE == 0


@elf_only
def test_memory_is_given_back_and_never_writable_and_executable() -> None:
    image = linking.code_of(compile_object(TEXT)).image
    assert image is not None
    code = mapped(image, {"outside": 8})
    address = code["count"]
    assert permissions(address) == "r-xp"
    assert permissions(address // PAGE * PAGE + image.writable) == "rw-p"
    before = sum(1 for _ in maps())
    many = [mapped(image, {"outside": 8}) for _ in range(50)]
    assert sum(1 for _ in maps()) > before
    del many
    gc.collect()
    assert sum(1 for _ in maps()) <= before + 2


def maps() -> Iterator[tuple[int, int, str]]:
    with open("/proc/self/maps", encoding="utf-8") as file:
        for line in file:
            span, flags, *_ = line.split()
            start, end = (int(x, 16) for x in span.split("-"))
            yield start, end, flags


def permissions(address: int) -> str:
    return next(flags for start, end, flags in maps() if start <= address < end)


def test_symbols_of_the_process() -> None:
    assert process_symbol("memcpy") and process_symbol("fmod") and process_symbol("Py_IncRef")
    assert process_symbol("no_such_function") == 0


@elf_only
def test_damaged_object_code_is_refused() -> None:
    whole = compile_object(TEXT)
    for data in (b"", b"\x7fELF", whole[:64].replace(b"\x3e\0", b"\x03\0", 1), b"MZ" + whole[2:]):
        with pytest.raises(elf.Unsupported):
            elf.linked(data)


@elf_only
def test_what_our_linker_does_not_know_goes_to_llvm(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refused(self, *args):
        raise elf.Unsupported("relocation 99")

    monkeypatch.setattr(elf._Linker, "image", refused)
    with caplog.at_level(logging.WARNING, "tapefuse.link"):
        code = linking.code_of(compile_object(TEXT))
    assert code.image is None and "relocation 99" in caplog.text
    outside = ctypes.c_int64(1)
    loaded = linking.loaded(code, {"outside": ctypes.addressof(outside)}, ("through",))
    assert function(loaded["through"], ctypes.c_int64, ctypes.c_int64)(3) == 7


def test_programs_run_when_llvm_links(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(linking, "code_of", lambda object_code: linking.Code(None, object_code))
    x = np.ones(5, np.float32)
    with config(cache_dir=str(tmp_path)):
        for cached in (False, True):
            loaded = llvm_engine.load(add(), LAYOUT, (), refuse)
            assert loaded.cached == cached and loaded.call(x, x)._array.tolist() == [2] * 5
        y = np.arange(64.0)
        call = llvm_engine.load(parallel(), LAYOUT, (), refuse, threads=2).call
        assert call(y)[0]._array.tolist() == (y + 1).tolist()


# -- aarch64, from here: the bits of instructions, told without running them -------------------------------------------


@pytest.fixture(scope="module")
def arm() -> Image:
    """The same text for another processor, if this LLVM knows it."""
    llvm = binding()
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    try:
        target = llvm.Target.from_triple("aarch64-unknown-linux-gnu")
    except RuntimeError:
        pytest.skip("this LLVM does not know aarch64")
    machine = target.create_target_machine(opt=2, reloc="pic", codemodel="small")
    module = llvm.parse_assembly(TEXT)
    module.triple, module.data_layout = "aarch64-unknown-linux-gnu", str(machine.target_data)
    return elf.linked(machine.emit_object(module))


def words(image: Image) -> np.ndarray:
    n = len(image.content) // 4 * 4
    return np.frombuffer(image.content[:n], "<u4")


def test_calls_on_aarch64_reach_their_stubs(arm: Image) -> None:
    code = words(arm)
    (place,) = (place for name, place in arm.imports if name == "fmod")
    stub = place - 8
    assert code[stub // 4] == 0x58000050 and code[stub // 4 + 1] == 0xD61F0200  # ldr x16, #8; br x16
    start = arm.exports["rest"] // 4
    calls = [4 * (start + k) + signed(w & 0x3FFFFFF, 26) * 4 for k, w in enumerate(code[start : start + 12])
             if w >> 26 in (0b100101, 0b000101)]  # fmt: skip
    assert stub in calls


def test_addresses_on_aarch64_are_those_of_the_data(arm: Image) -> None:
    """`adrp` and what follows it name the imported variable's word, and the counter's."""
    code, seen = words(arm), set()
    for name in ("count", "through"):
        start = arm.exports[name] // 4
        pages: dict[int, int] = {}
        for k in range(start, start + 14):
            w = int(code[k])
            if w >> 31 and (w >> 24 & 0x1F) == 0b10000:  # adrp
                pages[w & 31] = (4 * k >> 12) + signed((w >> 5 & 0x7FFFF) << 2 | w >> 29 & 3, 21)
            elif w >> 22 in (0b1111100101, 0b1111100100) and (w >> 5 & 31) in pages:  # ldr, str with offset
                seen.add((pages[w >> 5 & 31] << 12) + (w >> 10 & 0xFFF) * 8)
    (slot,) = (place for name, place in arm.imports if name == "outside")
    counter = struct.pack("<q", 40)
    assert slot in seen
    content = arm.content.ljust(arm.size, b"\0")
    assert any(content[place : place + 8] == counter for place in seen)


def signed(x: int, bits: int) -> int:
    x = int(x)
    return x - (1 << bits) if x >> (bits - 1) else x


# -- two ways to LLVM --------------------------------------------------------------------------------------------------


def test_llvmlite_and_its_library_give_the_same_code(monkeypatch: pytest.MonkeyPatch) -> None:
    library, package = llvm_library.library(), Package()
    assert library is not None, "this llvmlite is new: compare its C functions with llvm_library and add it to KNOWN"
    assert (library.triple, library.cpu, library.features) == (package.triple, package.cpu, package.features)
    ours = ("pic", "small")
    for how in ((PASSES, 2, ours, False), ((), 0, ours, False), (PASSES, 2, ("default", "jitdefault"), True)):
        assert library.emit(TEXT, *how) == package.emit(TEXT, *how)
    for text in ("no module", "define i64 @f() {\n  ret i32 0\n}\n"):
        said = []
        for llvm in (library, package):
            with pytest.raises(RuntimeError) as error:
                llvm.emit(text, PASSES, 2, ours, False)
            said.append(str(error.value))
        assert said[0] == said[1]
    monkeypatch.setattr(llvm_library, "KNOWN", ())
    assert llvm_library.path() is None


def test_threads_are_in_llvm_at_once() -> None:
    results: list[bytes] = []
    threads = [threading.Thread(target=lambda: results.append(compile_object(TEXT))) for _ in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert len(results) == 8 and len(set(results)) == 1

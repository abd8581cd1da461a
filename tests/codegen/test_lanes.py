"""Vectors as LLVM text: masks, single lanes, what differs in memory, and vectors of one lane."""

from __future__ import annotations

import numpy as np
import pytest

from tapefuse.codegen.llvm_instructions import Declarations
from tapefuse.codegen.llvm_lanes import ALL, Lanes, alignment, mask


class Lines:
    """A writer of numbered instructions."""

    def __init__(self) -> None:
        self.needs, self.slots, self.lines = Declarations(), [], []

    def new(self, text: str) -> str:
        self.lines.append(text)
        return f"%v{len(self.lines)}"

    def line(self, text: str) -> None:
        self.lines.append(text)


@pytest.fixture
def w() -> Lines:
    return Lines()


def test_a_load_under_a_mask_declares_what_it_calls(w: Lines) -> None:
    lanes = Lanes(w, 4)
    assert lanes.load("double", "%p") == "%v1" and lanes.load("float", "%q", "%m", "%x") == "%v2"
    name = "@llvm.masked.load.v4f32.p0"
    assert w.lines == [
        "load <4 x double>, ptr %p, align 8",
        f"call <4 x float> {name}(ptr %q, i32 4, <4 x i1> %m, <4 x float> %x)",
    ]
    assert list(w.needs.lines.values()) == [f"declare <4 x float> {name}(ptr, i32, <4 x i1>, <4 x float>)"]


def test_a_store_of_one_lane_is_one_of_a_scalar(w: Lines) -> None:
    Lanes(w, 4).store("i8", "%x", "%p", mask([False, False, True, False]))
    one = ["extractelement <4 x i8> %x, i64 2", "getelementptr i8, ptr %p, i64 2", "store i8 %v1, ptr %v2, align 1"]
    assert w.lines == one and not w.needs.lines


def test_the_first_lane_needs_no_address_of_its_own(w: Lines) -> None:
    lanes = Lanes(w, 2)
    lanes.store("i64", "%x", "%p", lanes.between(0, 1))
    assert w.lines == ["extractelement <2 x i64> %x, i64 0", "store i64 %v1, ptr %p, align 8"]


@pytest.mark.parametrize("where", [ALL, "%m", "<i1 true, i1 false, i1 true>"])
def test_other_masks_are_those_of_the_store(w: Lines, where: str) -> None:
    Lanes(w, 3).store("float", "%x", "%p", where)
    call = f"call void @llvm.masked.store.v3f32.p0(<3 x float> %x, ptr %p, i32 4, <3 x i1> {where})"
    assert w.lines == [call]


def test_elements_that_are_gathered(w: Lines) -> None:
    Lanes(w, 2).gather("i32", "%p", None)
    name = "@llvm.masked.gather.v2i32.v2p0"
    assert w.lines == [f"call <2 x i32> {name}(<2 x ptr> %p, i32 4, <2 x i1> {ALL}, <2 x i32> zeroinitializer)"]


def test_bools_are_bytes_in_memory(w: Lines) -> None:
    lanes, dtype = Lanes(w, 8), np.dtype(bool)
    assert lanes.registers(dtype) == lanes.bits == "<8 x i1>"
    assert lanes.from_memory(dtype, "%x") == "%v1" and lanes.to_memory(dtype, "%v1") == "%v2"
    assert w.lines == ["icmp ne <8 x i8> %x, zeroinitializer", "zext <8 x i1> %v1 to <8 x i8>"]
    assert lanes.to_memory(np.dtype(np.int8), "%y") == lanes.from_memory(np.dtype(np.int8), "%y") == "%y"


def test_values_in_every_lane(w: Lines) -> None:
    lanes = Lanes(w, 2)
    assert lanes.splat("i64", "7") == "splat (i64 7)" and not w.lines
    assert lanes.splat("i64", "%x") == "%v2" and lanes.ramp("3", 5) == "%v3" and lanes.reversed("i64", "%v3") == "%v4"
    assert w.lines == [
        "insertelement <2 x i64> poison, i64 %x, i64 0",
        "shufflevector <2 x i64> %v1, <2 x i64> poison, <2 x i32> zeroinitializer",
        "add <2 x i64> splat (i64 3), <i64 0, i64 5>",
        "shufflevector <2 x i64> %v3, <2 x i64> poison, <2 x i32> <i32 1, i32 0>",
    ]
    assert lanes.steps("i32", first=6) == "<i32 6, i32 7>"


def test_one_lane_is_a_scalar(w: Lines) -> None:
    lanes = Lanes(w, 1)
    assert (lanes.of("double"), lanes.suffix("double"), lanes.splat("double", "%x")) == ("double", "f64", "%x")


def test_alignments() -> None:
    assert [alignment(type) for type in ("float", "double", "i1", "i8", "i16", "i64")] == [4, 8, 1, 1, 2, 8]

"""Elements that are not there are not read: arrays end, or have their only place, where memory may not be touched."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tapefuse.codegen.builder import Builder
from tapefuse.codegen.guards import guarded
from tapefuse.codegen.loops import INT, ZERO, Num, Var
from tapefuse.ir.types import Poly
from tests.engines import ENGINES

pytest.importorskip("resource", reason="needs mprotect")

_SCRIPT = '''
import ctypes, mmap, sys
import numpy as np
import tapefuse as tp

class Memory:
    """Bytes up to a page that may not be touched."""
    def __init__(self, nbytes):
        self.size = -(-max(nbytes, 1) // mmap.PAGESIZE) * mmap.PAGESIZE
        self.map = mmap.mmap(-1, self.size + mmap.PAGESIZE)
        self.start = ctypes.addressof(ctypes.c_char.from_buffer(self.map))
        assert not ctypes.CDLL(None).mprotect(ctypes.c_void_p(self.start + self.size), mmap.PAGESIZE, 0)

def at_the_end(a):
    memory = Memory(a.nbytes)
    at = memory.start + memory.size - a.nbytes
    memory.__array_interface__ = {"shape": a.shape, "typestr": a.dtype.str, "data": (at, False), "version": 3}
    y = np.asarray(memory)
    assert y.ctypes.data == at
    y[...] = a
    return y

def ones(*shape):
    return np.ones(shape, np.float32)

three = np.arange(3)
cases = {
    "joined": (lambda x, y: np.concatenate([x, y]), ones(0), ones(5)),
    "joined, behind": (lambda x, y: np.concatenate([y, x]), ones(0), ones(5)),
    "joined rows": (lambda x, y: np.concatenate([x, y]), ones(0, 2000), ones(5, 2000)),
    "joined columns": (lambda x, y: np.concatenate([x, y], axis=1), ones(300, 0), ones(300, 5)),
    "joined, a part": (lambda x, y: np.concatenate([x[1:], y]), ones(1), ones(5)),
    "joined, a part of the columns": (lambda x, y: np.concatenate([x[:, 1:], y], axis=1), ones(9, 1), ones(9, 3)),
    "joined, transposed": (lambda x, y: np.concatenate([x.T, y], axis=1), ones(0, 2000), ones(2000, 3)),
    "joined, in another shape": (lambda x, y: np.concatenate([x.reshape(-1), y]), ones(0, 2000), ones(3)),
    "joined, padded": (
        lambda x, y: np.concatenate([np.pad(x[1:], ((1, 1), (2, 2))), y]), ones(1, 2000), ones(5, 2004)),
    "joined and summed": (lambda x, y: np.cumsum(np.concatenate([x, y]), axis=0), ones(0, 2000), ones(3, 2000)),
    "joined and sorted": (lambda x, y: np.sort(np.concatenate([x, y], axis=1), axis=1), ones(3, 0), ones(3, 3)),
    "padded": (lambda x: np.pad(x, 2), ones(0)),
    "padded rows": (lambda x: np.pad(x, ((1, 1), (0, 0))), ones(0, 3000)),
    "padded differences": (lambda x: np.pad(x[1:] - x[:-1], 1), ones(1)),
    "searched": (lambda x, v: np.searchsorted(x, v), ones(0), ones(5)),
    "searched, a part": (lambda x, v: np.searchsorted(x[1:], v), ones(1), ones(5)),
    "picked": (lambda x, k: x[k], ones(0), three),
    "picked rows": (lambda x, k: x[k], ones(0, 3000), three),
    "picked rows of a part": (lambda x, k: x[1:][k] * 2, ones(1, 3000), three),
    "picked along": (lambda x, k: np.take_along_axis(x, k, 1), ones(3, 0), np.zeros((3, 2), int)),
    "scattered": (lambda x, k: tp.grad(lambda x: tp.sum(x[k]))(x), ones(0, 3000), three),
}

def spec(name, a):
    shape = tuple(f"{name}{k}" if n < 2 else n for k, n in enumerate(a.shape))
    return tp.TensorSpec(shape, a.dtype)

def outcome(f, args):
    try:
        return np.asarray(f(*args))
    except IndexError:
        return None

for name, (f, *args) in cases.items():
    print(name, end=": ", flush=True)
    compiled = tp.tape_function(f, engine=sys.argv[1], input_signature=list(map(spec, "ab", args)))
    got = outcome(compiled, list(map(at_the_end, args)))
    want = None if name == "scattered" else outcome(f, args)
    assert (got is None) == (want is None), got
    assert got is None or got.shape == want.shape and np.array_equal(got, want), got
    more = [np.concatenate([a, ones(2, *a.shape[1:]).astype(a.dtype)]) if a.shape[0] < 2 else a for a in args]
    if name not in ("joined, transposed", "picked along", "scattered"):
        np.testing.assert_array_equal(outcome(compiled, more), outcome(f, more))
    print("fine", flush=True)
'''


@pytest.mark.parametrize("engine", ENGINES)
def test_empty_at_run_time_only(engine):
    """Joined, padded, searched and picked from where nothing is: nothing behind the end of an array is touched."""
    command = [sys.executable, "-W", "ignore", "-c", _SCRIPT, engine]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout.splitlines()[-1:] + done.stderr.splitlines()[-3:]
    assert all(line.endswith("fine") for line in done.stdout.splitlines())


N = Poly.symbol("n")
I, J = Var("i0", INT), Var("i1", INT)


def choice(b: Builder, condition, k):
    return b.op("select", condition, k, ZERO)


def test_the_indices_of_later_axes_are_under_the_condition_of_earlier_ones():
    b = Builder()
    inside = b.op("lt", I, b.dim(N))
    k = b.inside(inside, I, N)
    assert guarded(b, (k, J)) == (choice(b, inside, I), choice(b, inside, J))
    assert guarded(b, (J, k)) == (J, choice(b, inside, I))


def test_what_is_computed_from_an_index_is_under_its_condition():
    b = Builder()
    inside = b.op("lt", I, b.dim(N))
    further = b.op("add", b.inside(inside, I, N), b.number(3, INT))
    assert guarded(b, (further,)) == (choice(b, inside, b.op("add", I, b.number(3, INT))),)


def test_extents_that_are_known_and_numbers_that_are_chosen_are_left_alone():
    """Element 0 of an axis of 5 is there; a number that a user chooses by a condition is an index like any other."""
    b = Builder()
    inside = b.op("lt", I, b.dim(N))
    known, chosen = b.inside(inside, I, 5), choice(b, inside, I)
    assert guarded(b, (known, J)) == (known, J)
    assert guarded(b, (chosen, J)) == (chosen, J)


def test_sizes_in_the_prologue_are_made_of_nothing_in_the_body():
    """What a kernel's body has computed comes after all of its prologue."""
    b = Builder()
    b.op("mul", Num(-1, INT), Var("dim.n", INT))
    b.dim(5 - Poly.symbol("n"))
    assert len(b.prologue) == 2

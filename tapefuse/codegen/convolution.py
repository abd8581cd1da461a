"""Convolutions as contractions of one image after the other, without an array of all windows.

Of `conv`, a row of windows is one contraction: their elements are read where they stand, in the operand itself or in a
copy of one image with its padding (which also takes in what is computed element by element). `conv_input` is a `conv`
over its operand spread by the strides, with the kernel reversed. Pooling joins: an image's windows are reduced while
its result is hot, which then needs no memory of its own. Of `conv_kernel` each image's contraction adds to the sums of
the piece; pieces are added up at last.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack

from tapefuse.codegen.access import Operand, at
from tapefuse.codegen.builder import Builder
from tapefuse.codegen.context import Context, Place, Step
from tapefuse.codegen.convolution_shape import Extents, extents
from tapefuse.codegen.costs import CHUNKS, GRAIN, MULTIPLY_ADD, TRANSFER
from tapefuse.codegen.loops import CHUNK, HI, INT, LO, ZERO, Buffer, Contract, Kernel, Num, Scalar, Term
from tapefuse.ir.graph import Value
from tapefuse.ir.types import Dim, Poly, Type, size

COPIES = 1 << 26  # bytes that the copies of all pieces take at most, if two pieces take less


class Convolution(Context):
    """One of the three ops."""

    def build(self, name: str) -> list[Step]:
        self.node, *self.pooled = self.group.nodes
        self.by = self._extents()
        self.chunks = self._chunks()
        return {"conv": self._forward, "conv_input": self._to_input, "conv_kernel": self._to_kernel}[self._op](name)

    @property
    def _op(self) -> str:
        assert self.node.op is not None
        return self.node.op.name

    def _extents(self) -> Extents:
        found = extents(self.node)
        assert found is not None
        return found

    # -- the three ops -----------------------------------------------------------------------------
    def _forward(self, name: str) -> list[Step]:
        x, w = self.node.args
        e = self.by
        first = [] if self._in_memory(w) else [self._copied(f"{name}_kernel", w, reverse=False)]
        source = self._source(x, e.padded, e.low, e.is_padded)
        with self.b.loop(LO, HI) as image:
            a = source.of(image)
            kernel = self._kernel_place(w, bool(first))
            self._slide(image, a, e.padded, kernel, e.windows, e.strides, e.inputs, e.outputs)
            self._pool(image)
        return [*first, self._main(name)]

    def _to_input(self, name: str) -> list[Step]:
        g, w = self.node.args
        e = self.by
        first = self._copied(f"{name}_kernel", w, reverse=True)
        reach = [d * (k - 1) for d, k in zip(e.dilation, e.kernel, strict=True)]
        wide = tuple(n + r for n, r in zip(e.spatial, reach, strict=True))
        before = [r - a for r, a in zip(reach, e.low, strict=True)]
        direct = not any(before) and wide == e.windows and all(s == 1 for s in e.strides)
        source = self._source(g, wide, before, not direct, e.strides)
        with self.b.loop(LO, HI) as image:
            a = source.of(image)
            place = self._kernel_place(w, True)
            self._slide(image, a, wide, place, e.spatial, (1,) * len(wide), e.outputs, e.inputs)
            self._pool(image)
        return [first, self._main(name)]

    def _to_kernel(self, name: str) -> list[Step]:
        x, g = self.node.args
        e, b = self.by, self.b
        partial = Place(self.node, Type(self.node.dtype, (self.chunks, *self.node.shape)), "partial")
        place = partial if self.chunks > 1 else self.place(self.node)
        lead = (CHUNK,) if self.chunks > 1 else ()
        with b.loops(self.node.shape) as i:
            self.store(place, (*lead, *i), b.number(0, self.node.dtype))
        xs = self._source(x, e.padded, e.low, e.is_padded)
        gs = self._source(g, e.windows, (0,) * len(e.windows), False)
        with b.loop(LO, HI) as image:
            self._correlate(lead, place, xs.of(image), gs.of(image))
        main = self._main(name)
        if self.chunks == 1:
            return [main]
        return [main, _total(self, f"{name}_total", place, name)]

    # -- contractions ------------------------------------------------------------------------------
    def _slide(self, image, a, wide, w: Place, windows, strides, inputs: int, outputs: int) -> None:
        """One image's windows over `a`, whose spatial extents are `wide`."""
        b, e, (buffer, start) = self.b, self.by, a
        steps = _steps((*wide, inputs))
        taps = _steps((*e.kernel, inputs, outputs))
        terms = [_term(b, n, d * s, t) for n, d, s, t in zip(e.kernel, e.dilation, steps, taps, strict=False)]
        if e.dilation[-1] == 1:  # a row of taps and all their channels stand side by side
            terms[-1] = _term(b, e.kernel[-1] * inputs, 1, outputs)
        else:
            terms.append(_term(b, inputs, 1, outputs))
        place, result = self._result(image)
        self.written.add(place)
        zero = (ZERO,) * (len(wide) + 2)
        with b.loops(windows[:-1]) as o:
            first = [b.op("mul", k, b.dim(s)) for k, s in zip(o, strides, strict=False)]
            rows, columns, row_a = b.dim(windows[-1]), b.dim(outputs), b.dim(strides[-1] * inputs)
            at_c, at_a = (result, *o, ZERO, ZERO), (*start, *first, ZERO, ZERO)
            c, kernel = self.buffer(place), self.buffer(w)
            b.append(Contract(c, buffer, kernel, at_c, at_a, zero, rows, columns, columns, row_a, tuple(terms)))

    def _result(self, image: Scalar) -> tuple[Place, Scalar]:
        """Where an image's result goes, and the first component of an index into it: memory of one image will do if
        only the windows over it are needed."""
        if self.node in self.plan.kept:
            return self.place(self.node), image
        return Place(self.node, Type(self.node.dtype, (self.chunks, *self.node.shape[1:])), "result"), CHUNK

    def _pool(self, image: Scalar) -> None:
        """What is computed from windows over an image's result, while that is hot."""
        wanted = [n for n in self.pooled if n in self.plan.kept]
        for shape in dict.fromkeys(n.shape[1:] for n in wanted):
            with self.b.loops(shape) as i:
                for n in (n for n in wanted if n.shape[1:] == shape):
                    self.store(self.place(n), (image, *i), self._element(n, (image, *i)))

    def _element(self, value: Value, index: tuple[Scalar, ...]) -> Scalar:
        """An element of what is pooled, or of what it reads."""
        if value is self.node:
            place, first = self._result(index[0])
            return self.b.load(self.buffer(place), (first, *index[1:]))
        if value in self.pooled or value in self.plan.inline:
            return at(self.b, value, index, lambda v: Operand(v, lambda i: self._element(v, i)))
        return self.load(value, index)

    def _correlate(self, lead, place: Place, a, g) -> None:
        """One image's part of the gradient of the kernel."""
        b, e = self.b, self.by
        (x, x_start), (rows, g_start) = a, g
        self.written.add(place)
        steps, moves = _steps((*e.padded, e.inputs)), _steps((*e.windows, e.outputs))
        terms = [_term(b, n, s * t, m) for n, s, t, m in zip(e.windows, e.strides, steps, moves, strict=False)]
        together = e.dilation[-1] == 1  # a row of taps and all their channels stand side by side
        taps = e.kernel[:-1] if together else e.kernel
        with b.loops(taps) as k:
            first = [b.op("mul", i, b.dim(d)) for i, d in zip(k, e.dilation, strict=False)]
            rest = (ZERO,) * (len(e.kernel) - len(k))
            count, columns = b.dim(e.inputs * (e.kernel[-1] if together else 1)), b.dim(e.outputs)
            at_c, at_a = (*lead, *k, *rest, ZERO, ZERO), (*x_start, *first, *rest, ZERO)
            at_g = (*g_start, *((ZERO,) * (len(e.windows) + 1)))
            c, one = self.buffer(place), b.dim(1)
            b.append(Contract(c, x, rows, at_c, at_a, at_g, count, columns, columns, one, tuple(terms), add=True))

    # -- operands ----------------------------------------------------------------------------------
    def _in_memory(self, value: Value) -> bool:
        return value not in self.plan.inline

    def _source(self, value: Value, wide: Sequence[int], before: Sequence[int], copied: bool, strides=None) -> _Source:
        if not copied and self._in_memory(value):
            return _Whole(self, value)
        return _Copy(self, value, tuple(wide), tuple(before), tuple(strides or (1,) * len(wide)))

    def _kernel_place(self, w: Value, copied: bool) -> Place:
        if not copied:
            return self.place(w)
        e = self.by
        shape = (*e.kernel, e.outputs, e.inputs) if self._op == "conv_input" else w.shape
        return Place(w, Type(w.dtype, shape), "reversed kernel" if self._op == "conv_input" else "kernel")

    def _copied(self, name: str, w: Value, reverse: bool) -> Step:
        """The kernel that copies the convolution's kernel: taps reversed and channels exchanged, or as it is."""
        maker = Context(self.plan, self.group, self.in_place)
        b, place = maker.b, self._kernel_place(w, True)
        with b.loops(place.type.shape) as i:
            k = [b.op("sub", b.dim(n - 1), j) if reverse else j for n, j in zip(self.by.kernel, i, strict=False)]
            channels = (i[-1], i[-2]) if reverse else i[-2:]
            maker.store(place, i, _pull(maker, w, (*k, *channels)))
        return maker.step(name, 1, TRANSFER * size(place.type.shape))

    # -- steps -------------------------------------------------------------------------------------
    def _cost(self) -> Dim:
        return self.by.products * MULTIPLY_ADD

    def _chunks(self) -> int:
        """Pieces at most: of an image or more, and not so many that their copies of images and kernels are large."""
        e, cost = self.by, self._cost()
        if self.strict and self._op == "conv_kernel":
            return 1
        elements = size((*e.padded, e.inputs)) + size((*e.windows, e.outputs)) + size((*e.kernel, e.inputs, e.outputs))
        most = max(2, min(CHUNKS, COPIES // (elements * self.node.dtype.itemsize)))
        return most if isinstance(cost, Poly) else max(1, min(most, e.images, cost // GRAIN))

    def _main(self, name: str) -> Step:
        return self.step(name, self.by.images, self._cost(), self.chunks)


def _steps(shape: Sequence[int]) -> list[int]:
    """By how many elements one moves along each axis."""
    return [size(shape[k + 1 :]) for k in range(len(shape))]  # type: ignore[misc]


def _term(b: Builder, extent: int, step_a: int, step_b: int) -> Term:
    return Term(b.dim(extent), b.dim(step_a), b.dim(step_b))


def _pull(maker: Context, value: Value, index: tuple[Scalar, ...]) -> Scalar:
    """An element of an operand: loaded, or computed."""

    def operand(v: Value) -> Operand:
        return Operand(v, lambda i: _pull(maker, v, i))

    if value in maker.plan.inline:
        return at(maker.b, value, index, operand)
    return maker.load(value, index)


class _Source:
    """Where contractions read an image: `of(image)` is a buffer and the first components of an index into it."""

    def of(self, image: Scalar) -> tuple[Buffer, tuple[Scalar, ...]]:
        raise AssertionError("one of the two below")


class _Whole(_Source):
    """The operand itself."""

    def __init__(self, maker: Convolution, value: Value):
        self.maker, self.value = maker, value

    def of(self, image: Scalar) -> tuple[Buffer, tuple[Scalar, ...]]:
        return self.maker.buffer(self.maker.place(self.value)), (image,)


class _Copy(_Source):
    """One image at a time, `before` elements of padding and then every `strides`-th element of `wide` an element."""

    def __init__(self, maker: Convolution, value: Value, wide, before, strides):
        self.maker, self.value, self.before, self.strides = maker, value, before, strides
        self.place = Place(value, Type(value.dtype, (maker.chunks, *wide, value.shape[-1])), "image")
        extents = tuple(int(n) for n in value.shape[1:-1])
        self.bounds = [_bounds(*each) for each in zip(extents, wide, before, strides, strict=True)]
        filled = [(start + a, stop + a) for (start, stop), a in zip(self.bounds, before, strict=True)]
        if filled != [(0, n) for n in wide] or any(s > 1 for s in strides):
            with maker.b.loops(self.place.type.shape[1:]) as i:
                maker.store(self.place, (CHUNK, *i), maker.b.number(0, value.dtype))

    def of(self, image: Scalar) -> tuple[Buffer, tuple[Scalar, ...]]:
        b, channels = self.maker.b, self.value.shape[-1]
        with ExitStack() as nest:
            i = [nest.enter_context(b.loop(Num(start, INT), Num(stop, INT))) for start, stop in self.bounds]
            channel = ZERO if channels == 1 else nest.enter_context(b.loop(ZERO, b.dim(channels)))
            moved = [b.op("mul", k, b.dim(s)) for k, s in zip(i, self.strides, strict=True)]
            there = [b.op("add", k, b.dim(a)) for k, a in zip(moved, self.before, strict=True)]
            element = _pull(self.maker, self.value, (image, *i, channel))
            self.maker.store(self.place, (CHUNK, *there, channel), element)
        return self.maker.buffer(self.place), (CHUNK,)


def _bounds(n: int, wide: int, before: int, stride: int) -> tuple[int, int]:
    """Which elements of an axis are put into the copy: those at before + i * stride, if that is in it."""
    return max(0, -(before // stride)), max(0, min(n, (wide - 1 - before) // stride + 1))


def _total(maker: Convolution, name: str, partial: Place, of: str) -> Step:
    """The kernel that adds up the sums of the pieces of kernel `of`."""
    n, b, dtype = Poly.symbol("n"), Builder(), maker.node.dtype
    pieces, total = Buffer("b0", Type(dtype, (maker.chunks, n))), Buffer("b1", Type(dtype, (n,)))
    with b.loops((n,)) as j:
        b.store(total, j, b.number(0, dtype))
    with b.loop(LO, HI) as c, b.loops((n,)) as j:
        b.store(total, j, b.op("add", b.reload(total, j), b.load(pieces, (c, *j))))
    kernel = Kernel(name, (pieces, total), ("n",), b.body(), maker.chunks, 0, "sum of partial results")
    places = (partial, maker.place(maker.node))
    return Step(kernel, places, frozenset(places[1:]), 1, maker.group, of, (("n", size(maker.node.shape)),))

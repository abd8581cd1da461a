"""The array API standard's namespace: every name of version 2024.12 with its signature, and exchange of arrays."""

from __future__ import annotations

import inspect

import numpy as np
import pytest

import tapefuse as tp
from tapefuse import array_api as xp

UNARY = """
abs acos acosh asin asinh atan atanh bitwise_invert ceil conj cos cosh exp expm1 floor imag isfinite isinf isnan log
log1p log2 log10 logical_not negative positive real reciprocal round sign signbit sin sinh square sqrt tan tanh trunc
"""
BINARY = """
add atan2 bitwise_and bitwise_left_shift bitwise_or bitwise_right_shift bitwise_xor copysign divide equal floor_divide
greater greater_equal hypot less less_equal logaddexp logical_and logical_or logical_xor maximum minimum multiply
nextafter not_equal pow remainder subtract
"""
SIGNATURES = """
arange(start, /, stop, step, *, dtype, device)
asarray(obj, /, *, dtype, device, copy)
empty(shape, *, dtype, device)
empty_like(x, /, *, dtype, device)
eye(n_rows, n_cols, /, *, k, dtype, device)
from_dlpack(x, /, *, device, copy)
full(shape, fill_value, *, dtype, device)
full_like(x, /, fill_value, *, dtype, device)
linspace(start, stop, /, num, *, dtype, device, endpoint)
meshgrid(*arrays, indexing)
ones(shape, *, dtype, device)
ones_like(x, /, *, dtype, device)
tril(x, /, *, k)
triu(x, /, *, k)
zeros(shape, *, dtype, device)
zeros_like(x, /, *, dtype, device)
astype(x, dtype, /, *, copy, device)
can_cast(from_, to, /)
finfo(type, /)
iinfo(type, /)
isdtype(dtype, kind)
result_type(*arrays_and_dtypes)
clip(x, /, min, max)
take(x, indices, /, *, axis)
take_along_axis(x, indices, /, *, axis)
matmul(x1, x2, /)
matrix_transpose(x, /)
tensordot(x1, x2, /, *, axes)
vecdot(x1, x2, /, *, axis)
broadcast_arrays(*arrays)
broadcast_to(x, /, shape)
concat(arrays, /, *, axis)
expand_dims(x, /, axis)
flip(x, /, *, axis)
moveaxis(x, source, destination, /)
permute_dims(x, /, axes)
repeat(x, repeats, /, *, axis)
reshape(x, /, shape, *, copy)
roll(x, /, shift, *, axis)
squeeze(x, /, axis)
stack(arrays, /, *, axis)
tile(x, repetitions, /)
unstack(x, /, *, axis)
argmax(x, /, *, axis, keepdims)
argmin(x, /, *, axis, keepdims)
count_nonzero(x, /, *, axis, keepdims)
nonzero(x, /)
searchsorted(x1, x2, /, *, side, sorter)
where(condition, x1, x2, /)
unique_all(x, /)
unique_counts(x, /)
unique_inverse(x, /)
unique_values(x, /)
argsort(x, /, *, axis, descending, stable)
sort(x, /, *, axis, descending, stable)
cumulative_prod(x, /, *, axis, dtype, include_initial)
cumulative_sum(x, /, *, axis, dtype, include_initial)
max(x, /, *, axis, keepdims)
mean(x, /, *, axis, keepdims)
min(x, /, *, axis, keepdims)
prod(x, /, *, axis, dtype, keepdims)
std(x, /, *, axis, correction, keepdims)
sum(x, /, *, axis, dtype, keepdims)
var(x, /, *, axis, correction, keepdims)
all(x, /, *, axis, keepdims)
any(x, /, *, axis, keepdims)
diff(x, /, *, axis, n, prepend, append)
"""
LINALG = """
cholesky(x, /, *, upper)
cross(x1, x2, /, *, axis)
det(x, /)
diagonal(x, /, *, offset)
eigh(x, /)
eigvalsh(x, /)
inv(x, /)
matmul(x1, x2, /)
matrix_norm(x, /, *, keepdims, ord)
matrix_power(x, n, /)
matrix_rank(x, /, *, rtol)
matrix_transpose(x, /)
outer(x1, x2, /)
pinv(x, /, *, rtol)
qr(x, /, *, mode)
slogdet(x, /)
solve(x1, x2, /)
svd(x, /, *, full_matrices)
svdvals(x, /)
tensordot(x1, x2, /, *, axes)
trace(x, /, *, offset, dtype)
vecdot(x1, x2, /, *, axis)
vector_norm(x, /, *, axis, keepdims, ord)
"""
FFT = "fft ifft rfft irfft hfft ihfft fftn ifftn rfftn irfftn fftfreq rfftfreq fftshift ifftshift"
NAMES = """
e inf nan newaxis pi
bool int8 int16 int32 int64 uint8 uint16 uint32 uint64 float32 float64 complex64 complex128
"""
MISSING: dict[str, str] = {}  # names of the standard that are not there, and why


def shown(function: object) -> str:
    """`(x, /, *, axis)`: the names and kinds of the parameters."""
    parameters = inspect.signature(function).parameters.values()  # type: ignore[arg-type]
    plain = inspect.Signature([p.replace(default=p.empty, annotation=p.empty) for p in parameters])
    return str(plain)


ROWS = [(xp, row) for row in SIGNATURES.split("\n") if row]
ROWS += [(xp, f"{name}(x, /)") for name in UNARY.split()] + [(xp, f"{name}(x1, x2, /)") for name in BINARY.split()]
ROWS += [(xp.linalg, row) for row in LINALG.split("\n") if row]


@pytest.mark.parametrize(("module", "row"), ROWS, ids=lambda x: x if isinstance(x, str) else x.__name__)
def test_functions_have_the_standards_signatures(module, row) -> None:
    name = row.partition("(")[0]
    if name in MISSING:
        assert not hasattr(module, name)
    else:
        assert name + shown(getattr(module, name)) == row
        assert getattr(module, name).__doc__


def test_the_namespace_has_these_names_and_no_others() -> None:
    functions = {row.partition("(")[0] for module, row in ROWS if module is xp}
    extra = {"__array_namespace_info__", "__array_api_version__", "fft", "linalg"}
    assert set(xp.__all__) | set(MISSING) == functions | set(NAMES.split()) | extra
    assert set(FFT.split()) == set(xp.fft.__all__)
    assert {row.partition("(")[0] for row in LINALG.split("\n") if row} == set(xp.linalg.__all__)
    for name in xp.__all__:
        getattr(xp, name)


def test_what_the_standard_does_not_take_is_refused() -> None:
    x = xp.ones((2, 3))
    for call in (lambda: xp.sum(x, 0), lambda: xp.sum(x=x), xp.exp, lambda: xp.add(x, x, dtype="f8")):
        with pytest.raises(TypeError, match="argument|positional"):
            call()


def test_arrays_give_the_namespace() -> None:
    for x in (tp.constant([1.0]), tp.Variable([1.0])):
        assert x.__array_namespace__() is xp
        assert x.__array_namespace__(api_version="2023.12") is xp
        with pytest.raises(ValueError, match="'1999.01' of the array API is not supported"):
            x.__array_namespace__(api_version="1999.01")
        assert x.device == "cpu" and x.to_device("cpu").tolist() == [1.0]
        with pytest.raises(ValueError, match="memory of the CPU"):
            x.to_device("gpu")


def test_defaults() -> None:
    info = xp.__array_namespace_info__()
    assert info.devices() == [info.default_device()] == ["cpu"]
    kinds = {"real floating": 1.0, "complex floating": 1j, "integral": 1}
    found = info.default_dtypes()
    assert {k: xp.asarray(v).dtype for k, v in kinds.items()} == {k: found[k] for k in kinds}
    assert xp.argmax(xp.ones(3)).dtype == found["indexing"] == xp.nonzero(xp.ones(3))[0].dtype
    for x in (xp.zeros(2), xp.ones(2), xp.empty(2), xp.eye(2), xp.linspace(0, 1, 3), xp.full(2, 1.5)):
        assert x.dtype == xp.float32
    assert xp.arange(3).dtype == xp.full(2, 3).dtype == xp.int64
    assert xp.asarray([[1, 2.5]]).dtype == xp.float32
    assert xp.asarray([True]).dtype == xp.bool
    assert info.capabilities()["boolean indexing"] is True
    assert set(info.dtypes()) == set(NAMES.split()[5:])
    assert set(info.dtypes(kind=("bool", "unsigned integer"))) == {"bool", "uint8", "uint16", "uint32", "uint64"}
    assert xp.arange(3, 1).shape == xp.arange(1.0, 0.0, 0.5).shape == (0,)


def test_limits_and_kinds() -> None:
    info = xp.finfo(xp.float32)
    assert (info.bits, info.eps, info.dtype) == (32, 2.0**-23, xp.float32)
    assert all(type(v) is float for v in (info.eps, info.max, info.min, info.smallest_normal))
    assert xp.finfo(xp.ones(2, dtype=xp.complex128)).dtype == xp.float64
    assert (xp.iinfo(xp.int8).min, xp.iinfo(xp.asarray([1], dtype=xp.uint8)).max) == (-128, 255)
    assert xp.isdtype(xp.int8, "integral") and not xp.isdtype(xp.int8, ("bool", "real floating"))
    assert xp.can_cast(xp.ones(1), xp.float64) and not xp.can_cast(xp.float64, xp.float32)
    assert xp.result_type(xp.ones(1), xp.float64, 1) == xp.float64


def test_copies() -> None:
    x = xp.asarray([1.0, 2.0])
    same, copied = xp.asarray(x, copy=False), xp.asarray(x, copy=True)
    copied[0] = 9.0
    assert same is x and x.tolist() == [1.0, 2.0]
    assert xp.asarray(x, dtype=xp.float32, copy=False) is x
    assert xp.astype(x, xp.float32, copy=False) is x
    for call in (lambda: xp.asarray(x, dtype=xp.float64, copy=False), lambda: xp.asarray([1.0], copy=False)):
        with pytest.raises(ValueError, match="cop"):
            call()


def test_descending_order_is_stable() -> None:
    x = xp.asarray([2, 1, 2, 3, 1, 3])
    assert xp.argsort(x, descending=True).tolist() == [3, 5, 0, 2, 1, 4]
    assert xp.sort(x, descending=True).tolist() == [3, 3, 2, 2, 1, 1]


def test_code_for_any_library_is_differentiated_and_compiled() -> None:
    def softmax(x):
        xp = x.__array_namespace__()
        y = xp.exp(x - xp.max(x, axis=-1, keepdims=True))
        return y / xp.sum(y, axis=-1, keepdims=True)

    x = np.array([[1.0, 2.0, 4.0]])
    want = softmax(x)
    f = lambda x: tp.sum(softmax(x)[:, 0])
    for wrap in (lambda f: f, tp.tape_function):
        np.testing.assert_allclose(wrap(softmax)(tp.constant(x)), want, rtol=1e-14)
        np.testing.assert_allclose(wrap(tp.grad(f))(tp.constant(x)), want[0, 0] * (np.eye(3)[:1] - want), rtol=1e-12)


# -- DLPack -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["?", "i1", "u2", "i4", "u8", "f2", "f4", "f8", "c8", "c16"])
def test_export_shares_memory_and_is_read_only(dtype: str) -> None:
    x = tp.constant(np.arange(6).reshape(2, 3).astype(dtype))
    for given in (x, tp.Variable(x)):
        array = np.from_dlpack(given)
        assert np.shares_memory(array, np.asarray(given)) and not array.flags.writeable
        np.testing.assert_array_equal(array, np.asarray(x), strict=True)
    assert x.__dlpack_device__() == (1, 0)


class Old:
    """A consumer's view of an array that knows DLPack before 1.0 only."""

    def __init__(self, x):
        self.x = x

    def __dlpack__(self, **options):
        return self.x.__dlpack__()

    def __dlpack_device__(self):
        return self.x.__dlpack_device__()


def test_consumers_without_the_mark_get_copies() -> None:
    x = tp.constant([1.0, 2.0])
    array = np.from_dlpack(Old(x))
    assert array.tolist() == [1.0, 2.0] and not np.shares_memory(array, np.asarray(x))
    with pytest.raises(BufferError, match="read-only.*max_version"):
        x.__dlpack__(copy=False)
    with pytest.raises(BufferError, match="memory of the CPU"):
        x.__dlpack__(dl_device=(2, 0))
    copied = np.from_dlpack(x, copy=True)
    assert not np.shares_memory(copied, np.asarray(x))


def test_import_shares_memory_where_it_can() -> None:
    array = np.arange(12.0).reshape(3, 4)
    assert np.shares_memory(np.asarray(tp.from_dlpack(array)), array)
    assert not np.shares_memory(np.asarray(tp.from_dlpack(array, copy=True)), array)
    np.testing.assert_array_equal(tp.from_dlpack(array.T), array.T)
    assert tp.from_dlpack(tp.constant([3])).tolist() == [3]
    with pytest.raises(BufferError, match="not row-major"):
        tp.from_dlpack(array.T, copy=False)
    with pytest.raises(ValueError, match="memory of the CPU"):
        tp.from_dlpack(array, device="gpu")
    v = tp.Variable(tp.from_dlpack(array))
    v.assign_add(np.ones((3, 4)))
    assert array[0, 0] == 0


def test_traced_values_have_no_memory() -> None:
    with pytest.raises(tp.ConcretizationError):
        tp.tape_function(np.from_dlpack)(tp.constant(1.0))

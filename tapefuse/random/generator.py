"""Generators: state from which keys are taken one after the other, and the module's functions that take one of them.

    rng = tp.random.Generator(0)
    rng.normal((3, 4))
    tp.random.normal((3, 4))            # from the generator that tp.random.seed restarts
    tp.random.normal((3, 4), key=key)   # from a key: a function without state
"""

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import Callable
from typing import Any

from tapefuse._locks import Lock
from tapefuse.ir import ops
from tapefuse.random import continuous, discrete, keys, multivariate, rejection
from tapefuse.random.keys import STEP, UINT64, constant_of, numbers
from tapefuse.tracer.tensor import Tensor
from tapefuse.tracer.variable import Variable

Draw = Callable[..., Tensor]


# -- every distribution as a function and as a method -----------------------------------------------------------------


def _function(draw: Draw) -> Draw:
    """`draw` with the keyword `key`, and a key of the default generator without it."""

    @functools.wraps(draw)
    def _drawn(*args: Any, key: Any = None, **options: Any) -> Tensor:
        return draw(_default.key() if key is None else key, *args, **options)

    first, *rest = inspect.signature(draw).parameters.values()
    given = first.replace(kind=inspect.Parameter.KEYWORD_ONLY, default=None)
    _drawn.__signature__ = inspect.Signature([*rest, given], return_annotation="Tensor")  # type: ignore[attr-defined]
    return _drawn


def _method(draw: Draw) -> Draw:
    @functools.wraps(draw)
    def _drawn(self: Any, *args: Any, **options: Any) -> Tensor:
        return draw(self.key(), *args, **options)

    first, *rest = inspect.signature(draw).parameters.values()
    self = first.replace(name="self", annotation="Generator")
    _drawn.__signature__ = inspect.Signature([self, *rest], return_annotation="Tensor")  # type: ignore[attr-defined]
    return _drawn


class Generator:
    """A source of keys: the k-th one is a function of the seed and of k.

    `state` is a Variable of two uint64, the seed's key and the number of keys taken. A compiled function advances it as
    any variable, and so does a loop in it; what is drawn is the same as without compilation. Assign to `state`, or call
    `seed`, to go back. Raises as `key` for a seed that is none; without one the operating system gives it.

    It has every distribution of `tapefuse.random` as a method, without the argument `key`.
    """

    __slots__ = ("_lock", "state")

    def __init__(self, seed: Any = None, name: str = "generator"):
        self._lock = Lock()
        self.state = Variable(_fresh(seed), trainable=False, name=name)

    def seed(self, seed: Any) -> None:
        """Start again, as a new generator of this seed does."""
        self.state.assign(_fresh(seed))

    def key(self) -> Tensor:
        """The next key."""
        with self._lock:
            state = self.state.read()
            root, count = state[0], state[1]
            self.state.assign(_pair(root, ops.add(count, constant_of(1, UINT64))))
        return ops.threefry(root, ops.add(count, numbers(0, STEP)))

    def split(self, n: Any = 2) -> Tensor:
        """`n` keys, from one step of this generator."""
        return keys.split(self.key(), n)

    def bits(self, shape: Any = (), width: int = 32) -> Tensor:
        """Random unsigned integers of `width` bits: 8, 16, 32 or 64."""
        return keys.bits(self.key(), shape, width)

    bernoulli = _method(discrete.bernoulli)
    beta = _method(rejection.beta)
    categorical = _method(discrete.categorical)
    cauchy = _method(continuous.cauchy)
    chisquare = _method(rejection.chisquare)
    choice = _method(discrete.choice)
    dirichlet = _method(rejection.dirichlet)
    dropout = _method(multivariate.dropout)
    exponential = _method(continuous.exponential)
    gamma = _method(rejection.gamma)
    gumbel = _method(continuous.gumbel)
    integers = randint = _method(discrete.integers)
    laplace = _method(continuous.laplace)
    logistic = _method(continuous.logistic)
    multivariate_normal = _method(multivariate.multivariate_normal)
    normal = _method(continuous.normal)
    permutation = _method(discrete.permutation)
    poisson = _method(rejection.poisson)
    rademacher = _method(discrete.rademacher)
    student_t = _method(rejection.student_t)
    truncated_normal = _method(continuous.truncated_normal)
    uniform = _method(continuous.uniform)

    def __repr__(self) -> str:
        return f"<tp.random.Generator {self.state!r}>"

    def __deepcopy__(self, memo: dict) -> Generator:
        twin = memo[id(self)] = Generator(0, self.state.name)
        twin.state.assign(self.state)
        return twin

    def __reduce__(self) -> tuple:
        return _restored, (self.state,)


def _restored(state: Variable) -> Generator:
    found = Generator.__new__(Generator)
    found._lock, found.state = Lock(), state
    return found


def _fresh(seed: Any) -> Tensor:
    """The state of a generator that has given no key."""
    return _pair(keys.key(int.from_bytes(os.urandom(8)) if seed is None else seed), constant_of(0, UINT64))


def _pair(root: Tensor, count: Tensor) -> Tensor:
    return ops.concat(*[ops.reshape(x, shape=(1,)) for x in (root, count)], axis=0)


_default = Generator(name="tp.random")


def default_generator() -> Generator:
    """What the functions of `tapefuse.random` draw from without a key."""
    return _default


def seed(seed: Any) -> None:
    """Restart the default generator."""
    _default.seed(seed)


def shuffle(x: Any, axis: int = 0, *, key: Any = None) -> None:
    """Put the elements of a tensor or variable into random order along an axis, in place, as NumPy's function does."""
    x[...] = permutation(x, axis, key=key)


bernoulli = _function(discrete.bernoulli)
beta = _function(rejection.beta)
categorical = _function(discrete.categorical)
cauchy = _function(continuous.cauchy)
chisquare = _function(rejection.chisquare)
choice = _function(discrete.choice)
dirichlet = _function(rejection.dirichlet)
dropout = _function(multivariate.dropout)
exponential = _function(continuous.exponential)
gamma = _function(rejection.gamma)
gumbel = _function(continuous.gumbel)
integers = randint = _function(discrete.integers)
laplace = _function(continuous.laplace)
logistic = _function(continuous.logistic)
multivariate_normal = _function(multivariate.multivariate_normal)
normal = _function(continuous.normal)
permutation = _function(discrete.permutation)
poisson = _function(rejection.poisson)
rademacher = _function(discrete.rademacher)
student_t = _function(rejection.student_t)
truncated_normal = _function(continuous.truncated_normal)
uniform = _function(continuous.uniform)

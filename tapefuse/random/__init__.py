"""Random numbers as functions of keys, and generators that hand out keys.

    tp.random.seed(0)
    x = tp.random.normal((1000, 3))                        # float32, from the default generator
    key = tp.random.key(0)
    x = tp.random.normal((1000, 3), dtype="f8", key=key)   # always the same
    rng = tp.random.Generator(0)
    x = rng.gamma(2.0, (1000,))

An element depends on its key and its place in the result alone: numbers do not depend on threads or engines, and they
are the same eagerly, in compiled functions and under `vmap` over keys. Draws are differentiable functions of their
parameters where these are continuous.
"""

from __future__ import annotations

from tapefuse.random.generator import (
    Generator,
    _function,
    bernoulli,
    beta,
    categorical,
    cauchy,
    chisquare,
    choice,
    default_generator,
    dirichlet,
    dropout,
    exponential,
    gamma,
    gumbel,
    integers,
    laplace,
    logistic,
    multivariate_normal,
    normal,
    permutation,
    poisson,
    rademacher,
    randint,
    seed,
    shuffle,
    student_t,
    truncated_normal,
    uniform,
)
from tapefuse.random.keys import bits as _bits
from tapefuse.random.keys import fold_in, key, split

set_seed = seed
bits = _function(_bits)

__all__ = [
    "Generator",
    "bernoulli",
    "beta",
    "bits",
    "categorical",
    "cauchy",
    "chisquare",
    "choice",
    "default_generator",
    "dirichlet",
    "dropout",
    "exponential",
    "fold_in",
    "gamma",
    "gumbel",
    "integers",
    "key",
    "laplace",
    "logistic",
    "multivariate_normal",
    "normal",
    "permutation",
    "poisson",
    "rademacher",
    "randint",
    "seed",
    "set_seed",
    "shuffle",
    "split",
    "student_t",
    "truncated_normal",
    "uniform",
]

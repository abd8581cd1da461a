"""Derivatives of draws by parameters, with the bits held fixed."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

import tapefuse as tp
from tapefuse.ir.ops.random import gamma_path, log_gamma_slope
from tests.random.helpers import ENGINES

KEY = 12
POINTS = np.array([0.4, 1.3, 3.0, 8.0])

# draws whose elements are smooth functions of a parameter vector with the bits fixed
SMOOTH = {
    "uniform": lambda p, k: tp.random.uniform(None, -p, 2 * p, key=k),
    "normal": lambda p, k: tp.random.normal(None, p * p, p, key=k),
    "truncated": lambda p, k: tp.random.truncated_normal(None, -p, 0.5 * p, p, 2 * p, key=k),
    "exponential": lambda p, k: tp.random.exponential(None, p, key=k),
    "gumbel": lambda p, k: tp.random.gumbel(None, p, p, key=k),
    "laplace": lambda p, k: tp.random.laplace(None, p, p, key=k),
    "logistic": lambda p, k: tp.random.logistic(None, p, p, key=k),
    "cauchy": lambda p, k: tp.random.cauchy(None, p, p, key=k),
    "gamma": lambda p, k: tp.random.gamma(2.0, p.shape, p, key=k),
    "student": lambda p, k: tp.random.student_t(5.0, None, p, p, key=k),
    "dropout": lambda p, k: tp.random.dropout(p, 0.3, key=k),
    "multivariate": lambda p, k: tp.random.multivariate_normal(p, tp.diag(p) + 0.1, key=k),
}


@pytest.mark.parametrize("name", SMOOTH)
def test_against_finite_differences(name: str) -> None:
    key = tp.random.key(KEY)
    f = lambda p: SMOOTH[name](p, key)
    up, down = (np.asarray(f(tp.constant(POINTS + h))) for h in (1e-6, -1e-6))
    want = (up - down) / 2e-6
    total = lambda p: tp.sum(f(p))
    for g in (tp.grad(total), tp.tape_function(tp.grad(total))):
        np.testing.assert_allclose(np.sum(g(POINTS)), want.sum(), rtol=1e-6, atol=1e-7)
    ones = tp.constant(np.ones(4))
    for jvp in (tp.jvp, tp.tape_function(lambda p, t: tp.jvp(f, (p,), (t,))[1])):
        got = jvp(f, (tp.constant(POINTS),), (ones,))[1] if jvp is tp.jvp else jvp(POINTS, ones)
        np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-7)


# -- the gamma distribution's shape parameter -------------------------------------------------------------------------


def gamma_function(a: float, z: float) -> float:
    """The regularised incomplete gamma function by its series: z**a e**-z sum of z**k / gamma(a + k + 1)."""
    terms = [math.exp((a + k) * math.log(z) - z - math.lgamma(a + k + 1)) for k in range(400)]
    return math.fsum(terms)


def quantile_slope(a: float, z: float) -> float:
    h = 3e-3 * min(a, math.sqrt(a))
    f = [gamma_function(a + k * h, z) for k in (-2, -1, 1, 2)]
    by_a = (f[0] - 8 * f[1] + 8 * f[2] - f[3]) / (12 * h)
    return -by_a / math.exp((a - 1) * math.log(z) - z - math.lgamma(a))


@pytest.mark.parametrize("a", [0.05, 0.3, 1.0, 2.5, 10.0, 60.0])
def test_slope_of_quantiles(a: float) -> None:
    for ratio in (1e-3, 0.1, 0.5, 0.9, 1.0, 1.1, 1.7, 3.0):
        z = a * ratio
        if 1e-12 < gamma_function(a, z) < 1 - 1e-3:
            got = z * float(log_gamma_slope(np.float64(math.log(z)), np.float64(a)))
            assert got == pytest.approx(quantile_slope(a, z), rel=1e-6)


SLOPES = np.array([  # a, log z, d log z / da, computed with 40 digits
    (0.001, -75.9853080688035, 75409.7361369932), (0.001, -6.812445099177812, 6244.829352268411),
    (0.05, -72.07328506337537, 1431.5088014415098), (0.05, -3.101092789211817, 55.18994415229031),
    (0.05, 1.0986122886681098, 5.782081012670866), (1.0, -69.07755278982137, 69.50033712491984),
    (1.0, 0.5306282510621704, 0.892058536449567), (1.0, 4.0943445622221, 0.07813263234719468),
    (2.5, 0.8109302162163288, 0.4503056288836337), (2.5, 3.912023005428146, 0.0665376733186055),
    (60.0, -64.98320822759926, 1.1514310495941578), (60.0, 3.9889840465642745, 0.01760892201828192),
    (60.0, 4.624972813284271, 0.012668845727922559), (1000.0, 6.802394763324311, 0.0010537807090882337),
    (1000.0, 7.003065458786462, 0.0009532606168741973), (1.0, 0.0, 1.1735630272247268),
    (1000.0, 6.907755278982137, 0.001000166683323806), (1000.0, 6.90875477931522, 0.000999666933123976),
])  # fmt: skip


def test_slopes_of_single_draws() -> None:
    a, log_z, want = SLOPES.T
    bound = np.where(a > 0.01, 1e-12, np.where(log_z < -7, 1e-11, 1e-5))
    assert np.all(np.abs(log_gamma_slope(log_z, a) / want - 1) < bound)
    ones, column = np.ones(2), a[:, None]
    y = gamma_path(log_z[:, None] * ones, column)
    slope = gamma_path.jvp([None, 2 + 0 * column], y, y, column)
    np.testing.assert_allclose(slope, 2 * want[:, None] * ones, rtol=1e-5)
    none, slope = gamma_path.vjp(np.array([3.0, 4.0]) + 0 * y, y, y, column)
    assert none is None
    np.testing.assert_allclose(slope, 7 * want[:, None], rtol=1e-5)


@pytest.mark.parametrize("a", [1e-3, 0.2, 1.0, 3.0, 50.0, 1e5])
def test_means_of_slopes(a: float) -> None:
    """d E[z] / da = 1 and d E[z**2] / da = 2 a + 1, from the slopes of single draws."""
    n = 20_000 if a > 0.01 else 100_000

    def moments(a: Any) -> Any:
        z = tp.random.gamma(a, (n,), dtype="f8", key=tp.random.key(KEY))
        return tp.stack([tp.mean(z), tp.mean(z * z)])

    first, second = np.asarray(tp.jacobian(moments)(tp.constant(np.float64(a))))
    variances = [max(1, 1 / a) * 3, max(1, 1 / a) * 60 * (a + 1) ** 2]
    assert abs(first - 1) < 5 * math.sqrt(variances[0] / n)
    assert abs(second - (2 * a + 1)) < 5 * math.sqrt(variances[1] / n)


def test_second_derivatives_of_gamma() -> None:
    """d2 E[z**3] / da2 = d2/da2 a (a+1) (a+2) = 6 a + 6."""
    f = lambda a: tp.mean(tp.random.gamma(a, (20_000,), dtype="f8", key=tp.random.key(KEY)) ** 3)
    got = tp.grad(tp.grad(f))(tp.constant(np.float64(2.0))).item()
    assert abs(got - 18) < 3


@pytest.mark.parametrize("engine", ENGINES)
def test_gradients_of_gamma_compiled(engine: str) -> None:
    a = np.array([0.3, 1.0, 4.0, 20.0])
    f = lambda a: tp.sum(tp.log(tp.random.gamma(a, key=tp.random.key(KEY))) ** 2)
    want = np.asarray(tp.grad(f)(a))
    with tp.config(engine=engine):
        np.testing.assert_allclose(tp.tape_function(tp.grad(f))(a), want, rtol=1e-9)


def test_gradients_of_beta_and_dirichlet() -> None:
    """d E[x] / da for the mean a / (a + b)."""
    n, a, b = 20_000, 1.5, 2.5
    f = lambda a, b: tp.mean(tp.random.beta(a, b, (n,), dtype="f8", key=tp.random.key(KEY)))
    da, db = tp.grad(f, argnums=(0, 1))(np.float64(a), np.float64(b))
    assert abs(da.item() - b / (a + b) ** 2) < 4e-3
    assert abs(db.item() + a / (a + b) ** 2) < 4e-3
    alpha = np.array([1.0, 2.0, 3.0])
    g = lambda alpha: tp.mean(tp.random.dirichlet(alpha, (n,), key=tp.random.key(KEY)), axis=0)
    want = (np.eye(3) * 6 - alpha[:, None]) / 36
    np.testing.assert_allclose(tp.jacobian(g)(alpha), want, atol=6e-3)


def test_small_parameters_keep_their_gradients() -> None:
    """z underflows for a = 0.001; proportions, made of logarithms, do not."""
    f = lambda a: tp.sum(tp.random.dirichlet(a, (50,), key=tp.random.key(KEY))[:, 0])
    g = np.asarray(tp.grad(f)(np.full(3, 1e-3, np.float32)))
    assert np.isfinite(g).all() and (g != 0).any()


@pytest.mark.parametrize(
    "draw",
    [
        lambda p: tp.cast(tp.random.bernoulli(p, (5,)), "f4"),
        lambda p: tp.random.poisson(p, (5,), dtype="f4"),
        lambda p: tp.cast(tp.random.categorical(tp.stack([p, 1 - p])), "f4"),
    ],
)
def test_counts_have_no_derivative(draw: Any) -> None:
    p = tp.Variable(0.3)
    with tp.GradientTape() as tape:
        y = tp.sum(draw(p))
    assert tape.gradient(y, p) is None

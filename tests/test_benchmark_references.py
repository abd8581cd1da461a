"""The gradients that the benchmarks check everybody against, by hand all of them, are those of central differences."""

import numpy as np
import pytest

from benchmarks.case import workload

LOOPS = [
    ("stencils", {"kernel": "jacobi2d", "n": 6, "steps": 4}),
    ("stencils", {"kernel": "heat_3d", "n": 5, "steps": 3}),
    ("stencils", {"kernel": "advection", "n": 9, "steps": 4}),
    ("seidel2d", {"n": 7, "steps": 3}),
    ("nbody", {"n": 4, "steps": 5}),
    ("loops", {"kernel": "cholesky", "n": 6}),
    ("loops", {"kernel": "lu", "n": 6}),
    ("loops", {"kernel": "trisolv", "n": 6}),
]
VALUES = [("lstm", {"batch": 2, "features": 3, "units": 4}), ("black_scholes", {"n": 5}), *LOOPS]
MODELS = [
    ("cnn", {"batch": 2, "optimizer": "sgd"}),
    ("transformer", {"shape": (2, 5, 8), "heads": 2, "optimizer": "sgd"}),
    ("embedding", {"rows": 7, "width": 3, "batch": 9}),
]
DATA = ("x", "y", "ids")


def _floats(arrays):
    return {name: a.astype(np.float64) if a.dtype.kind == "f" else a for name, a in arrays.items()}


def _check(value_of, gradients, arrays):
    rng = np.random.default_rng(2)
    for name, gradient in gradients.items():
        direction = rng.standard_normal(gradient.shape) * (gradient != 0)  # a triangle's other half is not read
        at = lambda t: value_of({**arrays, name: arrays[name] + t * direction})  # noqa: B023
        slope = (at(1e-6) - at(-1e-6)) / 2e-6
        assert np.sum(gradient * direction) == pytest.approx(slope, rel=1e-5, abs=1e-7 * abs(at(0))), name


@pytest.mark.parametrize(
    ("name", "options"), VALUES, ids=lambda x: x if isinstance(x, str) else "-".join(map(str, x.values()))
)
def test_gradients_of_values(name, options):
    module = workload(name)
    arrays = _floats(module.inputs(**options))
    gradients = module.reference(arrays, **options)
    del gradients["value"]
    _check(lambda a: module.reference(a, **options)["value"], gradients, arrays)


@pytest.mark.parametrize(("name", "options"), MODELS, ids=lambda x: x if isinstance(x, str) else "")
def test_gradients_of_models(name, options):
    module = workload(name)
    arrays = _floats(module.inputs(**options))
    more = {"heads": options["heads"]} if "heads" in options else {}

    def both(arrays):
        data = [arrays[n] for n in DATA if n in arrays]
        data = data if name != "embedding" else [arrays["ids"], arrays["y"]]
        return module.loss_and_gradients({n: a for n, a in arrays.items() if n not in DATA}, *data, **more)

    _check(lambda a: both(a)[0], both(arrays)[1], arrays)


def test_product_with_the_hessian(monkeypatch):
    """It is the difference of gradients along the direction."""
    module = workload("second_order")
    monkeypatch.setattr(module, "WIDTHS", (6, 5, 4, 3))
    arrays = _floats(module.inputs(batch=4))
    parameters, directions = module._split(arrays)

    def gradients(t):
        moved = {n: p + t * directions[n] for n, p in parameters.items()}
        return module.mlp._loss_and_gradients(moved, arrays["x"], arrays["y"], module.DEPTH)[1]

    ahead, behind, product = gradients(1e-6), gradients(-1e-6), module.reference(arrays, batch=4)
    for n in parameters:
        np.testing.assert_allclose(product[n], (ahead[n] - behind[n]) / 2e-6, rtol=1e-4, atol=1e-8)

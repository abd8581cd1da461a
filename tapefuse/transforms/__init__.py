"""Functions from functions: derivatives (`grad`, `jvp`, `jacobian`, ...) and `vmap`.

They work on tensors, arrays, variables and Python numbers, in any nesting of each other and of structures, inside and
around `tape_function`:

>>> print(grad(lambda x: x**3)(2.0))
tp.Tensor(12.0, shape=(), dtype=float32)
>>> print(vmap(grad(lambda x: x**3))(np.array([1.0, 2.0], np.float32)))
tp.Tensor([ 3. 12.], shape=(2,), dtype=float32)
"""

from tapefuse.transforms.directional import hvp, jvp, linearize
from tapefuse.transforms.gradients import grad, value_and_grad, vjp
from tapefuse.transforms.jacobians import hessian, jacobian
from tapefuse.transforms.mapping import vmap

__all__ = ["grad", "hessian", "hvp", "jacobian", "jvp", "linearize", "value_and_grad", "vjp", "vmap"]

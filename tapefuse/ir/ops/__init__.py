"""All primitive ops, by name. Importing this module fills `tapefuse.ir.op.OPS`."""

from tapefuse.ir.op import OPS
from tapefuse.ir.ops import (  # noqa: F401
    convolution,
    cumulative,
    elementwise,
    index,
    linalg,
    logic,
    order,
    pooling,
    reduce,
    shape,
    slicing,
)

abs = OPS["abs"]
add = OPS["add"]
add_at = OPS["add_at"]
after = OPS["after"]
and_ = OPS["and"]
argmax = OPS["argmax"]
argmin = OPS["argmin"]
basis = OPS["basis"]
broadcast = OPS["broadcast"]
cast = OPS["cast"]
ceil = OPS["ceil"]
concat = OPS["concat"]
const = OPS["const"]
conv = OPS["conv"]
conv_input = OPS["conv_input"]
conv_kernel = OPS["conv_kernel"]
cos = OPS["cos"]
cumsum = OPS["cumsum"]
dim = OPS["dim"]
div = OPS["div"]
eq = OPS["eq"]
erf = OPS["erf"]
exp = OPS["exp"]
expm1 = OPS["expm1"]
flip = OPS["flip"]
floor = OPS["floor"]
floordiv = OPS["floordiv"]
gather = OPS["gather"]
ge = OPS["ge"]
gt = OPS["gt"]
iota = OPS["iota"]
le = OPS["le"]
log = OPS["log"]
log1p = OPS["log1p"]
lt = OPS["lt"]
matmul = OPS["matmul"]
maximum = OPS["maximum"]
minimum = OPS["minimum"]
missing_gradient = OPS["missing_gradient"]
mod = OPS["mod"]
mul = OPS["mul"]
ne = OPS["ne"]
neg = OPS["neg"]
not_ = OPS["not"]
or_ = OPS["or"]
pad = OPS["pad"]
pow = OPS["pow"]
reduce_all = OPS["reduce_all"]
reduce_any = OPS["reduce_any"]
reduce_max = OPS["reduce_max"]
reduce_min = OPS["reduce_min"]
reduce_prod = OPS["reduce_prod"]
reduce_sum = OPS["reduce_sum"]
relu = OPS["relu"]
reshape = OPS["reshape"]
round = OPS["round"]
rsqrt = OPS["rsqrt"]
scatter_add = OPS["scatter_add"]
select = OPS["select"]
sigmoid = OPS["sigmoid"]
sign = OPS["sign"]
sin = OPS["sin"]
slice_ = OPS["slice"]
softplus = OPS["softplus"]
sqrt = OPS["sqrt"]
stop_gradient = OPS["stop_gradient"]
sub = OPS["sub"]
tan = OPS["tan"]
tanh = OPS["tanh"]
transpose = OPS["transpose"]
window_argmax = OPS["window_argmax"]
window_max = OPS["window_max"]
window_pick = OPS["window_pick"]
window_place = OPS["window_place"]
window_spread = OPS["window_spread"]
window_sum = OPS["window_sum"]
xor_ = OPS["xor"]

BUILT_IN = frozenset(OPS.values())  # operations whose meaning is in the sources of this package

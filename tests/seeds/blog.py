# The code cells of "[Tensorflow] Introduction to tf.GradientTape and automatic differentiation" (2022-08-31), in order.
# `#> ` is what the article and TensorFlow print, `#! ` what tapefuse prints instead, where the two differ on purpose.

# %%
import tensorflow as tf

# %%
tape = tf.GradientTape(
    persistent=False,
    watch_accessed_variables=True
)

# %%
x = tf.Variable(3.0)
with tf.GradientTape() as tape:
    y = x**2
dy_dx = tape.gradient(y, x)
dy_dx.numpy()
#> np.float32(6.0)

# %%
# A trainable variable
x0 = tf.Variable(3.0, name='x0') # tf.Variable

# Not trainable: `trainable=False`
x1 = tf.Variable(3.0, name='x1', trainable=False) # tf.Variable

# Not a Variable: A variable + tensor returns a tensor.
x2 = tf.Variable(2.0, name='x2') + 1.0 # tf.Tensor

# Not a variable
x3 = tf.constant(3.0, name='x3') # tf.Tensor

with tf.GradientTape() as tape:
    y = (x0**2) + (x1**2) + (x2**2) + (x3**2)

grad = tape.gradient(y, [x0, x1, x2, x3])
for g in grad:
    print(g)
#> tf.Tensor(6.0, shape=(), dtype=float32)
#> None
#> None
#> None

# %%
x0 = tf.Variable(3.0, name='x0')
x1 = tf.Variable(3.0, name='x1', trainable=False)
x2 = tf.Variable(2.0, name='x2') + 1.0
x3 = tf.constant(3.0, name='x3')
with tf.GradientTape() as tape:
    tape.watch([x1, x2, x3])
    y = (x0**2) + (x1**2) + (x2**2) + (x3**2)

grad = tape.gradient(y, [x0, x1, x2, x3])
for g in grad:
    print(g)
#> tf.Tensor(6.0, shape=(), dtype=float32)
#> tf.Tensor(6.0, shape=(), dtype=float32)
#> tf.Tensor(6.0, shape=(), dtype=float32)
#> tf.Tensor(6.0, shape=(), dtype=float32)

# %%
variable_a = tf.Variable(3.0, name='x1')
variable_b = tf.Variable(2.0, name='x2')

with tf.GradientTape(persistent=True, watch_accessed_variables=False) as disable_tracking_tape:
    disable_tracking_tape.watch(variable_a)
    y = variable_a ** 2 # Gradients will be available for `variable_a`.
    z = variable_b ** 3 # No gradients will be available since `variable_b` is
                        # not being watched.
gradient_1 = disable_tracking_tape.gradient(y, variable_a) # 6.0
gradient_2 = disable_tracking_tape.gradient(z, variable_b) # None

print(gradient_1)
print(gradient_2)
#> tf.Tensor(6.0, shape=(), dtype=float32)
#> None

# %%
x = tf.Variable(3.0)
with tf.GradientTape(persistent=True) as persistent_tape:
    persistent_tape.watch(x)
    y = x * x
    z = y * y
dz_dx = persistent_tape.gradient(z, x) # 108.0 (4*x^3 at x = 3)
dy_dx = persistent_tape.gradient(y, x) # 6.0
print("First derivative of function y = x ^ 4 at x = 3 is", dz_dx.numpy())

# Drop the reference to the tape
del persistent_tape
#persistent_tape # NameError: name 'persistent_tape' is not defined
#> First derivative of function y = x ^ 4 at x = 3 is 108.0

# %%
x = tf.Variable(3.0)
with tf.GradientTape() as tape:
    tape.watch(x)
    with tf.GradientTape() as tape2:
        tape2.watch(x)
        y = x * x
    dy_dx = tape2.gradient(y, x)
d2y_d2x = tape.gradient(dy_dx, x)

print("Function: y = x * x, x = 3.0")
print("First Derivative:", dy_dx.numpy())
print("Second Derivative:", d2y_d2x.numpy())
#> Function: y = x * x, x = 3.0
#> First Derivative: 6.0
#> Second Derivative: 2.0

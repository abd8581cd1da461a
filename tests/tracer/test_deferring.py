"""Tapes that repeat themselves put their operations off: nobody sees a difference, wherever values are looked at."""

import copy
import gc
import pickle
import threading
import weakref

import numpy as np
import pytest

import tapefuse as tp
from tapefuse.tracer import repeating
from tapefuse.tracer.tensor import Deferred

NEEDED = 2


@pytest.fixture(autouse=True)
def fresh():
    repeating.forget()
    with tp.config(compile_repeated_tapes=NEEDED):
        yield
    repeating.forget()


def data(*shape, seed=0):
    return np.random.default_rng(seed).uniform(0.2, 1, shape).astype(np.float32)


def done():
    return sum(plan.done for site in repeating._sites.values() for plan in site.plans)


class Step:
    """A step of a loop: `forward(w, x)` on a tape, `look` at what it gives while the tape records."""

    def __init__(self, forward, look=lambda *values: None):
        self.forward, self.look = forward, look
        self.w, self.x = tp.Variable(data(4, 3)), tp.constant(data(2, 4, seed=1))

    def recorded(self, inside=None):
        """The tape, what is computed on it, and what `inside` gives in its block."""
        with tp.GradientTape() as tape:
            values = self.forward(self.w, self.x)
            found = (inside or self.look)(*values)
        return tape, values, found

    def __call__(self, look=None, after=lambda *values: None):
        tape, values, found = self.recorded(look)
        seen = after(*values)
        return [*values, tape.gradient(values[-1], self.w), *[x for x in (found, seen) if x is not None]]

    def repeated(self):
        """Until the next one is put off."""
        for _ in range(NEEDED):
            self()
        return self


def two_layers(w, x):
    h = tp.tanh(x @ w + 1.0)
    return h, tp.mean(h**2)


def none(x):
    return None


def eager(f, *args, **options):
    with tp.config(compile_repeated_tapes=0):
        return f(*args, **options)


def alike(found, wanted):
    for a, b in zip(found, wanted, strict=True):
        np.testing.assert_allclose(np.asarray(a), np.asarray(b), rtol=2e-5, atol=1e-6)


def test_values_come_with_the_gradients():
    step = Step(two_layers).repeated()
    tape, (h, loss), _ = step.recorded()
    assert type(h) is type(loss) is Deferred
    assert isinstance(h, tp.Tensor) and (h.shape, h.dtype, h.ndim, h.size, len(h)) == ((2, 3), tp.float32, 2, 6, 2)
    g = tape.gradient(loss, step.w)
    assert type(h) is type(loss) is type(g) is tp.Tensor
    assert done() == 1
    alike([h, loss, g], eager(step))


LOOKS = {
    "numpy": lambda h, loss: h.numpy(),
    "float": lambda h, loss: float(loss),
    "if": lambda h, loss: 1 if loss > 0.5 else 2,
    "asarray": lambda h, loss: np.asarray(h),
    "item": lambda h, loss: loss.item(),
    "list": lambda h, loss: h.tolist(),
    "format": lambda h, loss: len(f"{loss:.3f} {h}"),
    "repr": lambda h, loss: len(repr(loss)),
    "copy": lambda h, loss: copy.copy(h),
    "deepcopy": lambda h, loss: copy.deepcopy(h),
    "pickle": lambda h, loss: pickle.loads(pickle.dumps(h)),
    "another operation": lambda h, loss: tp.exp(h) * 2,
    "of NumPy": lambda h, loss: np.sum(np.cos(h), axis=0),
    "integers": lambda h, loss: tp.argmax(h, axis=1),
    "iteration": lambda h, loss: sum(row[0] for row in h),
    "a constant": lambda h, loss: tp.constant(h),
    "a number": lambda h, loss: tp.stack([loss, 2.0]),
    "without gradients": lambda h, loss: tp.stop_gradient(loss) * 3,
    "compiled": lambda h, loss: tp.tape_function(lambda x: x * 2)(h),
    "a loop": lambda h, loss: tp.fori_loop(0, 3, lambda k, y: y * h, h),
    "a variable": lambda h, loss: tp.Variable(h).numpy(),
    "interchange": lambda h, loss: np.from_dlpack(h),
    "rows": lambda h, loss: h[np.array([1, 0])],
}


@pytest.mark.parametrize("name", LOOKS)
@pytest.mark.parametrize("where", ["in the block", "behind it", "always"])
def test_a_look_at_a_value_computes_it(name, where):
    step = Step(two_layers, LOOKS[name] if where == "always" else lambda *values: None).repeated()
    options = {"in the block": {"look": LOOKS[name]}, "behind it": {"after": LOOKS[name]}, "always": {}}[where]
    for _ in range(3):
        alike(step(**options), eager(step, **options))


def test_looks_at_the_forward_pass_alone_are_exactly_what_numpy_gives():
    step = Step(two_layers).repeated()
    wanted = eager(step)[0].numpy()
    for look in (lambda h, loss: h.numpy(), None):
        _, (h, _), found = step.recorded(look)
        np.testing.assert_array_equal(h.numpy() if found is None else found, wanted)


def test_who_always_looks_is_left_alone():
    step = Step(two_layers, lambda h, loss: loss.item())
    for _ in range(9):
        alike(step(), eager(step))
    assert not done()
    assert "the forward pass is not, since values were looked at" in tp.explain()
    assert step.recorded(lambda h, loss: type(h))[2] is tp.Tensor


def test_what_is_stored_into_a_value():
    def changed(w, x):
        h = x @ w
        y = tp.sum(h * h)
        h[0, 0] = 5.0
        return h, y, tp.sum(h**3) + y

    step = Step(changed)
    for _ in range(5):
        alike(step(), eager(step))


def test_assignments_behind_a_read_do_not_change_it():
    def forward(w, x):
        y = x @ w
        w.assign(w * 2.0) if isinstance(w, tp.Variable) else None
        return y, tp.sum(y * (x @ w))

    def trained():
        step = Step(forward)
        return [a for _ in range(5) for a in step()]

    alike(trained(), eager(trained))


def test_assignments_between_the_block_and_the_gradient():
    step = Step(two_layers).repeated()
    wanted = eager(step)
    before = step.w.numpy()
    alike(step(after=lambda *values: none(step.w.assign(before * 3))), wanted)
    step.w.assign(before)
    for how in (lambda: step.w.assign_add(before), lambda: tp.optim.SGD(0.1).apply_gradients([(before, step.w)])):
        step.w.assign(before)
        alike(step(after=lambda *values, how=how: none(how())), wanted)


def test_arrays_of_the_user_are_read_when_the_operation_is_called():
    w, a = tp.Variable(data(3)), data(3, seed=1)

    def step(k):
        a[:] = k
        with tp.GradientTape() as tape:
            y = tp.sum(w * a * w)
            a[:] = -1
        return y, tape.gradient(y, w)

    for k in range(5):
        y, g = step(k)
        alike([y, g], [k * np.sum(w.numpy() ** 2), 2 * k * w.numpy()])
    assert done()


def test_errors_come_at_the_users_line():
    logits = tp.Variable(data(2, 3))

    def step(labels, extra=0.0):
        with tp.GradientTape() as tape:
            losses = tp.nn.softmax_cross_entropy(logits, tp.constant(labels))
            loss = tp.sum(losses + extra)
        return tape.gradient(loss, logits)

    for _ in range(NEEDED + 1):
        step([0, 2])
    assert done() == 1
    for labels in ([0, 3], [-1, 2]):
        with pytest.raises(IndexError) as caught:
            step(labels)
        assert any(line.name == "softmax_cross_entropy" for line in caught.traceback)
    with pytest.raises(tp.ShapeError, match="add"):
        step([0, 2], np.zeros(5, np.float32))
    alike([step([0, 2])], [eager(step, [0, 2])])


def test_other_operations_other_shapes_other_numbers():
    w = tp.Variable(data(3))

    def step(k, n=3, f=tp.exp):
        with tp.GradientTape() as tape:
            y = tp.sum(f(w * (k + 0.5)) * tp.constant(np.ones(n, np.float32)))
        return y, tape.gradient(y, w)

    calls = [(k,) for k in range(4)] + [(1, 1), (2,), (2, 3, tp.sin), (3,), (3, 1, tp.sin), (4,)]
    for args in calls:
        alike(step(*args), eager(step, *args))
    assert done() == 2 + 3


def test_another_use_of_the_tape():
    step = Step(two_layers).repeated()

    def used(how):
        tape, (h, loss), _ = step.recorded()
        return how(tape, h, loss)

    uses = [
        lambda tape, h, loss: [tape.jacobian(loss, step.w)],
        lambda tape, h, loss: [tape.gradient(h, step.w)],
        lambda tape, h, loss: [tape.gradient([loss, h], [step.w])[0]],
        lambda tape, h, loss: [tape.gradient(loss, h)],
        lambda tape, h, loss: [tape.gradient(loss, step.w, output_gradients=3.0)],
        lambda tape, h, loss: [tape.gradient(loss, [step.w, step.x], unconnected_gradients="zero")[1]],
        lambda tape, h, loss: [tape.gradient(loss, step.w, explain=True)[0]],
        lambda tape, h, loss: [tape.watched_variables()[0]],
    ]
    for how in uses:
        step.repeated()
        alike(used(how), eager(used, how))


def test_a_tape_is_used_up_by_its_gradient():
    step = Step(two_layers).repeated()
    tape, (_, loss), _ = step.recorded()
    tape.gradient(loss, step.w)
    with pytest.raises(tp.TapeError, match="only be used to compute one set"):
        tape.gradient(loss, step.w)
    with tape:
        _, loss = step.forward(step.w, step.x)
    alike([tape.gradient(loss, step.w)], [eager(step)[-1]])


BLOCKS = {
    "another tape": lambda step, tape: (
        lambda inner: (inner.__enter__(), two_layers(step.w, step.x), inner.__exit__(None, None, None))
    )(tp.GradientTape()),
    "watch": lambda step, tape: tape.watch(step.x),
    "reset": lambda step, tape: tape.reset(),
    "stopped": lambda step, tape: (
        lambda block: (block.__enter__(), two_layers(step.w, step.x), block.__exit__(None, None, None))
    )(tape.stop_recording()),
    "overridden": lambda step, tape: (
        lambda block: (block.__enter__(), tp.tanh(step.w), block.__exit__(None, None, None))
    )(tp.override_gradient({"tanh": lambda g, y, x: g})),
    "a call": lambda step, tape: tp.tape_function(lambda: tp.sum(step.w))(),
}


@pytest.mark.parametrize("name", BLOCKS)
def test_what_else_happens_in_the_block(name):
    step = Step(two_layers).repeated()

    def run():
        with tp.GradientTape() as tape:
            h, loss = step.forward(step.w, step.x)
            BLOCKS[name](step, tape)
            total = loss + tp.sum(h * step.x[0, 0])
        return h, total, tape.gradient(total, [step.w, step.x], unconnected_gradients="zero")[0]

    for _ in range(NEEDED + 2):
        alike(run(), eager(run))


def test_tapes_inside_of_a_tape_record_what_was_put_off_before():
    x = tp.Variable(0.5)

    def second():
        with tp.GradientTape() as outer:
            y = tp.sin(x)
            with tp.GradientTape() as inner:
                z = tp.sin(x) * x
            dz = inner.gradient(z, x)
            total = dz + y
        return outer.gradient(total, x).item()

    for _ in range(6):
        assert second() == pytest.approx(2 * np.cos(0.5) - 0.5 * np.sin(0.5) + np.cos(0.5), rel=1e-5)


def test_values_of_an_earlier_tape_that_was_left():
    step = Step(two_layers).repeated()
    _, (_, left), _ = step.recorded()
    tape, _, total = step.recorded(lambda h, loss: loss * left)
    wanted = eager(step)
    alike([left, total, tape.gradient(total, step.w)], [wanted[1], wanted[1] ** 2, wanted[1] * wanted[2]])
    tape, _, _ = step.recorded()
    _, (_, loss), _ = step.recorded()
    assert tape.gradient(loss, step.w) is None


def test_other_threads_may_look():
    seen = []

    def looked(w, x):
        h = tp.tanh(x @ w + 1.0)
        thread = threading.Thread(target=lambda: seen.append(tp.sum(h)))
        thread.start()
        thread.join()
        return h, tp.mean(h**2)

    step = Step(looked)
    wanted = eager(step)
    for _ in range(NEEDED + 3):
        alike([*step(), seen[-1]], [*wanted, wanted[0].numpy().sum()])


def test_threads_that_look_while_a_tape_records():
    threads, looked = [], []

    def forward(w, x):
        values = [x @ w]
        if threads is not None:
            threads.append(threading.Thread(target=lambda: looked.append(values[-1].numpy())))
            threads[-1].start()
        for _ in range(20):
            values.append(tp.tanh(values[-1]))
        return *values, tp.mean(values[-1] ** 2)

    step = Step(forward)
    wanted = eager(step)
    known = [value.numpy() for value in wanted[:21]]
    for _ in range(60):
        alike(step(), wanted)
        threads.pop().join()
        assert any(np.allclose(looked[-1], value, rtol=1e-5) for value in known)
        repeating._sites.clear() if not repeating.plans else None


def test_nothing_is_held_after_the_gradient():
    step = Step(two_layers).repeated()
    gc.collect()
    gc.disable()
    try:
        tape, (h, loss), held = step.recorded(lambda h, loss: weakref.ref(step.w._array))
        step.w.assign_sub(0.1 * tape.gradient(loss, step.w))
        tensors = [weakref.ref(h), weakref.ref(tape)]
        del h, tape
        assert all(r() is None for r in [held, *tensors])
        assert loss.item() > 0
    finally:
        gc.enable()


def test_an_optimizer_writes_in_place_again():
    w, x, optimizer = tp.Variable(data(40, 30)), tp.constant(data(5, 40, seed=1)), tp.optim.SGD(0.1)
    addresses = []
    for _ in range(12):
        with tp.GradientTape() as tape:
            loss = tp.mean((x @ w) ** 2)
        optimizer.apply_gradients([(tape.gradient(loss, w), w)])
        addresses.append(w._array.ctypes.data)
    assert len(set(addresses[-4:])) == 1
    assert done() == 10


def test_variables_that_do_not_learn_and_ones_that_are_new():
    fixed = tp.Variable(data(3), trainable=False)

    def step(w):
        with tp.GradientTape() as tape:
            y = tp.sum(tp.sin(w) * fixed)
        return y, tape.gradient(y, [w, fixed])[0]

    for k in range(6):
        w = tp.Variable(data(3, seed=k))
        alike(step(w), eager(step, w))
    assert done() == 4


OPERATIONS = {
    "products": lambda x, w: tp.sum((x @ w) @ tp.transpose(w)),
    "vectors": lambda x, w: tp.sum(x[0] @ w) + (x[1] @ x[0]) * tp.sum(w @ w[1]),
    "slices": lambda x, w: tp.sum(x[::-1, 1:] * w[0, :3]) + x[-1, 2] ** 3,
    "shapes": lambda x, w: tp.sum(tp.reshape(x, (2, -1)) ** 2) * tp.sum(w.T[1] / 3),
    "numbers": lambda x, w: tp.sum(2.0 / (1 - x) + (x + 1) ** 3) * tp.mean(w, axis=1)[0],
    "reductions": lambda x, w: tp.max(x) * tp.sum(tp.softmax(w, axis=0) ** 2) + tp.logsumexp(x) + tp.var(x),
    "choices": lambda x, w: tp.sum(tp.where(x > 0.5, x, w[:3] * x)) + tp.sum(tp.maximum(w, 0.1)),
    "classes": lambda x, w: tp.mean(tp.nn.softmax_cross_entropy(x @ w, tp.constant([0, 3, 1]))),
    "joined": lambda x, w: tp.sum(tp.concatenate([x, w]) ** 2) + tp.sum(tp.stack([x[0], w[0]]) * 2),
    "read twice": lambda x, w: tp.sum(x * x) + tp.sum(tp.exp(x) * tp.exp(x)),
    "layers": lambda x, w: tp.mean(tp.nn.gelu(tp.nn.layer_norm(x @ w, (-1,))) ** 2),
    "double": lambda x, w: tp.sum(tp.cast(x, np.float64) @ tp.cast(w, np.float64)),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_operations_that_are_put_off_give_what_they_give(name):
    f, x, w = OPERATIONS[name], tp.Variable(data(3, 4)), tp.Variable(data(4, 4, seed=1))

    def step():
        with tp.GradientTape() as tape:
            y = f(x, w)
        return y, *tape.gradient(y, [x, w], unconnected_gradients="zero")

    wanted = eager(step)
    for _ in range(5):
        alike(step(), wanted)
    assert "compiled" in tp.explain() and repeating._sites


@pytest.mark.parametrize("seed", range(30))
def test_random_steps_with_random_looks(seed):
    """The same operations each time, while values are looked at, held and let go at random places."""
    rng = np.random.default_rng(seed)
    reshaped = lambda x: tp.reshape(x, (9,)).reshape(3, 3)
    unary = [tp.tanh, tp.exp, tp.sin, lambda x: x * 0.5, lambda x: x - x[0], reshaped]
    binary = [tp.add, tp.multiply, tp.matmul, tp.maximum, lambda x, y: x / (y * y + 1.0)]
    recipe = [(rng.random() < 0.5, int(rng.integers(len(unary))), int(rng.integers(len(binary)))) for _ in range(8)]
    picks = [rng.integers(0, k + 2, 2) for k in range(8)]
    a, b = tp.Variable(data(3, 3, seed=seed)), tp.Variable(data(3, 3, seed=seed + 99))

    def step(look_at, kept):
        with tp.GradientTape() as tape:
            values = [a + 0.0, tp.tanh(b)]
            for k, (is_unary, u, v) in enumerate(recipe):
                x, y = (values[i] for i in picks[k])
                values.append(tp.tanh(unary[u](x) if is_unary else binary[v](x, y)))
                if k == look_at:
                    seen.append(values[-1].numpy())
            loss = tp.mean(values[-1] * values[0])
            values = [values[k] for k in kept]
        gradients = tape.gradient(loss, [a, b], unconnected_gradients="zero")
        return [loss, *gradients, *values]

    for _ in range(12):
        look_at = int(rng.integers(0, 30))
        kept = [int(k) for k in rng.integers(0, 10, int(rng.integers(0, 3)))]
        seen: list = []
        found = [*step(look_at, kept), *seen]
        seen = []
        alike(found, [*eager(step, look_at, kept), *seen])
    assert done()

"""Every gradient that is None has its reason: the kind, the user's line, and what to do."""

import inspect
import threading

import numpy as np
import pytest

import tapefuse as tp

C, V = tp.constant, tp.Variable
HERE = __file__


def line_of(function, text):
    lines, first = inspect.getsourcelines(function)
    return first + next(k for k, line in enumerate(lines) if text in line)


def reasons(function, *sources):
    """(kind, line) of the reasons why `function(*sources)` has no gradient; the sources are watched."""
    with tp.GradientTape() as tape:
        tape.watch([x for x in sources if isinstance(x, tp.Tensor)])
        y = function(*sources)
    grads, explanation = tape.gradient(y, list(sources), explain=True)
    found = explanation.by_source
    for g, why in zip(grads, found, strict=True):
        assert (g is None) == bool(why)
    assert all(r.loc is None or r.loc.file == HERE for r in explanation.reasons)
    return [[(r.kind, r.loc and r.loc.line) for r in why] for why in found]


def cast(x):
    i = tp.cast(x, np.int32)
    return tp.cast(i + 1, np.float32) * 2


def compared(x):
    mask = x > 1.5
    return tp.where(mask, 1.0, 2.0)


def indexed(x):
    k = tp.argmax(x)
    return k


def stopped_gradient(x):
    y = x * 2
    return tp.stop_gradient(y) + 1


def floored(x):
    return tp.floor(x) * 2


CASES = {
    "cast": (cast, "dtype", "tp.cast(x"),
    "comparison": (compared, "dtype", "x > 1.5"),
    "argmax": (indexed, "dtype", "argmax"),
    "stop_gradient": (stopped_gradient, "stop_gradient", "tp.stop"),
    "floor": (floored, "rule", "tp.floor"),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("how", ["eager", "called", "inside"])
def test_the_line_where_the_gradient_ends(case, how):
    function, kind, text = CASES[case]
    want = [[(kind, line_of(function, text))]]
    x = C([1.0, 2.0])
    if how == "inside":
        found = []
        tp.tape_function(lambda x: found.append(reasons(function, x)) or x)(x)
        assert found == [want]
    else:
        assert reasons(tp.tape_function(function) if how == "called" else function, x) == want


def test_inside_of_compiled_loops_and_assignments():
    def loop(x):
        c = 0.0
        for _ in range(3):
            c = c + tp.floor(x)
        return c

    def staged(x):
        return tp.fori_loop(0, 3, lambda k, c: c + tp.floor(x), 0.0)

    for f in (loop, staged):
        got = reasons(tp.tape_function(f), C(1.5))
        assert got == [[("rule", line_of(f, "tp.floor"))]]
    state = V(0.0)

    def store(x):
        state.assign(x)
        return state * 3

    assert reasons(tp.tape_function(store), C(1.5)) == [[("stop_gradient", line_of(store, "state * 3"))]]


def test_integers_are_followed_through_calls():
    twice = tp.tape_function(lambda i: tp.cast(i, np.float32) * 2)
    index = tp.tape_function(lambda x: (tp.argmax(x), tp.sum(x)))

    def f(x):
        i = tp.cast(x, np.int32)
        return twice(i)

    def g(x):
        return tp.cast(index(x)[0], np.float32)

    assert reasons(f, C([1.0, 2.0])) == [[("dtype", line_of(f, "i = "))]]
    assert reasons(f, V([1.0, 2.0])) == [[("dtype", line_of(f, "i = "))]]
    line = line_of(test_integers_are_followed_through_calls, "argmax")
    assert reasons(g, C([1.0, 2.0])) == [[("dtype", line)]]


def test_a_way_that_is_whole_needs_no_reason():
    assert reasons(lambda x: tp.stop_gradient(x) * x, C(3.0)) == [[]]


def test_several_ways_have_a_reason_each():
    def f(x):
        a = tp.floor(x)
        return a + tp.stop_gradient(x)

    assert reasons(f, C(1.5)) == [[("rule", line_of(f, "floor")), ("stop_gradient", line_of(f, "stop_"))]]


def test_assignment():
    state = V(0.0, name="state")

    def f(x, state):
        state.assign_add(x)
        return state**2

    assert reasons(f, V(3.0), state) == [[("assigned", line_of(f, "assign"))], []]
    hidden = V(0.0, trainable=False)

    def g(x):
        hidden.assign(x * 2)
        return hidden + 1.0

    assert reasons(g, V(3.0)) == [[("assigned", line_of(g, "assign"))]]


def test_an_assignment_after_the_read_is_no_reason():
    state = V(1.0)

    def f(x):
        y = state * 2
        state.assign(x * 2)
        return y

    assert reasons(f, C(3.0))[0][0][0] == "unconnected"


@pytest.mark.parametrize("leave", [lambda y: y.numpy(), float, np.asarray, lambda y: y.item()])
def test_leaving_for_numpy(leave):
    def f(x):
        y = x * 2
        number = leave(y)
        return C(0.0) + number

    got = reasons(f, V(3.0))[0][0]
    assert got[0] == "left"
    assert f.__code__.co_firstlineno + 2 == got[1] or leave.__name__ == "<lambda>"


def test_a_choice_by_python():
    v = V(2.0)

    def f(x):
        return v * 2 if x > 0 else v * 3

    ((kind, line),) = reasons(f, C(1.0))[0]
    assert (kind, line) == ("left", line_of(f, "return"))


def test_dtypes_of_sources():
    x, n = V(1.0), V(3)
    line = inspect.currentframe().f_lineno - 1
    assert reasons(lambda x, n: x * 2, x, n) == [[], [("source", line)]]


def test_what_is_not_watched():
    x = C(2.0)
    fixed = V(2.0, trainable=False)
    line = inspect.currentframe().f_lineno - 2
    with tp.GradientTape(persistent=True) as tape:
        y = x * fixed
    explanation = tp.explain_gradient(tape, y, {"x": x, "fixed": fixed})
    assert [(r.kind, r.loc.line) for r in explanation.reasons] == [("not trainable", line + 1), ("tensor", line)]
    assert "sources['x'] (Tensor, f32[])" in str(explanation)
    assert f"made at {HERE}:{line}" in str(explanation)
    assert "tape.watch(x)" in explanation.reasons[1].cure
    with tp.GradientTape(watch_accessed_variables=False) as tape:
        y = (v := V(1.0)) * 2
    assert [r.kind for r in tp.explain_gradient(tape, y, v).reasons] == ["unwatched"]


def test_what_is_used_outside_of_the_block():
    x, v = C(2.0), V(1.0)
    before = v * 2
    with tp.GradientTape(persistent=True) as tape:
        early = x * x
        tape.watch(x)
        y = before * v
        inside = x * 2
    tape_line = line_of(test_what_is_used_outside_of_the_block, "as tape")
    after = inside * 2
    kinds = lambda *args: [(r.kind, r.loc.line) for r in tp.explain_gradient(tape, *args).reasons]
    assert kinds(early, x) == [("outside", tape_line)]
    assert kinds(after, x) == [("outside", tape_line)]
    assert kinds(y, x) == [("unconnected", line_of(test_what_is_used_outside_of_the_block, "tape.watch(x)"))]
    assert kinds(y, V(0.0))[0][0] == "unread"
    made = []
    with tape:
        thread = threading.Thread(target=lambda: made.append(x * 2))
        thread.start()
        thread.join()
    assert kinds(made[0], x)[0][0] == "outside"


def test_stop_recording():
    x = V(2.0)
    with tp.GradientTape(persistent=True) as tape:
        with tape.stop_recording():
            hidden = x * x
        y = hidden * 2
    line = line_of(test_stop_recording, "hidden = ")
    assert [(r.kind, r.loc.line) for r in tp.explain_gradient(tape, y, x).reasons] == [("stopped", line)]
    assert tape.gradient(y, x) is None


def test_an_operation_without_a_rule():
    with tp.GradientTape() as tape:
        x = V(1.0).read()
        tape.watch(x)
        y = tp.missing_gradient(x, "AdjustContrast")
    (reason,) = tp.explain_gradient(tape, y, x).reasons
    assert reason.kind == "missing" and "AdjustContrast" in reason.why
    with pytest.raises(LookupError, match="AdjustContrast"):
        tape.gradient(y, x, explain=True)


def test_zeros_that_stand_for_none_are_explained():
    with tp.GradientTape() as tape:
        x, v = V(1.0), V(2.0)
        y = tp.floor(x) * v
    (dx, dv), explanation = tape.gradient(y, [x, v], unconnected_gradients="zero", explain=True)
    assert (float(dx), float(dv)) == (0.0, 1.0)
    assert [len(r) for r in explanation.by_source] == [1, 0]


def test_the_text_of_an_explanation():
    with tp.GradientTape() as tape:
        x = V(1.0, name="rate")
        y = tp.floor(x)
    _, explanation = tape.gradient(y, x, explain=True)
    line = line_of(test_the_text_of_an_explanation, "floor")
    assert str(explanation).startswith(f"sources (Variable 'rate', f32[]): floor at {HERE}:{line} passes no derivative")
    with tp.GradientTape() as tape:
        y = x * 2
    _, explanation = tape.gradient(y, x, explain=True)
    assert not explanation
    assert str(explanation) == "every source has a gradient"


def test_a_used_up_tape_cannot_explain():
    x = V(1.0)
    with tp.GradientTape() as tape:
        y = x * 2
    tape.gradient(y, x)
    with pytest.raises(tp.TapeError, match="persistent"):
        tp.explain_gradient(tape, y, x)


def test_nothing_is_recorded_and_notes_are_bounded():
    x = V(1.0)
    with tp.GradientTape(persistent=True) as tape:
        for _ in range(3000):
            tp.cast(x, np.int32)
        y = tp.floor(x)
        records = len(tape._records)
        with tp.GradientTape() as outer:
            tp.explain_gradient(tape, y, x)
    assert len(tape._records) == records
    assert len(outer._records) == 0
    assert len(tape._notes) <= 1024

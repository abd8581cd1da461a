"""The command line: every stage of a real training step, passes on text, running text, and bad input as one line."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tapefuse.cli import main
from tapefuse.cli.dump import STAGES
from tapefuse.ir.parse import parse
from tapefuse.ir.print import show

ROOT = Path(__file__).resolve().parent.parent
MODEL = """
import numpy as np
import tapefuse as tp

w = tp.Variable(np.ones((4, 3), np.float32), name="w")
NUMBER = 3

def loss(x, k):
    return tp.take_along_axis(np.tanh(x @ w), k[:, None], axis=-1).sum()

@tp.tape_function(input_signature=[tp.TensorSpec((None, 4), np.float32)])
def step(x):
    with tp.GradientTape() as tape:
        value = (tp.maximum(x @ w, 0) ** 2).mean()
    w.assign_sub(0.1 * tape.gradient(value, w))
    return {"loss": value}

def broken(x):
    return x @ np.ones((5, 2), np.float32)

class Holder:
    def square(self, x):
        return x * x

holder = Holder()
"""
IR = """
fn f(%x: f32[B,3], %k: i64[]) {
  %0 = add %x, f32(0.0) : f32[B,3]
  %1 = mul f32(2.0), f32(3.0) : f32[]
  %2 = mul %0, %1 : f32[B,3]
  return %2, %k
}
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "model.py").write_text(MODEL)
    (tmp_path / "f.ir").write_text(IR)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield tmp_path
    sys.modules.pop("model", None)


def out(capsys, *argv):
    assert main(argv) == 0, capsys.readouterr().err
    return capsys.readouterr().out


# -- dump ------------------------------------------------------------------------------------------
@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_of_a_training_step(folder, capsys, stage):
    text = out(capsys, "dump", "model.py:step", "--stage", stage)
    assert {
        "trace": "model.py:14", "adjoint": "matmul", "optimized": "f32[", "schedule": "matmul", "loops": "for ",
        "numba": "def program(", "llvm": "define i64 @tapefuse_program(", "asm": "tapefuse_program:", "memory": "arena",
    }[stage] in text  # fmt: skip
    if stage in ("trace", "adjoint", "optimized"):
        assert show(parse(text)) + "\n" == text


def test_the_gradient_of_a_plain_function_by_arguments_and_variables(folder, capsys):
    args = ("dump", "model.py:loss", "--args", "f32[B,4], i64[B]", "--grad", "--stage")
    value, both = (parse(out(capsys, *args, stage)) for stage in ("trace", "adjoint"))
    assert [str(v.type) for v in value.outs] == ["f32[]"]
    assert [str(v.type) for v in both.outs] == ["f32[]", "f32[B,4]", "f32[4,3]"]
    assert [str(v.type) for v in both.params] == ["f32[B,4]", "i64[B]", "f32[4,3]"]
    assert "define i64" in out(capsys, *args, "llvm")


def test_methods_modules_and_files(folder, capsys):
    text = out(capsys, "dump", "model:holder.square", "--args", "f64[2]", "--stage", "trace")
    assert "mul %x, %x : f64[2]" in text
    assert main(["dump", "f.ir", "-o", "g.ir"]) == 0
    assert "f32(6.0)" in Path("g.ir").read_text()
    assert "f32(6.0)" in out(capsys, "dump", "g.ir", "--stage", "trace")


def test_around_one_pass(folder, capsys):
    before, after = out(capsys, "dump", "f.ir", "--pass", "fold").split("# after fold")
    assert "mul f32(2.0), f32(3.0)" in before
    assert "mul f32(2.0), f32(3.0)" not in after
    assert parse(after).outs
    assert "# after adjoint" in out(capsys, "dump", "f.ir", "--pass", "adjoint")


# -- opt -------------------------------------------------------------------------------------------
def test_opt_prints_the_graph_and_reports_what_fired(folder, capsys):
    assert main(["opt", "f.ir", "--passes", "fold,dce"]) == 0
    captured = capsys.readouterr()
    assert "f32(6.0)" in captured.out
    assert show(parse(captured.out)) + "\n" == captured.out
    assert captured.err.startswith("fold: fold 1\n")


# -- run -------------------------------------------------------------------------------------------
@pytest.mark.parametrize("engine", ["llvm", "numba", "interp"])
def test_run_on_files(folder, capsys, engine):
    np.save("x.npy", np.array([[1, 2, 3]], np.float32))
    np.save("k.npy", np.array(7))
    text = out(capsys, "run", "f.ir", "x.npy", "k.npy", "--engine", engine)
    assert text == "0: f32[1,3]\n[[ 6. 12. 18.]]\n1: i64[]\n7\n"


def test_run_on_random_inputs_is_seeded(folder, capsys):
    one, two, other = (out(capsys, "run", "f.ir", "--seed", s) for s in "112")
    assert one == two != other
    assert one.startswith("0: f32[8,3]")


def test_arrays_that_do_not_fit(folder, capsys):
    np.save("x.npy", np.ones((2, 4), np.float32))
    np.save("k.npy", np.array(7))
    assert "parameter 'x' wants f32[2,3], got shape [2,4]" in complaint(capsys, "run", "f.ir", "x.npy", "k.npy")
    assert "takes 2 inputs (x: f32[B,3], k: i64[]), got 1" in complaint(capsys, "run", "f.ir", "x.npy")
    assert "not a .npy file" in complaint(capsys, "run", "f.ir", "model.py", "k.npy")
    assert "cannot read no.npy" in complaint(capsys, "run", "f.ir", "no.npy", "k.npy")


# -- doctor ----------------------------------------------------------------------------------------
def test_doctor_reports_the_machine(capsys):
    text = out(capsys, "doctor")
    for word in ("python", "llvmlite", "CPU features", "threading layer", "OpenBLAS", "cache", "TAPEFUSE_ENGINE"):
        assert word in text


# -- bad input -------------------------------------------------------------------------------------
def complaint(capsys, *argv):
    assert main(argv) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1, captured.err
    assert captured.err.startswith("tapefuse: ")
    return captured.err


@pytest.mark.parametrize(
    "argv, expected",
    [
        ("dump model.py:step --stage ssa", "'ssa' is not a stage; expected one of trace, adjoint, optimized, schedule"),
        ("dump model.py", "'model.py' is not a target; expected file.py:function, module:function or file.ir"),
        ("dump no.py:f", "there is no file no.py"),
        ("dump no_such_module:f", "ModuleNotFoundError"),
        ("dump model.py:stop", "model.py has no 'stop'; it has loss, step, broken"),
        ("dump model.py:NUMBER", "is a int, not a function"),
        ("dump model.py:loss", "give --args"),
        ("dump model.py:loss --args f32[B,4]", "model.py:loss takes"),
        ("dump model.py:loss --args f32[B,4,i64[B]", "--args"),
        ("dump model.py:loss --args g32[B]", "'g32' is not a dtype; expected one of f16, bf16, f32, f64"),
        ("dump model.py:loss --args f32[2*B]", "2*B is not a dimension of an argument"),
        ("dump no.ir", "cannot read no.ir: No such file"),
        ("dump f.ir --args f32[2]", "the parameters of a graph have types already"),
        ("dump f.ir --pass inline", "'inline' is not a pass; expected one of tiles, complex, loops"),
        ("dump f.ir -o no/such/folder/x", "cannot write no/such/folder/x"),
        ("opt model.py --passes fold", "model.py: "),
        ("opt f.ir --passes fold,x", "'x' is not a pass"),
        ("run f.ir --engine gpu", "invalid choice: 'gpu'"),
        ("brew", "invalid choice: 'brew'"),
        ("", "required"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(folder, capsys, argv, expected):
    assert expected in complaint(capsys, *argv.split())


def test_a_file_that_fails_to_import_and_a_graph_with_a_mistake_name_the_line(folder, capsys):
    Path("bad.py").write_text("import numpy\n1 / 0\n")
    assert "ZeroDivisionError: division by zero (line 2 of" in complaint(capsys, "dump", "bad.py:f")
    Path("worse.py").write_text("x = = 1\n")
    assert complaint(capsys, "dump", "worse.py:f").endswith("SyntaxError: invalid syntax (worse.py, line 1)\n")
    Path("exits.py").write_text("import sys\nsys.exit(3)\n")
    assert "SystemExit: 3" in complaint(capsys, "dump", "exits.py:f")
    Path("bad.ir").write_text(IR.replace("f32[B,3]\n  %1", "f32[B,4]\n  %1"))
    assert "bad.ir: " in complaint(capsys, "opt", "bad.ir")


def test_an_error_in_the_users_function_is_his_own(folder, capsys):
    assert main(["dump", "model.py:broken", "--args", "f32[3,4]"]) == 1
    err = capsys.readouterr().err
    assert "matmul(f32[3,4], f32[5,2])" in err
    assert "model.py:19" in err


def test_as_a_program_in_a_pipe():
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "tapefuse", "dump", "examples/digits.py:train_step", "--stage", "trace"]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.startswith("fn train_step(")
    assert "\x1b" not in done.stdout
    assert "digits.py:" in done.stdout


@pytest.mark.parametrize("variable", ["TAPEFUSE_ENGINE", "TAPEFUSE_THREADS", "TAPEFUSE_CHECK"])
def test_a_bad_environment_variable_is_one_line_and_exit_code_2(variable):
    env = {**os.environ, "PYTHONPATH": str(ROOT), variable: "x"}
    command = [sys.executable, "-m", "tapefuse", "doctor"]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"tapefuse: {variable}='x': expected ")
    assert done.stderr.count("\n") == 1


class TestBench:
    def test_times_a_step_and_shows_its_kernels(self, folder, capsys):
        trace = folder / "trace.json"
        assert main(["bench", "model.py:step", "--sizes", "B0=5", "--kernels", "--trace", str(trace)]) == 0
        text = capsys.readouterr().out
        assert "model.py:step on f32[5,4]" in text and "first call" in text
        assert "step: a call takes" in text and "of limit" in text
        assert trace.exists()

    def test_gradient_of_a_plain_function(self, folder, capsys):
        assert main(["bench", "model.py:holder.square", "--args", "f32[]", "--grad"]) == 0
        assert "model.py:holder.square on f32[]" in capsys.readouterr().out

    @pytest.mark.parametrize("sizes", ["C=3", "B0", "B0=x", "B0=-1"])
    def test_bad_sizes(self, folder, capsys, sizes):
        assert main(["bench", "model.py:step", "--sizes", sizes]) == 2
        assert "the free dimensions are: B0" in capsys.readouterr().err

    def test_types_are_needed(self, folder, capsys):
        assert main(["bench", "model.py:loss"]) == 2
        assert "has no input signature; give --args" in capsys.readouterr().err


def test_the_cache(tmp_path, monkeypatch, capsys):
    from tapefuse import config
    from tapefuse.runtime.cache import ObjectCache, digest

    with config(cache_dir=str(tmp_path)):
        assert main(["cache", "ls"]) == 0
        assert "0 programs" in capsys.readouterr().out
        store = ObjectCache(tmp_path)
        keys = [digest(str(k)) for k in range(3)]
        for k, key in enumerate(keys):
            store.store(key, b"code" * 500, {"name": f"step\n{k}", "seconds": 0.0123 * k})
        assert main(["cache", "ls"]) == 0
        out = capsys.readouterr().out
        assert "3 programs" in out and keys[1][:12] in out and "12 ms" in out and "'step\\n1'" in out
        (tmp_path / f"{keys[0]}.tfo").write_bytes(b"damaged")
        assert main(["cache", "verify"]) == 1
        assert "2 programs are whole" in (out := capsys.readouterr().out) and keys[0] in out
        assert main(["cache", "verify"]) == 0
        capsys.readouterr()
        assert main(["cache", "clear", "-o", str(tmp_path / "out")]) == 0
        assert "removed 2 files" in (tmp_path / "out").read_text()
        assert not list(tmp_path.glob("*.tfo"))
        assert main(["cache", "burn"]) == 2
        assert "choose from" in capsys.readouterr().err

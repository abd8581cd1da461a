"""The benchmarks: our side of every workload is right, the harness runs, the document is what its sources give."""

import dataclasses
import json

import pytest

from benchmarks import machine, report
from benchmarks.case import error, workload
from benchmarks.frameworks import BY_NAME, OURS
from benchmarks.marks import MARKS
from benchmarks.measure import Client, Contest, Contestant, Effort, Failed
from benchmarks.run import ALL, merged
from benchmarks.workloads import WORKLOADS

QUICK = Effort(rounds=1, seconds=0.001, first_calls=1)
DISPATCH = workload("dispatch").CASES[0]


@pytest.mark.parametrize(
    ("name", "case"),
    [(n, c) for n, c in ALL if c.size == "S" and OURS.name in workload(n).FRAMEWORKS],
    ids=lambda x: getattr(x, "name", x),
)
def test_our_results_are_the_references(name, case):
    module = workload(name)
    arrays = module.inputs(**case.options)
    program = module.FRAMEWORKS["tapefuse"](arrays, **case.options)
    assert error(program.results(program.step()), module.reference(arrays, **case.options)) <= case.tolerance


def test_names_of_cases_tell_them_apart():
    assert len({(name, case.name) for name, case in ALL}) == len(ALL)
    assert {case.size for _, case in ALL} <= set("SML")
    assert all(workload(name).TITLE and workload(name).__doc__ for name in WORKLOADS)


def test_workloads_and_marks_name_what_there_is():
    for name in WORKLOADS:
        module = workload(name)
        assert {*module.FRAMEWORKS, *getattr(module, "MISSING", {})} <= set(BY_NAME)
        assert not set(module.FRAMEWORKS) & set(getattr(module, "MISSING", {}))
    for m in MARKS:
        options = [case.options for name, case in ALL if name == m.workload and case.size in m.ratios]
        assert any(m.where.items() <= dict(o).items() for o in options), m


@pytest.fixture(scope="module")
def contest():
    with Contest("dispatch", [OURS], QUICK) as running:
        yield running


def test_a_case_is_measured_in_processes_of_its_own(contest):
    row = contest.measure(DISPATCH)["tapefuse"]
    assert "failed" not in row
    assert row["low"] <= row["median"] <= row["high"] and row["minimum"] <= row["median"]
    assert len(row["cold"]) == len(row["warm"]) == 1
    assert row["error"] <= DISPATCH.tolerance and row["calls"] >= 1 and row["peak_mb"] > 1
    assert set(row["versions"]) == set(OURS.distributions)


def test_one_process_can_do_several_cases():
    """As peers do whose first calls are not measured."""
    peer = dataclasses.replace(OURS, first_calls=False)
    with Contest("dispatch", [peer], QUICK) as running:
        rows = [running.measure(case)["tapefuse"] for case in workload("dispatch").CASES[:2]]
    assert all(row["median"] > 0 and "warm" not in row for row in rows)


def test_a_wrong_result_is_not_timed(monkeypatch, contest):
    module = workload("dispatch")
    right = module.reference
    monkeypatch.setattr(module, "reference", lambda *a, **k: {n: v + 1 for n, v in right(*a, **k).items()})
    assert "wrong results" in contest.measure(DISPATCH)["tapefuse"]["failed"]
    monkeypatch.setattr(module, "reference", lambda *a, **k: {n: v[..., None] for n, v in right(*a, **k).items()})
    assert "has shape" in contest.measure(DISPATCH)["tapefuse"]["failed"]


def test_a_worker_that_fails_says_why(tmp_path):
    with Client(OURS, "dispatch", tmp_path, limit=60) as worker, pytest.raises(Failed, match="no-such-file"):
        worker.ask("prepare", case=DISPATCH.name, inputs="no-such-file.npz", results="")


def test_a_worker_that_takes_too_long_is_given_up(tmp_path):
    with Client(OURS, "dispatch", tmp_path, limit=0.0) as worker, pytest.raises(Failed, match="timed out"):
        worker.ask("tell")


def test_slow_and_far_contestants_have_fewer_rounds(tmp_path):
    effort = Effort(rounds=7, slow_rounds=3)
    contestant = Contestant(dataclasses.replace(OURS, name="peer"), "dispatch", effort, tmp_path)

    def rounds(seconds: float, best: float) -> int:
        contestant._rounds = [{"median": seconds}]
        while contestant.wants_a_round(best):
            contestant._rounds.append({"median": seconds})
        return len(contestant._rounds) - 1

    assert rounds(1e-3, best=1e-3) == 7 and rounds(0.5, best=0.4) == 3 and rounds(0.5, best=1e-3) == 0


def _results(run: str, microseconds: float) -> dict:
    row = {"median": microseconds * 1e-6, "low": 1e-6, "high": 1e-5, "minimum": 1e-6, "peak_mb": 1.0, "error": 0.0}
    ours = {**row, "cold": [0.1], "warm": [0.05]}
    rows = {
        "tapefuse": ours,
        "jax": {**ours, "median": 30 * ours["median"], "cold": [0.2]},
        "torch": {**row, "median": 2e-6, "cold": [3.0]},
        "pytensor": {"failed": "timed out"},
    }
    case = {"run": run, "workload": "dispatch", "case": DISPATCH.name, "size": "S", "rows": rows}
    here = {**machine.description(), "versions": {"tapefuse": {"numpy": "2"}}, "others": 0.0, "left_out": ["autograd"]}
    here["limits"] = {"triad, GB/s": 25.5}
    return {"runs": {run: here}, "cases": [case], "imports": {}, "stages": {}}


def test_new_figures_take_the_place_of_old_ones():
    both = merged(_results("old", 1.0), _results("new", 2.0))
    assert set(both["runs"]) == {"new"} and [c["rows"]["tapefuse"]["median"] for c in both["cases"]] == [2e-6]


def test_the_report_shows_failures_and_figures():
    text = report.document(_results("now", 0.1))
    assert "| 0.10 | 2.00 (PyTorch) | 20.00 | 4 | yes |" in text and "1 of 1 marks are met." in text
    assert "- PyTensor, 1 array: timed out" in text and "autograd, which is not" in text and "{{" not in text
    assert "triad, GB/s 25.5" in text
    assert "| 100 | 200 | 2.00 | 50 | 50 | **1.00** | 1 | 1 | 1.00 |" in text  # first calls cold, warm, and memory
    assert "<svg" in report.picture(_results("now", 0.1))


def test_the_report_says_which_marks_are_missed():
    text = report.document(_results("now", 1.0))
    assert "| 1.00 | 2.00 (PyTorch) | 2.00 | 4 | **no** |" in text
    assert (
        "0 of 1 marks are met. Missed: dispatch, 1 array (50% of its mark). Against JAX alone dispatch is at least 30.0"
        in text
    )


@pytest.mark.parametrize(("seconds", "text"), [(5.123e-7, "0.51"), (1.2345e-5, "12.3"), (0.0123456, "12,346")])
def test_microseconds(seconds, text):
    assert report.micro(seconds) == text


def test_the_document_is_made_of_its_sources():
    results = json.loads(report.RESULTS.read_text())
    assert report.DOCUMENT.read_text() == report.document(results), "python -m benchmarks.report"
    assert report.PLOT.read_text() == report.picture(results), "python -m benchmarks.report"

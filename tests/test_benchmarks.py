"""The benchmarks: our side of every workload is right, the harness runs, the document is what its sources give."""

import json

import pytest

from benchmarks import machine, report
from benchmarks.case import error, workload
from benchmarks.frameworks import OURS
from benchmarks.measure import Client, Effort, Failed, measure
from benchmarks.run import ALL, merged
from benchmarks.workloads import WORKLOADS

QUICK = Effort(rounds=1, seconds=0.001, first_calls=1)
DISPATCH = workload("dispatch").CASES[0]


@pytest.mark.parametrize(
    ("name", "case"), [(n, c) for n, c in ALL if c.size == "S"], ids=lambda x: getattr(x, "name", x)
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


def test_a_case_is_measured_in_processes_of_its_own():
    row = measure("dispatch", DISPATCH, [OURS], QUICK)["tapefuse"]
    assert "failed" not in row
    assert row["low"] <= row["median"] <= row["high"] and row["minimum"] <= row["median"]
    assert len(row["cold"]) == len(row["warm"]) == 1
    assert row["error"] <= DISPATCH.tolerance and row["calls"] >= 1 and row["peak_mb"] > 1
    assert set(row["versions"]) == set(OURS.distributions)


def test_a_wrong_result_is_not_timed(monkeypatch):
    module = workload("dispatch")
    right = module.reference
    monkeypatch.setattr(module, "reference", lambda *a, **k: {n: v + 1 for n, v in right(*a, **k).items()})
    assert "wrong results" in measure("dispatch", DISPATCH, [OURS], QUICK)["tapefuse"]["failed"]


def test_a_worker_that_fails_says_why(tmp_path):
    with Client(OURS, "dispatch", DISPATCH, tmp_path, limit=60) as worker, pytest.raises(Failed, match="no-such-file"):
        worker.ask("prepare", inputs="no-such-file.npz", results="")


def _results(run: str, microseconds: float) -> dict:
    row = {"median": microseconds * 1e-6, "low": 1e-6, "high": 1e-5, "minimum": 1e-6, "peak_mb": 1.0, "error": 0.0}
    rows = {"tapefuse": {**row, "cold": [0.1]}, "jax": {"failed": "longer than 5 s"}}
    case = {"run": run, "workload": "dispatch", "case": DISPATCH.name, "size": "S", "rows": rows}
    here = {**machine.description(), "versions": {"tapefuse": {"numpy": "2"}}, "others": 0.0, "left_out": ["JAX"]}
    return {"runs": {run: here}, "cases": [case], "imports": {}, "stages": {}}


def test_new_figures_take_the_place_of_old_ones():
    both = merged(_results("old", 1.0), _results("new", 2.0))
    assert set(both["runs"]) == {"new"} and [c["rows"]["tapefuse"]["median"] for c in both["cases"]] == [2e-6]


def test_the_report_shows_failures_and_figures():
    text = report.document(_results("now", 12.345))
    assert "| 12.3 |" in text and "longer than 5 s" in text and "JAX, which could not" in text and "{{" not in text
    assert "<svg" in report.picture(_results("now", 12.345))


@pytest.mark.parametrize(("seconds", "text"), [(5.123e-7, "0.51"), (1.2345e-5, "12.3"), (0.0123456, "12,346")])
def test_microseconds(seconds, text):
    assert report.micro(seconds) == text


def test_the_document_is_made_of_its_sources():
    results = json.loads(report.RESULTS.read_text())
    assert report.DOCUMENT.read_text() == report.document(results), "python -m benchmarks.report"
    assert report.PLOT.read_text() == report.picture(results), "python -m benchmarks.report"

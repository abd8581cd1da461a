"""Runs the benchmarks: `python -m benchmarks.run [--workloads dispatch,mlp] [--sizes S,M] [--frameworks tapefuse,jax]`.

A run of everything writes results/performance.json, from which docs/performance.md is made. A run of a part prints its
tables; with --keep it takes the place of the same cases in results/performance.json. Every run is kept in results.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

from benchmarks import machine, report
from benchmarks.case import Case, workload
from benchmarks.frameworks import BY_NAME, FOLDER, FRAMEWORKS, OURS, Framework, environment
from benchmarks.imports import measure_imports
from benchmarks.limits import measure_limits
from benchmarks.measure import Contest, Effort
from benchmarks.stages import measure_stages
from benchmarks.workloads import WORKLOADS

IMPORTS, STAGES = "imports", "stages"  # count as workloads on the command line
NAMES = (*WORKLOADS, IMPORTS, STAGES)
RESULTS = FOLDER / "results"
KEPT = RESULTS / "performance.json"
ALL = [(name, case) for name in WORKLOADS for case in workload(name).CASES]


def main() -> int:
    options = arguments()
    frameworks = present(options.frameworks)
    start = time.time()
    results = run(frameworks, list(chosen(options)), options)
    print(f"\n{report.overview(results)}\n\nmeasured in {time.time() - start:.0f} s")
    RESULTS.mkdir(exist_ok=True)
    write(results, time.strftime("%Y%m%d-%H%M%S.json"))
    if options.everything or options.keep:
        write(merged(json.loads(KEPT.read_text()), results) if options.keep and KEPT.exists() else results, KEPT.name)
        report.write_document(KEPT)
    return 0


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    listed = lambda text: [part for part in text.split(",") if part]
    parser.add_argument("--workloads", type=listed, default=[], help=f"some of {', '.join(NAMES)}")
    parser.add_argument("--sizes", type=listed, default=[], help="some of S, M, L")
    parser.add_argument("--frameworks", type=listed, default=[], help=f"some of {', '.join(BY_NAME)}")
    parser.add_argument("--keep", action="store_true", help="update docs/performance.md with this part")
    for name, value in (("rounds", Effort().rounds), ("first-calls", Effort().first_calls)):
        parser.add_argument(f"--{name}", type=int, metavar="N", help=f"instead of {value}")
    options = parser.parse_args()
    for name, allowed in (("workloads", NAMES), ("sizes", "SML"), ("frameworks", BY_NAME)):
        if unknown := [x for x in getattr(options, name) if x not in allowed]:
            parser.error(f"no {name} {', '.join(unknown)}; there are {', '.join(allowed)}")
    if options.keep and options.frameworks:
        parser.error("--keep takes no --frameworks: a case's figures are of one run")
    options.everything = not (options.workloads or options.sizes or options.frameworks)
    return options


def present(names: Sequence[str]) -> list[Framework]:
    """The frameworks that are asked for and installed; the others are named."""
    asked = [f for f in FRAMEWORKS if not names or f.name in names]
    for f in asked:
        if not f.is_installed:
            print(f"{f.label} is left out: it is not installed; python -m benchmarks.peers", file=sys.stderr)
    return [f for f in asked if f.is_installed]


def chosen(options: argparse.Namespace) -> Iterator[tuple[str, Case]]:
    for name, case in ALL:
        if name in (options.workloads or WORKLOADS) and case.size in (options.sizes or "SML"):
            yield name, case


def run(frameworks: Sequence[Framework], cases: Sequence[tuple[str, Case]], options: argparse.Namespace) -> dict:
    """{"runs": {id: where and when}, "cases": [...], "imports": {...}, "stages": {...}}, in seconds and MB."""
    given = {"rounds": options.rounds, "first_calls": options.first_calls}
    effort = Effort(**{name: value for name, value in given.items() if value})
    run_id = time.strftime("%Y-%m-%dT%H:%M:%S")
    watch = machine.Watch()
    here: dict[str, Any] = {**machine.description(), "versions": {}}
    if options.everything or options.keep:
        here["limits"] = measure_limits()
    keep_byte_code(frameworks)
    here["left_out"] = [f.label for f in FRAMEWORKS if not f.is_installed]
    results: dict[str, Any] = {"runs": {run_id: here}, "cases": [], IMPORTS: {}, STAGES: {}}
    if IMPORTS in (options.workloads or NAMES):
        results[IMPORTS] = {"run": run_id, "rows": measure_imports(frameworks)}
    if STAGES in (options.workloads or NAMES) and OURS in frameworks:
        results[STAGES] = {"run": run_id, "chains": measure_stages()}
    for name in dict.fromkeys(name for name, _ in cases):
        with Contest(name, frameworks, effort) as contest:
            for case in (case for workload_name, case in cases if workload_name == name):
                rows = contest.measure(case)
                record = {"run": run_id, "workload": name, "case": case.name, "size": case.size, "rows": rows}
                for framework, row in rows.items():
                    if versions := row.pop("versions", None):
                        here["versions"][framework] = versions
                results["cases"].append(record)
                print(report.line(record), flush=True)
    here["others"] = round(watch.others(), 2)
    return results


def keep_byte_code(frameworks: Sequence[Framework]) -> None:
    """So that nobody's first call compiles Python files; installed packages have theirs."""
    if OURS in frameworks:
        command = [OURS.python, "-m", "compileall", "-q", "tapefuse", "benchmarks/workloads"]
        subprocess.run(command, cwd=FOLDER.parent, env=environment(), check=True)


def merged(old: dict, new: dict) -> dict:
    """The new cases in place of the same old ones; each tells its run."""
    key = lambda record: (record["workload"], record["case"])
    cases = {key(record): record for record in old["cases"]} | {key(record): record for record in new["cases"]}
    kept = [cases[name, case.name] for name, case in ALL if (name, case.name) in cases]
    parts = {name: new[name] or old[name] for name in (IMPORTS, STAGES)}
    used = {record["run"] for record in (*kept, *parts.values()) if record}
    runs = {name: run for name, run in {**old["runs"], **new["runs"]}.items() if name in used}
    return {"runs": runs, "cases": kept, **parts}


def write(results: dict, name: str) -> None:
    (RESULTS / name).write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())

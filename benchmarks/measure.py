"""One case in all frameworks: first calls in fresh processes, results checked, then rounds of timing in turn."""

from __future__ import annotations

import json
import selectors
import statistics
import subprocess
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.case import Case, error, workload
from benchmarks.frameworks import FOLDER, Framework, environment


@dataclass(frozen=True, slots=True)
class Effort:
    """How much is measured."""

    rounds: int = 9  # of timing, in which the frameworks take turns
    seconds: float = 0.12  # per round
    first_calls: int = 3  # cold and warm each, fewer for slow ones
    first_call_budget: float = 3.0  # seconds for cold and for warm ones; one is always measured
    limit: float = 120.0  # seconds after which a first call is given up


class Failed(Exception):
    """A framework could not do a case; says why."""


class Client:
    """A worker process and the questions to it. As a context manager it ends the process."""

    def __init__(self, framework: Framework, workload_name: str, case: Case, cache: Path, limit: float):
        kept = framework.cache(str(cache)) if framework.cache else {}
        command = [framework.python, "-m", "benchmarks.worker", framework.name, workload_name, case.name]
        self._limit = limit
        self._log = tempfile.TemporaryFile(mode="w+")  # closed with the process  # noqa: SIM115
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            cwd=FOLDER.parent,
            env={**environment(), **kept},
        )
        self._ready = selectors.DefaultSelector()
        self._ready.register(self._process.stdout, selectors.EVENT_READ)

    def ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        """Raises Failed when the worker fails, dies or takes too long."""
        try:
            self._process.stdin.write(json.dumps({"do": do, **arguments}) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise Failed(self._last_words()) from None
        if not self._ready.select(self._limit):
            raise Failed(f"longer than {self._limit:.0f} s")
        line = self._process.stdout.readline()
        if not line:
            raise Failed(self._last_words())
        answer = json.loads(line)
        if "error" in answer:
            raise Failed(answer["error"])
        return answer

    def _last_words(self) -> str:
        self._process.wait()
        self._log.seek(0)
        lines = self._log.read().strip().splitlines()
        return f"the process ended with status {self._process.returncode}{': ' if lines else ''}{''.join(lines[-1:])}"

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *exception: object) -> None:
        self._process.kill()
        self._process.wait()
        for file in (self._process.stdin, self._process.stdout, self._log, self._ready):
            try:
                file.close()
            except BrokenPipeError:  # what was still to be sent is of no use any more
                continue


class Contestant:
    """A framework on its way through a case: first calls, then a live worker that is timed."""

    def __init__(self, framework: Framework, workload_name: str, case: Case, folder: Path, effort: Effort):
        self.framework = framework
        self.row: dict[str, Any] = {}
        self._workload, self._case, self._folder, self._effort = workload_name, case, folder, effort
        self._cache = folder / f"{framework.name}-cache"
        self._live: Client | None = None
        self._rounds: list[dict[str, float]] = []

    def first_calls(self, expected: Mapping[str, np.ndarray]) -> None:
        """Cold ones, each with an empty cache; then warm ones, the last of which leaves its worker alive."""
        self.row["cold"], self.row["cold_from_import"] = self._firsts(expected, fresh_cache=True)
        if self.framework.cache:
            self.row["warm"], self.row["warm_from_import"] = self._firsts(expected, fresh_cache=False)

    def _firsts(self, expected: Mapping[str, np.ndarray], fresh_cache: bool) -> tuple[list[float], list[float]]:
        times: list[float] = []
        from_import: list[float] = []
        while len(times) < self._effort.first_calls and sum(times) < self._effort.first_call_budget:
            if fresh_cache:
                self._cache = self._folder / f"{self.framework.name}-cache-{len(times)}"
                self._cache.mkdir(mode=0o700)
            answer = self._first(expected)
            times.append(answer["first"])
            from_import.append(answer["from_import"])
        return times, from_import

    def _first(self, expected: Mapping[str, np.ndarray]) -> dict[str, float]:
        self.close()
        self._live = Client(self.framework, self._workload, self._case, self._cache, self._effort.limit)
        results = self._folder / f"{self.framework.name}.npz"
        answer = self._live.ask("prepare", inputs=str(self._folder / "inputs.npz"), results=str(results))
        with np.load(results) as file:
            self.row["error"] = error(file, expected)
        if not self.row["error"] <= self._case.tolerance:
            raise Failed(f"wrong results: relative error {self.row['error']:.1e}")
        return answer

    def time(self, keep: bool) -> None:
        answer = self._live.ask("time", seconds=self._effort.seconds)
        if keep:
            self._rounds.append(answer)

    def finish(self) -> None:
        """The figures: seconds per call, of the medians of the rounds and of the fastest batch of calls."""
        medians = [r["median"] for r in self._rounds]
        self.row |= {
            "median": statistics.median(medians),
            "low": min(medians),
            "high": max(medians),
            "minimum": min(r["minimum"] for r in self._rounds),
            "calls": sum(r["calls"] for r in self._rounds),
        }
        self.row |= self._live.ask("quit")

    def close(self) -> None:
        if self._live is not None:
            self._live.__exit__()
            self._live = None


def measure(workload_name: str, case: Case, frameworks: Iterable[Framework], effort: Effort) -> dict[str, dict]:
    """A row of figures for each framework that has the workload; {"failed": why} for one that could not do it."""
    module = workload(workload_name)
    arrays = module.inputs(**case.options)
    expected = module.reference(arrays, **case.options)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        np.savez(folder / "inputs.npz", **arrays)
        able = [f for f in frameworks if f.name in module.FRAMEWORKS]
        contestants = [Contestant(f, workload_name, case, folder, effort) for f in able]
        try:
            _compete(contestants, expected, effort)
        finally:
            for contestant in contestants:
                contestant.close()
    return {c.framework.name: c.row for c in contestants}


def _compete(contestants: Sequence[Contestant], expected: Mapping[str, np.ndarray], effort: Effort) -> None:
    alive = _able(contestants, lambda c: c.first_calls(expected))
    for k in range(effort.rounds + 1):  # the first round warms up
        turn = k % len(alive) if alive else 0
        alive = _able(alive[turn:] + alive[:turn], lambda c, keep=k > 0: c.time(keep))
    _able(alive, Contestant.finish)


def _able(contestants: Iterable[Contestant], act: Any) -> list[Contestant]:
    """Those for whom `act` works; the others' rows say why it does not."""
    able = []
    for contestant in contestants:
        try:
            act(contestant)
            able.append(contestant)
        except Failed as e:
            contestant.row["failed"] = str(e)
            contestant.close()
    return able

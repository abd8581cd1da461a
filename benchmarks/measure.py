"""One case in all frameworks: first calls in fresh processes, results checked, then rounds of timing in turn."""

from __future__ import annotations

import json
import random
import selectors
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.case import Case, error, workload
from benchmarks.frameworks import FOLDER, OURS, Framework, environment


@dataclass(frozen=True, slots=True)
class Effort:
    """How much is measured."""

    rounds: int = 7  # of timing, in which the frameworks take turns
    seconds: float = 0.06  # per round
    slow_call: float = 0.2  # seconds, from which there are fewer rounds
    slow_rounds: int = 3
    far: float = 20.0  # times the best: who takes longer has only the round that warms up
    first_calls: int = 3  # cold and warm each, in a workload's first case; one in the others
    first_call_budget: float = 3.0  # seconds for cold and for warm ones; one is always measured
    limit: float = 120.0  # seconds after which a process is given up


ENDING = 5.0  # seconds that a process has for it


REST = 0.12  # seconds before a round: OpenBLAS's threads spin for 0.1 s when they have nothing to do
THREADED = 50e-6  # seconds of a call that may use threads


class Failed(Exception):
    """A framework could not do a case; says why."""


class Client:
    """A worker process and the questions to it. As a context manager it ends the process."""

    def __init__(self, framework: Framework, workload_name: str, cache: Path, limit: float):
        kept = framework.cache(str(cache)) if framework.cache else {}
        asked = getattr(workload(workload_name), "ENVIRONMENT", {})
        command = [framework.python, "-m", "benchmarks.worker", framework.name, workload_name]
        self._limit = limit
        self._log = tempfile.TemporaryFile(mode="w+")  # closed with the process  # noqa: SIM115
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            cwd=FOLDER.parent,
            env={**environment(), **asked, **kept},
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
            raise Failed(f"timed out after {self._limit:.0f} s")
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
        try:
            self._process.stdin.close()  # the worker ends as programs do: frameworks may keep things then
            self._process.wait(ENDING)
        except (OSError, subprocess.TimeoutExpired):
            self._process.kill()
            self._process.wait()
        for file in (self._process.stdin, self._process.stdout, self._log, self._ready):
            try:
                file.close()
            except BrokenPipeError:  # what was still to be sent is of no use any more
                continue


class Contestant:
    """A framework on its way through a workload's cases: first calls, then a live worker that is timed.

    One whose first calls are measured has new processes for every case; of the others one process does all of them.
    """

    def __init__(self, framework: Framework, workload_name: str, effort: Effort, folder: Path):
        self.framework = framework
        self.row: dict[str, Any] = {}
        self._workload, self._effort, self._folder = workload_name, effort, folder
        self._caches = 0
        self._live: Client | None = None
        self._rounds: list[dict[str, float]] = []

    def first_calls(self, case: Case, inputs: Path, expected: Mapping[str, np.ndarray]) -> None:
        """Cold ones, each with an empty cache; then warm ones, the last of which leaves its worker alive."""
        self.row, self._rounds = {}, []
        first = lambda: self._first(case, inputs, expected)
        if self.framework.first_calls:
            count = 1 if self._caches else self._effort.first_calls
            self.row["cold"], self.row["cold_from_import"] = self._firsts(first, count, fresh_cache=True)
            self.row["warm"], self.row["warm_from_import"] = self._firsts(first, count, fresh_cache=False)
        else:
            if self._live is None:
                self._start(fresh_cache=True)
            self.row["cold"] = [first()["first"]]

    def _firsts(self, first: Callable[[], dict], count: int, fresh_cache: bool) -> tuple[list[float], list[float]]:
        times: list[float] = []
        from_import: list[float] = []
        while len(times) < count and sum(times) < self._effort.first_call_budget:
            self._start(fresh_cache)
            answer = first()
            times.append(answer["first"])
            from_import.append(answer["from_import"])
        return times, from_import

    def _start(self, fresh_cache: bool) -> None:
        self.close()
        self._caches += fresh_cache
        cache = self._folder / f"{self.framework.name}-cache-{self._caches}"
        cache.mkdir(mode=0o700, exist_ok=True)
        self._live = Client(self.framework, self._workload, cache, self._effort.limit)

    def _first(self, case: Case, inputs: Path, expected: Mapping[str, np.ndarray]) -> dict[str, float]:
        results = self._folder / f"{self.framework.name}.npz"
        answer = self._live.ask("prepare", case=case.name, inputs=str(inputs), results=str(results))
        try:
            with np.load(results) as file:
                self.row["error"] = error(file, expected)
        except (KeyError, ValueError) as e:
            raise Failed(f"wrong results: {e}") from None
        if not self.row["error"] <= case.tolerance:
            raise Failed(f"wrong results: relative error {self.row['error']:.1e}")
        return answer

    def time(self) -> None:
        """A round. Threads of whoever ran before may spin for a while; calls that may use threads wait for that."""
        if not self._rounds or self.latest > THREADED:
            time.sleep(REST)
        self._rounds.append(self._live.ask("time", seconds=self._effort.seconds))

    @property
    def latest(self) -> float:
        """Seconds a call in the last round."""
        return self._rounds[-1]["median"]

    def wants_a_round(self, best: float) -> bool:
        """Whether another round is worth its time, when the fastest takes `best` seconds a call."""
        slow = self.latest > self._effort.slow_call
        far = self.framework is not OURS and self.latest > self._effort.far * best
        return len(self._rounds) <= (0 if far else self._effort.slow_rounds if slow else self._effort.rounds)

    def finish(self) -> None:
        """The figures: seconds per call, of the medians of the rounds and of the fastest batch of calls."""
        rounds = self._rounds[1:] or self._rounds  # the first warms up
        medians = [r["median"] for r in rounds]
        self.row |= {
            "median": statistics.median(medians),
            "low": min(medians),
            "high": max(medians),
            "minimum": min(r["minimum"] for r in rounds),
            "calls": sum(r["calls"] for r in rounds),
            "rounds": len(self._rounds) - 1,
        }
        self.row |= self._live.ask("tell")
        if self.framework.first_calls:
            self.close()

    def close(self) -> None:
        if self._live is not None:
            self._live.__exit__()
            self._live = None


class Contest:
    """All frameworks that have a workload, case after case. As a context manager it ends their processes."""

    def __init__(self, workload_name: str, frameworks: Iterable[Framework], effort: Effort):
        self._workload, self._module, self._effort = workload_name, workload(workload_name), effort
        self._folder = tempfile.TemporaryDirectory()
        folder = Path(self._folder.name)
        self._inputs = folder / "inputs.npz"
        able = [f for f in frameworks if f.name in self._module.FRAMEWORKS]
        self._contestants = [Contestant(f, workload_name, effort, folder) for f in able]

    def measure(self, case: Case) -> dict[str, dict]:
        """A row of figures for each framework; {"failed": why} for one that could not do it."""
        arrays = self._module.inputs(**case.options)
        expected = self._module.reference(arrays, **case.options)
        np.savez(self._inputs, **arrays)
        del arrays
        alive = self._first_calls(case, expected)
        alive = self._rounds(alive)
        _able(alive, Contestant.finish)
        return {c.framework.name: c.row for c in self._contestants}

    def _first_calls(self, case: Case, expected: Mapping[str, np.ndarray]) -> list[Contestant]:
        """Those whose first calls are measured have the machine for themselves, the others go two at a time."""
        act = lambda c: c.first_calls(case, self._inputs, expected)
        told = [c for c in self._contestants if c.framework.first_calls]
        with ThreadPoolExecutor(max_workers=2) as pool:
            others = [c for c in self._contestants if c not in told]
            able = [c for found in pool.map(lambda c: _able([c], act), others) for c in found]
        return _able(told, act) + able

    def _rounds(self, alive: list[Contestant]) -> list[Contestant]:
        """In turn, in an order that changes. Returns those who got through."""
        alive = wanting = _able(alive, Contestant.time)
        rng = random.Random(0)
        for _ in range(self._effort.rounds):
            best = min((c.latest for c in alive), default=0.0)
            wanting = [c for c in wanting if c in alive and c.wants_a_round(best)]
            rng.shuffle(wanting)  # whoever came before may have threads that spin still
            timed = _able(wanting, Contestant.time)
            alive = [c for c in alive if c in timed or c not in wanting]
        return alive

    def __enter__(self) -> Contest:
        return self

    def __exit__(self, *exception: object) -> None:
        for contestant in self._contestants:
            contestant.close()
        self._folder.cleanup()


def _able(contestants: Iterable[Contestant], act: Callable[[Contestant], Any]) -> list[Contestant]:
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

"""What a second thread gives: each case with one thread and with all, in turns.

    python -m benchmarks.threads [workload ...]

Medians of rounds, and one thread's over that of all. For cases that are bound by arithmetic this should come near the
number of threads; for those bound by memory, as far as one core leaves bandwidth unused.
"""

from __future__ import annotations

import statistics
import sys
import timeit

from benchmarks.case import Case, workload

WORKLOADS = ("mlp", "cnn", "transformer", "ewchain", "black_scholes", "second_order", "reductions", "xent")
ROUNDS, SECONDS = 9, 0.1


def main() -> None:
    import tapefuse as tp

    print(f"{'case':<60} {'1 thread, us':>13} {'all, us':>10} {'ratio':>6}")
    for name in sys.argv[1:] or WORKLOADS:
        module = workload(name)
        for case in module.CASES:
            if case.size in "ML":
                alone, together = times(tp, module, case)
                ratio = statistics.median(alone) / statistics.median(together)
                figures = f"{statistics.median(alone) * 1e6:>13,.0f} {statistics.median(together) * 1e6:>10,.0f}"
                print(f"{name + ': ' + case.name:<60} {figures} {ratio:>6.2f}", flush=True)


def times(tp, module, case: Case) -> tuple[list[float], list[float]]:
    """Seconds a call of each round, with one thread and with all of them."""
    step = module.FRAMEWORKS["tapefuse"](module.inputs(**case.options), **case.options).step
    step()
    timer = timeit.Timer(step)
    number = max(1, int(SECONDS / min(timer.repeat(2, 1))))
    found: dict[int | None, list[float]] = {1: [], None: []}
    for _ in range(ROUNDS):
        for threads, rounds in found.items():
            tp.config.threads = threads
            step()
            rounds.append(timer.timeit(number) / number)
    return found[1], found[None]


if __name__ == "__main__":
    main()

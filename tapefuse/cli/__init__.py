"""The command line: `tapefuse dump | opt | run | bench | cache | doctor`.

    tapefuse dump examples/digits.py:train_step --stage optimized
    tapefuse dump model.py:loss --args "f32[B,784], i64[B]" --grad --stage loops
    tapefuse opt graph.ir --passes simplify,dce
    tapefuse run graph.ir x.npy
    tapefuse cache ls
    tapefuse bench examples/digits.py:train_step --sizes B=32 --kernels

A bad target, spec or stage is one line on stderr that says what was expected, and exit code 2.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from tapefuse._config import FLAGS, config
from tapefuse._errors import TapefuseError
from tapefuse.cli import bench, cache, doctor, dump, opt, run
from tapefuse.cli.errors import UsageError

COMMANDS = (dump, opt, run, bench, cache, doctor)


class _Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line, without the usage text."""

    def error(self, message: str) -> None:  # type: ignore[override]
        raise UsageError(message)


def parser() -> argparse.ArgumentParser:
    top = _Parser(prog="tapefuse", description="Look at, transform and run what tapefuse compiles.")
    commands = top.add_subparsers(dest="command", required=True, metavar="{dump,opt,run,bench,cache,doctor}")
    for command in COMMANDS:
        name = command.__name__.rpartition(".")[2]
        first = (command.__doc__ or "").splitlines()[0]
        command.add_arguments(commands.add_parser(name, help=first, description=command.__doc__,
                                                  formatter_class=argparse.RawDescriptionHelpFormatter))  # fmt: skip
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. Returns the exit code: 0, 2 for bad input, 1 if the user's program itself fails."""
    try:
        options = parser().parse_args(argv)
        _check_environment()
        command = next(c for c in COMMANDS if c.__name__.endswith(f".{options.command}"))
        return command.main(options)
    except UsageError as e:
        return _complain(e, 2)
    except TapefuseError as e:
        return _complain(e, 1)
    except BrokenPipeError:  # `tapefuse dump ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141


def _check_environment() -> None:
    """Read every flag: a bad value of an environment variable is an error then."""
    for name in FLAGS:
        try:
            getattr(config, name)
        except ValueError as e:
            raise UsageError(str(e)) from None


def _complain(error: Exception, code: int) -> int:
    lines = str(error).splitlines() or [type(error).__name__]
    text = lines[0] if code == 2 else "\n  ".join(lines)
    print(f"tapefuse: {text}", file=sys.stderr)
    return code

"""The command line: ``lycopatch inspect | check | list | bake``.

torch is imported by the commands and not here, so that ``--help`` answers at once.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from lycopatch.cli.parser import INTERRUPTED, TROUBLE, build_parser

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code. Raises SystemExit for ``--help`` (0) and wrong usage (2)."""
    arguments = build_parser().parse_args(argv)
    try:
        status = _run(arguments.command, arguments)
        sys.stdout.flush()
        return status
    except KeyboardInterrupt:
        print("\nInterrupted.", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # The reader of a pipe has seen enough. Python would complain once more when it closes the stream.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return TROUBLE


def _run(command: str, arguments: object) -> int:
    from lycopatch.cli import baking, checking, inspecting, listing
    from lycopatch.cli.terminal import Refused, trouble
    from lycopatch.engine.errors import AdapterError

    commands = {"inspect": inspecting.run, "check": checking.run, "list": listing.run, "bake": baking.run}
    try:
        return commands[command](arguments)  # type: ignore[arg-type]
    except (AdapterError, Refused) as error:
        trouble(str(error))
    except MemoryError:
        trouble("There is not enough memory for this.")
    except BrokenPipeError:
        raise
    except OSError as error:
        trouble(f"The system reports: {error.strerror or error} ({error.filename}).")
    return TROUBLE

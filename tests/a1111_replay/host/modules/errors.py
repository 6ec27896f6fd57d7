"""The console: what is reported is written down instead of printed."""

from __future__ import annotations

import sys

from modules import _host


def report(message: str, *, exc_info: bool = False) -> None:
    exception = sys.exc_info()[1] if exc_info else None
    _host.current.errors.append(_host.Trouble(message, exception))


def display(e: BaseException, task: str, *, full_traceback: bool = False) -> None:
    _host.current.errors.append(_host.Trouble(task, e))


def display_once(e: BaseException, task: str) -> None:
    if not any(trouble.message == task for trouble in _host.current.errors):
        display(e, task)


def print_error_explanation(message: str) -> None:
    report(message)


def run(code, task):
    try:
        code()
    except Exception as e:
        display(e, task)

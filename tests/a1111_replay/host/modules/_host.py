"""What the replay is told before the WebUI's own modules are imported, and what it writes down for the tests."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Trouble:
    """What the WebUI would have printed on its console: the message, and the exception behind it."""

    message: str
    exception: BaseException | None = None

    def __str__(self) -> str:
        return self.message if self.exception is None else f"{self.message}: {self.exception!r}"


@dataclass
class Host:
    """One running WebUI. ``version``: (1, 5) … (1, 10); ``structures``: configuration file → name → shape."""

    version: tuple[int, int]
    script_path: Path
    data_path: Path
    arguments: list[str]
    structures: dict[str, dict[str, tuple[int, ...]]]
    half: bool = False
    manual_cast: bool = False
    model_loads: str = "early"
    errors: list[Trouble] = field(default_factory=list)
    events: list[str] = field(default_factory=list)
    saved: list[Any] = field(default_factory=list)
    on_step: Callable[[Any, int], None] | None = None


current: Host = None


def at_least(minor: int) -> bool:
    """True when the replayed release is 1.``minor`` or newer."""
    return current.version >= (1, minor)


def log(event: str) -> None:
    """Write down that something happened; the tests read the order."""
    current.events.append(event)

"""The WebUI's ``modules`` as empty as ``host_api`` can bear it, for tests of single rooms of the extension."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import ModuleType, SimpleNamespace

_ALWAYS = ("call_queue", "devices", "errors", "extra_networks", "paths", "script_callbacks", "sd_models", "shared")
_ROOMS = "lycopatch.hosts.a1111"


@contextmanager
def stub_modules(contents: Mapping[str, Mapping[str, object]]) -> Iterator[None]:
    """Inside, the rooms of the extension can be imported anew. ``contents``: name below ``modules`` → what is in it."""
    before = _take_away()
    package = sys.modules["modules"] = ModuleType("modules")
    package.__path__ = []
    for name in {*_ALWAYS, *contents}:
        module = sys.modules[f"modules.{name}"] = ModuleType(f"modules.{name}")
        vars(module).update(contents.get(name, {}))
        setattr(package, name, module)
    try:
        yield
    finally:
        _take_away()
        sys.modules.update(before)
        if _ROOMS in before:
            sys.modules["lycopatch.hosts"].a1111 = before[_ROOMS]  # type: ignore[attr-defined]


def shared(**options: object) -> dict[str, object]:
    """``modules.shared`` with these settings, for ``stub_modules``."""
    return {"opts": SimpleNamespace(**options), "cmd_opts": SimpleNamespace()}


def _take_away() -> dict[str, ModuleType]:
    names = [name for name in sys.modules if name.split(".")[0] == "modules" or name.startswith(_ROOMS)]
    return {name: sys.modules.pop(name) for name in names}

"""Clocks, memory and the description of the machine. Linux; elsewhere memory reads as None."""

from __future__ import annotations

import ctypes
import gc
import os
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

STATUS = Path("/proc/self/status")
MEGABYTE = 1e6


@dataclass(frozen=True)
class Seconds:
    """One measurement: CPU seconds of the whole process (user + system, all threads) and wall seconds."""

    cpu: float
    wall: float


def timed(action: Callable[[], object]) -> Seconds:
    gc.collect()  # so that nobody pays for somebody else's rubbish
    cpu, wall = time.process_time(), time.perf_counter()
    action()
    return Seconds(time.process_time() - cpu, time.perf_counter() - wall)


@dataclass(frozen=True)
class Memory:
    """Megabytes resident now (``anonymous`` and ``file``-backed pages) and the ``peak`` of their sum."""

    anonymous: float
    file: float
    peak: float


def memory_now() -> Memory | None:
    if not STATUS.exists():
        return None
    fields = dict(line.split(":", 1) for line in STATUS.read_text(encoding="ascii").splitlines())
    anonymous, file, peak = (int(fields[name].split()[0]) * 1024 / MEGABYTE for name in ("RssAnon", "RssFile", "VmHWM"))
    return Memory(anonymous, file, peak)


def settle_memory() -> None:
    """Collect garbage and give freed pages back, so that what is counted afterwards is really held."""
    gc.collect()
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (AttributeError, OSError):  # another libc: freed pages may still be counted
        return


def reset_peak() -> None:
    """Set the peak to what is resident now."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def conditions(threads: int, rounds: int, peer_rounds: int) -> dict[str, str]:
    """What a reader must know to compare two tables."""
    return {
        "CPU": f"{_cpu_model()}, {os.cpu_count()} cores, torch uses {torch.backends.cpu.get_cpu_capability()}",
        "software": f"Python {platform.python_version()}, torch {torch.__version__}, {platform.system()}",
        "threads": f"{threads} torch thread{'s' if threads > 1 else ''}",
        "rounds": f"{rounds} (peers: {min(rounds, peer_rounds)}); contenders interleaved, each time in a fresh process",
    }


def load_average() -> str:
    try:
        return "{:.1f} {:.1f} {:.1f}".format(*os.getloadavg())
    except OSError:
        return "unknown"


def _cpu_model() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()

"""``python benchmarks/run.py`` from anywhere: the same as ``python -m benchmarks`` in the project's folder."""

import runpy
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
runpy.run_module("benchmarks", run_name="__main__", alter_sys=True)

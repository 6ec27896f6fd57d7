"""Promise 4 in numbers: what an active network costs in memory, and that nothing grows however often it is switched.

Measured in a process of its own, so that other tests' memory does not count.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is measured by /proc")

COMMON = """
import ctypes, gc, json, os, sys, threading
from pathlib import Path

import torch

torch.set_num_threads(2)
sys.path[:0] = [sys.argv[1] + "/extensions_lib", sys.argv[1] + "/tests"]
from networks import write_network
from random_models import copied, differing, layers_of, pooled_tensors, sd15, shapes_of, write_checkpoint
from lycopatch.hosts.memory import NetworkLoader

folder = Path(sys.argv[2])


def private_bytes():
    gc.collect()
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except AttributeError:  # only glibc has it
        pass
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("RssAnon"))


def open_files():
    return len(os.listdir("/proc/self/fd"))
"""

FULL_SIZE = """
tensors = pooled_tensors(shapes_of("sd15_checkpoint"), torch.float16)
checkpoint = write_checkpoint(folder / "model" / "c.safetensors", tensors)
write_network(folder / "lora16.safetensors", layers_of(tensors), "lora")
loader = NetworkLoader(tensors, [folder], checkpoint=checkpoint)
# one small switch first: threads, buffers of torch and caches of Python come with the first one
write_network(folder / "first.safetensors", layers_of(tensors, only=("conv_in",)), "lora")
loader.activate("<lora:first>")
loader.deactivate()
before = private_bytes()
report = loader.activate("<lora:lora16:0.8>")
active = private_bytes()
names = [name for name in tensors if tensors[name].dim() > 1]
touched = sum(tensors[name].numel() * tensors[name].element_size() for name in names)
loader.activate("<lora:lora16:0.4>")
switched = private_bytes()
loader.deactivate()
after = private_bytes()
loader.close()
print(json.dumps({
    "ok": report.ok, "active": report.tensors_active, "touched": touched, "held": loader.session.bytes_held,
    "while_active": active - before, "after_a_switch": switched - before, "afterwards": after - before,
}))
"""

THOUSAND = """
start = sd15(shrink=40)
model = copied(start)
small = layers_of(start, only=("conv_in", "layers_0_", "down_blocks_0_attentions_0"))
for algorithm in ("lora", "lokr", "norm", "dora", "full_with_bias", "oft"):
    write_network(folder / f"{algorithm}.safetensors", small, algorithm)
checkpoint = write_checkpoint(folder / "model" / "c.safetensors", start)
prompts = ["<lora:lora:0.5>", "<lora:lokr><lora:norm:0.3>", "<lora:dora>", "<lora:full_with_bias>", "<lora:nosuch>", "",
           "<lora:oft:0.2><lora:lora>", "<lora:lora:0.5:lbw=x>"]
loaders = [NetworkLoader(model, [folder], checkpoint=checkpoint, workers=2)]
for prompt in prompts * 5:
    loaders[0].activate(prompt)
loaders[0].deactivate()
objects, memory, files, threads = [], [], [], []
for turn in range(1000):
    loaders[0].activate(prompts[turn % len(prompts)])
    if turn % 100 == 99:
        write_network(folder / "lokr.safetensors", small, "lokr", seed=turn)  # a file that is written again and again
        loaders[0].deactivate()
        memory.append(private_bytes())
        objects.append(len(gc.get_objects()))
        files.append(open_files())
        threads.append(threading.active_count())
exact = not differing(model, start)
loaders[0].close()
print(json.dumps({"objects": objects, "memory": memory, "files": files, "threads": threads, "exact": exact,
                  "held": loaders[0].session.bytes_held, "files_closed": open_files()}))
"""


def measured(program: str, folder: Path) -> dict:
    command = [sys.executable, "-c", COMMON + program, str(ROOT), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture
def big_folder() -> Iterator[Path]:
    """A folder that is gone after the test: pytest would keep those of the last three runs, gigabytes each."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


@pytest.mark.slow
def test_with_originals_in_the_file_an_active_network_costs_at_most_a_twentieth_of_what_it_touches(
    big_folder: Path,
) -> None:
    got = measured(FULL_SIZE, big_folder)
    assert got["ok"]
    assert got["active"] > 350
    assert got["touched"] > 1.9e9
    assert got["held"] == 0
    for when in ("while_active", "after_a_switch", "afterwards"):
        assert got[when] <= 0.05 * got["touched"], got


@pytest.mark.slow
def test_nothing_grows_over_a_thousand_switches(tmp_path: Path) -> None:
    got = measured(THOUSAND, tmp_path)
    assert got["exact"]
    assert got["held"] == 0
    assert set(got["threads"]) == {1}
    assert len(set(got["files"])) == 1
    assert got["files_closed"] == got["files"][0] - 1  # the checkpoint
    assert max(got["objects"]) - got["objects"][0] < 500, got["objects"]
    assert max(got["memory"]) - got["memory"][0] < 8e6, got["memory"]

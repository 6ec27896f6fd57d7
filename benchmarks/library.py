"""A library of thousands of networks: how long it takes to know it, to know it again, and to notice one new file.

``python -m benchmarks.library --count 10000`` writes the files (headers of about 20 KB in front of holes instead of
numbers), starts a fresh process for each measurement and prints one small table.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.measure import load_average, memory_now, settle_memory
from lycopatch.engine.catalog import Catalog
from lycopatch.engine.catalog_store import CatalogStore

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = 60
WORDS = "ink wash stripes paper harbour lantern forest robot portrait cat glass neon winter clay comic sketch".split()
PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d49484452000000010000000108060000001f15c4890000000d49444154789c63f8cfc0f01f00050001ff"
    "a3d1b1760000000049454e44ae426082"
)
Tensors = dict[str, list[int]]


def layers_of(family: str) -> list[tuple[str, int, int]]:
    """Name, outputs and inputs of some real layers: the cross-attention's keys and values."""
    if family == "sd1":
        places = [(f"down_blocks_{i}_attentions_{j}", 320 * 2**i) for i in range(3) for j in range(2)]
        places += [(f"up_blocks_{i}_attentions_{j}", 1280 // 2 ** (i - 1)) for i in (1, 2, 3) for j in range(3)]
        blocks = [(f"lora_unet_{place}_transformer_blocks_0", width, 768) for place, width in places]
    else:
        blocks = [
            (f"lora_unet_input_blocks_{i}_1_transformer_blocks_{j}", width, 2048)
            for i, width, depth in ((4, 640, 2), (5, 640, 2), (7, 1280, 10))
            for j in range(depth)
        ]
    return [(f"{block}_attn2_to_{each}", width, context) for block, width, context in blocks for each in "kv"]


def lora(name: str, rows: int, columns: int, rank: int) -> Iterator[tuple[str, list[int]]]:
    yield f"{name}.alpha", []
    yield f"{name}.lora_down.weight", [rank, columns]
    yield f"{name}.lora_up.weight", [rows, rank]


def dora(name: str, rows: int, columns: int, rank: int) -> Iterator[tuple[str, list[int]]]:
    yield from lora(name, rows, columns, rank)
    yield f"{name}.dora_scale", [1, columns]


def loha(name: str, rows: int, columns: int, rank: int) -> Iterator[tuple[str, list[int]]]:
    yield f"{name}.alpha", []
    for each in "12":
        yield f"{name}.hada_w{each}_a", [rows, rank]
        yield f"{name}.hada_w{each}_b", [rank, columns]


def lokr(name: str, rows: int, columns: int, rank: int) -> Iterator[tuple[str, list[int]]]:
    yield f"{name}.alpha", []
    yield f"{name}.lokr_w1", [8, 8]
    yield f"{name}.lokr_w2_a", [rows // 8, rank]
    yield f"{name}.lokr_w2_b", [rank, columns // 8]


def ia3(name: str, rows: int, columns: int, rank: int) -> Iterator[tuple[str, list[int]]]:
    yield f"{name}.weight", [rows]
    yield f"{name}.on_input", []


ALGORITHMS: tuple[Callable[[str, int, int, int], Iterator[tuple[str, list[int]]]], ...] = (
    *(lora,) * 6,
    dora,
    loha,
    lokr,
    ia3,
)


def metadata_of(chance: random.Random, name: str, family: str, rank: int) -> dict[str, str]:
    """What kohya's trainer writes, in about 6 KB."""
    tags = {f"{chance.choice(WORDS)} {chance.choice(WORDS)} {n}": chance.randint(1, 90) for n in range(110)}
    return {
        "ss_output_name": f"{name} v{chance.randint(1, 9)}",
        "ss_network_module": "networks.lora",
        "ss_network_dim": str(rank),
        "ss_network_alpha": str(rank / 2),
        "ss_base_model_version": "sd_v1" if family == "sd1" else "sdxl_base_v1-0",
        "ss_sd_model_name": chance.choice(["base.safetensors", "ponyDiffusionV6XL.safetensors", "illustriousXL.ckpt"]),
        "ss_num_train_images": str(chance.randint(10, 500)),
        "ss_steps": str(chance.randint(500, 9000)),
        "ss_tag_frequency": json.dumps({"10_concept": tags}),
        "ss_bucket_info": json.dumps(
            {"buckets": {str(n): {"resolution": [512, 64 * n], "count": n} for n in range(9)}}
        ),
        "sshs_model_hash": f"{chance.getrandbits(256):064x}",
        "ss_dataset_dirs": json.dumps({"10_concept": {"n_repeats": 10, "img_count": 40}}),
    }


def write_network(path: Path, chance: random.Random) -> None:
    """A safetensors file with a real header; its numbers are a hole that takes no room on the disk."""
    family, algorithm, rank = chance.choice(("sd1", "sdxl")), chance.choice(ALGORITHMS), 2 ** chance.randint(2, 7)
    header: dict[str, Any] = {"__metadata__": metadata_of(chance, path.stem, family, rank)}
    end = 0
    for name, rows, columns in layers_of(family):
        for key, shape in algorithm(name, rows, columns, rank):
            begin, size = end, 2
            for axis in shape:
                size *= axis
            end = begin + size
            header[key] = {"dtype": "F16", "shape": shape, "data_offsets": [begin, end]}
    raw = json.dumps(header).encode()
    with open(path, "wb") as file:
        file.write(len(raw).to_bytes(8, "little") + raw)
        file.truncate(8 + len(raw) + end)


def write_library(folder: Path, count: int) -> None:
    """``count`` networks in subfolders; every tenth has a preview, every twentieth a side-car."""
    chance = random.Random(0)
    for number in range(count):
        place = folder / f"{chance.choice(WORDS)} {number % FOLDERS}"
        place.mkdir(parents=True, exist_ok=True)
        path = place / f"{chance.choice(WORDS)}_{chance.choice(WORDS)}_{number:05}.safetensors"
        write_network(path, chance)
        if number % 10 == 0:
            path.with_suffix(".preview.png").write_bytes(PNG)
        if number % 20 == 0:
            words = {"description": "A style.", "activation text": f"{chance.choice(WORDS)} style", "notes": ""}
            path.with_suffix(".json").write_text(json.dumps(words), encoding="utf-8")


def settle(folder: Path) -> None:
    """Let the folders look as if nobody had changed them for a while."""
    then = time.time() - 3600
    for path in [folder, *(path for path in folder.iterdir() if path.is_dir())]:
        os.utime(path, (then, then))


def measure(step: str, networks: Path, database: Path) -> dict[str, float]:
    """One measurement in this process."""
    settle_memory()
    before = memory_now()
    begun = time.perf_counter()
    store = CatalogStore(database)
    catalog = Catalog([networks], store=store)
    found: dict[str, float] = {}
    if step == "cold":
        processor = time.process_time()
        catalog.index()
        found["cold index s"] = time.perf_counter() - begun
        found["… of the processor s"] = time.process_time() - processor
    else:
        catalog.refresh_changed()
        question = "SELECT stem FROM files JOIN seen ON file_id = id ORDER BY stem LIMIT 100"
        rows = store.connection().execute(question).fetchall()
        found["warm start s"] = time.perf_counter() - begun
        assert len(rows) == min(100, len(list(networks.rglob("*.safetensors"))))
        folder = next(path for path in networks.iterdir() if path.is_dir())
        begun = time.perf_counter()
        assert not catalog.refresh_changed()
        found["nothing changed ms"] = (time.perf_counter() - begun) * 1e3
        write_network(folder / "brand new.safetensors", random.Random(1))
        begun = time.perf_counter()
        assert catalog.refresh_changed()
        found["one new file ms"] = (time.perf_counter() - begun) * 1e3
        begun = time.perf_counter()
        catalog.index()
        found["its header ms"] = (time.perf_counter() - begun) * 1e3
        (folder / "brand new.safetensors").unlink()
        catalog.refresh_changed()
    settle_memory()
    after = memory_now()
    if before and after:
        found[f"memory after {step} start MB"] = after.anonymous - before.anonymous
    catalog.close()
    store.close()
    return found


def in_fresh_process(step: str, networks: Path, database: Path) -> dict[str, float]:
    """What ``measure`` returns in a process of its own, after the imports."""
    command = [sys.executable, "-m", "benchmarks.library", "--step", step, "--folder", str(networks)]
    paths = [str(ROOT), str(ROOT / "extensions_lib"), os.environ.get("PYTHONPATH", "")]
    env = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths)), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*command, "--database", str(database)], env=env, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    return json.loads(done.stdout.strip().splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.library", description=__doc__)
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--folder", type=Path, help="where the networks go or are (default: a temporary folder)")
    parser.add_argument("--database", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--step", choices=("cold", "warm"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.step:
        print(json.dumps(measure(options.step, options.folder, options.database)))
        return
    with tempfile.TemporaryDirectory(prefix="lycopatch-library-") as temporary:
        networks = options.folder or Path(temporary) / "Lora"
        if not networks.exists():
            print(f"writing {options.count} networks into {networks}", file=sys.stderr)
            write_library(networks, options.count)
        settle(networks)
        database = Path(temporary) / "catalog.sqlite"
        found = in_fresh_process("cold", networks, database)
        found |= in_fresh_process("warm", networks, database)
        found["database MB"] = sum(path.stat().st_size for path in Path(temporary).glob("catalog.sqlite*")) / 1e6
        headers = [int.from_bytes(path.open("rb").read(8), "little") for path in networks.rglob("*.safetensors")]
    print(f"{len(headers)} networks, headers of {sum(headers) / len(headers) / 1e3:.0f} KB, load {load_average()}")
    for name, value in found.items():
        print(f"{name:<28} {value:10.2f}")


if __name__ == "__main__":
    main()

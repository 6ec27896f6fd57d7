"""Promise 2: after any number of switches, and after errors half way, every tensor is bit for bit what it was.

The small model runs many switches and every kind of error; the full-size one proves that size changes nothing.
"""

from __future__ import annotations

import random
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from lycopatch.engine.errors import AdapterError, CheckpointChanged
from lycopatch.engine.reading import open_tensor_file
from lycopatch.hosts.memory import NetworkLoader
from lycopatch.hosts.memory.models import DictModel
from networks import Tensors, network, write_network
from random_models import copied, differing, layers_of, pooled_tensors, sd15, shapes_of, write_checkpoint

SIX = ("lora", "lokr", "loha", "norm_and_full", "oft", "dora")


class Cancelled(Exception):
    """What a host's progress callback raises."""


class Fragile(DictModel):
    """A model of which one access to a tensor fails, when told so, as a device that runs out of memory does."""

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        super().__init__(tensors)
        self.fail_in: int | None = None
        self._guard = threading.Lock()

    def tensor(self, name: str) -> Tensor:
        with self._guard:
            if self.fail_in is not None:
                self.fail_in -= 1
                if self.fail_in < 0:
                    self.fail_in = None
                    raise MemoryError("no memory for this tensor")
        return super().tensor(name)


def write_six(folder: Path, model: Mapping[str, Tensor], *, sparing: bool) -> None:
    """Six networks of as many algorithms; ``sparing``: each on a part of the model, together on all kinds of layers."""

    def some(*words: str) -> dict[str, tuple[int, ...]]:
        return layers_of(model, only=words if sparing else ("",))

    write_network(folder / "lora.safetensors", some("mid_block", "up_blocks_2", "layers_1"), "lora", seed=1)
    write_network(folder / "lokr.safetensors", some("down_blocks_1", "layers_3"), "lokr", seed=2)
    write_network(folder / "loha.safetensors", some("attn2_to_k", "attn2_to_v", "layers_11"), "loha", seed=3)
    write_network(folder / "oft.safetensors", some("down_blocks_0_attentions", "layers_5_self"), "oft", seed=4)
    write_network(folder / "dora.safetensors", some("up_blocks_3_attentions", "layers_7"), "dora", seed=5)
    mixed: Tensors = network(layers_of(model), "norm", seed=6)
    mixed |= network(layers_of(model, only=("conv_in", "time_emb", "conv_out")), "full_with_bias", seed=7)
    save_file(mixed, folder / "norm_and_full.safetensors")
    write_network(folder / "everywhere.safetensors", layers_of(model), "lora", seed=8)
    damaged = network(some("down_blocks_1", "layers_2"), "lora", seed=9)
    next(tensor for key, tensor in damaged.items() if key.endswith("lora_up.weight")).view(-1)[0] = float("nan")
    save_file(damaged, folder / "damaged.safetensors")


def random_prompt(rng: random.Random) -> str:
    """One to three tags, any weights, now and then the same network twice, one that is not there or one with NaN."""
    names = rng.choices(SIX, k=rng.choice((1, 1, 2, 3)))
    if rng.random() < 0.15:
        names.append(rng.choice(("no-such-network", "damaged")))
    tags = []
    for name in names:
        te = round(rng.uniform(-1.2, 1.2), 2)
        unet = rng.choice(("", f":{rng.uniform(-1.2, 1.2):.3f}", ":0", ":0.8:2"))
        tags.append(f"<{rng.choice(('lora', 'lyco'))}:{name}:{te}{unet}>")
    return " and ".join(tags)


def one_error(loader: NetworkLoader, model: Fragile, folder: Path, rng: random.Random) -> None:
    """Break an activation in one of the ways in which they break."""
    prompt = random_prompt(rng)
    kind = rng.randrange(4)
    if kind == 0:
        loader_step = rng.randrange(1, 30)
        with suppress(Cancelled):
            loader.activate(prompt, cancel_at(loader_step))
    elif kind == 1:
        model.fail_in = rng.randrange(300)
        with suppress(MemoryError):
            loader.activate(prompt)
        model.fail_in = None
    elif kind == 2:
        model.fail_in = rng.randrange(60)
        with suppress(MemoryError):
            loader.deactivate()
        model.fail_in = None
    else:
        victim = folder / f"{rng.choice(SIX)}.safetensors"
        shutil.copy2(victim, folder / "spare.bin")
        with suppress(AdapterError):
            loader.activate(prompt, cut_at(rng.randrange(1, 4), victim))
        shutil.copy2(folder / "spare.bin", victim)


def cancel_at(step: int) -> Callable[[int, int], None]:
    def progress(done: int, total: int) -> None:
        if done == step:
            raise Cancelled

    return progress


def cut_at(step: int, path: Path) -> Callable[[int, int], None]:
    def progress(done: int, total: int) -> None:
        if done == step:
            with path.open("r+b") as stream:
                stream.truncate(path.stat().st_size // 2)

    return progress


@pytest.mark.parametrize(
    ("dtype", "originals", "workers"),
    [
        (torch.float16, "file", 2),
        (torch.bfloat16, "file", 1),
        (torch.float16, "ram", 1),
        (torch.bfloat16, "ram", 2),
        (torch.float16, "half", 2),
    ],
)
def test_a_small_model_is_bit_equal_after_75_random_switches_and_errors(
    dtype: torch.dtype, originals: str, workers: int, tmp_path: Path
) -> None:
    start = sd15(shrink=40, dtype=dtype)
    write_six(tmp_path, start, sparing=True)
    checkpoint = write_checkpoint(tmp_path / "model" / "c.ckpt.safetensors", start) if originals != "ram" else None
    if originals == "half":
        for number, tensor in enumerate(start.values()):  # a merged model: every other tensor is not the file's
            tensor.view(-1)[-1] += number % 2
    tensors = copied(start)
    model = Fragile(tensors)
    loader = NetworkLoader(model, [tmp_path], checkpoint=checkpoint, workers=workers)
    rng = random.Random(f"{dtype} {originals} {workers}")
    for turn in range(75):
        if rng.random() < 0.3:
            one_error(loader, model, tmp_path, rng)
        else:
            prompt = random_prompt(rng)
            loader.activate(prompt)
            if turn % 10 == 0:
                fresh = copied(start)
                NetworkLoader(fresh, [tmp_path]).activate(prompt)
                assert not differing(tensors, fresh), prompt
        if turn % 25 == 0:
            loader.deactivate()
            assert not differing(tensors, start), turn
            assert loader.session.bytes_held == 0
    loader.activate("<lora:everywhere>")
    assert len(differing(tensors, start)) > 350
    loader.close()
    assert not differing(tensors, start)
    assert loader.session.bytes_held == 0


@pytest.fixture
def big_folder() -> Iterator[Path]:
    """A folder that is gone after the test: pytest would keep those of the last three runs, gigabytes each."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "originals"), [(torch.float16, "file"), (torch.bfloat16, "ram")])
def test_a_full_size_model_is_bit_equal_after_100_random_switches_and_errors(
    dtype: torch.dtype, originals: str, big_folder: Path
) -> None:
    """U-Net and text encoder of SD 1.5: a billion numbers."""
    tensors = pooled_tensors(shapes_of("sd15_checkpoint"), dtype)
    write_six(big_folder, tensors, sparing=True)
    checkpoint = write_checkpoint(big_folder / "model" / "c.safetensors", tensors)
    model = Fragile(tensors)
    loader = NetworkLoader(model, [big_folder], checkpoint=checkpoint if originals == "file" else None)
    rng = random.Random(7)
    loader.activate("<lora:everywhere:0.8>")
    assert len(list(_differing_from_file(tensors, checkpoint))) > 350
    for turn in range(100):
        if turn % 5 == 4:
            one_error(loader, model, big_folder, rng)
        else:
            loader.activate(random_prompt(rng))
        assert (loader.session.bytes_held > 0) <= (originals == "ram")
    loader.close()
    assert loader.session.bytes_held == 0
    assert not list(_differing_from_file(tensors, checkpoint))


def _differing_from_file(tensors: Mapping[str, Tensor], checkpoint: Path) -> Iterator[str]:
    """Names whose bits are not the file's, or that the file does not have; one tensor in memory at a time."""
    with open_tensor_file(checkpoint) as file:
        yield from tensors.keys() ^ file.specs.keys()
        for name in tensors.keys() & file.specs.keys():
            if differing({name: tensors[name]}, {name: file.read(name)}):
                yield name


def test_a_checkpoint_that_breaks_while_switching_is_a_sentence_every_time(tmp_path: Path) -> None:
    start = sd15(shrink=40)
    write_six(tmp_path, start, sparing=True)
    checkpoint = write_checkpoint(tmp_path / "model" / "c.safetensors", start)
    model = copied(start)
    loader = NetworkLoader(model, [tmp_path], checkpoint=checkpoint)
    loader.activate("<lora:lora>")
    with checkpoint.open("r+b") as stream:
        stream.truncate(checkpoint.stat().st_size // 2)
    active = copied(model)
    for prompt in ("<lora:oft>", "", "<lora:lora:0.5>"):
        with pytest.raises(CheckpointChanged, match="Load the checkpoint again"):
            loader.activate(prompt)
        assert not differing(model, active)
    loader.session.forget()
    loader.close()

"""The pristine weights: from the checkpoint file where it holds the very same bits, from a copy elsewhere, exactly."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor, nn

import lycopatch
from lycopatch.engine import patching, writing
from lycopatch.engine.errors import CheckpointChanged
from lycopatch.engine.originals import same_bits
from lycopatch.hosts.memory import NetworkLoader
from networks import WITHOUT_NEW_BIASES, write_network
from oracles.case import F8
from random_models import as_module, copied, differing, layers_of, sd15, sd21, tensors_of, write_checkpoint

PLACES = ("conv_in", "down_blocks_0_attentions_0", "layers_0_")
CONV = "model.diffusion_model.input_blocks.0.0.weight"
Q = "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn1.to_q.weight"


class Loader(NetworkLoader):
    """A loader whose checkpoint file is closed at the end of the test, whatever became of it."""

    opened: ClassVar[list[NetworkLoader]] = []

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.opened.append(self)


@pytest.fixture(autouse=True)
def _close_checkpoints() -> Iterator[None]:
    yield
    for loader in Loader.opened:
        with suppress(CheckpointChanged):
            loader.close()
    Loader.opened.clear()


@cache
def pristine() -> Mapping[str, Tensor]:
    return sd15(shrink=40)


def size(tensor: Tensor) -> int:
    """In bytes; ``Tensor.nbytes`` came with torch 2.1."""
    return tensor.numel() * tensor.element_size()


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return write_checkpoint(tmp_path / "checkpoint.safetensors", pristine())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    layers = layers_of(pristine(), only=PLACES)
    for algorithm in ("lora", "lokr", "norm", "dora", "oft", "full_with_bias"):
        write_network(tmp_path / "networks" / f"{algorithm}.safetensors", layers, algorithm)
    return tmp_path / "networks"


def test_nothing_is_copied_when_the_checkpoint_file_has_the_same_bits(folder: Path, checkpoint: Path) -> None:
    model = copied(pristine())
    loader = Loader(model, [folder], checkpoint=checkpoint)
    report = loader.activate("<lora:lora:0.5><lora:norm><lora:dora:0.3>")
    assert report.tensors_active > 20
    assert loader.session.bytes_held == 0
    assert len(differing(model, pristine())) == report.tensors_active
    assert loader.deactivate() == report.tensors_active
    assert not differing(model, pristine())


@pytest.mark.parametrize("block", [None, 64, 1000])
@pytest.mark.parametrize("workers", [1, 2])
def test_originals_from_the_file_and_from_copies_lead_to_the_same_bits(
    workers: int, block: int | None, folder: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if block:
        monkeypatch.setattr(writing, "BLOCK_ELEMENTS", block)
        monkeypatch.setattr(writing, "SMALL_BLOCK_ELEMENTS", block)
    file, ram = copied(pristine()), copied(pristine())
    of_file = Loader(file, [folder], checkpoint=checkpoint, workers=workers)
    of_ram = Loader(ram, [folder], workers=workers)
    for prompt in ("<lora:lora>", "<lora:lokr:0.4><lora:norm>", "<lora:dora><lora:lora:-1>", "<lora:oft>", ""):
        of_file.activate(prompt)
        of_ram.activate(prompt)
        assert not differing(file, ram), prompt
    assert not differing(file, pristine())


@pytest.mark.parametrize("place", [0, 100, -1])
@pytest.mark.parametrize("block", [None, 32])
def test_a_live_tensor_that_differs_from_the_file_is_copied_and_all_others_are_not(
    block: int | None, place: int, folder: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One bit, at the beginning, in the middle or at the end: the blocks before it have been overwritten by then."""
    if block:
        monkeypatch.setattr(writing, "BLOCK_ELEMENTS", block)
    merged = copied(pristine())
    bits = merged[CONV].view(-1).view(torch.int16)
    bits[place] ^= 1
    for algorithm in ("lora", "lokr", "dora", "full_with_bias"):
        model, plain = copied(merged), copied(merged)
        loader = Loader(model, [folder], checkpoint=checkpoint)
        loader.activate(f"<lora:{algorithm}:0.5>")
        Loader(plain, [folder]).activate(f"<lora:{algorithm}:0.5>")
        assert not differing(model, plain)
        made_biases = sum(size(tensor) for name, tensor in model.items() if name not in merged)
        assert loader.session.bytes_held in (size(merged[CONV]), size(merged[CONV]) + made_biases)
        loader.deactivate()
        assert not differing(model, merged)
        assert loader.session.bytes_held == 0


def test_one_touched_tensor_after_another_is_given_back_when_an_activation_breaks_off_in_the_middle_of_it(
    folder: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For every block of every tensor: an error there, from the file's originals, leaves the pristine bits."""
    monkeypatch.setattr(writing, "BLOCK_ELEMENTS", 64)
    original = patching.Originals.rows
    calls, fail_at = 0, 0

    def rows(self: patching.Originals, name: str, live: Tensor, start: int, stop: int, scratch: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        found = original(self, name, live, start, stop, scratch)
        if calls == fail_at:
            raise MemoryError("just now")
        return found

    monkeypatch.setattr(patching.Originals, "rows", rows)
    model = copied(pristine())
    model[CONV].view(-1)[50] = 3.0
    start = copied(model)
    loader = Loader(model, [folder], checkpoint=checkpoint, workers=1)
    loader.activate("<lora:lora:0.5><lora:norm>")
    loader.deactivate()
    total, calls = calls, 0
    assert total > 100
    for fail_at in range(1, total, 7):
        calls = 0
        with pytest.raises(MemoryError):
            loader.activate("<lora:lora:0.5><lora:norm>")
        assert not differing(model, start), f"call {fail_at}"
        assert loader.session.bytes_held == 0


@pytest.mark.parametrize(
    ("stored", "live"),
    [
        (torch.float32, torch.float16),
        (torch.float32, torch.bfloat16),
        (torch.bfloat16, torch.float32),
        (torch.float16, torch.float32),
    ],
)
def test_a_checkpoint_of_another_number_format_gives_the_converted_originals(
    stored: torch.dtype, live: torch.dtype, folder: Path, tmp_path: Path
) -> None:
    source = {name: tensor.to(stored) for name, tensor in sd15(shrink=40, dtype=torch.float32).items()}
    checkpoint = write_checkpoint(tmp_path / "c.safetensors", source)
    start = {name: tensor.to(live) for name, tensor in source.items()}
    model = copied(start)
    loader = Loader(model, [folder], checkpoint=checkpoint)
    loader.activate("<lora:lora:0.5><lora:lokr><lora:norm>")
    assert len(differing(model, start)) > 20
    assert loader.session.bytes_held == 0
    loader.deactivate()
    assert not differing(model, start)


@settings(max_examples=20)
@given(
    st.sampled_from(WITHOUT_NEW_BIASES),
    st.lists(st.integers(-(2**15), 2**15 - 1), min_size=1, max_size=60),
    st.sampled_from([torch.float16, torch.bfloat16]),
    st.booleans(),
)
def test_any_bits_come_back_also_payloads_of_nan_and_minus_zero(
    tmp_path_factory: pytest.TempPathFactory, algorithm: str, patterns: list[int], dtype: torch.dtype, from_file: bool
) -> None:
    tmp_path = tmp_path_factory.mktemp("bits")
    model = {name: tensor.to(dtype, copy=True) for name, tensor in pristine().items()}
    for name in (CONV, Q):
        odd = torch.tensor([*patterns, 0x7C01, -0x8000, 0x7E55, -0x3FF], dtype=torch.int16)
        model[name].view(-1).view(torch.int16)[3 : 3 + len(odd)] = odd
    start = copied(model)
    write_network(tmp_path / "n.safetensors", layers_of(start, only=PLACES), algorithm)
    checkpoint = write_checkpoint(tmp_path / "c.safetensors", start) if from_file else None
    loader = Loader(model, [tmp_path], checkpoint=checkpoint)
    loader.activate("<lora:n:0.5>")
    assert differing(model, start)
    loader.deactivate()
    assert not differing(model, start)


def test_same_bits_sees_every_difference_and_no_other_one() -> None:
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.uint8, *F8):
        itemsize = torch.empty((), dtype=dtype).element_size()
        for length in (0, 1, 2, 3, 7, 8, 33):
            for offset in (0, 1, 3):
                raw = torch.randint(0, 256, ((length + offset) * itemsize,), dtype=torch.uint8)
                one, two = raw.clone().view(dtype)[offset:], raw.clone().view(dtype)[offset:]
                assert same_bits(one, two)
                for byte in range(length * itemsize):
                    two.view(torch.uint8)[byte] ^= 0x80
                    assert not same_bits(one, two)
                    two.view(torch.uint8)[byte] ^= 0x80
    nan, zero = torch.tensor([float("nan")]), torch.zeros(1)
    assert same_bits(nan, nan.clone())
    assert not same_bits(zero, -zero)
    assert not same_bits(zero, torch.zeros(2))
    spread = torch.arange(12, dtype=torch.float16).view(6, 2)[:, 0]
    assert same_bits(spread, spread.clone())


@pytest.mark.parametrize("algorithm", WITHOUT_NEW_BIASES)
def test_odd_memory_layouts_are_verified_patched_and_given_back_from_the_file(
    algorithm: str, tmp_path: Path, checkpoint: Path
) -> None:
    """channels_last convolutions, transposed matrices, vectors with gaps."""
    write_network(tmp_path / "n.safetensors", layers_of(pristine(), only=PLACES), algorithm)
    plain, odd = copied(pristine()), {name: _odd_layout(tensor) for name, tensor in pristine().items()}
    loader = Loader(odd, [tmp_path], checkpoint=checkpoint)
    loader.activate("<lora:n:0.5>")
    Loader(plain, [tmp_path]).activate("<lora:n:0.5>")
    assert loader.session.bytes_held == 0
    assert not differing(odd, plain)
    loader.deactivate()
    assert not differing(odd, pristine())


def _odd_layout(tensor: Tensor) -> Tensor:
    if tensor.dim() == 4:
        return tensor.clone().contiguous(memory_format=torch.channels_last)
    if tensor.dim() == 2:
        return tensor.T.contiguous().T
    return torch.stack([tensor, tensor], dim=1)[:, 0]


# --- the file changes -----------------------------------------------------------------------------


def _rewrite(path: Path) -> None:
    other = write_checkpoint(path.with_name("other.safetensors"), sd15(shrink=40, seed=9))
    path.write_bytes(other.read_bytes())  # the same file on disk, with other content of the same size
    os.utime(path, ns=(1, 1))


def _replace(path: Path) -> None:
    other = path.with_name("other.safetensors")
    write_checkpoint(other, sd15(shrink=40, seed=9))
    os.utime(other, ns=(1, 1))
    os.replace(other, path)


def _touch(path: Path) -> None:
    os.utime(path, ns=(1, 1))


def _append(path: Path) -> None:
    with path.open("ab") as stream:
        stream.write(b"\0")


def _cut(path: Path) -> None:
    with path.open("r+b") as stream:
        stream.truncate(path.stat().st_size // 2)


def _delete(path: Path) -> None:
    path.unlink()


CHANGES = (_rewrite, _replace, _touch, _append, _cut, _delete)


@pytest.mark.parametrize("change", CHANGES)
def test_a_checkpoint_that_changed_before_is_noticed_and_nothing_is_written(
    change: Callable[[Path], None], folder: Path, checkpoint: Path
) -> None:
    model = copied(pristine())
    loader = Loader(model, [folder], checkpoint=checkpoint)
    change(checkpoint)
    with pytest.raises(CheckpointChanged, match=r"checkpoint\.safetensors.*Load the checkpoint again"):
        loader.activate("<lora:lora>")
    assert not differing(model, pristine())
    assert loader.deactivate() == 0


@pytest.mark.parametrize("change", CHANGES)
def test_a_checkpoint_that_changes_while_networks_are_active_is_noticed_before_anything_is_written(
    change: Callable[[Path], None], folder: Path, checkpoint: Path
) -> None:
    model = copied(pristine())
    loader = Loader(model, [folder], checkpoint=checkpoint)
    loader.activate("<lora:lora:0.5>")
    active = copied(model)
    change(checkpoint)
    loader.activate("<lora:lora:0.5>")  # the same plan needs no originals
    with pytest.raises(CheckpointChanged):
        loader.activate("<lora:lora:0.6><lora:norm>")
    assert not differing(model, active)
    loader.session.forget()
    assert loader.deactivate() == 0


@pytest.mark.parametrize("change", [_replace, _delete])
def test_a_checkpoint_that_only_lost_its_name_still_gives_the_originals_back(
    change: Callable[[Path], None], folder: Path, checkpoint: Path
) -> None:
    if os.name == "nt":
        pytest.skip("an open file can neither be replaced nor deleted there")
    model = copied(pristine())
    loader = Loader(model, [folder], checkpoint=checkpoint)
    count = loader.activate("<lora:lora:0.5><lora:norm>").tensors_active
    change(checkpoint)
    assert loader.deactivate() == count
    assert not differing(model, pristine())


@pytest.mark.parametrize("change", [_rewrite, _append, _cut])
def test_nothing_is_given_back_from_a_file_whose_content_changed(
    change: Callable[[Path], None], folder: Path, checkpoint: Path
) -> None:
    model = copied(pristine())
    loader = Loader(model, [folder], checkpoint=checkpoint)
    loader.activate("<lora:lora:0.5>")
    active = copied(model)
    change(checkpoint)
    with pytest.raises(CheckpointChanged):
        loader.deactivate()
    assert not differing(model, active)
    loader.session.forget()


def test_a_restore_that_fails_in_the_middle_of_a_half_written_tensor_can_be_tried_again(
    folder: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model differs from the file in rows that were not reached: these must never come from the file."""
    monkeypatch.setattr(writing, "BLOCK_ELEMENTS", 36)
    merged = copied(pristine())
    merged[CONV][-1] = 9.0
    model = copied(merged)
    loader = Loader(model, [folder], checkpoint=checkpoint, workers=1)
    rows, read_into = patching.Originals.rows, patching.Originals._read_into
    failed: list[str] = []

    def failing_rows(self: patching.Originals, name: str, live: Tensor, *rest: Any) -> Tensor:
        if name == CONV and rest[0] == 2 and not failed:
            failed.append("rows")
            raise MemoryError("while writing")
        return rows(self, name, live, *rest)

    def failing_read(self: patching.Originals, name: str, tensor: Tensor, count: int) -> None:
        if failed == ["rows"]:
            failed.append("restore")
            raise MemoryError("while restoring")
        read_into(self, name, tensor, count)

    layers = layers_of(pristine(), only=("conv_in",))
    write_network(folder / "one.safetensors", layers, "lora")
    monkeypatch.setattr(patching.Originals, "rows", failing_rows)
    monkeypatch.setattr(patching.Originals, "_read_into", failing_read)
    with pytest.raises(MemoryError):
        loader.activate("<lora:one>")
    assert failed == ["rows", "restore"]
    loader.deactivate()
    assert not differing(model, merged)


def test_numbers_of_a_closed_window_can_still_be_looked_at(checkpoint: Path) -> None:
    """An error report or a debugger prints tensors long after; pages that are gone would end the process."""
    program = (
        "import sys\n"
        "from lycopatch.engine.reading import open_tensor_file\n"
        "file = open_tensor_file(sys.argv[1])\n"
        "with file.window():\n"
        "    part = file.view(sys.argv[2], 0, 4)\n"
        "print(part)\n"
    )
    root = Path(lycopatch.__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-c", program, str(checkpoint), CONV],
        env={**os.environ, "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done


def test_after_forget_a_host_that_loaded_new_weights_in_place_is_patched_from_these(
    folder: Path, checkpoint: Path
) -> None:
    model = copied(pristine())
    loader = Loader(model, [folder])
    loader.activate("<lora:lora:0.5><lora:dora>")
    others = sd15(shrink=40, seed=5)
    for name, tensor in model.items():
        tensor.copy_(others[name])
    loader.session.forget()
    assert loader.session.bytes_held == 0
    assert loader.deactivate() == 0
    assert not differing(model, others)
    expected = copied(others)
    loader.activate("<lora:dora:0.5>")
    Loader(expected, [folder]).activate("<lora:dora:0.5>")
    assert not differing(model, expected)
    loader.deactivate()
    assert not differing(model, others)


# --- biases, modules, number formats --------------------------------------------------------------


@pytest.mark.parametrize("algorithm", ["full_with_bias", "bias_alone", "lora_with_bias"])
@pytest.mark.parametrize("with_file", [False, True])
def test_a_layer_without_bias_gets_one_and_loses_it_again(
    with_file: bool, algorithm: str, tmp_path: Path, checkpoint: Path
) -> None:
    module = as_module(pristine())
    owner = module.get_submodule(Q.removesuffix(".weight"))
    assert owner.bias is None
    write_network(tmp_path / "n.safetensors", layers_of(pristine(), only=("attn1_to_q",)), algorithm)
    file = checkpoint if with_file else None
    loader = Loader(module, [tmp_path], checkpoint=file)
    for weight in (0.5, 1.0, 0.5):
        assert loader.activate(f"<lora:n:{weight}>").ok
        assert isinstance(owner.bias, nn.Parameter)
        assert owner.bias.dtype == torch.float16
        assert bool(owner.bias.any())
        assert not owner.bias.requires_grad
    loader.activate("")
    assert owner.bias is None
    assert loader.session.bytes_held == 0
    assert not differing(tensors_of(module), pristine())
    state = set(module.state_dict())
    assert state == set(pristine())


def test_parameters_stay_the_same_objects(folder: Path) -> None:
    module = as_module(pristine())
    before = {name: (id(parameter), parameter.data_ptr()) for name, parameter in module.named_parameters()}
    loader = Loader(module, [folder])
    loader.activate("<lora:lora><lora:norm>")
    during = {name: (id(parameter), parameter.data_ptr()) for name, parameter in module.named_parameters()}
    loader.deactivate()
    assert before == during


def test_a_module_with_multihead_attention_gets_the_bits_of_a_dict(tmp_path: Path) -> None:
    tensors = sd21(shrink=40, dtype=torch.bfloat16)  # torch 2.0 has no half-precision matmul for the CPU
    layers = layers_of(tensors, only=("layers_0_", "layers_1_"))
    for algorithm in ("lora", "dora", "oft"):
        write_network(tmp_path / f"{algorithm}.safetensors", layers, algorithm)
    module, plain = as_module(tensors), copied(tensors)
    fused = [each for each in module.modules() if isinstance(each, nn.MultiheadAttention)]
    assert fused
    text = torch.randn(3, 1, fused[0].embed_dim).bfloat16()
    silent = fused[0](text, text, text)[0]
    of_module, of_dict = Loader(module, [tmp_path]), Loader(plain, [tmp_path])
    for prompt in ("<lora:lora:0.5>", "<lora:dora><lora:oft:0.5>"):
        assert of_module.activate(prompt).ok
        assert of_dict.activate(prompt).ok
        assert differing(plain, tensors)
        assert not differing(tensors_of(module), plain)
        assert not torch.equal(fused[0](text, text, text)[0], silent)
    of_module.deactivate()
    assert not differing(tensors_of(module), tensors)
    assert torch.equal(fused[0](text, text, text)[0], silent)


@pytest.mark.parametrize("dtype", [*F8, torch.float64])
@pytest.mark.parametrize("with_file", [False, True])
def test_unusual_number_formats_are_patched_and_come_back(with_file: bool, dtype: torch.dtype, tmp_path: Path) -> None:
    start = {name: tensor.to(dtype) for name, tensor in pristine().items()}
    layers = layers_of(start, only=PLACES)
    for algorithm in ("lora", "lokr", "dora"):
        write_network(tmp_path / f"{algorithm}.safetensors", layers, algorithm, dtype=torch.float32)
    file = write_checkpoint(tmp_path / "checkpoint" / "c.safetensors", start) if with_file else None
    model = copied(start)
    loader = Loader(model, [tmp_path], checkpoint=file)
    for prompt in ("<lora:lora>", "<lora:lokr:0.5><lora:dora>"):
        assert loader.activate(prompt).ok
        assert differing(model, start)
        assert bool(loader.session.bytes_held) is not with_file
    loader.deactivate()
    assert not differing(model, start)


def test_a_mixed_model_keeps_each_tensors_format(folder: Path) -> None:
    formats = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
    start = {name: tensor.to(formats[number % 4]) for number, (name, tensor) in enumerate(pristine().items())}
    model = copied(start)
    loader = Loader(model, [folder])
    for algorithm in ("lora", "oft", "full_with_bias", "norm"):
        loader.activate(f"<lora:{algorithm}>")
        assert differing(model, start)
        assert all(model[name].dtype == start[name].dtype for name in start)
    loader.deactivate()
    assert not differing(model, start)


def test_the_text_projection_that_is_stored_transposed_is_patched_the_right_way_round(tmp_path: Path) -> None:
    pooled = 16
    name = "cond_stage_model.model.text_projection"
    tensors = sd21(shrink=40) | {name: torch.randn(32, pooled).half()}
    diff = torch.randn(pooled, 32).half()
    save_file({"lora_te_text_projection.diff": diff}, tmp_path / "p.safetensors")
    model = copied(tensors)
    loader = Loader(model, [tmp_path])
    (tag,) = loader.activate("<lora:p:0.5>").tags
    assert tag.layers_applied == 1, [issue.message for issue in tag.issues]
    assert torch.equal(model[name], (tensors[name].float() + 0.5 * diff.float().T).half())
    loader.deactivate()
    assert not differing(model, tensors)

"""Step 8: one rounding, all or nothing, only what changed, and the same bits whatever the order, threads or layout."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor

from lycopatch.engine import patching, writing
from lycopatch.hosts.memory import NetworkLoader
from lycopatch.hosts.memory.models import DictModel
from networks import ALGORITHMS, WITHOUT_NEW_BIASES, Tensors, network, write_network
from random_models import copied, differing, layers_of, sd15, sd21

PLACES = ("conv_in", "down_blocks_0_attentions_0", "down_blocks_0_resnets_0", "layers_0_")
TRIPLE = ("lora", "dokr", "norm", "oft", "full_with_bias", "loha")


@cache
def pristine() -> Mapping[str, Tensor]:
    return sd15(shrink=40)


@cache
def places() -> Mapping[str, tuple[int, ...]]:
    return layers_of(pristine(), only=PLACES)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network of each algorithm on the same layers, named like the algorithm."""
    where = tmp_path_factory.mktemp("networks")
    for seed, algorithm in enumerate(ALGORITHMS):
        write_network(where / f"{algorithm}.safetensors", places(), algorithm, seed=seed)
    return where


def touched(model: Mapping[str, Tensor]) -> set[str]:
    return set(differing(model, pristine()))


def versions(model: Mapping[str, Tensor]) -> dict[str, int]:
    """Counts that torch raises with every write in place."""
    return {name: tensor._version for name, tensor in model.items()}


def written(before: Mapping[str, int], model: Mapping[str, Tensor]) -> set[str]:
    return {name for name, tensor in model.items() if before.get(name) != tensor._version}


# --- the numbers ----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_every_algorithm_is_written_with_one_rounding_and_undone_bit_for_bit(
    algorithm: str, dtype: torch.dtype, folder: Path
) -> None:
    start = {name: tensor.to(dtype) for name, tensor in pristine().items()}
    model, exact = copied(start), {name: tensor.double() for name, tensor in start.items()}
    loader = NetworkLoader(model, [folder])
    report = loader.activate(f"<lora:{algorithm}:0.7>")
    assert report.ok, report.messages()
    assert NetworkLoader(exact, [folder]).activate(f"<lora:{algorithm}:0.7>").ok
    changed = differing(model, start)
    assert len(changed) >= report.tags[0].layers_applied, "some tensors did not change at all"
    for name in changed:
        _assert_rounded_once(model[name], exact[name], name)
    loader.deactivate()
    assert not differing(model, start)
    assert loader.session.bytes_held == 0


def _assert_rounded_once(got: Tensor, exact: Tensor, name: str) -> None:
    """Within half a unit in the last place, and fp32's own error in the sum that was rounded."""
    tiny = torch.finfo(got.dtype).smallest_normal
    size = exact.abs().clamp(min=tiny)
    half_unit = torch.exp2(size.log2().floor()) * torch.finfo(got.dtype).eps / 2
    noise = 2e-6 * exact.abs().max()
    error = (got.double() - exact).abs()
    assert bool((error <= half_unit * 1.0001 + noise).all()), f"{name}: {float((error / half_unit).max())} half units"


def test_a_stack_of_all_algorithms_is_rounded_once_not_once_per_network(folder: Path) -> None:
    model, exact = copied(pristine()), {name: tensor.double() for name, tensor in pristine().items()}
    prompt = "".join(f"<lora:{algorithm}:{0.1 + 0.05 * n:.2f}>" for n, algorithm in enumerate(ALGORITHMS))
    assert NetworkLoader(model, [folder]).activate(prompt).ok
    assert NetworkLoader(exact, [folder]).activate(prompt).ok
    for name in touched(model):
        size = exact[name].abs().clamp(min=2.0**-14)
        half_unit = torch.exp2(size.log2().floor()) * 2.0**-11
        error = (model[name].double() - exact[name]).abs()
        # two dozen summands of fp32 noise; a second rounding would add a whole half unit
        assert bool((error <= half_unit * 1.02 + 4e-6 * exact[name].abs().max()).all()), name


@settings(max_examples=25)
@given(st.permutations(TRIPLE), st.integers(1, len(TRIPLE)), st.data())
def test_the_order_of_the_tags_is_irrelevant_bit_for_bit(
    folder: Path, order: list[str], count: int, data: st.DataObject
) -> None:
    chosen = order[:count]
    weights = {name: round(data.draw(st.floats(-1.5, 1.5)), 3) for name in chosen}
    one, other = copied(pristine()), copied(pristine())
    tags = [f"<lora:{name}:{weights[name]}>" for name in chosen]
    NetworkLoader(one, [folder]).activate("".join(tags))
    NetworkLoader(other, [folder]).activate("".join(reversed(tags)))
    assert not differing(one, other)


@settings(max_examples=15)
@given(st.sampled_from(sorted(ALGORITHMS)), st.sampled_from(["0", "0:0", "-0", "0.0:0.0"]))
def test_multiplier_zero_is_the_identity_and_writes_nothing(folder: Path, algorithm: str, zero: str) -> None:
    model = copied(pristine())
    before = versions(model)
    report = NetworkLoader(model, [folder]).activate(f"<lora:{algorithm}:{zero}>")
    assert report.tensors_written == report.tensors_active == 0
    assert not written(before, model)
    assert not touched(model)


def test_the_same_network_twice_adds_its_multipliers(folder: Path) -> None:
    once, twice = copied(pristine()), copied(pristine())
    NetworkLoader(once, [folder]).activate("<lora:full:0.75>")
    NetworkLoader(twice, [folder]).activate("<lora:full:0.5><lyco:full:0.25>")
    assert touched(once)
    assert not differing(once, twice)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_one_two_and_four_threads_give_identical_bits(algorithm: str, folder: Path) -> None:
    models = {workers: copied(pristine()) for workers in (1, 2, 4)}
    for workers, model in models.items():
        NetworkLoader(model, [folder], workers=workers).activate(f"<lora:{algorithm}:0.6><lora:lora:0.3>")
    assert touched(models[1])
    assert not differing(models[1], models[2])
    assert not differing(models[1], models[4])


@pytest.mark.parametrize("block", [64, 1000])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_the_size_of_the_blocks_changes_nothing_but_fp32_rounding(
    algorithm: str, block: int, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = {name: tensor.float() for name, tensor in pristine().items()}
    whole, pieces = copied(start), copied(start)
    NetworkLoader(whole, [folder]).activate(f"<lora:{algorithm}:0.6>")
    monkeypatch.setattr(writing, "BLOCK_ELEMENTS", block)
    monkeypatch.setattr(writing, "SMALL_BLOCK_ELEMENTS", block // 2)
    NetworkLoader(pieces, [folder]).activate(f"<lora:{algorithm}:0.6>")
    assert differing(whole, start)
    for name in differing(whole, pieces):
        torch.testing.assert_close(pieces[name], whole[name], rtol=1e-6, atol=1e-7, msg=f"{name}: {{}}".format)


@pytest.mark.parametrize("algorithm", WITHOUT_NEW_BIASES)
def test_the_memory_layout_of_the_live_tensors_changes_nothing(algorithm: str, folder: Path) -> None:
    """channels_last convolutions, transposed matrices, slices of larger tensors: the same bits as contiguous ones."""
    plain, odd = copied(pristine()), {name: _odd_layout(tensor) for name, tensor in pristine().items()}
    NetworkLoader(plain, [folder]).activate(f"<lora:{algorithm}:0.6>")
    loader = NetworkLoader(odd, [folder])
    loader.activate(f"<lora:{algorithm}:0.6>")
    assert touched(plain)
    assert not differing(plain, odd)
    strides = {name: tensor.stride() for name, tensor in odd.items()}
    loader.deactivate()
    assert not touched(odd)
    assert strides == {name: tensor.stride() for name, tensor in odd.items()}


def _odd_layout(tensor: Tensor) -> Tensor:
    if tensor.dim() == 4:
        return tensor.clone().contiguous(memory_format=torch.channels_last)
    if tensor.dim() == 2:
        return tensor.T.contiguous().T
    return torch.stack([tensor, tensor], dim=1)[:, 0]


def test_the_hosts_autocast_and_gradients_do_not_reach_the_arithmetic(folder: Path) -> None:
    plain, inside = copied(pristine()), copied(pristine())
    prompt = "<lora:lora:0.6><lora:dora:0.2><lora:boft:0.3>"
    NetworkLoader(plain, [folder]).activate(prompt)
    for tensor in inside.values():
        tensor.requires_grad_(True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loader = NetworkLoader(inside, [folder], workers=1)
        loader.activate(prompt)
        assert not differing(plain, inside)
        loader.deactivate()
    assert not touched(inside)
    assert all(tensor.grad_fn is None for tensor in inside.values())


@pytest.mark.parametrize("workers", [1, 2])
def test_the_hosts_default_dtype_and_device_do_not_reach_the_arithmetic(workers: int, folder: Path) -> None:
    plain, inside = copied(pristine()), copied(pristine())
    prompt = "<lora:lora:0.6><lora:oft:0.2><lora:lokr:0.3><lora:sparse_lora:0.3><lora:full_with_bias>"
    NetworkLoader(plain, [folder], workers=workers).activate(prompt)
    torch.set_default_dtype(torch.float64)
    torch.set_default_device("meta")
    try:
        loader = NetworkLoader(inside, [folder], workers=workers)
        loader.activate(prompt)
        assert not differing(plain, inside)
        loader.deactivate()
    finally:
        torch.set_default_device(None)
        torch.set_default_dtype(torch.float32)
    assert not touched(inside)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_model_loaded_in_inference_mode_can_be_patched_inside_and_outside_of_it(workers: int, folder: Path) -> None:
    prompt = "<lora:lora:0.6><lora:lokr:0.6><lora:full_with_bias>"
    plain = copied(pristine())
    NetworkLoader(plain, [folder]).activate(prompt)
    with torch.inference_mode():
        model = copied(pristine())
    for inside_first in (True, False):
        loader = NetworkLoader(model, [folder], workers=workers)
        with torch.inference_mode(inside_first):
            loader.activate(prompt)
        assert not differing(plain, model)
        with torch.inference_mode(not inside_first):
            loader.deactivate()
        assert not touched(model)


def test_own_threads_compute_without_inner_threads_to_their_end(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = patching.Originals.rows
    seen: set[int] = set()

    def rows(self: Any, *arguments: Any) -> Tensor:
        seen.add(torch.get_num_threads())
        return original(self, *arguments)

    monkeypatch.setattr(patching.Originals, "rows", rows)
    torch.set_num_threads(3)
    try:
        NetworkLoader(copied(pristine()), [folder], workers=2).activate("<lora:lora>")
        quiet = patching.on_a_quiet_thread(lambda: [torch.ones(4) @ torch.ones(4), torch.get_num_threads()][1])
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(1)
    assert (seen, quiet) == ({1}, 1)


def test_what_goes_wrong_on_a_quiet_thread_arrives() -> None:
    with pytest.raises(ZeroDivisionError):
        patching.on_a_quiet_thread(lambda: 1 // 0)


def test_the_number_of_torch_threads_is_left_as_it_was(folder: Path) -> None:
    seen: list[int] = []
    torch.set_num_threads(3)
    try:
        NetworkLoader(copied(pristine()), [folder], workers=2).activate("<lora:lora>")
        assert torch.get_num_threads() == 3
        thread = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
        thread.start()
        thread.join()
    finally:
        torch.set_num_threads(1)
    assert seen == [3]


# --- only what changed ----------------------------------------------------------------------------


def test_an_equal_plan_touches_nothing(folder: Path) -> None:
    model = copied(pristine())
    loader = NetworkLoader(model, [folder])
    first = loader.activate("<lora:lora:0.5><lora:norm:0.5><lora:dora:1:0.25>")
    before, bits = versions(model), copied(model)
    for prompt in (
        "<lora:lora:0.5><lora:norm:0.5><lora:dora:1:0.25>",
        "<lyco:dora:1:0.25> x <lora:norm:.5><lora:lora:0.50>",
    ):
        again = loader.activate(prompt)
        assert again.tensors_written == again.tensors_restored == 0
        assert again.tensors_active == first.tensors_active == first.tensors_written
    assert not written(before, model)
    assert not differing(model, bits)


def test_removing_one_of_two_networks_rewrites_only_its_tensors(tmp_path: Path) -> None:
    first = layers_of(pristine(), only=("down_blocks_0_attentions_0", "layers_0_"))
    second = layers_of(pristine(), only=("layers_0_", "layers_1_"))
    write_network(tmp_path / "first.safetensors", first, "lora")
    write_network(tmp_path / "second.safetensors", second, "lokr")
    model, alone = copied(pristine()), copied(pristine())
    loader = NetworkLoader(model, [tmp_path])
    loader.activate("<lora:first:0.5><lora:second:0.5>")
    NetworkLoader(alone, [tmp_path]).activate("<lora:first:0.5>")
    both = {name for name in touched(model) if ".layers.0." in name}
    only_second = {name for name in touched(model) if ".layers.1." in name}
    before = versions(model)
    report = loader.activate("<lora:first:0.5>")
    assert both
    assert written(before, model) == both | only_second
    assert (report.tensors_written, report.tensors_restored) == (len(both), len(only_second))
    assert not differing(model, alone)


def test_changing_one_weight_rewrites_only_the_tensors_of_that_network(tmp_path: Path) -> None:
    write_network(tmp_path / "a.safetensors", layers_of(pristine(), only=("down_blocks_0_attentions_0",)), "lora")
    write_network(tmp_path / "b.safetensors", layers_of(pristine(), only=("layers_0_",)), "lora")
    model = copied(pristine())
    loader = NetworkLoader(model, [tmp_path])
    loader.activate("<lora:a:0.5><lora:b:0.5>")
    before = versions(model)
    loader.activate("<lora:a:0.5><lora:b:0.6>")
    assert {name.partition(".")[0] for name in written(before, model)} == {"cond_stage_model"}
    before = versions(model)
    loader.activate("<lora:a:0.9:0.4><lora:b:0.6>")
    assert {name.partition(".")[0] for name in written(before, model)} == {"model"}


def test_switching_leads_to_the_same_bits_as_starting_afresh(folder: Path) -> None:
    model = copied(pristine())
    loader = NetworkLoader(model, [folder])
    for prompt in (
        "<lora:lora:1>",
        "<lora:dora:0.5><lora:norm>",
        "<lora:boft:0.2><lora:lora:-1>",
        "<lora:full_with_bias>",
    ):
        fresh = copied(pristine())
        loader.activate(prompt)
        NetworkLoader(fresh, [folder]).activate(prompt)
        assert not differing(model, fresh)


# --- all or nothing -------------------------------------------------------------------------------


class Cancelled(Exception):
    """What a host's progress callback raises."""


def cancel_at(step: int) -> Callable[[int, int], None]:
    def progress(done: int, total: int) -> None:
        assert 1 <= done <= total
        if done == step:
            raise Cancelled

    return progress


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("algorithm", ["lora", "full_with_bias", "bias_alone", "oft"])
@pytest.mark.parametrize("step", [1, 2, 5, 12])
def test_a_cancelled_activation_leaves_the_model_pristine(
    step: int, algorithm: str, workers: int, folder: Path
) -> None:
    model = copied(pristine())
    loader = NetworkLoader(model, [folder], workers=workers)
    for before in ("", "<lora:norm><lora:lora:0.3>"):
        loader.activate(before)
        with pytest.raises(Cancelled):
            loader.activate(f"<lora:{algorithm}>", cancel_at(step))
        assert not touched(model)
        assert loader.session.bytes_held == 0
    assert loader.activate(f"<lora:{algorithm}>").ok
    fresh = copied(pristine())
    NetworkLoader(fresh, [folder]).activate(f"<lora:{algorithm}>")
    assert not differing(model, fresh)


def test_progress_counts_every_tensor_once(folder: Path) -> None:
    for workers in (1, 2):
        seen: list[tuple[int, int]] = []
        loader = NetworkLoader(copied(pristine()), [folder], workers=workers)
        report = loader.activate("<lora:lora><lora:norm>", lambda done, total, seen=seen: seen.append((done, total)))
        total = report.tensors_written
        assert seen == [(done, total) for done in range(1, total + 1)]


class Fragile(DictModel):
    """A model whose n-th access to a tensor fails once, as a device that runs out of memory does."""

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        super().__init__(tensors)
        self.accesses = 0
        self.fail_at: int | None = None
        self._guard = threading.Lock()

    def tensor(self, name: str) -> Tensor:
        with self._guard:
            self.accesses += 1
            if self.accesses == self.fail_at:
                raise MemoryError("no memory for this tensor")
        return super().tensor(name)


@pytest.mark.parametrize("workers", [1, 2])
def test_wherever_the_access_to_a_tensor_fails_the_model_is_pristine_again(workers: int, folder: Path) -> None:
    prompt = "<lora:dora:0.4><lora:full_with_bias:0.4>"
    counting = Fragile(copied(pristine()))
    NetworkLoader(counting, [folder], workers=workers).activate(prompt)
    assert counting.accesses > 100
    tensors = copied(pristine())
    model = Fragile(tensors)
    loader = NetworkLoader(model, [folder], workers=workers)
    for fail_at in range(1, counting.accesses + 1, 7):
        model.accesses, model.fail_at = 0, fail_at
        with pytest.raises(MemoryError):
            loader.activate(prompt)
        assert not touched(tensors), f"access {fail_at}"
        assert loader.session.bytes_held == 0, f"access {fail_at}"
    model.fail_at = None
    assert loader.activate(prompt).ok


@pytest.mark.parametrize("workers", [1, 2])
def test_an_error_between_two_blocks_of_one_tensor_leaves_the_model_pristine(
    workers: int, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = 0
    original = patching.Originals.rows

    def rows(self: Any, name: str, live: Tensor, start: int, stop: int, scratch: Tensor) -> Tensor:
        nonlocal calls
        calls += start > 0
        if calls == 3:
            raise MemoryError("in the middle of a tensor")
        return original(self, name, live, start, stop, scratch)

    monkeypatch.setattr(writing, "BLOCK_ELEMENTS", 64)
    monkeypatch.setattr(patching.Originals, "rows", rows)
    model = copied(pristine())
    loader = NetworkLoader(model, [folder], workers=workers)
    with pytest.raises(MemoryError, match="middle"):
        loader.activate("<lora:lora:0.5>")
    assert not touched(model)


def test_a_restore_that_fails_on_one_tensor_can_be_tried_again(folder: Path) -> None:
    for workers in (1, 2):
        tensors = copied(pristine())
        model = Fragile(tensors)
        loader = NetworkLoader(model, [folder], workers=workers)
        count = loader.activate("<lora:lora:0.5>").tensors_active
        for fail_at in range(1, 2 * count, 5):
            loader.activate("<lora:lora:0.5>")
            model.accesses, model.fail_at = 0, fail_at
            with pytest.raises(MemoryError):
                loader.deactivate()
            model.fail_at = None
            loader.deactivate()
            assert not touched(tensors)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_tensor_that_can_not_be_restored_keeps_no_other_from_it(
    workers: int, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = copied(pristine())
    loader = NetworkLoader(model, [folder], workers=workers)
    loader.activate("<lora:lora:0.5>")
    lost = max(touched(model), key=lambda name: model[name].numel())
    original = patching.Originals.restore

    def restore(self: Any, name: str, live: Tensor) -> None:
        if name == lost:
            raise OSError("its drive was pulled out")
        original(self, name, live)

    with monkeypatch.context() as patch:
        patch.setattr(patching.Originals, "restore", restore)
        with pytest.raises(OSError, match="pulled out"):
            loader.deactivate()
    assert touched(model) == {lost}
    assert loader.deactivate() == 1
    assert not touched(model)


def test_what_was_kept_for_other_tensors_is_let_go_of_when_an_activation_is_cancelled(tmp_path: Path) -> None:
    model, width = _diffusers_mmdit()
    fused = {"diffusion_model.joint_blocks.0.x_block.attn.qkv": (3 * width, width)}
    save_file(network(fused, "oft"), tmp_path / "fused.safetensors")
    loader = NetworkLoader(model, [tmp_path], workers=1)
    with pytest.raises(Cancelled):
        loader.activate("<lora:fused>", cancel_at(1))
    assert loader.session.bytes_held == 0
    for tensor in model.values():  # nothing is active, so its owner may change the model
        tensor.add_(1)
    changed = copied(model)
    loader.activate("<lora:fused>")
    loader.deactivate()
    assert not differing(model, changed)


def test_forgetting_takes_away_the_biases_that_were_given(tmp_path: Path) -> None:
    model = {name: tensor for name, tensor in copied(pristine()).items() if not name.endswith(".to_out.0.bias")}
    layers = layers_of(model, only=("down_blocks_0_attentions_0",))
    write_network(tmp_path / "biases.safetensors", layers, "full_with_bias")
    names = list(model)
    loader = NetworkLoader(model, [tmp_path])
    loader.activate("<lora:biases>")
    assert len(model) > len(names)
    for name in names:
        model[name].copy_(pristine()[name])
    loader.session.forget()
    assert list(model) == names
    loader.activate("<lora:biases>")
    loader.deactivate()
    assert list(model) == names
    assert not differing(model, {name: pristine()[name] for name in names})


def test_an_activation_ends_when_no_more_threads_can_be_had(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = patching.ThreadPoolExecutor.submit
    asked: list[int] = []

    def submit(self: Any, *arguments: Any) -> Any:
        asked.append(1)
        if len(asked) == 2:
            raise RuntimeError("can't start new thread")
        return original(self, *arguments)

    monkeypatch.setattr(patching.ThreadPoolExecutor, "submit", submit)
    model, threads = copied(pristine()), torch.get_num_threads()
    with pytest.raises(RuntimeError, match="new thread"):
        NetworkLoader(model, [folder], workers=2).activate("<lora:lora>")
    assert not touched(model)
    assert torch.get_num_threads() == threads


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("algorithm", ["lora", "lokr", "full_with_bias", "oft", "dora", "norm"])
def test_a_layer_with_unusable_numbers_is_left_out_and_all_others_are_applied(
    algorithm: str, value: float, tmp_path: Path
) -> None:
    tensors = network(places(), algorithm)
    victim = sorted(key for key in tensors if not key.endswith("alpha"))[3]
    layer = victim.partition(".")[0]
    sound: Tensors = {key: tensor for key, tensor in tensors.items() if key.partition(".")[0] != layer}
    save_file(sound, tmp_path / "sound.safetensors")
    tensors[victim].view(-1)[-1] = value
    save_file(tensors, tmp_path / "damaged.safetensors")
    model, expected = copied(pristine()), copied(pristine())
    loader = NetworkLoader(model, [tmp_path])
    (tag,) = loader.activate("<lora:damaged:0.5>").tags
    NetworkLoader(expected, [tmp_path]).activate("<lora:sound:0.5>")
    assert touched(model)
    assert not differing(model, expected)
    assert [issue.layer for issue in tag.issues] == [layer]
    assert victim in tag.issues[0].message
    assert tag.layers_applied == tag.layers_total - 1
    assert victim in tag.keys["skipped"]
    again = loader.activate("<lora:damaged:0.5>")
    assert again.tensors_written == again.tensors_restored == 0
    assert again.tags[0].issues == tag.issues
    loader.deactivate()
    assert not touched(model)


# --- layers that share a tensor -------------------------------------------------------------------


def test_fused_projections_are_patched_like_their_rows(tmp_path: Path) -> None:
    """Each of q, k, v of a fused weight gets the numbers that the rows as a tensor of their own would get."""
    model = sd21(shrink=40)
    start = copied(model)
    layers = layers_of(model, only=("layers_0_self_attn",))
    kinds = zip(sorted(layers), ("lora", "oft", "dora", "full_with_bias"), strict=True)
    tensors: Tensors = {}
    for seed, (name, algorithm) in enumerate(kinds):
        tensors |= network({name: layers[name]}, algorithm, seed=seed)
    save_file(tensors, tmp_path / "fused.safetensors")
    loader = NetworkLoader(model, [tmp_path])
    assert loader.activate("<lora:fused:0.8>").ok
    split = _split(start)
    assert NetworkLoader(split, [tmp_path]).activate("<lora:fused:0.8>").ok
    assert len(differing(_split(model), _split(start))) == 5  # four weights and one bias
    assert not differing(_split(model), split)
    loader.deactivate()
    assert not differing(model, start)


def _split(model: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same text encoder in transformers names."""
    names = {"ln_1": "layer_norm1", "ln_2": "layer_norm2", "c_fc": "fc1", "c_proj": "fc2", "attn": "self_attn"}
    result: dict[str, Tensor] = {}
    for name, tensor in model.items():
        head, mark, tail = name.partition("model.transformer.resblocks.")
        if not mark:
            if "cond_stage_model" not in name:
                result[name] = tensor.clone()
            continue
        path = (
            head
            + "transformer.text_model.encoder.layers."
            + ".".join(names.get(part, part) for part in tail.split("."))
        )
        if "in_proj_" in path:
            for part, rows in zip("qkv", tensor.chunk(3), strict=True):
                result[path.replace("in_proj_", f"{part}_proj.")] = rows.clone()
        else:
            result[path] = tensor.clone()
    embedding = next(tensor for name, tensor in model.items() if name.endswith("token_embedding.weight"))
    result["cond_stage_model.transformer.text_model.embeddings.token_embedding.weight"] = embedding.clone()
    return result


@pytest.mark.parametrize("reading", [1, 2, 3])
def test_a_network_on_a_fused_layer_of_a_split_model_sees_pristine_weights_in_every_thread(
    reading: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The target's rows lie in three tensors: while one patch is computed, other threads write what it reads."""
    model, width = _diffusers_mmdit()
    fused = {"diffusion_model.joint_blocks.0.x_block.attn.qkv": (3 * width, width)}
    save_file(network(fused, "oft"), tmp_path / "fused.safetensors")
    start = copied(model)
    expected = copied(start)
    (tag,) = NetworkLoader(expected, [tmp_path], workers=1).activate("<lora:fused>").tags
    assert tag.layers_applied == 1, [issue.message for issue in tag.issues]
    assert len(differing(expected, start)) == 3
    _let_the_others_write_while_the_first_reads(reading, monkeypatch)
    loader = NetworkLoader(model, [tmp_path], workers=3)
    loader.activate("<lora:fused>")
    assert not differing(model, expected)
    loader.deactivate()
    assert not differing(model, start)


def _let_the_others_write_while_the_first_reads(reading: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first worker rests between getting its n-th tensor and using it; until then the other workers wait."""
    original = patching.Originals.rows
    go = threading.Event()
    workers: list[int] = []
    calls: list[int] = []

    def rows(self: Any, name: str, live: Tensor, start: int, stop: int, scratch: Tensor) -> Tensor:
        if threading.current_thread() is threading.main_thread():
            return original(self, name, live, start, stop, scratch)
        workers.append(threading.get_ident())
        if workers[0] != threading.get_ident():
            go.wait(5)
            return original(self, name, live, start, stop, scratch)
        found = original(self, name, live, start, stop, scratch)
        calls.append(1)
        if len(calls) == reading:
            go.set()
            time.sleep(0.2)
        return found

    monkeypatch.setattr(patching.Originals, "rows", rows)


def _diffusers_mmdit() -> tuple[dict[str, Tensor], int]:
    """The first block of an SD3 transformer in diffusers names, as far as it matters here."""
    width = 96
    block = "transformer.transformer_blocks.0.attn."
    shapes: dict[str, Iterable[int]] = {"transformer.pos_embed.proj.weight": (width, 16, 2, 2)}
    for name in ("to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out"):
        shapes |= {f"{block}{name}.weight": (width, width), f"{block}{name}.bias": (width,)}
    rng = torch.Generator().manual_seed(4)
    return {name: torch.randn(tuple(shape), generator=rng).half() for name, shape in shapes.items()}, width

"""A dry run: what it says is what an activation then does, and it changes nothing."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from lycopatch.engine.dry_run import MOST_PAIRS, USUAL_PACE, DryRun, Pace, resolve_only
from lycopatch.engine.reading import open_tensor_file
from lycopatch.engine.report import Issue
from lycopatch.engine.request import parse_prompt
from lycopatch.engine.session import Session
from lycopatch.hosts.memory import NetworkLoader
from networks import write_network
from random_models import copied, differing, layers_of, sd15, write_checkpoint

PLACES = ("down_blocks_0_attentions_0", "mid_block_attentions", "layers_0_")


@cache
def pristine() -> Mapping[str, Tensor]:
    return sd15(shrink=40)


@cache
def places() -> Mapping[str, tuple[int, ...]]:
    return layers_of(pristine(), only=PLACES)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for seed, name in enumerate(("lora", "loha", "lokr", "norm", "dora", "oft", "full_with_bias")):
        write_network(tmp_path / f"{name}.safetensors", places(), name, seed=seed)
    write_network(tmp_path / "unet.safetensors", layers_of(pristine(), only=PLACES[:1]), "lora", seed=9)
    return tmp_path


def dry_run(session: Session, prompt: str, **more: Any) -> DryRun:
    parsed = parse_prompt(prompt)
    return session.dry_run(parsed.requests, parsed.issues, **more)


def state_of(session: Session) -> tuple[object, ...]:
    """Everything a session remembers, as far as it decides what the next activation does."""
    originals = session._originals
    return (
        dict(session._patcher._applied),
        set(session._patcher._made_biases),
        {name: id(copy) for name, copy in originals._copies.items()},
        set(originals._from_file),
        dict(originals._verified_rows),
        {name: id(corner) for name, corner in session._witness._seen.items()},
        dict(session._broken),
        set(session._finite),
        session._pace.seconds(1000),
        session.bytes_held,
        session.text_encoder_state(),
    )


PROMPTS = [
    "a cat",
    "<lora:lora:0.5>",
    "<lora:lora:0.5><lora:loha:1:0.5><lyco:lokr:-1><lora:norm>",
    "<lora:dora><lora:oft:0.5><lora:full_with_bias>",
    "<lora:lora:0><lora:unet><lora:nowhere><lora:lora:x>",
]


@pytest.mark.parametrize("active", ["", "<lora:lora:0.5>", "<lora:oft><lora:full_with_bias:0.5>"])
@pytest.mark.parametrize("from_file", [False, True])
def test_a_dry_run_changes_no_tensor_and_no_state(folder: Path, active: str, from_file: bool) -> None:
    model = copied(pristine())
    checkpoint = write_checkpoint(folder / "model" / "m.safetensors", model) if from_file else None
    with NetworkLoader(model, [folder], checkpoint=checkpoint) as loader:
        loader.activate(active)
        before, state = copied(model), state_of(loader.session)
        for prompt in PROMPTS:
            dry_run(loader.session, prompt)
            assert differing(model, before) == []
            assert state_of(loader.session) == state
        assert loader.activate(active).tensors_written == 0
        loader.deactivate()
        assert differing(model, pristine()) == []


@pytest.mark.parametrize("from_file", [False, True])
def test_what_it_says_is_what_the_activation_does(folder: Path, from_file: bool) -> None:
    model = copied(pristine())
    checkpoint = write_checkpoint(folder / "model" / "m.safetensors", model) if from_file else None
    with NetworkLoader(model, [folder], checkpoint=checkpoint) as loader:
        for prompt in PROMPTS:
            told = dry_run(loader.session, prompt)
            done = loader.activate(prompt)
            assert told.tags == done.tags
            assert told.issues == done.issues
            assert told.estimate is not None
            assert (told.estimate.tensors, told.estimate.restored) == (done.tensors_written, done.tensors_restored)
            made = sum(model[name].nbytes for name in loader.session._patcher._made_biases)
            assert told.estimate.bytes_originals == loader.session.bytes_held - made
            if from_file:
                assert told.estimate.bytes_originals == 0
            assert (again := dry_run(loader.session, prompt).estimate) is not None
            assert (again.tensors, again.restored, again.bytes_read, again.seconds) == (0, 0, 0, 0)


def test_what_will_be_read_is_counted(folder: Path) -> None:
    loader = NetworkLoader(copied(pristine()), [folder])
    estimate = dry_run(loader.session, "<lora:lora>").estimate
    tensors = load_file(folder / "lora.safetensors")
    assert estimate is not None
    assert estimate.bytes_read == sum(tensor.nbytes for tensor in tensors.values())


def test_the_pace_is_a_guess_until_the_model_has_shown_its_own(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lycopatch.engine.dry_run._MOMENT", 0.0)
    loader = NetworkLoader(copied(pristine()), [folder])
    guess = dry_run(loader.session, "<lora:lora>").estimate
    assert guess is not None
    assert not guess.sure
    matrices = {name: tensor for name, tensor in pristine().items() if name in loader.session._patcher.model.shapes()}
    assert 0 < guess.seconds < 2 * USUAL_PACE * sum(tensor.numel() for tensor in matrices.values())
    started = time.perf_counter()
    loader.activate("<lora:lora>")
    took = time.perf_counter() - started
    known = dry_run(loader.session, "<lora:lora:0.5>").estimate
    assert known is not None
    assert known.sure
    assert 0.01 * took < known.seconds <= took
    restoring = dry_run(loader.session, "").estimate
    assert restoring is not None
    assert restoring.seconds == pytest.approx(known.seconds / 2)


def test_the_last_activations_tell_the_pace() -> None:
    pace = Pace()
    pace.learn(0, 5.0)
    pace.learn(10_000, 0.001)
    assert pace.seconds(1000) == (1000 * USUAL_PACE, False)
    pace.learn(100, 1.0)
    assert pace.seconds(50) == (pytest.approx(0.5), True)
    for _ in range(5):
        pace.learn(100, 2.0)
    assert pace.seconds(50) == (pytest.approx(1.0), True)


def test_networks_that_change_the_same_weights_are_compared(folder: Path) -> None:
    loader = NetworkLoader(copied(pristine()), [folder])
    found = dry_run(loader.session, "<lora:norm><lora:lora><lora:gone><lora:unet:-1><lora:lora:0.5><lora:lokr:0>")
    assert [(each.a, each.b) for each in found.overlaps] == [(1, 3), (3, 4)]
    first, second = found.overlaps
    assert [each.block for each in first.blocks] == ["IN01"]
    assert first.cosine == pytest.approx(second.cosine)
    assert first.share is not None
    assert 0.5 < first.share < 1
    assert found.pairs_left_out == 0


def test_layers_that_depend_on_the_original_weights_are_measured_on_those(folder: Path) -> None:
    loader = NetworkLoader(copied(pristine()), [folder])
    prompt = "<lora:dora><lora:oft><lora:lora>"
    before = dry_run(loader.session, prompt).overlaps
    loader.activate("<lora:lora:3><lora:oft:2>")
    assert dry_run(loader.session, prompt).overlaps == before
    assert all(each.measured == each.common > 0 for each in before)


def test_weights_that_are_not_in_memory_are_not_measured(folder: Path) -> None:
    model = copied(pristine())
    loader = NetworkLoader(model, [folder])
    for name in list(model):
        model[name] = model[name].to("meta")
    oft, lora = (
        dry_run(loader.session, prompt).overlaps[0] for prompt in ("<lora:oft><lora:lora>", "<lora:lora><lora:loha>")
    )
    assert oft.unmeasured == {"its original weights are not in memory at the moment": oft.common}
    assert oft.measured == 0
    assert lora.measured == lora.common


def test_numbers_that_are_not_finite_are_not_measured(folder: Path) -> None:
    tensors = load_file(folder / "lora.safetensors")
    key = next(key for key in tensors if key.endswith("attn1_to_q.lora_up.weight"))
    tensors[key] = torch.full_like(tensors[key], float("nan"))
    save_file(tensors, folder / "lora.safetensors")
    loader = NetworkLoader(copied(pristine()), [folder])
    (found,) = dry_run(loader.session, "<lora:lora><lora:loha>").overlaps
    assert found.measured == found.common - 1
    ((reason, count),) = found.unmeasured.items()
    assert "not finite" in reason
    assert count == 1
    loader.activate("<lora:lora>")  # which finds it as well, and says so from now on
    told = dry_run(loader.session, "<lora:lora><lora:loha>")
    assert "damaged layer" in told.tags[0].reasons
    assert told.overlaps[0].unmeasured == {}


def test_too_many_pairs_are_not_compared_and_that_is_said(folder: Path) -> None:
    small = layers_of(pristine(), only=("layers_0_mlp",))
    for seed in range(7):
        write_network(folder / f"n{seed}.safetensors", small, "lora", seed=seed)
    loader = NetworkLoader(copied(pristine()), [folder])
    found = dry_run(loader.session, "".join(f"<lora:n{seed}>" for seed in range(7)))
    assert len(found.overlaps) == MOST_PAIRS
    assert found.pairs_left_out == 21 - MOST_PAIRS


def test_comparing_ends_when_the_time_is_over(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lycopatch.engine.session.MEASURING_SECONDS", 0.0)
    loader = NetworkLoader(copied(pristine()), [folder])
    (found,) = dry_run(loader.session, "<lora:lora><lora:loha>").overlaps
    assert found.measured == 1 < found.common
    assert found.share is None


def test_an_activation_does_not_wait_for_the_comparison(folder: Path) -> None:
    loader = NetworkLoader(copied(pristine()), [folder])
    activated = threading.Event()

    def activate() -> None:
        loader.activate("<lora:oft>")
        activated.set()

    def progress(done: int, total: int) -> None:
        if done == 1:
            threading.Thread(target=activate, daemon=True).start()
            assert activated.wait(20)

    found = dry_run(loader.session, "<lora:oft><lora:lora>", progress=progress)
    assert found.overlaps[0].measured == found.overlaps[0].common
    assert activated.is_set()


def test_it_can_be_cancelled(folder: Path) -> None:
    class Gone(Exception):
        pass

    def progress(done: int, total: int) -> None:
        assert 0 < done <= total
        raise Gone

    loader = NetworkLoader(copied(pristine()), [folder])
    with pytest.raises(Gone):
        dry_run(loader.session, "<lora:lora><lora:loha>", progress=progress)
    assert loader.activate("<lora:lora>").ok


def test_a_file_that_is_cut_meanwhile_is_no_more_than_not_measured(folder: Path) -> None:
    loader = NetworkLoader(copied(pristine()), [folder])

    def progress(done: int, total: int) -> None:
        if done == 1:
            with open(folder / "lora.safetensors", "r+b") as file:
                file.truncate(2000)

    (found,) = dry_run(loader.session, "<lora:lora><lora:loha>", progress=progress).overlaps
    assert found.measured == 1
    assert sum(found.unmeasured.values()) == found.common - 1


def test_another_catalog_can_be_asked(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    other = tmp_path_factory.mktemp("other")
    write_network(other / "lora.safetensors", places(), "lokr", seed=1)
    loader = NetworkLoader(copied(pristine()), [folder])
    elsewhere = NetworkLoader(copied(pristine()), [other]).session._catalog
    assert dry_run(loader.session, "<lora:lora>", catalog=elsewhere).tags[0].path == str(other / "lora.safetensors")


def test_without_a_model_the_tags_are_resolved(folder: Path) -> None:
    catalog = NetworkLoader(copied(pristine()), [folder]).session._catalog
    (folder / "cut.safetensors").write_bytes(b"\x10")
    catalog.refresh()
    parsed = parse_prompt("<lora:lora:0.5:1> <lora:nowhere> <lora:cut> <lora:x:y>")
    found = resolve_only(catalog, parsed.requests, parsed.issues)
    assert found.estimate is None
    assert found.overlaps == []
    assert [issue.kind for issue in found.issues] == ["bad_number"]
    lora, nowhere, cut = found.tags
    with open_tensor_file(folder / "lora.safetensors") as file:
        assert lora.layers_total == len(file.specs) // 3
    assert (lora.te_multiplier, lora.unet_multiplier, lora.failed, lora.issues) == (0.5, 1.0, False, [])
    assert (nowhere.failed, cut.failed) == (True, True)
    assert isinstance(nowhere.issues[0], Issue)

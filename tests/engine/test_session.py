"""The two verbs as a host sees them: trouble is a sentence about one tag, everything else goes on."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from lycopatch.engine.catalog import Catalog
from lycopatch.engine.errors import AdapterError
from lycopatch.engine.request import parse_prompt
from lycopatch.engine.session import Session
from lycopatch.hosts.memory import NetworkLoader
from lycopatch.hosts.memory.models import DictModel
from networks import network, write_network
from random_models import copied, differing, layers_of, sd15, shapes_of

PLACES = ("down_blocks_0_attentions_0", "layers_0_")


@cache
def pristine() -> Mapping[str, Tensor]:
    return sd15(shrink=40)


@cache
def places() -> Mapping[str, tuple[int, ...]]:
    return layers_of(pristine(), only=PLACES)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for seed, name in enumerate(("lora", "norm", "lokr")):
        write_network(tmp_path / f"{name}.safetensors", places(), name, seed=seed)
    return tmp_path


def applied(prompt: str, folder: Path) -> dict[str, Tensor]:
    model = copied(pristine())
    NetworkLoader(model, [folder]).activate(prompt)
    return model


def test_the_report_counts_layers_keys_and_tensors(folder: Path) -> None:
    loader = NetworkLoader(copied(pristine()), [folder])
    report = loader.activate("a cat <lora:lora:0.5:0.25> <lyco:norm>")
    lora, norm = report.tags
    assert report.ok
    assert (lora.name, lora.tag, lora.te_multiplier, lora.unet_multiplier) == (
        "lora",
        "<lora:lora:0.5:0.25>",
        0.5,
        0.25,
    )
    assert lora.path == str(folder / "lora.safetensors")
    matrices = [name for name, shape in places().items() if len(shape) > 1]
    vectors = [name for name, shape in places().items() if len(shape) == 1]
    assert lora.layers_applied == lora.layers_total == len(matrices)
    assert norm.layers_applied == norm.layers_total == len(vectors)
    assert len(lora.keys["applied"]) == 3 * len(matrices)
    assert report.tensors_active == report.tensors_written == len(matrices) + 2 * len(vectors)
    assert report.tensors_restored == 0
    assert lora.summary() == f"lora: {len(matrices)} of {len(matrices)} layers"
    report = loader.activate("<lyco:norm>")
    assert (report.tensors_written, report.tensors_restored) == (0, len(matrices))
    assert report.tensors_active == 2 * len(vectors)
    assert report.seconds > 0
    assert loader.deactivate() == 2 * len(vectors)
    assert loader.deactivate() == 0


def test_a_retrained_file_of_the_same_name_is_picked_up_by_the_next_activation(folder: Path) -> None:
    model = copied(pristine())
    loader = NetworkLoader(model, [folder])
    loader.activate("<lora:lora:0.5>")
    before = copied(model)
    write_network(folder / "lora.safetensors", places(), "lora", seed=77)
    os.utime(folder / "lora.safetensors", ns=(5, 5))
    assert loader.activate("<lora:lora:0.5>").tensors_written
    assert differing(model, before)
    assert not differing(model, applied("<lora:lora:0.5>", folder))


def test_a_file_retrained_to_another_algorithm_gives_back_what_it_no_longer_touches(folder: Path) -> None:
    model = copied(pristine())
    loader = NetworkLoader(model, [folder])
    loader.activate("<lora:lora:0.5>")
    write_network(folder / "lora.safetensors", places(), "norm")
    report = loader.activate("<lora:lora:0.5>")
    assert report.tensors_restored
    assert report.tensors_written
    assert not differing(model, applied("<lora:lora:0.5>", folder))


def test_a_new_file_is_found_without_a_restart(folder: Path) -> None:
    loader = NetworkLoader(copied(pristine()), [folder])
    assert not loader.activate("<lora:brandnew>").ok
    write_network(folder / "brandnew.safetensors", places(), "lora")
    os.utime(folder, ns=(7, 7))
    assert loader.activate("<lora:brandnew>").ok


def test_a_missing_name_among_good_ones_is_one_sentence_and_the_good_ones_are_applied(folder: Path) -> None:
    model = copied(pristine())
    report = NetworkLoader(model, [folder]).activate("<lora:lora:0.5><lora:lokkr:0.5><lora:norm>")
    assert [tag.name for tag in report.tags] == ["lora", "lokkr", "norm"]
    (message,) = report.messages()
    assert "lokkr" in message
    assert '"lokr"' in message
    assert report.tags[1].issues[0].kind == "not found"
    assert not differing(model, applied("<lora:lora:0.5><lora:norm>", folder))


@pytest.mark.parametrize("content", [b"", b"hello world", b"\x10\x00\x00\x00\x00\x00\x00\x00{", None])
def test_an_unreadable_file_among_good_ones_affects_only_itself(content: bytes | None, folder: Path) -> None:
    whole = (folder / "lokr.safetensors").read_bytes()
    (folder / "lokr.safetensors").write_bytes(whole[: len(whole) // 2] if content is None else content)
    model = copied(pristine())
    report = NetworkLoader(model, [folder]).activate("<lora:lora:0.5><lora:lokr:0.5><lora:norm>")
    (issue,) = report.all_issues
    assert issue.kind == "unreadable"
    assert issue.tag == "<lora:lokr:0.5>"
    assert issue.message.startswith('"lokr.safetensors" can not be read: ')
    assert not differing(model, applied("<lora:lora:0.5><lora:norm>", folder))


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("damage", ["cut", "gone and back", "replaced"])
def test_a_file_that_is_damaged_while_it_is_read_affects_only_itself(damage: str, workers: int, folder: Path) -> None:
    """Its header was read; then another program cuts it. What is open stays readable when only its name goes."""
    model = copied(pristine())
    loader = NetworkLoader(model, [folder], workers=workers)
    path = folder / "lora.safetensors"
    whole = applied("<lora:lora:0.5><lora:norm>", folder)

    def progress(done: int, total: int) -> None:
        if done != 1 or not path.exists():
            return
        if damage == "cut":
            with path.open("r+b") as stream:
                stream.truncate(path.stat().st_size // 3)
        else:
            path.unlink()
            if damage == "replaced":
                write_network(path, places(), "loha")

    report = loader.activate("<lora:lora:0.5><lora:norm>", progress)
    lora, norm = report.tags
    assert norm.layers_applied == norm.layers_total
    assert not norm.issues
    if damage == "cut" and (workers == 1 or lora.issues):  # with two, all of it may have been read by then
        assert [issue.kind for issue in lora.issues] == ["unreadable"]
        assert not differing(model, applied("<lora:norm>", folder))
    else:
        assert not lora.issues
        assert not differing(model, whole)
    loader.deactivate()
    assert not differing(model, pristine())
    assert loader.session.bytes_held == 0


def test_a_network_for_another_base_model_gets_the_sentence_that_explains_it(tmp_path: Path) -> None:
    unloaded = {name: torch.empty(shape, device="meta") for name, shape in shapes_of("sdxl_base_checkpoint").items()}
    sdxl = layers_of(unloaded, only=("to_k", "to_q"))
    assert len(sdxl) > 200
    tensors = network(dict(list(sdxl.items())[-60:]), "lora")
    save_file(tensors, tmp_path / "xl.safetensors")
    live = {name: torch.empty(shape, device="meta") for name, shape in shapes_of("sd15_checkpoint").items()}
    loader = NetworkLoader(live, [tmp_path])
    assert loader.session.index.model.family == "sd1"
    (tag,) = loader.activate("<lora:xl>").tags
    assert tag.layers_applied == 0
    assert tag.issues[0].kind == "other base model"
    assert tag.issues[0].message == '"xl" was made for Stable Diffusion XL, the loaded model is Stable Diffusion 1.'
    assert tag.family == "sdxl"


def test_a_checkpoint_instead_of_a_network_is_refused_in_one_sentence(tmp_path: Path) -> None:
    save_file({name: tensor.clone() for name, tensor in pristine().items()}, tmp_path / "model.safetensors")
    model = copied(pristine())
    (message,) = NetworkLoader(model, [tmp_path]).activate("<lora:model>").messages()
    assert "whole weights" in message
    assert not differing(model, pristine())


def test_unknown_named_arguments_are_said_and_ignored(folder: Path) -> None:
    model = copied(pristine())
    report = NetworkLoader(model, [folder]).activate("<lora:lora:0.5:lbw=INS:start=3>")
    assert [issue.kind for issue in report.issues] == ["unknown_argument", "unknown_argument"]
    assert not report.ok
    assert not differing(model, applied("<lora:lora:0.5>", folder))


def test_text_encoder_unet_and_dyn_can_be_named(folder: Path) -> None:
    for one, other in [
        ("<lora:lora:0.5:0.2>", "<lora:lora:te=0.5:unet=0.2>"),
        ("<lora:lora:1:0:2>", "<lora:lora:unet=0:dyn=2>"),
        ("<lora:lora:0.5>", "<lyco:lora:0.5:0.5>"),
    ]:
        assert not differing(applied(one, folder), applied(other, folder))
    assert differing(applied("<lora:lora>", folder), applied("<lora:lora:dyn=2>", folder))
    assert not differing(applied("<lora:lora>", folder), applied("<lora:lora:dyn=4000>", folder))


def test_two_sessions_on_two_models_do_not_know_of_each_other(folder: Path) -> None:
    one, two = copied(pristine()), copied(pristine())
    first, second = NetworkLoader(one, [folder]), NetworkLoader(two, [folder])
    first.activate("<lora:lora:0.5>")
    second.activate("<lora:norm>")
    assert not differing(one, applied("<lora:lora:0.5>", folder))
    assert not differing(two, applied("<lora:norm>", folder))
    first.deactivate()
    assert not differing(one, pristine())
    assert not differing(two, applied("<lora:norm>", folder))


def test_calls_from_several_threads_take_turns(folder: Path) -> None:
    model = copied(pristine())
    loader = NetworkLoader(model, [folder])
    prompts = ("<lora:lora:0.5>", "<lora:norm><lora:lokr:0.3>", "", "<lora:nosuch><lora:lokr>")
    wrong: list[BaseException] = []

    def work(number: int) -> None:
        try:
            for turn in range(8):
                report = loader.activate(prompts[(number + turn) % len(prompts)])
                assert len(report.tags) == prompts[(number + turn) % len(prompts)].count("<")
                if turn % 3 == number % 3:
                    loader.deactivate()
        except BaseException as error:
            wrong.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    loader.activate("<lora:norm>")
    assert not differing(model, applied("<lora:norm>", folder))
    loader.deactivate()
    assert not differing(model, pristine())


def test_a_progress_callback_may_ask_the_session_itself_without_a_deadlock(folder: Path) -> None:
    loader = NetworkLoader(copied(pristine()), [folder], workers=2)
    held: list[int] = []
    assert loader.activate("<lora:lora>", lambda done, total: held.append(loader.session.bytes_held)).ok
    assert held[-1] > 0


def test_a_learned_embedding_inside_a_file_is_handed_to_the_host(folder: Path) -> None:
    tensors = network(places(), "lora")
    tensors["bundle_emb.ink.string_to_param.*"] = torch.arange(48.0).view(2, 24)
    save_file(tensors, folder / "bundle.safetensors")
    report = NetworkLoader(copied(pristine()), [folder]).activate("<lora:bundle:0.5>")
    (embedding,) = report.embeddings
    assert (embedding.name, embedding.path) == ("ink", str(folder / "bundle.safetensors"))
    assert torch.equal(embedding.tensors["string_to_param.*"], torch.arange(48.0).view(2, 24))
    assert report.tags[0].keys["embedding"] == ["bundle_emb.ink.string_to_param.*"]


def test_a_model_without_numbers_gets_a_sentence_and_no_crash(folder: Path) -> None:
    """Tensors on the meta device: a host has parked or dropped the weights."""
    model = {name: torch.empty(shape, device="meta") for name, shape in shapes_of("sd15_checkpoint", shrink=40).items()}
    loader = NetworkLoader(model, [folder])
    with pytest.raises(AdapterError, match=r"\.$"):
        loader.activate("<lora:lora:0.5>")
    assert loader.deactivate() == 0
    assert loader.session.bytes_held == 0


def test_a_session_can_be_made_of_its_parts(folder: Path) -> None:
    model = copied(pristine())
    session = Session(DictModel(model), Catalog([folder]), workers=1)
    parsed = parse_prompt("<lora:lora:0.5>")
    assert session.activate(parsed.requests, parsed.issues).ok
    assert not differing(model, applied("<lora:lora:0.5>", folder))
    assert session.deactivate() > 0

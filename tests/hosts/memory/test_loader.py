"""``NetworkLoader``: the engine on a model in memory, for anybody's own program."""

from __future__ import annotations

import gc
import logging
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from lycopatch.engine.errors import CheckpointChanged, UnknownModel, UnreadableAdapter
from lycopatch.hosts.memory import NetworkLoader
from lycopatch.hosts.memory.models import DictModel
from lycopatch.hosts.modules import ModuleModel
from networks import network, write_network
from random_models import as_module, copied, differing, layers_of, sd15, tensors_of, write_checkpoint

Q = "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn1.to_q"


@cache
def pristine() -> Mapping[str, Tensor]:
    return sd15(shrink=40)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    layers = layers_of(pristine(), only=("down_blocks_0_attentions_0", "layers_0_"))
    write_network(tmp_path / "styles" / "ink.safetensors", layers, "lora")
    write_network(tmp_path / "paper.safetensors", layers, "full_with_bias")
    return tmp_path


def test_a_dict_is_written_in_place_and_keeps_its_tensors(folder: Path) -> None:
    model = copied(pristine())
    tensors = dict(model)
    loader = NetworkLoader(model, [folder])
    report = loader.activate("a cat <lora:ink:0.8>")
    assert report.ok
    assert len(differing(model, pristine())) == report.tensors_active
    assert all(model[name] is tensor for name, tensor in tensors.items())
    assert loader.deactivate() == report.tensors_active
    assert not differing(model, pristine())


def test_a_dict_a_module_and_a_live_model_get_identical_bits(folder: Path) -> None:
    prompt = "<lora:ink:0.5><lyco:paper:0.7:0.1>"
    plain, inner, module = copied(pristine()), copied(pristine()), as_module(pristine())
    NetworkLoader(plain, [folder]).activate(prompt)
    NetworkLoader(DictModel(inner), [folder]).activate(prompt)
    of_module = NetworkLoader(module, [folder])
    of_module.activate(prompt)
    assert not differing(plain, inner)
    assert not differing(plain, tensors_of(module))
    of_module.deactivate()
    assert not differing(tensors_of(module), pristine())


def test_modules_can_lie_below_prefixes_of_their_own(folder: Path) -> None:
    module, plain = as_module(pristine()), copied(pristine())
    parts = {
        "model.diffusion_model.": module.get_submodule("model.diffusion_model"),
        "cond_stage_model.": module.get_submodule("cond_stage_model"),
    }
    live = ModuleModel(parts)
    assert dict(live.shapes()) == {name: tuple(tensor.shape) for name, tensor in pristine().items()}
    NetworkLoader(live, [folder]).activate("<lora:ink><lora:paper>")
    NetworkLoader(plain, [folder]).activate("<lora:ink><lora:paper>")
    assert not differing(tensors_of(module), plain)


def test_a_module_that_was_replaced_by_name_is_the_one_that_is_patched(folder: Path) -> None:
    """Hosts swap modules of a loaded model; names stay."""
    module = as_module(pristine())
    loader = NetworkLoader(module, [folder])
    loader.activate("<lora:ink>")
    loader.deactivate()
    old = module.get_submodule(Q)
    new = nn.Module()
    new.register_parameter("weight", nn.Parameter(old.weight.detach().clone(), requires_grad=False))
    module.get_submodule(Q.rpartition(".")[0])._modules["to_q"] = new
    loader.activate("<lora:ink>")
    assert not torch.equal(new.weight, old.weight)
    assert torch.equal(old.weight, pristine()[Q + ".weight"])


def test_a_bias_can_be_added_to_a_module_only_where_the_attribute_is_empty() -> None:
    module = nn.Sequential(nn.Linear(3, 2, bias=False), nn.Linear(3, 2))
    live = ModuleModel({"": module})
    assert live.add_bias("0.bias", live.tensor("0.weight"))
    assert module[0].bias.shape == (2,)
    assert not live.add_bias("1.bias", live.tensor("1.weight"))
    assert not live.add_bias("0.nothing", live.tensor("0.weight"))
    live.remove_bias("0.bias")
    assert module[0].bias is None
    assert not bool(module[0](torch.zeros(3)).any())


def test_a_bias_is_taken_back_from_the_module_that_got_it() -> None:
    module = nn.Sequential(nn.Linear(3, 2, bias=False))
    given = module[0]
    live = ModuleModel({"": module})
    assert live.add_bias("0.bias", live.tensor("0.weight"))
    module[0] = nn.Linear(3, 2)
    live.remove_bias("0.bias")
    assert given.bias is None
    assert module[0].bias is not None


def test_weights_that_are_stored_as_whole_numbers_are_left_alone(folder: Path) -> None:
    model = copied(pristine())
    model[Q + ".weight"] = (model[Q + ".weight"] * 100).to(torch.int8)
    codes = model[Q + ".weight"].clone()
    (tag,) = NetworkLoader(model, [folder]).activate("<lora:ink>").tags
    assert 0 < tag.layers_applied < tag.layers_total
    assert torch.equal(model[Q + ".weight"], codes)
    assert not DictModel({"w.bias": codes}).add_bias("w.bias", codes)


def test_the_checkpoint_file_stands_in_for_copies_and_is_closed_at_the_end(folder: Path) -> None:
    checkpoint = write_checkpoint(folder / "model" / "c.safetensors", pristine())
    model = copied(pristine())
    loader = NetworkLoader(model, [folder / "styles"], checkpoint=checkpoint)
    loader.activate("<lora:ink>")
    assert loader.session.bytes_held == 0
    loader.close()
    assert not differing(model, pristine())
    loader.close()


def test_the_checkpoint_file_is_closed_even_when_it_changed(folder: Path) -> None:
    """An open file would be a ResourceWarning, which is an error here."""
    checkpoint = write_checkpoint(folder / "model" / "c.safetensors", pristine())
    loader = NetworkLoader(copied(pristine()), [folder / "styles"], checkpoint=checkpoint)
    loader.activate("<lora:ink>")
    with checkpoint.open("ab") as stream:
        stream.write(b"\0")
    with pytest.raises(CheckpointChanged):
        loader.close()


def test_a_bad_checkpoint_file_is_refused_at_once(folder: Path) -> None:
    (folder / "bad.safetensors").write_bytes(b"no tensors here")
    with pytest.raises(UnreadableAdapter, match=r"bad\.safetensors"):
        NetworkLoader(copied(pristine()), [folder], checkpoint=folder / "bad.safetensors")


def test_a_model_in_which_nothing_can_be_patched_is_refused_with_a_sentence(folder: Path) -> None:
    with pytest.raises(UnknownModel, match="can not be patched"):
        NetworkLoader({"weight": torch.zeros(3)}, [folder])
    with pytest.raises(UnknownModel, match="can not be patched"):
        NetworkLoader(nn.Linear(3, 3), [folder])


def test_a_refused_model_does_not_leave_its_checkpoint_open(folder: Path) -> None:
    checkpoint = write_checkpoint(folder / "model" / "c.safetensors", pristine())
    with pytest.raises(UnknownModel):
        NetworkLoader({"weight": torch.zeros(3)}, [folder], checkpoint=checkpoint)
    gc.collect()  # an open file would be a ResourceWarning, which is an error here


def test_pickles_are_refused_unless_allowed(folder: Path) -> None:
    layers = layers_of(pristine(), only=("layers_0_",))
    torch.save(network(layers, "lora"), folder / "old.pt")
    model = copied(pristine())
    (message,) = NetworkLoader(model, [folder]).activate("<lora:old>").messages()
    assert "pickle" in message
    assert not differing(model, pristine())
    loader = NetworkLoader(model, [folder], allow_pickle=True)
    assert loader.activate("<lora:old>").ok
    assert differing(model, pristine())
    loader.deactivate()
    assert not differing(model, pristine())


def test_several_folders_and_paths_below_them_can_be_named(folder: Path) -> None:
    loader = NetworkLoader(copied(pristine()), [folder / "styles", folder])
    assert loader.activate("<lora:styles/ink><lora:paper>").ok


def test_a_folder_that_does_not_exist_is_an_empty_one(tmp_path: Path) -> None:
    report = NetworkLoader(copied(pristine()), [tmp_path / "nowhere"]).activate("<lora:ink>")
    assert [issue.kind for issue in report.all_issues] == ["not found"]


@pytest.fixture
def _no_output(capfd: pytest.CaptureFixture[str]) -> Iterator[None]:
    yield
    assert capfd.readouterr() == ("", "")


@pytest.mark.usefixtures("_no_output")
def test_nothing_is_printed(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        NetworkLoader(copied(pristine()), [folder]).activate("<lora:ink><lora:nosuch><lora:paper:x>")
    assert not caplog.records

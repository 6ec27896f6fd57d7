"""One model object through everything that the WebUI does to it."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from lycopatch.engine.catalog import Catalog
from lycopatch.engine.errors import UnknownModel
from lycopatch.engine.report import Report
from lycopatch.engine.request import parse_prompt
from lycopatch.hosts.a1111.live_model import is_gone
from lycopatch.hosts.a1111.patched_model import PatchedModel, Sources, originals_from_file
from networks import write_network
from random_models import as_module, differing, layers_of, sd15, sd21, tensors_of, write_checkpoint

PLACES = ("down_blocks_0_attentions_0", "layers_0_")
CPU = torch.device("cpu")


@cache
def weights(kind: str = "sd1", seed: int = 0) -> Mapping[str, Tensor]:
    return sd15(shrink=40, seed=seed) if kind == "sd1" else sd21(shrink=40, seed=seed)


def nobody(_encoder: int) -> None:
    pass


class Host:
    """A model with its keeper, as ``ActiveNetworks`` holds them."""

    def __init__(
        self,
        folder: Path,
        kind: str = "sd1",
        *,
        checkpoint: Path | None = None,
        encoding: Callable[[int], None] = nobody,
    ) -> None:
        for name in ("lora", "norm", "dora", "bias_alone"):
            layers = layers_of(weights(kind), only=PLACES)
            write_network(folder / f"{name}.safetensors", layers, name, seed=len(name))
        originals = "memory" if checkpoint is None else "checkpoint file"
        self.model = as_module(weights(kind))
        self.sources = Sources(Catalog([folder]), False, originals, checkpoint)
        self.patched = PatchedModel(self.model, lambda: CPU, encoding)

    def activate(self, prompt: str) -> Report:
        return self.patched.activate(self.model, self.sources, parse_prompt(prompt).requests)

    def now(self) -> dict[str, Tensor]:
        return {name: tensor.clone() for name, tensor in tensors_of(self.model).items()}


def half_of(tensors: Mapping[str, Tensor], *, but: str) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in tensors.items() if but not in name}


@pytest.fixture(params=["sd1", "sd2"])
def host(request: pytest.FixtureRequest, tmp_path: Path) -> Host:
    return Host(tmp_path, request.param)


def test_networks_come_and_go_bit_for_bit(host: Host) -> None:
    before = host.now()
    for prompt in ("<lora:lora>", "<lora:norm><lora:lora:0.3>", "<lora:dora>", "<lora:bias_alone>", ""):
        assert host.activate(prompt).ok
        assert bool(differing(host.now(), before)) == bool(prompt)
    assert host.patched.requests == ()


def test_a_model_that_never_had_a_network_is_not_even_looked_at(tmp_path: Path) -> None:
    host = Host(tmp_path)
    host.model = nn.Linear(2, 2)
    assert host.activate("").ok
    with pytest.raises(UnknownModel):
        host.activate("<lora:lora>")


def test_another_checkpoint_loaded_in_place_is_that_checkpoint_to_the_last_bit(host: Host, tmp_path: Path) -> None:
    other = {name: tensor + 1 for name, tensor in host.now().items()}
    host.activate("<lora:lora><lora:bias_alone>")
    host.model.load_state_dict(other, strict=False)
    assert not differing(host.now(), other)
    assert host.patched.requests is None
    assert host.activate("<lora:lora>").ok
    host.activate("")
    assert not differing(host.now(), other)


def test_what_a_checkpoint_leaves_out_keeps_its_own_weights_and_no_network(host: Host) -> None:
    before = host.now()
    host.activate("<lora:lora><lora:norm>")
    part = half_of({name: tensor + 1 for name, tensor in before.items()}, but="attn")
    host.model.load_state_dict(part, strict=False)
    assert not differing(host.now(), {**before, **part})


def test_a_part_loaded_alone_counts_too(tmp_path: Path) -> None:
    host = Host(tmp_path)
    before = host.now()
    host.activate("<lora:lora><lora:norm>")
    unet = host.model.get_submodule("model.diffusion_model")
    other = {name: tensor + 1 for name, tensor in unet.state_dict().items()}
    unet.load_state_dict(other)
    expected = {**before, **{f"model.diffusion_model.{name}": tensor for name, tensor in other.items()}}
    assert not differing(host.now(), expected)


def test_a_vae_that_is_loaded_leaves_the_networks_where_they_are(tmp_path: Path) -> None:
    host = Host(tmp_path)
    host.model.add_module("first_stage_model", nn.Linear(2, 2))
    host.activate("<lora:lora>")
    before, wanted = host.now(), host.patched.requests
    vae = host.model.get_submodule("first_stage_model")
    vae.load_state_dict({"weight": torch.zeros(2, 2), "bias": torch.zeros(2)})
    assert host.patched.requests is wanted
    changed = differing(host.now(), before)
    assert changed == ["first_stage_model.bias", "first_stage_model.weight"]


def test_a_load_that_fails_half_way_leaves_no_network(host: Host) -> None:
    before = host.now()
    host.activate("<lora:lora>")
    bad = {**before, next(iter(before)): torch.zeros(3, 5, 7)}
    with pytest.raises(RuntimeError):
        host.model.load_state_dict(bad)
    assert not differing(host.now(), before)
    assert host.activate("<lora:lora>").ok


def test_weights_that_were_converted_meanwhile_are_patched_anew(tmp_path: Path) -> None:
    """The WebUI converts after loading; the hook has taken the networks out by then."""
    host = Host(tmp_path)
    host.activate("<lora:lora>")
    state = dict(weights())
    host.model.load_state_dict(state)
    host.model.float()
    before = host.now()
    assert host.activate("<lora:lora>").ok
    assert host.activate("").ok
    assert not differing(host.now(), before)


def test_a_level_that_comes_and_goes_in_the_tree_does_not_matter(tmp_path: Path) -> None:
    host = Host(tmp_path)
    before = host.now()
    host.activate("<lora:lora>")
    encoder = host.model.get_submodule("cond_stage_model")
    wrapper = nn.Module()
    wrapper.add_module("wrapped", encoder)
    host.model._modules["cond_stage_model"] = wrapper
    assert host.activate("<lora:lora:0.5><lora:bias_alone>").ok
    host.model._modules["cond_stage_model"] = encoder
    host.activate("")
    assert not differing(host.now(), before)


def test_weights_that_were_thrown_away_are_let_go(host: Host) -> None:
    host.activate("<lora:lora>")
    assert host.patched.bytes_held > 0
    host.model.to("meta")
    assert is_gone(host.model)
    host.patched.close()
    assert host.patched.bytes_held == 0


def test_weights_that_are_not_in_memory_are_said_to_be(host: Host) -> None:
    host.model.to("meta")
    with pytest.raises(UnknownModel, match="not in memory"):
        host.activate("<lora:lora>")


def test_nothing_of_ours_is_left_after_closing(host: Host) -> None:
    before = host.now()
    host.activate("<lora:lora><lora:bias_alone>")
    host.patched.close()
    assert not differing(host.now(), before)
    for module in host.model.modules():
        assert not module._forward_pre_hooks
        assert not module._load_state_dict_pre_hooks


def test_each_text_encoder_is_announced_before_it_runs(tmp_path: Path) -> None:
    ran: list[int] = []
    host = Host(tmp_path, encoding=ran.append)
    table = nn.Embedding(8, 4)
    wrapped = nn.Module()
    wrapped.add_module("wrapped", table)
    model = nn.Module()
    model.add_module("token_embedding", wrapped)
    model.add_module("position_embedding", nn.Embedding(8, 4))
    patched = PatchedModel(model, lambda: CPU, ran.append)
    ids = torch.tensor([1, 2])
    assert torch.equal(table(ids), table.weight[ids])
    model.get_submodule("position_embedding")(ids)
    assert ran == [0]
    patched.close()
    table(ids)
    assert ran == [0]
    assert host.patched.requests is None


def fp8(model: nn.Module, *, cached: bool) -> None:
    """What the WebUI does for fp8 storage to each layer of matrices, and to nothing else."""
    for module in model.modules():
        weight = getattr(module, "weight", None)
        if isinstance(weight, nn.Parameter) and weight.dim() > 1:
            if cached:
                module.fp16_weight = weight.detach().clone().half()
            weight.data = weight.data.to(torch.float8_e4m3fn)


@pytest.mark.parametrize("cached", [False, True])
def test_fp8_weights_are_computed_from_the_best_that_there_is_and_given_back(cached: bool, tmp_path: Path) -> None:
    name = "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn1.to_q.weight"
    host = Host(tmp_path)
    exact = host.now()
    with_network = Host(tmp_path)
    with_network.model.float()
    with_network.activate("<lora:dora:0.7>")
    fp8(host.model, cached=cached)
    stored = host.now()
    assert host.activate("<lora:dora:0.7>").ok
    live = tensors_of(host.model)[name]
    assert live.dtype == torch.float8_e4m3fn
    rounded = tensors_of(with_network.model)[name].to(torch.float8_e4m3fn)
    same = (live.float() == rounded.float()).float().mean()
    assert same > 0.99 if cached else same < 0.99  # rounded once, or a second time
    host.activate("<lora:lora>")
    host.activate("")
    assert not differing(host.now(), stored)
    if cached:
        module = host.model.get_submodule(name.removesuffix(".weight"))
        assert torch.equal(module.fp16_weight, exact[name])


def test_a_copy_left_from_fp8_storage_is_not_used_without_it(tmp_path: Path) -> None:
    host, plain = Host(tmp_path), Host(tmp_path)
    for module in host.model.modules():
        if isinstance(getattr(module, "weight", None), nn.Parameter):
            module.fp16_weight = torch.zeros_like(module.weight)
    host.activate("<lora:lora>")
    plain.activate("<lora:lora>")
    assert not differing(host.now(), plain.now())


def test_originals_that_the_checkpoint_holds_take_no_memory(tmp_path: Path) -> None:
    file = write_checkpoint(tmp_path / "models" / "sd1.safetensors", weights())
    host = Host(tmp_path, checkpoint=file)
    before = host.now()
    assert host.activate("<lora:lora>").ok
    assert host.patched.bytes_held == 0
    host.activate("")
    assert not differing(host.now(), before)
    host.patched.close()


def test_a_checkpoint_in_another_format_means_copies_in_memory(tmp_path: Path) -> None:
    file = tmp_path / "sd1.ckpt"
    torch.save(dict(weights()), file)
    host = Host(tmp_path, checkpoint=file)
    assert host.activate("<lora:lora>").ok
    assert host.patched.bytes_held > 0


def test_a_checkpoint_that_was_replaced_on_disk_is_no_obstacle(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = write_checkpoint(tmp_path / "models" / "sd1.safetensors", weights())
    host = Host(tmp_path, checkpoint=file)
    before = host.now()
    host.activate("<lora:lora>")
    write_checkpoint(tmp_path / "new.safetensors", {name: tensor + 1 for name, tensor in weights().items()})
    os.replace(tmp_path / "new.safetensors", file)
    assert host.activate("<lora:norm>").ok
    assert "sd1.safetensors" in caplog.text
    host.activate("")
    assert not differing(host.now(), before)


def test_closed_files_can_be_deleted(tmp_path: Path) -> None:
    file = write_checkpoint(tmp_path / "models" / "sd1.safetensors", weights())
    host = Host(tmp_path, checkpoint=file)
    host.activate("<lora:lora>")
    opened = {os.path.realpath(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd")}
    assert str(file) in opened
    host.model.load_state_dict(dict(weights()))
    opened = {os.path.realpath(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd")}
    assert str(file) not in opened


def test_where_originals_come_from_is_what_the_setting_says() -> None:
    model = nn.Linear(2, 2)
    assert originals_from_file(model, "checkpoint file")
    assert not originals_from_file(model, "memory")
    assert not originals_from_file(model, "automatic")


def test_a_dry_run_with_other_settings_leaves_the_networks_as_they_are(host: Host, tmp_path: Path) -> None:
    host.activate("<lora:lora>")
    now, held = host.now(), host.patched.bytes_held
    other = Sources(Catalog([tmp_path / "elsewhere"]), False, "checkpoint file", None)
    for sources, found in ((host.sources, True), (other, False)):
        session = host.patched.session(host.model, sources)
        told = session.dry_run(parse_prompt("<lora:dora>").requests, catalog=sources.catalog)
        assert told.tags[0].failed is not found
        assert not differing(host.now(), now)
    assert host.patched.bytes_held == held


def test_where_a_network_acts_is_measured_without_the_active_ones(host: Host, tmp_path: Path) -> None:
    plain = host.patched.session(host.model, host.sources).influence(tmp_path / "dora.safetensors")
    host.activate("<lora:lora:2><lora:norm>")
    now = host.now()
    found = host.patched.session(host.model, host.sources).influence(tmp_path / "dora.safetensors")
    assert found.layers
    assert found.layers == plain.layers
    assert found.blocks == plain.blocks
    assert not differing(host.now(), now)


def test_another_checkpoint_ends_a_measurement(host: Host, tmp_path: Path) -> None:
    other = {name: tensor + 1 for name, tensor in host.now().items()}

    def load(done: int, _total: int) -> None:
        if done == 2:
            host.model.load_state_dict(other, strict=False)

    with pytest.raises(UnknownModel, match="ask again"):
        host.patched.session(host.model, host.sources).influence(tmp_path / "dora.safetensors", load)
    assert host.patched.session(host.model, host.sources).influence(tmp_path / "dora.safetensors").against_model

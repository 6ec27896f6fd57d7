"""The replay itself: point 18 of the contract, patchers of the Forge family."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from a1111_replay.forge import BuiltinLora, MemoryManagement, ModelPatcher

ONE = torch.ones(2, 2)


def model() -> nn.Module:
    root = nn.Module()
    root.diffusion_model = nn.Linear(2, 2, bias=False)
    nn.init.zeros_(root.diffusion_model.weight)
    return root


def patch(factor: float = 1.0) -> dict:
    return {"diffusion_model.weight": ("diff", (ONE * factor,))}


def test_point_18_unknown_names_are_passed_over_by_add_patches_and_raise_at_refresh():
    patcher = ModelPatcher(model())
    assert patcher.add_patches(filename="a", patches=patch() | {"wrong.weight": ("diff", (ONE,))}) == set(patch())
    patcher.refresh_loras()
    patcher.lora_patches["b", 1.0, 1.0, False] = {"wrong.weight": [(1.0, ("diff", (ONE,)))]}
    with pytest.raises(ValueError, match="Wrong LoRA Key"):
        patcher.refresh_loras()


def test_point_18_refresh_sees_other_keys_but_not_other_tensors():
    patcher = ModelPatcher(model())
    patcher.add_patches(filename="a", patches=patch(1))
    patcher.refresh_loras()
    patcher.add_patches(filename="a", patches=patch(5))
    patcher.refresh_loras()
    assert patcher.model.diffusion_model.weight.equal(ONE)
    again = patcher.clone()
    again.lora_patches.clear()
    again.add_patches(filename="b", patches=patch(5))
    again.refresh_loras()
    assert patcher.model.diffusion_model.weight.equal(ONE * 5)


def test_point_18_parameters_are_replaced_and_the_original_object_comes_back():
    patcher = ModelPatcher(model())
    original = patcher.model.diffusion_model.weight
    patcher.add_patches(filename="a", patches=patch())
    patcher.refresh_loras()
    assert patcher.model.diffusion_model.weight is not original
    patcher.lora_patches.clear()
    patcher.refresh_loras()
    assert patcher.model.diffusion_model.weight is original


def test_point_18_a_loaded_patcher_is_known_by_its_identity():
    memory, patcher = MemoryManagement(), ModelPatcher(model())
    memory.load_models_gpu([patcher])
    patcher.add_patches(filename="a", patches=patch())
    memory.load_models_gpu([patcher])
    assert not patcher.model.diffusion_model.weight.any()
    memory.load_models_gpu([patcher.clone()])
    assert patcher.model.diffusion_model.weight.equal(ONE)


def test_point_18_the_built_in_returns_early_while_its_hash_reads_the_same():
    unet = ModelPatcher(model())
    builtin = BuiltinLora(unet)
    assert builtin.load_networks([("a", patch(), 1.0)])
    applied = builtin.after_applying_lora
    assert not builtin.load_networks([("a", patch(7), 1.0)])
    assert builtin.after_applying_lora is applied
    builtin.current_lora_hash = "somebody else"
    assert builtin.load_networks([("a", patch(7), 1.0)])


@pytest.mark.parametrize("host", ["forge", "reforge", "neo"])
def test_point_18_reforge_ignores_and_neo_rejects_native_tuples(host):
    patcher = ModelPatcher(model(), host)
    native = {"diffusion_model.weight": ("lora", (torch.ones(2, 1), torch.ones(1, 2), None))}
    patcher.add_patches(filename="a", patches=native)
    if host == "neo":
        with pytest.raises(ValueError, match="lora"):
            patcher.refresh_loras()
    else:
        patcher.refresh_loras()
        assert patcher.model.diffusion_model.weight.any() == (host == "forge")


def test_point_7_what_is_made_in_inference_mode_can_not_be_changed_outside():
    """Forge runs everything in it: tensors that are kept from there are of no use elsewhere."""
    patcher = ModelPatcher(model())
    patcher.add_patches(filename="a", patches=patch())
    MemoryManagement().load_models_gpu([patcher])
    with pytest.raises(RuntimeError):
        patcher.model.diffusion_model.weight.mul_(2)

"""The replay itself: points of the contract about the live model (11, 12 and 13)."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from safetensors.torch import load_file, save_file

from a1111_replay import WebUI, probes, shapes_of, write_vae
from a1111_replay.structures import random_tensors
from half_precision import needs_half_precision
from lycopatch.engine.families.binding import bind

VERSIONS = ("1.5", "1.6", "1.9", "1.10")
LAYER = "model.diffusion_model.middle_block.1.transformer_blocks.0.attn1.to_q"
LOADED = "script_callbacks.on_model_loaded(lambda model: log(f'loaded:{model.sd_checkpoint_info.name_for_extra}'))"
has_fp8 = pytest.mark.skipif(not hasattr(torch, "float8_e4m3fn"), reason="this torch has no fp8")


@pytest.mark.parametrize("kind", ["sd1", "sd2", "sdxl", "refiner", "inpaint"])
def test_the_small_models_are_bound_with_all_layers_also_while_they_are_wrapped(kind, tmp_path):
    with WebUI("1.10", tmp_path, model=kind, builtin_lora=False) as webui:
        webui.start()
        live = {name: tuple(each.shape) for name, each in webui.model.named_parameters()}
        wanted = {name: shape for name, shape in shapes_of(kind).items() if not name.startswith("first_stage_model.")}
        assert len(bind(live).layers) == len(bind(wanted).layers) > 50
        flags = (webui.model.is_sd1, webui.model.is_sd2, webui.model.is_sdxl)
        assert flags == (kind in ("sd1", "inpaint"), kind == "sd2", kind in ("sdxl", "refiner"))
        assert all(each.requires_grad for each in webui.model.parameters())
        assert any(isinstance(each, torch.nn.MultiheadAttention) for each in webui.model.modules()) == (
            kind not in ("sd1", "inpaint")
        )


@pytest.mark.parametrize("kind", ["sd1", "sd2", "sdxl"])
def test_pictures_depend_on_every_weight(kind, tmp_path):
    with WebUI("1.10", tmp_path, model=kind, builtin_lora=False) as webui:
        webui.start()
        plain = webui.txt2img("a cat", steps=1).images[0]
        parts = [name for name, _ in webui.model.named_parameters() if not name.startswith("first_stage_model.")]
        weights = [name for name in parts if name.endswith("weight") and "embedding" not in name][::15]
        for name in weights:
            parameter = webui.model.get_parameter(name)
            before = parameter.detach().clone()
            with torch.no_grad():
                parameter.mul_(1.5)
            webui.module("processing").StableDiffusionProcessing.cached_c[0] = None
            changed = webui.txt2img("a cat", steps=1).images[0]
            assert not changed.equal(plain), name
            with torch.no_grad():
                parameter.copy_(before)
        webui.module("processing").StableDiffusionProcessing.cached_c[0] = None
        assert webui.txt2img("a cat", steps=1).images[0].equal(plain)


@pytest.mark.parametrize("version", VERSIONS)
def test_point_11_a_vae_change_fires_model_loaded_and_leaves_patched_weights(version, tmp_path):
    with WebUI(version, tmp_path, extensions=[probes.extension(tmp_path, "probe", LOADED)]) as webui:
        write_vae(webui.data / "models" / "VAE" / "soft.safetensors", seed=9)
        webui.start().events.clear()
        weight = webui.model.get_parameter(f"{LAYER}.weight")
        with torch.no_grad():
            weight.fill_(0.25)
        vae = webui.model.first_stage_model.decoder.conv_out.weight.detach().clone()
        assert webui.change_vae("soft.safetensors")
        assert probes.only(webui.events, "loaded:", "weights:") == ["loaded:alpha"]
        assert (weight == 0.25).all()
        assert not webui.model.first_stage_model.decoder.conv_out.weight.equal(vae)
        webui.change_vae("None")
        assert webui.model.first_stage_model.decoder.conv_out.weight.equal(vae)


@pytest.mark.parametrize("version", VERSIONS)
def test_point_11_a_load_that_fails_loads_the_previous_checkpoint_and_fires_all_the_same(version, tmp_path):
    with WebUI(version, tmp_path, extensions=[probes.extension(tmp_path, "probe", LOADED)]) as webui:
        broken = random_tensors(shapes_of("sd1"), 3)
        broken[f"{LAYER}.weight"] = torch.zeros(3, 3)
        save_file(broken, webui.data / "models" / "Stable-diffusion" / "broken.safetensors")
        webui.start().events.clear()
        before = {name: each.detach().clone() for name, each in webui.model.state_dict().items()}
        assert not webui.switch_checkpoint("broken")
        assert probes.only(webui.events, "loaded:", "weights:") == ["weights:alpha", "loaded:alpha"]
        assert "size mismatch" in str(webui.errors[0].exception)
        assert all(each.equal(before[name]) for name, each in webui.model.state_dict().items())


@pytest.mark.parametrize("version", ["1.6", "1.9", "1.10"])
def test_point_11_using_a_loaded_model_again_fires_nothing(version, tmp_path):
    probe = probes.extension(tmp_path, "probe", LOADED)
    with WebUI(version, tmp_path, extensions=[probe], settings={"sd_checkpoints_limit": 2}) as webui:
        alpha = webui.start().model
        webui.switch_checkpoint("beta")
        beta = webui.model
        assert beta is not alpha
        assert probes.only(webui.events, "loaded:") == ["loaded:alpha", "loaded:beta"]
        webui.events.clear()
        webui.switch_checkpoint("alpha")
        assert webui.model is alpha
        assert probes.only(webui.events, "loaded:", "reused:") == ["reused:alpha"]


@pytest.mark.parametrize("version", VERSIONS)
def test_point_12_another_checkpoint_is_loaded_into_the_same_modules_and_missing_keys_stay(version, tmp_path):
    with WebUI(version, tmp_path) as webui:
        webui.start()
        partial = random_tensors(shapes_of("sd1"), 5)
        del partial[f"{LAYER}.weight"]
        path = webui.data / "models" / "Stable-diffusion" / "partial.safetensors"
        save_file(partial, path)
        webui.module("sd_models").list_models()
        model, weight = webui.model, webui.model.get_parameter(f"{LAYER}.weight")
        other = webui.model.get_parameter(f"{LAYER.replace('to_q', 'to_k')}.weight")
        with torch.no_grad():
            weight.fill_(0.25)
        hooked: list[str] = []
        model._register_load_state_dict_pre_hook(lambda *args: hooked.append(args[1]))
        webui.switch_checkpoint("partial")
        assert webui.model is model
        assert hooked == [""]
        assert webui.model.get_parameter(f"{LAYER}.weight") is weight
        assert (weight == 0.25).all()
        assert other.equal(load_file(path)[f"{LAYER.replace('to_q', 'to_k')}.weight"])


def test_point_12_in_1_5_the_cache_in_memory_holds_the_live_weights(tmp_path):
    spoiled = {}
    for version in ("1.5", "1.6"):
        with WebUI(version, tmp_path / version, settings={"sd_checkpoint_cache": 2}) as webui:
            webui.start()
            with torch.no_grad():
                webui.model.get_parameter(f"{LAYER}.weight").fill_(0.25)
            webui.switch_checkpoint("beta")
            webui.switch_checkpoint("alpha")
            spoiled[version] = webui.model.get_parameter(f"{LAYER}.weight").detach().clone()
            truth = load_file(webui.data / "models/Stable-diffusion/beta.safetensors")[f"{LAYER}.weight"]
            assert spoiled[version].equal(truth) == (version == "1.5")


@pytest.mark.parametrize("version", VERSIONS)
def test_point_13_an_old_model_goes_to_meta_when_the_structure_is_another(version, tmp_path):
    with WebUI(version, tmp_path) as webui:
        webui.add_checkpoint("large", "sdxl")
        old = weakref.ref(webui.start().model)
        layer = webui.model.get_submodule(LAYER)
        parameter = layer.weight
        assert webui.switch_checkpoint("large")
        assert webui.model.is_sdxl
        assert hasattr(webui.model, "conditioner")
        assert (layer.weight.device.type == "meta") == (version != "1.5")
        # the way to "meta" makes new parameters: who kept the old one keeps its memory
        assert parameter.device.type == "cpu"
        del layer, parameter
        gc.collect()
        assert old() is None


@pytest.mark.parametrize("version", VERSIONS)
def test_point_13_moving_keeps_parameters_and_unloading_differs_by_release(version, tmp_path):
    with WebUI(version, tmp_path) as webui:
        webui.start()
        model, weight = webui.model, webui.model.get_parameter(f"{LAYER}.weight")
        pointer = weight.data_ptr()
        model.double()
        assert webui.model.get_parameter(f"{LAYER}.weight") is weight
        assert weight.data_ptr() != pointer
        model.float()
        webui.unload_checkpoint()
        assert (webui.model is None) == (version in ("1.5", "1.6"))
        webui.events.clear()
        webui.txt2img("a cat")
        # 1.6 takes the model up again as it left it: unwrapped, and without a word to anybody
        assert (webui.model is model) == (version != "1.5")
        assert hasattr(webui.model.cond_stage_model, "wrapped") == (version != "1.6")
        assert ("callback:model_loaded" in webui.events) == (version == "1.5")


@pytest.mark.parametrize(("argument", "parts"), [("--medvram", 2), ("--lowvram", 8)])
def test_point_13_with_little_memory_parts_are_fetched_when_they_are_called(argument, parts, tmp_path):
    with WebUI("1.10", tmp_path, arguments=[argument]) as webui:
        webui.start()
        lowvram = webui.module("lowvram")
        lowvram.send_everything_to_cpu()
        lowvram.moves.clear()
        webui.txt2img("a cat", steps=1)
        assert webui.model.lowvram
        assert lowvram.moves[0] is webui.model.cond_stage_model.wrapped.transformer
        assert len(lowvram.moves) >= parts
        assert (webui.model.model in lowvram.moves) == (argument == "--medvram")
        assert lowvram.in_gpu is None


@has_fp8
@pytest.mark.parametrize("cached", [False, True])
def test_point_13_fp8_weights_can_not_be_added_and_the_better_ones_may_be_beside_them(cached, tmp_path):
    needs_half_precision()
    settings = {"fp8_storage": "Enable", "cache_fp16_weight": cached}
    with WebUI("1.10", tmp_path, settings=settings, half=True) as webui:
        webui.start()
        layer = webui.model.get_submodule(LAYER)
        assert layer.weight.dtype == torch.float8_e4m3fn
        assert webui.model.first_stage_model.decoder.conv_out.weight.dtype == torch.float32
        with pytest.raises((RuntimeError, NotImplementedError)):
            layer.weight + layer.weight
        assert hasattr(layer, "fp16_weight") == cached
        assert torch.isfinite(webui.txt2img("a cat").images[0]).all()
        webui.events.clear()
        assert webui.set_option("fp8_storage", "Disable")
        assert "weights:alpha" in webui.events
        assert layer.weight.dtype == torch.float16
        assert not hasattr(layer, "fp16_weight")

"""The replay itself: points of the contract about what happens during a generation (7, 13, 14 and 21)."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file

from a1111_replay import WebUI, probes, write_lora
from half_precision import needs_half_precision

VERSIONS = ("1.5", "1.6", "1.9", "1.10")
LAYER = "model.diffusion_model.middle_block.1.transformer_blocks.0.attn1.to_q"


@pytest.mark.parametrize("version", VERSIONS)
def test_point_7_activate_runs_without_gradients_and_under_autocast(version, tmp_path):
    needs_half_precision()
    body = """
        import torch
        from modules import extra_networks
        class Watch(extra_networks.ExtraNetwork):
            def activate(self, p, params_list):
                log(f"grad:{torch.is_grad_enabled()} product:{(torch.ones(2, 2) @ torch.ones(2, 2)).dtype}")
            def deactivate(self, p):
                log(f"later grad:{torch.is_grad_enabled()}")
        script_callbacks.on_before_ui(lambda: extra_networks.register_extra_network(Watch("watch")))
    """
    with WebUI(version, tmp_path, extensions=[probes.extension(tmp_path, "probe", body)], half=True) as webui:
        webui.start().events.clear()
        webui.txt2img("a <watch:x>")
        assert "grad:False product:torch.bfloat16" in webui.events
        assert "later grad:True" in webui.events


def test_point_13_manual_cast_replaces_forward_for_a_while_and_puts_back_what_it_found(tmp_path):
    body = """
        import torch
        from modules import extra_networks
        class Patching(extra_networks.ExtraNetwork):
            def activate(self, p, params_list):
                torch.nn.Linear.forward = lambda self, x: x
            def deactivate(self, p): ...
        script_callbacks.on_before_ui(lambda: extra_networks.register_extra_network(Patching("patching")))
    """
    probe = probes.extension(tmp_path, "probe", body)
    with WebUI("1.10", tmp_path, extensions=[probe], builtin_lora=False, half=True, manual_cast=True) as webui:
        webui.start()
        forward = torch.nn.Linear.forward
        webui.txt2img("a <patching:x>")
        assert torch.nn.Linear.forward is forward
        assert webui.model.get_parameter(f"{LAYER}.weight").dtype == torch.float16


STEPS = """
    from modules import shared

    def denoiser(params):
        own = getattr(params, "denoiser", None)
        log(f"step:{params.sampling_step} of {params.total_sampling_steps} own:{own and (own.step, own.total_steps)}")
    script_callbacks.on_cfg_denoiser(denoiser)
"""


@pytest.mark.parametrize("version", VERSIONS)
def test_point_14_the_step_lags_behind_and_some_samplers_call_twice(version, tmp_path):
    with WebUI(version, tmp_path, extensions=[probes.extension(tmp_path, "probe", STEPS)]) as webui:
        webui.start()
        knows = version in ("1.9", "1.10")
        for sampler, lagging, total in (("Euler a", [0, 0, 1], 3), ("Heun", [0, 0, 0, 0, 1, 1], 6)):
            webui.events.clear()
            webui.txt2img("a cat", steps=3, sampler_name=sampler)
            own = [(n, total) if knows else None for n in range(len(lagging))]
            expected = [f"step:{step} of 3 own:{each}" for step, each in zip(lagging, own, strict=True)]
            assert probes.only(webui.events, "step:") == expected
        webui.events.clear()
        webui.txt2img("a cat", steps=3, sampler_name="DDIM")
        assert len(probes.only(webui.events, "step:")) == (0 if version == "1.5" else 3)


@pytest.mark.parametrize("version", VERSIONS)
def test_an_interruption_leaves_a_picture_and_hires_is_skipped_since_1_6(version, tmp_path):
    with WebUI(version, tmp_path, extensions=[probes.handler(tmp_path)]) as webui:
        webui.start().events.clear()
        result = webui.txt2img("a <probe:x>", steps=3, n_iter=2, enable_hr=True, interrupt_at_step=1)
        assert len(result.images) == 1
        calls = 2 if version == "1.5" else 1
        assert probes.only(webui.events, "activate:") == ["activate:probe[x]"] * calls
        assert not webui.module("shared").state.interrupted


def test_hires_with_another_checkpoint_goes_there_and_back(tmp_path):
    with WebUI("1.10", tmp_path, extensions=[probes.handler(tmp_path)]) as webui:
        webui.start().events.clear()
        webui.txt2img("a <probe:x>", n_iter=2, enable_hr=True, hr_checkpoint_name="beta")
        both = ["activate:probe[x]", "weights:beta", "activate:probe[x]"]
        assert probes.only(webui.events, "activate:", "weights:") == [*both, "weights:alpha", *both]
        assert webui.opts.sd_model_checkpoint.startswith("alpha")


@pytest.mark.parametrize("version", VERSIONS)
def test_point_21_the_built_in_works_in_every_forward_and_backs_up_by_release(version, tmp_path):
    with WebUI(version, tmp_path) as webui:
        write_lora(webui.data / "models/Lora/ink.safetensors", {_kohya(LAYER): (16, 16)})
        webui.start()
        webui.txt2img("a cat")
        layer = webui.model.get_submodule(LAYER)
        pristine = layer.weight.detach().clone()
        with_bias = webui.model.get_submodule(LAYER.replace("attn1.to_q", "attn1.to_out.0"))
        assert (getattr(layer, "network_weights_backup", None) is not None) == (version == "1.5")
        assert (getattr(with_bias, "network_bias_backup", None) is not None) == (version in ("1.6", "1.9"))
        webui.txt2img("a cat <lora:ink:1>")
        assert not layer.weight.equal(pristine)  # stays after the picture
        mine = torch.nn.Linear(2, 2)
        forward = torch.nn.Linear.forward
        assert forward.__module__ == "lora_patches"
        mine(torch.ones(2))
        assert not hasattr(mine, "network_current_names")  # no layer of the model: passed over
        if version == "1.6":
            backup = with_bias.network_bias_backup
            webui.switch_checkpoint("beta")
            assert with_bias.network_bias_backup is backup  # stale
            assert layer.network_weights_backup is None
        else:
            webui.switch_checkpoint("beta")
            assert getattr(with_bias, "network_bias_backup", None) is None
        assert layer.network_current_names == ()


def _kohya(path):
    return "lora_unet_mid_block_attentions_0_" + path.partition("middle_block.1.")[2].replace(".", "_")


@pytest.mark.parametrize("kind", ["sd1", "sd2", "sdxl"])
@pytest.mark.parametrize("version", ["1.5", "1.10"])
def test_textual_inversions_come_from_files_and_from_others_until_a_folder_changes(version, kind, tmp_path):
    vectors = torch.ones(1, 16)
    both = {"clip_l": vectors, "clip_g": 2 * vectors}
    with WebUI(version, tmp_path, model=kind) as webui:
        save_file(both if kind == "sdxl" else {"emb": vectors}, webui.data / "embeddings" / "redword.safetensors")
        webui.start()
        database = webui.module("sd_hijack").model_hijack.embedding_db
        assert list(database.word_embeddings) == ["redword"]
        result = webui.txt2img("a redword")
        assert "TI hashes: " in result.infotexts[0]
        plain = webui.txt2img("a blueword").images[0]
        embedding = webui.module("textual_inversion.textual_inversion").Embedding(
            both if kind == "sdxl" else vectors, "blueword"
        )
        database.register_embedding(embedding, webui.model)
        assert webui.txt2img("the blueword").infotexts
        assert not _again(webui, "a blueword").equal(plain)
        database.register_embedding_by_name(None, webui.model, "blueword")
        assert _again(webui, "a blueword").equal(plain)
        database.register_embedding(embedding, webui.model)
        (webui.data / "embeddings" / "new").mkdir()
        assert _again(webui, "a blueword").equal(plain)
        assert "blueword" not in database.word_embeddings


def _again(webui, prompt):
    """The picture, with its prompt encoded anew."""
    webui.module("processing").StableDiffusionProcessing.cached_c[0] = None
    return webui.txt2img(prompt).images[0]

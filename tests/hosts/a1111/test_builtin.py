"""The built-in Lora extension beside us: silent while we work, as it was when we go."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch

from a1111_replay import WebUI, write_lora

Weights = Callable[[WebUI], dict[str, torch.Tensor]]

PLAIN, LORA = "a cat", "a cat <lora:ink:0.8>"
LEFT_AT_LAYERS = ("network_current_names", "network_weights_backup", "network_bias_backup")


@pytest.fixture
def webui(install: Callable[..., WebUI], version: str) -> Any:
    with install(version) as webui:
        yield webui.start()


def left(webui: WebUI, *names: str) -> list[str]:
    """Which of these attributes the built-in has put at layers, other than empty ones."""
    return [name for module in webui.model.modules() for name in names if getattr(module, name, None)]


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def networks() -> Any:
    return sys.modules["networks"]


def test_while_we_work_it_copies_and_marks_nothing(webui: WebUI) -> None:
    for prompt in (PLAIN, LORA, PLAIN):
        webui.txt2img(prompt)
    assert [
        name for module in webui.model.modules() for name in LEFT_AT_LAYERS if vars(module).get(name) is not None
    ] == []
    assert networks().loaded_networks == []


def test_its_networks_are_taken_out_when_we_come_and_work_again_when_we_go(webui: WebUI, weights: Weights) -> None:
    pristine, ours = weights(webui), webui.txt2img(LORA).images[0]
    webui.set_option("lycopatch_enabled", False)
    theirs = webui.txt2img(LORA).images[0]
    assert left(webui, "network_current_names")
    webui.set_option("lycopatch_enabled", True)
    assert same(weights(webui), pristine)
    assert networks().loaded_networks == []
    assert torch.equal(webui.txt2img(LORA).images[0], ours)
    webui.set_option("lycopatch_enabled", False)
    assert torch.equal(webui.txt2img(LORA).images[0], theirs)
    webui.txt2img(PLAIN)
    assert same(weights(webui), pristine)


def test_after_us_it_makes_the_pictures_that_it_makes_without_us(install: Callable[..., WebUI], version: str) -> None:
    with install(version, settings={"disabled_extensions": ["LycoPatch"]}) as without:
        without.start()
        assert "TagHandler" not in {type(handler).__name__ for handler in without.registry.values()}
        expected = [without.txt2img(prompt).images[0] for prompt in (PLAIN, LORA)]
    with install(version, settings={"disabled_extensions": []}) as webui:
        webui.start()
        webui.txt2img("a dog <lora:ink:-1>")
        webui.set_option("lycopatch_enabled", False)
        assert all(
            torch.equal(webui.txt2img(prompt).images[0], picture)
            for prompt, picture in zip((PLAIN, LORA), expected, strict=True)
        )


def test_a_checkpoint_loaded_while_we_work_is_not_spoiled_by_what_it_kept_of_another(
    webui: WebUI, weights: Weights
) -> None:
    beta = webui.txt2img(LORA)
    webui.switch_checkpoint("beta")
    pristine = weights(webui)
    webui.txt2img(LORA)
    webui.set_option("lycopatch_enabled", False)
    assert same(weights(webui), pristine)
    theirs = webui.txt2img(LORA).images[0]
    assert not torch.equal(theirs, beta.images[0])
    webui.txt2img(PLAIN)
    assert same(weights(webui), pristine)


def test_a_changed_vae_does_not_wake_it_up(webui: WebUI) -> None:
    """It gives the layers names whenever the WebUI says that a model was loaded, which it also says of a VAE."""
    ours = webui.txt2img(LORA).images[0]
    webui.module("script_callbacks").model_loaded_callback(webui.model)
    assert torch.equal(webui.txt2img(LORA).images[0], ours)
    assert left(webui, "network_layer_name", *LEFT_AT_LAYERS) == []


def test_copies_that_it_took_of_layers_with_our_networks_are_forgotten_when_we_go(
    webui: WebUI, weights: Weights
) -> None:
    """It may be woken by a change of the VAE, and we turned off before the next picture."""
    pristine = weights(webui)
    webui.txt2img(LORA)
    networks().assign_network_names_to_compvis_modules(webui.model)
    with torch.no_grad():
        for module in webui.model.modules():
            if isinstance(module, torch.nn.Linear):
                module(torch.zeros(1, module.in_features))
    webui.set_option("lycopatch_enabled", False)
    webui.txt2img(LORA)
    webui.txt2img(PLAIN)
    assert same(weights(webui), pristine)


def test_networks_that_somebody_loads_through_it_are_taken_out_and_reported_once(
    webui: WebUI, weights: Weights
) -> None:
    pristine, plain, ours = weights(webui), webui.txt2img(PLAIN).images[0], webui.txt2img(LORA).images[0]
    networks().load_networks(["ink"], [1.0], [1.0], [None])
    first = webui.txt2img(LORA)
    assert networks().loaded_networks == []
    assert "Another extension loaded networks through the built-in Lora extension" in first.comments
    assert torch.equal(first.images[0], ours)
    networks().load_networks(["ink"], [1.0], [1.0], [None])
    second = webui.txt2img(PLAIN)
    assert second.comments == ""
    assert torch.equal(second.images[0], plain)
    assert same(weights(webui), pristine)


def test_what_others_read_there_stays(webui: WebUI) -> None:
    networks().list_available_networks()
    webui.txt2img(LORA)
    assert "ink" in networks().available_networks
    assert webui.client().get("/sdapi/v1/loras").json()[0]["name"] == "ink"


def test_a_layer_that_it_can_not_restore_is_said_and_the_others_are_restored(
    webui: WebUI, weights: Weights, caplog: pytest.LogCaptureFixture
) -> None:
    pristine = weights(webui)
    webui.set_option("lycopatch_enabled", False)
    webui.txt2img(LORA)
    patched = [
        module for module in webui.model.modules() if getattr(module, "network_weights_backup", None) is not None
    ]
    changed = next(module for module in patched if not torch.equal(module.weight, module.network_weights_backup))
    changed.network_weights_backup = torch.zeros(3, 3)
    webui.set_option("lycopatch_enabled", True)
    assert "left its networks in 1 layers" in caplog.text
    now = weights(webui)
    assert sum(not torch.equal(now[name], pristine[name]) for name in pristine) == 1


def test_a_module_of_the_same_name_that_is_not_the_built_in_is_left_alone(
    install: Callable[..., WebUI], monkeypatch: pytest.MonkeyPatch
) -> None:
    with install("1.10", builtin_lora=False) as webui:
        stranger = type(sys)("networks")
        stranger.__dict__.update(
            __file__="/somewhere/networks.py",
            loaded_networks=["theirs"],
            load_networks=None,
            network_restore_weights_from_backup=None,
        )
        monkeypatch.setitem(sys.modules, "networks", stranger)
        webui.start()
        webui.txt2img(LORA)
        assert stranger.loaded_networks == ["theirs"]
        assert webui.errors == []


def test_the_copy_for_lycoris_is_treated_alike(install: Callable[..., WebUI], monkeypatch: pytest.MonkeyPatch) -> None:
    with install("1.10") as webui:
        webui.start()
        copy = type(sys)("l_networks")
        copy.__dict__.update(vars(networks()), loaded_networks=["theirs"], load_networks=lambda _: None)
        monkeypatch.setitem(sys.modules, "l_networks", copy)
        comments = webui.txt2img(LORA).comments
        assert copy.loaded_networks == []
        assert "Another extension loaded networks" in comments


def test_our_cards_take_the_place_of_its_cards(webui: WebUI) -> None:
    assert [type(page).__name__ for page in webui.module("ui_extra_networks").extra_pages] == ["NetworksPage"]
    assert webui.module("ui_extra_networks").extra_pages[0].title == "Lora"
    assert "lycopatch-gallery" in webui.cards()["Lora"]


def test_a_setting_keeps_both_pages_of_cards(install: Callable[..., WebUI], version: str) -> None:
    with install(version, settings={"lycopatch_keep_builtin_page": True}) as webui:
        webui.start()
        assert sorted(webui.cards()) == ["Lora", "LycoPatch"]
        assert webui.errors == []


def test_without_the_built_in_there_is_one_page_even_if_the_setting_keeps_both(
    install: Callable[..., WebUI], version: str
) -> None:
    with install(version, builtin_lora=False, settings={"lycopatch_keep_builtin_page": True}) as webui:
        webui.start()
        assert list(webui.cards()) == ["Lora"]


def test_an_sdxl_model_is_handed_over_whole(install: Callable[..., WebUI], weights: Weights) -> None:
    with install("1.10", model="sdxl") as webui:
        layers = {
            "lora_te1_text_model_encoder_layers_0_self_attn_q_proj": (16, 16),
            "lora_te2_text_model_encoder_layers_0_mlp_fc1": (64, 16),
        }
        write_lora(webui.data / "models" / "Lora" / "two.safetensors", layers, seed=4)
        webui.start()
        pristine = weights(webui)
        webui.set_option("lycopatch_enabled", False)
        webui.txt2img("a cat <lora:two:1>")
        webui.set_option("lycopatch_enabled", True)
        assert same(weights(webui), pristine)
        webui.txt2img("a cat <lora:two:1>")
        webui.set_option("lycopatch_enabled", False)
        assert same(weights(webui), pristine)
        assert webui.errors == []

"""From the prompt to the weights and the picture, in each release, with the built-in Lora extension on and off."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from a1111_replay import GenerationFailed, WebUI, shapes_of, write_lora
from half_precision import needs_half_precision

ROOT = Path(__file__).resolve().parents[3]
RELEASES = ["1.5", "1.6", "1.9", "1.10"]
SINCE_REFINER = ["1.6", "1.9", "1.10"]

QUERY = "model.diffusion_model.middle_block.1.transformer_blocks.0.attn1.to_q.weight"
TEXT = "cond_stage_model.transformer.text_model.encoder.layers.0.self_attn.q_proj.weight"
LAYERS = {
    "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q": QUERY,
    "lora_te_text_model_encoder_layers_0_self_attn_q_proj": TEXT,
}


def shapes(*keys: str) -> dict[str, tuple[int, ...]]:
    """Layer name → shape, of the layers that live in these tensors."""
    known = shapes_of("sd1")
    return {name: known[key] for name, key in LAYERS.items() if key in keys}


def delta(path: Path, layer: str) -> Tensor:
    """ΔW of one layer by the formula, in the network's own file."""
    tensors = load_file(path)
    up, down = tensors[f"{layer}.lora_up.weight"], tensors[f"{layer}.lora_down.weight"]
    return up.double() @ down.double() * float(tensors[f"{layer}.alpha"]) / down.shape[0]


class Desk:
    """A started WebUI with networks, and what their pictures should be made of."""

    def __init__(self, webui: WebUI) -> None:
        self.webui = webui
        self.folder = webui.data / "models" / "Lora"
        self.network("ink", QUERY, TEXT)
        self.network("paper", QUERY, TEXT, seed=2)

    def network(self, name: str, *keys: str, seed: int = 1, **metadata: str) -> Path:
        return write_lora(self.folder / f"{name}.safetensors", shapes(*keys), seed=seed, **metadata)

    def weights(self, model: Any = None) -> dict[str, Tensor]:
        """Every tensor of the model, whatever wraps it."""
        model = model or self.webui.model
        return {name.replace("wrapped.", ""): tensor.detach().clone() for name, tensor in model.named_parameters()}

    def checkpoint(self, name: str = "alpha") -> dict[str, Tensor]:
        return load_file(self.webui.data / "models" / "Stable-diffusion" / f"{name}.safetensors")

    def expected(self, networks: Mapping[str, tuple[float, float]], checkpoint: str = "alpha") -> dict[str, Tensor]:
        """The weights of a checkpoint with networks: name → (TE weight, UNet weight)."""
        stored = self.checkpoint(checkpoint)
        found: dict[str, Tensor] = {}
        for layer, key in LAYERS.items():
            total = stored[key].double()
            for name, (te, unet) in networks.items():
                total += (unet if key == QUERY else te) * delta(self.folder / f"{name}.safetensors", layer)
            found[key] = total
        return found

    def holds(self, networks: Mapping[str, tuple[float, float]], checkpoint: str = "alpha") -> None:
        """Assert that the model is this checkpoint with exactly these networks."""
        now, stored, wanted = self.weights(), self.checkpoint(checkpoint), self.expected(networks, checkpoint)
        changed = {key for key, tensor in stored.items() if not torch.equal(now[key], tensor)}
        assert changed == {key for key, tensor in wanted.items() if not torch.equal(tensor.float(), stored[key])}
        for key in wanted:
            assert torch.allclose(now[key].double(), wanted[key], atol=1e-6)

    def picture(self, prompt: str, **more: Any) -> Tensor:
        return torch.stack(list(self.webui.txt2img(prompt, **more).images))


Start = Callable[..., Desk]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts one WebUI with the extension. Whatever a test does, nothing may have gone wrong behind its back."""
    running: list[WebUI] = []

    def begin(version: str = "1.10", **options: Any) -> Desk:
        webui = WebUI(version, tmp_path, extensions={"LycoPatch": ROOT}, **options)
        webui.__enter__()
        running.append(webui)
        webui.start()
        return Desk(webui)

    yield begin
    errors = [error for webui in running for error in webui.errors]
    for webui in running:
        webui.__exit__(None, None, None)
    assert not errors, errors


@pytest.fixture(params=RELEASES)
def desk(request: pytest.FixtureRequest, start: Start) -> Desk:
    return start(request.param)


@pytest.mark.parametrize("builtin", [True, False], ids=["built-in on", "built-in off"])
@pytest.mark.parametrize("version", RELEASES)
def test_tags_change_weights_and_pictures_and_leave_no_trace(start: Start, version: str, builtin: bool) -> None:
    desk = start(version, builtin_lora=builtin)
    plain = desk.picture("a cat")
    desk.holds({})
    with_lora = desk.picture("a cat <lora:ink:0.8>")
    desk.holds({"ink": (0.8, 0.8)})
    with_lyco = desk.picture("a cat <lyco:ink:0.8>")
    desk.holds({"ink": (0.8, 0.8)})
    assert not torch.equal(plain, with_lora)
    assert torch.equal(with_lora, with_lyco)
    assert not torch.equal(with_lora, desk.picture("a cat <lora:ink:0.5:1>"))
    desk.holds({"ink": (0.5, 1.0)})
    assert torch.equal(plain, desk.picture("a cat"))
    desk.holds({})


def test_the_tags_of_both_kinds_add_up_in_any_order(desk: Desk) -> None:
    first = desk.picture("a cat <lyco:paper:0.5> <lora:ink:0.8>")
    desk.holds({"ink": (0.8, 0.8), "paper": (0.5, 0.5)})
    second = desk.picture("a cat <lora:ink:0.8> <lyco:paper:0.5>")
    assert torch.equal(first, second)


def test_what_is_equal_is_not_written_again(desk: Desk) -> None:
    desk.picture("a cat <lora:ink:0.8>", n_iter=2)
    versions = {name: tensor._version for name, tensor in desk.webui.model.named_parameters()}
    desk.picture("a dog <lora:ink:0.8>", n_iter=3)
    assert {name: tensor._version for name, tensor in desk.webui.model.named_parameters()} == versions


def test_a_hires_pass_has_the_networks_of_its_own_prompt(desk: Desk) -> None:
    seen: list[bool] = []

    def look(p: Any, _step: int) -> None:
        wanted = {"paper": (1.0, 1.0)} if p.is_hr_pass else {"ink": (1.0, 1.0)}
        desk.holds(wanted)
        seen.append(p.is_hr_pass)

    more = {"enable_hr": True, "hr_prompt": "a cat <lora:paper>", "on_step": look}
    one = desk.picture("a cat <lora:ink>", **more)
    assert seen == [False, False, True, True]
    assert torch.equal(one, desk.picture("a cat <lora:ink>", **more))


@pytest.mark.parametrize("argument", ["--medvram", "--lowvram"])
@pytest.mark.parametrize("version", RELEASES)
def test_with_little_memory_the_pictures_are_the_same(tmp_path: Path, version: str, argument: str) -> None:
    pictures: list[Tensor] = []
    for arguments in ([], [argument]):
        folder = tmp_path / (argument if arguments else "usual")
        with WebUI(version, folder, extensions={"LycoPatch": ROOT}, arguments=arguments) as webui:
            webui.start()
            desk = Desk(webui)
            plain = desk.picture("a cat")
            pictures.append(desk.picture("a cat <lora:ink>", enable_hr=True, hr_prompt="a cat <lora:paper:0.5>"))
            assert torch.equal(plain, desk.picture("a cat"))
            desk.holds({})
            assert not webui.errors
    assert torch.equal(*pictures)


@pytest.mark.parametrize("limit", [1, 2], ids=["loaded in place", "kept beside"])
@pytest.mark.parametrize("version", SINCE_REFINER)
def test_the_refiner_has_the_networks_too(start: Start, version: str, limit: int) -> None:
    desk = start(version, settings={"sd_checkpoints_limit": limit})
    desk.webui.txt2img("warm up", override_settings={"sd_model_checkpoint": "beta"})
    plain = desk.picture("a cat", refiner_checkpoint="beta", refiner_switch_at=0.5, steps=4)
    seen: list[str] = []

    def look(_p: Any, _step: int) -> None:
        name = desk.webui.model.sd_checkpoint_info.name_for_extra
        desk.holds({"ink": (0.7, 0.7)}, name)
        seen.append(name)

    more = {"refiner_checkpoint": "beta", "refiner_switch_at": 0.5, "steps": 4}
    one = desk.picture("a cat <lora:ink:0.7>", on_step=look, n_iter=2, **more)
    assert seen == ["alpha", "alpha", "beta", "beta"] * 2
    assert torch.equal(plain, desk.picture("a cat", **more))
    desk.holds({}, "beta")
    assert not torch.equal(one[:1], plain)


@pytest.mark.parametrize("limit", [1, 2], ids=["loaded in place", "kept beside"])
@pytest.mark.parametrize("version", SINCE_REFINER)
def test_a_refiner_s_text_encoder_has_the_networks_when_it_encodes(start: Start, version: str, limit: int) -> None:
    """A network on the text encoder alone: the picture tells whether the refiner's conditioning had it."""
    desk = start(version, settings={"sd_checkpoints_limit": limit})
    desk.network("words", TEXT)
    more = {"refiner_checkpoint": "beta", "refiner_switch_at": 0.0, "steps": 2}
    refined = desk.picture("a cat <lora:words>", **more)
    desk.webui.switch_checkpoint("beta")
    assert torch.equal(refined, desk.picture("a cat <lora:words>"))
    assert not torch.equal(refined, desk.picture("a cat"))


@pytest.mark.parametrize("version", RELEASES)
def test_turned_off_nothing_of_the_networks_is_left_in_the_next_picture(start: Start, version: str) -> None:
    """Also not in the conditioning that the WebUI kept, which it finds by the text of the tags."""
    desk = start(version, builtin_lora=False, settings={"experimental_persistent_cond_cache": True})
    desk.network("words", TEXT)
    plain = desk.picture("a cat")
    assert not torch.equal(plain, desk.picture("a cat <lora:words>"))
    desk.webui.set_option("lycopatch_enabled", False)
    assert torch.equal(plain, desk.picture("a cat <lora:words>"))
    desk.webui.set_option("lycopatch_enabled", True)
    assert not torch.equal(plain, desk.picture("a cat <lora:words>"))


@pytest.mark.parametrize("again", ["turned off and on", "reloaded"])
def test_models_that_were_loaded_before_we_began_are_followed(start: Start, again: str) -> None:
    desk = start("1.10", settings={"sd_checkpoints_limit": 2})
    desk.network("words", TEXT)
    desk.webui.switch_checkpoint("beta")
    alone = desk.picture("a cat <lora:words>")
    desk.webui.switch_checkpoint("alpha")
    if again == "reloaded":
        desk.webui.reload_ui()
    else:
        desk.webui.set_option("lycopatch_enabled", False)
        desk.webui.set_option("lycopatch_enabled", True)
    more: dict[str, Any] = {"refiner_checkpoint": "beta", "refiner_switch_at": 0.0}
    assert torch.equal(alone, desk.picture("a cat <lora:words>", **more))


@pytest.mark.parametrize("version", SINCE_REFINER)
def test_the_empty_prompt_of_a_new_model_is_encoded_without_networks(start: Start, version: str) -> None:
    desk = start(version, settings={"sd_checkpoints_limit": 2})
    desk.webui.switch_checkpoint("beta")
    empty = desk.webui.model.cond_stage_model_empty_prompt
    desk.webui.switch_checkpoint("alpha")
    desk.webui.set_option("sd_checkpoints_limit", 1)
    desk.webui.switch_checkpoint("beta")
    desk.webui.switch_checkpoint("alpha")
    desk.webui.set_option("sd_checkpoints_limit", 2)
    desk.picture("a cat <lora:ink>", refiner_checkpoint="beta", refiner_switch_at=0.5)
    assert desk.webui.model.sd_checkpoint_info.name_for_extra == "beta"
    assert torch.equal(desk.webui.model.cond_stage_model_empty_prompt, empty)
    desk.holds({"ink": (1.0, 1.0)}, "beta")


def test_another_checkpoint_gets_the_networks_and_both_come_back_clean(desk: Desk) -> None:
    plain = {name: desk.picture("a cat") for name in ("beta", "alpha") if desk.webui.switch_checkpoint(name)}
    for name in ("beta", "alpha", "beta"):
        desk.webui.switch_checkpoint(name)
        desk.holds({}, name)
        assert desk.webui.txt2img("a cat <lora:ink:0.6>").comments == ""
        desk.holds({"ink": (0.6, 0.6)}, name)
    desk.webui.switch_checkpoint("alpha")
    assert torch.equal(plain.get("alpha", desk.picture("a cat")), desk.picture("a cat"))
    desk.holds({}, "alpha")


def test_the_unet_has_the_networks_also_when_a_switch_encodes_nothing(desk: Desk) -> None:
    desk.picture("a cat <lora:ink:0.6>")
    desk.webui.switch_checkpoint("beta")
    desk.holds({}, "beta")
    callbacks = desk.webui.module("script_callbacks")
    callbacks.cfg_denoiser_callback(callbacks.CFGDenoiserParams(None, None, None, 0, 1, None, None))
    desk.holds({"ink": (0.6, 0.6)}, "beta")


def test_a_checkpoint_override_in_the_request_counts(desk: Desk) -> None:
    desk.picture("a cat <lora:ink>")
    desk.picture("a cat <lora:ink>", override_settings={"sd_model_checkpoint": "beta"})
    desk.picture("a cat <lora:ink>")
    desk.holds({"ink": (1.0, 1.0)}, "alpha")


def test_another_vae_changes_nothing_of_ours(desk: Desk) -> None:
    from a1111_replay import write_vae

    write_vae(desk.webui.data / "models" / "VAE" / "other.safetensors", seed=9)
    desk.picture("a cat <lora:ink>")
    desk.webui.change_vae("other.safetensors")
    before = {key: tensor for key, tensor in desk.weights().items() if "first_stage" not in key}
    desk.picture("a cat <lora:ink>")
    after = desk.weights()
    assert all(torch.equal(after[key], tensor) for key, tensor in before.items())
    desk.webui.change_vae("None")
    desk.picture("a cat")
    desk.holds({})


def test_an_unloaded_checkpoint_is_loaded_again_with_its_networks(desk: Desk) -> None:
    desk.picture("a cat <lora:ink>")
    desk.webui.unload_checkpoint()
    desk.picture("a cat <lora:ink:0.5>")
    desk.holds({"ink": (0.5, 0.5)})
    desk.picture("a cat")
    desk.holds({})


def test_a_generation_that_breaks_off_leaves_nothing_behind(desk: Desk) -> None:
    plain = desk.picture("a cat")
    with pytest.raises(GenerationFailed):
        desk.picture("a cat <lora:ink>", fail_at_step=0)
    assert torch.equal(plain, desk.picture("a cat"))
    desk.webui.txt2img("a cat <lora:ink>", interrupt_at_step=0, steps=4)
    assert torch.equal(plain, desk.picture("a cat"))
    desk.holds({})


def test_a_network_that_was_trained_again_is_in_the_next_picture(desk: Desk) -> None:
    """The prompt is the same, so the WebUI would take the conditioning of the old network."""
    old = desk.picture("a cat <lora:ink>")
    desk.network("ink", QUERY, TEXT, seed=77)
    new = desk.picture("a cat <lora:ink>")
    desk.holds({"ink": (1.0, 1.0)})
    assert not torch.equal(old, new)
    desk.picture("something else, so that nothing is kept")
    assert torch.equal(new, desk.picture("a cat <lora:ink>"))


def test_a_network_on_the_text_encoder_alone_counts_when_it_is_found_only_now(desk: Desk) -> None:
    without = desk.picture("a cat <lora:late>")
    assert torch.equal(without, desk.picture("a cat"))
    desk.picture("a cat <lora:late>")
    desk.network("late", TEXT)
    assert not torch.equal(without, desk.picture("a cat <lora:late>"))


def test_a_conditioning_is_kept_when_only_the_unet_changes(desk: Desk) -> None:
    if desk.webui.version == "1.5":
        desk.webui.set_option("experimental_persistent_cond_cache", True)
    desk.network("shapes", QUERY)
    desk.picture("a cat <lora:shapes>")
    desk.network("shapes", QUERY, seed=5)
    before = desk.webui.events.count("conds")
    desk.picture("a cat <lora:shapes>")
    assert desk.webui.events.count("conds") == before


def test_a_negative_prompt_with_tags_is_said_to_do_nothing(desk: Desk) -> None:
    made = desk.webui.txt2img("a cat", negative_prompt="ugly <lora:ink:0.5>")
    desk.holds({})
    assert "<lora:ink:0.5>" in made.comments
    assert "negative prompt" in made.comments


def test_a_batch_of_prompts_has_the_networks_of_the_first(desk: Desk) -> None:
    made = desk.webui.txt2img(["a cat <lora:ink>", "a dog <lora:paper>"], batch_size=2)
    desk.holds({"ink": (1.0, 1.0)})
    assert made.comments.count("first prompt") == 1


def test_an_unknown_name_costs_only_itself(desk: Desk) -> None:
    made = desk.webui.txt2img("a cat <lora:inc:0.5> <lora:paper:0.5>")
    desk.holds({"paper": (0.5, 0.5)})
    assert made.comments.count('"inc"') == 1
    assert "ink" in made.comments
    assert "paper:" in made.extra_generation_params["Lora hashes"]
    assert "inc" not in made.extra_generation_params["Lora hashes"]


def test_a_bug_of_ours_costs_the_networks_and_not_the_picture(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    plain = desk.picture("a cat")
    desk.picture("a cat <lora:ink>")
    session = sys.modules["lycopatch.engine.session"]
    with monkeypatch.context() as patched:
        patched.setattr(session.Session, "activate", lambda *_: 1 / 0)
        made = desk.webui.txt2img("a cat <lora:paper>")
    assert "LycoPatch" in made.comments
    assert torch.equal(plain, torch.stack(list(made.images)))
    assert [type(error.exception) for error in desk.webui.errors] == [ZeroDivisionError]
    desk.webui.errors.clear()
    desk.holds({})


def test_the_setting_add_network_to_prompt_works(start: Start) -> None:
    desk = start("1.10", settings={"sd_lora": "ink", "extra_networks_default_multiplier": 0.5})
    made = desk.webui.txt2img("a cat", n_iter=2, enable_hr=True)
    desk.holds({"ink": (0.5, 0.5)})
    assert all(text.startswith("a cat<lora:ink:0.5>\n") for text in made.infotexts)
    made = desk.webui.txt2img("a cat <lora:ink:0.9>")
    desk.holds({"ink": (0.9, 0.9)})
    assert made.infotexts[0].startswith("a cat <lora:ink:0.9>\n")


@pytest.mark.parametrize("version", RELEASES)
@pytest.mark.parametrize("kind", ["sd2", "sdxl", "inpaint"])
def test_models_of_other_kinds_are_patched_and_restored(start: Start, version: str, kind: str) -> None:
    desk = start(version, model=kind)
    known = shapes_of(kind)
    text = {
        "sd2": ("lora_te_text_model_encoder_layers_0_self_attn_q_proj", (16, 16)),
        "sdxl": ("lora_te2_text_model_encoder_layers_0_self_attn_q_proj", (16, 16)),
        "inpaint": ("lora_te_text_model_encoder_layers_0_self_attn_q_proj", (16, 16)),
    }[kind]
    query = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q"
    write_lora(desk.folder / "other.safetensors", {query: known[QUERY], text[0]: text[1]}, seed=3)
    before = desk.weights()
    plain = desk.picture("a cat")
    made = desk.webui.txt2img("a cat <lora:other>")
    now = desk.weights()
    changed = [key for key, tensor in before.items() if not torch.equal(tensor, now[key])]
    assert len(changed) == 2, changed
    assert made.comments == ""
    assert torch.equal(plain, desk.picture("a cat"))


@pytest.mark.parametrize("manual_cast", [False, True])
@pytest.mark.parametrize("version", ["1.5", "1.10"])
def test_half_precision_and_autocast_do_not_spoil_the_arithmetic(start: Start, version: str, manual_cast: bool) -> None:
    if manual_cast and version == "1.5":
        pytest.skip("1.5 has no replaced forwards")
    needs_half_precision()
    desk = start(version, half=True, manual_cast=manual_cast)
    desk.picture("a cat <lora:ink:0.7>")
    stored = desk.checkpoint()
    for layer, key in LAYERS.items():
        base = stored[key].half().double()
        wanted = (base + 0.7 * delta(desk.folder / "ink.safetensors", layer)).half()
        assert (desk.weights()[key] == wanted).float().mean() > 0.99
    desk.picture("a cat")
    assert torch.equal(desk.weights()[QUERY], stored[QUERY].half())


@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize("version", ["1.9", "1.10"])
def test_fp8_storage_comes_back_bit_for_bit(start: Start, version: str, cached: bool) -> None:
    needs_half_precision()
    desk = start(version, half=True, settings={"fp8_storage": "Enable", "cache_fp16_weight": cached})
    plain, before = desk.picture("a cat"), desk.weights()
    assert before[QUERY].dtype == torch.float8_e4m3fn
    assert not torch.equal(plain, desk.picture("a cat <lora:ink>"))
    layer = next(layer for layer, key in LAYERS.items() if key == QUERY)
    base = desk.checkpoint()[QUERY].half() if cached else before[QUERY].half()
    wanted = (base.double() + delta(desk.folder / "ink.safetensors", layer)).to(torch.float8_e4m3fn)
    assert (desk.weights()[QUERY].float() == wanted.float()).float().mean() > 0.99
    assert torch.equal(plain, desk.picture("a cat"))
    assert all(torch.equal(tensor.float(), desk.weights()[key].float()) for key, tensor in before.items())
    desk.webui.set_option("fp8_storage", "Disable")
    desk.picture("a cat <lora:ink>")
    desk.picture("a cat")
    assert torch.equal(desk.weights()[QUERY], desk.checkpoint()[QUERY].half())


def test_what_another_extension_writes_into_the_model_is_not_overwritten(desk: Desk) -> None:
    desk.picture("a cat <lora:ink>")
    parameter = dict(desk.webui.model.named_parameters())[QUERY]
    with torch.no_grad():
        parameter.fill_(0.125)
    made = desk.webui.txt2img("a cat")
    assert torch.all(parameter == 0.125)
    assert "Something else changed" in made.comments


def test_a_damaged_file_costs_only_its_own_tag(desk: Desk) -> None:
    (desk.folder / "broken.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0not json at all!")
    (desk.folder / "empty.safetensors").touch()
    tensors = load_file(desk.folder / "ink.safetensors")
    tensors[next(iter(tensors))].fill_(float("nan"))
    save_file(tensors, desk.folder / "nan.safetensors")
    made = desk.webui.txt2img("a cat <lora:broken> <lora:empty> <lora:ink:0.5> <lora:nan>")
    for name in ("broken", "empty", "nan"):
        assert name in made.comments
    assert "ink:" in made.extra_generation_params["Lora hashes"]

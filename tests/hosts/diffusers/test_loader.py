"""A pipeline's weights: what a tag does to them, and that nothing of it stays."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from hosts.diffusers.pipelines import (
    TEXT_QUERY,
    UNET_QUERY,
    WIDTH,
    lora,
    picture,
    same_weights,
    text_encoder,
    tiny_sd1,
    transformers,
    unet,
    weights,
)
from lycopatch.engine.errors import UnknownModel
from lycopatch.hosts.diffusers import NetworkLoader


def test_the_host_does_not_import_diffusers() -> None:
    program = (
        "import sys; import lycopatch.hosts.diffusers; "
        "sys.exit(any(name in sys.modules for name in ('diffusers', 'transformers', 'accelerate', 'peft')))"
    )
    subprocess.run([sys.executable, "-c", program], check=True, env={"PYTHONPATH": ":".join(sys.path)})


def test_a_tag_changes_the_picture_and_its_end_gives_the_same_bytes_back(sd1: Any, networks: Path) -> None:
    before, plain = weights(sd1), picture(sd1)
    loader = NetworkLoader(sd1, folders=[networks])
    report = loader.activate("<lora:ink:1>")
    assert report.ok, report.messages()
    assert (report.tags[0].layers_applied, report.tensors_written) == (2, 2)
    assert np.abs(picture(sd1) - plain).max() > 2 / 255
    assert loader.deactivate() == 2
    assert same_weights(sd1, before)
    assert picture(sd1).tobytes() == plain.tobytes()


def test_multiplier_zero_makes_the_picture_without_a_network(sd1: Any, networks: Path) -> None:
    plain = picture(sd1)
    assert NetworkLoader(sd1, folders=[networks]).activate("<lora:ink:0>").ok
    assert picture(sd1).tobytes() == plain.tobytes()


def test_leaving_the_context_takes_the_networks_out(sd1: Any, networks: Path) -> None:
    before = weights(sd1)
    with NetworkLoader(sd1, folders=[networks]) as loader:
        loader.activate("<lora:ink:1>")
        assert not same_weights(sd1, before)
    assert same_weights(sd1, before)


def test_an_unknown_name_is_a_sentence_and_the_other_network_works(sd1: Any, networks: Path) -> None:
    report = NetworkLoader(sd1, folders=[networks]).activate("<lora:inc:1><lora:ink:1>")
    assert [issue.kind for issue in report.all_issues] == ["not found"]
    assert report.tags[1].layers_applied == 2


def test_each_component_gets_its_own_multiplier(sd1: Any, networks: Path) -> None:
    before = weights(sd1)
    NetworkLoader(sd1, folders=[networks]).activate("<lora:ink:0:1>")
    changed = {name.split(".")[0] for name, tensor in weights(sd1).items() if not torch.equal(tensor, before[name])}
    assert changed == {"unet"}


def test_both_text_encoders_of_sdxl_are_reached(sdxl: Any, tmp_path: Path) -> None:
    layers = {
        "lora_te1_text_model_encoder_layers_1_mlp_fc1": (2 * WIDTH, WIDTH),
        "lora_te2_text_model_encoder_layers_1_mlp_fc1": (4 * WIDTH, 2 * WIDTH),
        "lora_te2_text_projection": (2 * WIDTH, 2 * WIDTH),
        "lora_unet_input_blocks_1_1_transformer_blocks_0_attn2_to_k": (16, 3 * WIDTH),
    }
    save_file(lora(layers), tmp_path / "ink.safetensors")
    before, plain = weights(sdxl), picture(sdxl)
    loader = NetworkLoader(sdxl, folders=[tmp_path])
    report = loader.activate("<lora:ink:1>")
    assert report.ok, report.messages()
    changed = [name for name, tensor in weights(sdxl).items() if not torch.equal(tensor, before[name])]
    assert len(changed) == 4
    assert np.abs(picture(sdxl) - plain).max() > 2 / 255
    loader.close()
    assert picture(sdxl).tobytes() == plain.tobytes()


@pytest.mark.parametrize("missing", ["unet", "text_encoder"])
def test_a_component_may_be_missing(missing: str, sd1: Any, networks: Path) -> None:
    parts = SimpleNamespace(unet=sd1.unet, text_encoder=sd1.text_encoder, transformer=None)
    setattr(parts, missing, None)
    assert NetworkLoader(parts, folders=[networks]).activate("<lora:ink:1>").tags[0].layers_applied == 1


def test_a_lone_u_net_is_enough(sd1: Any, networks: Path) -> None:
    assert NetworkLoader(sd1.unet, folders=[networks]).activate("<lora:ink:1>").tags[0].layers_applied == 1


def test_something_without_components_is_refused_with_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(UnknownModel, match="has no unet, transformer"):
        NetworkLoader(SimpleNamespace(vae=nn.Linear(1, 1)), folders=[tmp_path])


def test_a_text_encoder_is_reached_with_and_without_the_level_that_transformers_5_dropped(tmp_path: Path) -> None:
    names = [TEXT_QUERY, "text_encoder.encoder.layers.0.self_attn.q_proj", "lora_te1_" + TEXT_QUERY[8:]]
    for number, name in enumerate(names):
        save_file(lora({name: (WIDTH, WIDTH)}), tmp_path / f"n{number}.safetensors")
    model = text_encoder(transformers.CLIPTextModel, 99)
    inner = getattr(model, "text_model", model)
    # the old and the new class around the same weights
    for encoder in (inner, nn.ModuleDict({"text_model": inner})):
        loader = NetworkLoader(SimpleNamespace(text_encoder=encoder), folders=[tmp_path])
        for number in range(len(names)):
            assert loader.activate(f"<lora:n{number}:1>").ok
        loader.close()


def test_a_replaced_component_is_noticed_and_the_old_one_is_pristine_again(sd1: Any, networks: Path) -> None:
    loader = NetworkLoader(sd1, folders=[networks])
    loader.activate("<lora:ink:1>")
    old, old_patched = sd1.unet, weights(sd1)
    sd1.unet = unet()
    before = weights(sd1)
    report = loader.activate("<lora:ink:1>")
    assert report.tensors_written == 2
    name = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q.weight"
    assert not torch.equal(sd1.unet.state_dict()[name], before["unet." + name])
    assert not torch.equal(old.state_dict()[name], old_patched["unet." + name])
    loader.close()
    assert torch.equal(sd1.unet.state_dict()[name], before["unet." + name])


def test_networks_follow_a_pipeline_to_another_dtype(sd1: Any, networks: Path) -> None:
    loader = NetworkLoader(sd1, folders=[networks])
    sd1.to(torch.bfloat16)
    before = weights(sd1)
    assert loader.activate("<lora:ink:1>").ok
    assert not same_weights(sd1, before)
    loader.deactivate()
    assert same_weights(sd1, before)


def test_a_bias_that_a_network_brings_is_added_and_taken_away(sd1: Any, tmp_path: Path) -> None:
    save_file({f"{UNET_QUERY}.diff_b": torch.ones(16)}, tmp_path / "ink.safetensors")
    before = weights(sd1)
    loader = NetworkLoader(sd1, folders=[tmp_path])
    assert loader.activate("<lora:ink:0.5>").ok
    layer = sd1.unet.down_blocks[0].attentions[0].transformer_blocks[0].attn1.to_q
    assert layer.bias is not None
    assert torch.equal(layer.bias, torch.full((16,), 0.5))
    loader.deactivate()
    assert layer.bias is None
    assert same_weights(sd1, before)


def test_quantised_weights_are_left_alone_with_a_sentence(sd1: Any, networks: Path) -> None:
    for parameter in sd1.text_encoder.parameters():
        parameter.requires_grad_(False)
        parameter.data = parameter.data.to(torch.int8)
    before = weights(sd1)
    report = NetworkLoader(sd1, folders=[networks]).activate("<lora:ink:1>")
    assert report.tags[0].layers_applied == 1
    assert [issue.message for issue in report.issues] == [
        "The weights of the text_encoder are quantised (int8) and can not be patched."
    ]
    after = weights(sd1)
    assert all(torch.equal(after[name], before[name]) for name in before if name.startswith("text_encoder."))


def test_an_error_in_the_progress_display_leaves_the_pipeline_pristine(sd1: Any, networks: Path) -> None:
    before = weights(sd1)

    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        NetworkLoader(sd1, folders=[networks]).activate("<lora:ink:1>", stop)
    assert same_weights(sd1, before)


def test_two_loaders_of_equal_pipelines_do_not_share_anything(words: Path, networks: Path) -> None:
    one, other = tiny_sd1(words), tiny_sd1(words)
    before = weights(other)
    NetworkLoader(one, folders=[networks]).activate("<lora:ink:1>")
    assert not same_weights(one, before)
    assert same_weights(other, before)


def test_a_dry_run_says_what_would_happen_and_leaves_the_pipeline_alone(sd1: Any, networks: Path) -> None:
    before = weights(sd1)
    with NetworkLoader(sd1, folders=[networks]) as loader:
        told = loader.dry_run("<lora:ink:1> <lora:inc>")
        assert same_weights(sd1, before)
        done = loader.activate("<lora:ink:1> <lora:inc>")
        assert told.tags == done.tags
        assert told.estimate is not None
        assert (told.estimate.tensors, told.estimate.bytes_originals) == (2, loader.session.bytes_held)
        after = weights(sd1)
        nothing = loader.dry_run("<lora:ink:1>").estimate
        assert nothing is not None
        assert (nothing.tensors, nothing.restored) == (0, 0)
        assert same_weights(sd1, after)


def test_questions_are_answered_for_the_pipeline_as_it_is_now(sd1: Any, networks: Path) -> None:
    with NetworkLoader(sd1, folders=[networks]) as loader:
        loader.activate("<lora:ink:1>")
        first = loader.current_session().influence(networks / "ink.safetensors")
        assert set(first.parts) == {"unet", "te1"}
        old = loader.session
        sd1.unet = unet()
        assert loader.current_session() is not old
        second = loader.current_session().influence(networks / "ink.safetensors")
        assert second.layers == first.layers  # the network is the same
        assert second.parts["unet"].weight != first.parts["unet"].weight  # the model is not
        assert second.parts["te1"] == first.parts["te1"]

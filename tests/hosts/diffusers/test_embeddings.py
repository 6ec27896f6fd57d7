"""Textual inversions inside a network's file: known while the network is active, without a trace afterwards."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from hosts.diffusers.pipelines import (
    UNET_QUERY,
    WIDTH,
    lora,
    offload,
    picture,
    same_weights,
    tiny_sd1,
    transformers,
    weights,
)
from lycopatch.engine.report import Report
from lycopatch.hosts.diffusers import NetworkLoader

EMBEDDING = "lora_te_text_model_embeddings_token_embedding"


def bundle(folder: Path, parts: dict[str, Tensor], *, name: str = "zorb", file: str = "ink", **more: Tensor) -> None:
    """A network without layers (or with ``more``) that brings an embedding."""
    tensors = {f"bundle_emb.{name}.{part}": tensor for part, tensor in parts.items()}
    save_file(tensors | more, folder / f"{file}.safetensors")


def token_vector(tokenizer: Any, encoder: Any, word: str) -> Tensor:
    return encoder.get_input_embeddings().weight[tokenizer.convert_tokens_to_ids(word + "</w>")].detach().clone()


def embedding_issues(report: Report) -> list[str]:
    return [issue.message for issue in report.all_issues if issue.kind == "embedding"]


@pytest.mark.parametrize("part", ["string_to_param.*", "emb_params", "clip_l"])
def test_a_word_with_the_vector_of_another_makes_the_other_ones_picture(part: str, sd1: Any, tmp_path: Path) -> None:
    bundle(tmp_path, {part: token_vector(sd1.tokenizer, sd1.text_encoder, "z")[None]})
    with NetworkLoader(sd1, folders=[tmp_path]) as loader:
        assert picture(sd1, "a zorb, b").tobytes() != picture(sd1, "a z, b").tobytes()
        assert not embedding_issues(loader.activate("<lora:ink:1>"))
        assert picture(sd1, "a zorb, b").tobytes() == picture(sd1, "a z, b").tobytes()


def test_sdxl_takes_a_vector_for_each_text_encoder_and_pools_at_the_end_of_the_text(sdxl: Any, tmp_path: Path) -> None:
    first = token_vector(sdxl.tokenizer, sdxl.text_encoder, "z")
    second = token_vector(sdxl.tokenizer_2, sdxl.text_encoder_2, "z")
    bundle(tmp_path, {"clip_l": first[None], "clip_g": second[None]})
    with NetworkLoader(sdxl, folders=[tmp_path]) as loader:
        assert not embedding_issues(loader.activate("<lora:ink:1>"))
        assert picture(sdxl, "a zorb, b").tobytes() == picture(sdxl, "a z, b").tobytes()


@pytest.mark.parametrize(("name", "count"), [("zorb", 1), ("zorb", 3), ("Zorb-2", 2)])
def test_it_is_the_picture_of_the_pipelines_own_textual_inversion(
    name: str, count: int, sd1: Any, words: Path, tmp_path: Path
) -> None:
    vectors = torch.randn(count, WIDTH)
    bundle(tmp_path, {"emb_params": vectors}, name=name)
    reference = tiny_sd1(words)
    reference.load_textual_inversion({name: vectors}, token=name)
    NetworkLoader(sd1, folders=[tmp_path]).activate("<lora:ink:1>")
    for prompt in (name, f"a {name} of {name.lower()}", "no such word"):
        assert picture(sd1, prompt).tobytes() == picture(reference, prompt).tobytes()


def test_nothing_of_it_stays(sd1: Any, tmp_path: Path) -> None:
    bundle(tmp_path, {"emb_params": torch.randn(2, WIDTH)})
    before, plain, tokenizer, size = weights(sd1), picture(sd1, "a zorb"), sd1.tokenizer, len(sd1.tokenizer)
    table = sd1.text_encoder.get_input_embeddings().weight
    loader = NetworkLoader(sd1, folders=[tmp_path])
    loader.activate("<lora:ink:1>")
    assert picture(sd1, "a zorb").tobytes() != plain.tobytes()
    assert sd1.text_encoder.get_input_embeddings().weight is table
    loader.deactivate()
    assert sd1.tokenizer is tokenizer
    assert len(tokenizer) == size
    assert same_weights(sd1, before)
    assert not any(
        module._forward_hooks or module._forward_pre_hooks
        for part in (sd1.text_encoder, sd1.unet)
        for module in part.modules()
    )
    assert picture(sd1, "a zorb").tobytes() == plain.tobytes()


def test_a_network_may_patch_the_table_of_tokens_and_bring_a_token(sd1: Any, tmp_path: Path) -> None:
    table = sd1.text_encoder.get_input_embeddings().weight
    change, vector = torch.randn(table.shape), torch.randn(1, WIDTH)
    bundle(tmp_path, {"emb_params": vector}, **{f"{EMBEDDING}.diff": change})
    before, expected = weights(sd1), table.detach() + change
    loader = NetworkLoader(sd1, folders=[tmp_path])
    assert loader.activate("<lora:ink:1>").ok
    ids = sd1.tokenizer("z zorb", return_tensors="pt").input_ids
    seen: list[Tensor] = []
    layer = sd1.text_encoder.get_input_embeddings()
    handle = layer.register_forward_hook(lambda module, args, output: seen.append(output))
    sd1.text_encoder(ids)
    handle.remove()
    assert torch.equal(seen[0][0, 2], vector[0])
    assert torch.equal(seen[0][0, 1], expected[ids[0, 1]])
    loader.deactivate()
    assert same_weights(sd1, before)


def test_the_parts_of_an_encoder_know_the_token_as_well(sd1: Any, tmp_path: Path) -> None:
    vector = torch.randn(1, WIDTH)
    bundle(tmp_path, {"emb_params": vector})
    with NetworkLoader(sd1, folders=[tmp_path]) as loader:
        loader.activate("<lora:ink:1>")
        ids = sd1.tokenizer("zorb", return_tensors="pt").input_ids
        assert torch.equal(sd1.text_encoder.get_input_embeddings()(ids)[0, 1], vector[0])


def test_the_same_prompt_again_leaves_the_tokenizer_alone(sd1: Any, tmp_path: Path) -> None:
    bundle(tmp_path, {"emb_params": torch.randn(2, WIDTH)})
    loader = NetworkLoader(sd1, folders=[tmp_path])
    loader.activate("<lora:ink:1>")
    tokenizer = sd1.tokenizer
    assert not embedding_issues(loader.activate("<lora:ink:1>"))
    assert not embedding_issues(loader.activate("<lora:ink:0.5><lora:ink:0.25>"))
    assert sd1.tokenizer is tokenizer
    bundle(tmp_path, {"emb_params": torch.randn(2, WIDTH) + 1})
    loader.activate("<lora:ink:1>")
    assert sd1.tokenizer is not tokenizer


def test_embeddings_come_and_go_with_their_networks(sd1: Any, tmp_path: Path) -> None:
    bundle(tmp_path, {"emb_params": torch.randn(2, WIDTH)})
    bundle(tmp_path, {"emb_params": torch.randn(1, WIDTH)}, name="blip", file="paper")
    loader = NetworkLoader(sd1, folders=[tmp_path])
    for prompt, known in (
        ("<lora:ink:1><lora:paper:1>", {"zorb", "zorb_1", "blip"}),
        ("<lora:paper:1>", {"blip"}),
        ("", set()),
        ("<lora:ink:1>", {"zorb", "zorb_1"}),
    ):
        loader.activate(prompt)
        assert sd1.tokenizer.get_vocab().keys() & {"zorb", "zorb_1", "blip"} == known


def test_a_token_that_exists_already_stays_what_it_is(sd1: Any, tmp_path: Path) -> None:
    sd1.load_textual_inversion({"zorb": torch.randn(1, WIDTH)}, token="zorb")
    plain = picture(sd1, "a zorb")
    bundle(tmp_path, {"emb_params": torch.randn(1, WIDTH)})
    report = NetworkLoader(sd1, folders=[tmp_path]).activate("<lora:ink:1>")
    assert embedding_issues(report) == [
        'The embedding "zorb" inside "ink" was left out: there is already a token "zorb".'
    ]
    assert picture(sd1, "a zorb").tobytes() == plain.tobytes()


def test_two_networks_may_store_their_tokens_in_different_precision(sd1: Any, tmp_path: Path) -> None:
    bundle(tmp_path, {"emb_params": torch.ones(1, WIDTH, dtype=torch.bfloat16)})
    bundle(tmp_path, {"emb_params": torch.ones(1, WIDTH)}, name="blip", file="paper")
    with NetworkLoader(sd1, folders=[tmp_path]) as loader:
        assert not embedding_issues(loader.activate("<lora:ink:1><lora:paper:1>"))
        assert picture(sd1, "a zorb").tobytes() == picture(sd1, "a blip").tobytes()


def test_of_two_networks_with_one_name_for_a_token_the_first_wins(sd1: Any, tmp_path: Path) -> None:
    bundle(tmp_path, {"emb_params": token_vector(sd1.tokenizer, sd1.text_encoder, "z")[None]})
    bundle(tmp_path, {"emb_params": torch.randn(1, WIDTH)}, file="paper")
    report = NetworkLoader(sd1, folders=[tmp_path]).activate("<lora:ink:1><lora:paper:1>")
    assert [[issue.kind for issue in tag.issues].count("embedding") for tag in report.tags] == [0, 1]
    assert picture(sd1, "a zorb").tobytes() == picture(sd1, "a z").tobytes()


@pytest.mark.parametrize(
    ("parts", "reason"),
    [
        (
            {"emb_params": torch.ones(1, 48)},
            "its vectors are 48 wide, those of the text_encoder 32: another base",
        ),
        ({"clip_l": torch.ones(1, WIDTH), "clip_g": torch.ones(1, 64)}, 'no text encoder for its part "clip_g"'),
        ({"clip_l": torch.ones(1, WIDTH), "clip_l_out": torch.ones(1, WIDTH)}, 'for its part "clip_l_out"'),
        ({"emb_params": torch.full((1, WIDTH), torch.nan)}, "not finite"),
        ({"emb_params": torch.ones(1, 1, WIDTH)}, "another base model"),
    ],
)
def test_an_embedding_that_does_not_fit_is_left_out_with_a_sentence(
    parts: dict[str, Tensor], reason: str, sd1: Any, tmp_path: Path
) -> None:
    tokenizer = sd1.tokenizer
    bundle(tmp_path, parts, **lora({UNET_QUERY: (16, 16)}))
    report = NetworkLoader(sd1, folders=[tmp_path]).activate("<lora:ink:1>")
    (message,) = embedding_issues(report)
    assert reason in message
    assert report.tags[0].layers_applied == 1
    assert sd1.tokenizer is tokenizer


def test_an_embedding_for_one_text_encoder_is_not_put_into_a_model_with_two(sdxl: Any, tmp_path: Path) -> None:
    bundle(tmp_path, {"string_to_param.*": torch.ones(1, WIDTH)})
    report = NetworkLoader(sdxl, folders=[tmp_path]).activate("<lora:ink:1>")
    assert "no text encoder for its part" in embedding_issues(report)[0]


def test_a_text_encoder_that_was_left_out_of_the_pipeline_is_no_trouble(sdxl: Any, tmp_path: Path) -> None:
    bundle(tmp_path, {"clip_l": torch.ones(1, WIDTH), "clip_g": torch.ones(1, 2 * WIDTH)})
    sdxl.text_encoder = sdxl.tokenizer = None
    assert not embedding_issues(NetworkLoader(sdxl, folders=[tmp_path]).activate("<lora:ink:1>"))
    assert "zorb" in sdxl.tokenizer_2.get_vocab()


def test_t5_takes_a_vector_as_well(sd1: Any, tmp_path: Path) -> None:
    words = sd1.tokenizer
    config = transformers.T5Config(
        vocab_size=len(words), d_model=WIDTH, d_kv=8, d_ff=64, num_layers=1, num_heads=4, feed_forward_proj="gated-gelu"
    )
    encoder = transformers.T5EncoderModel(config).eval()
    bundle(tmp_path, {"t5": token_vector(words, encoder, "z")[None]})
    parts = SimpleNamespace(unet=sd1.unet, text_encoder=None, text_encoder_3=encoder, tokenizer_3=words)
    with NetworkLoader(parts, folders=[tmp_path]) as loader, torch.no_grad():
        assert not embedding_issues(loader.activate("<lora:ink:1>"))
        states = [encoder(parts.tokenizer_3(text, return_tensors="pt").input_ids)[0] for text in ("a zorb b", "a z b")]
        assert torch.equal(*states)


def test_a_pipeline_without_tokenizer_gets_the_layers_only(sd1: Any, tmp_path: Path) -> None:
    bundle(tmp_path, {"emb_params": torch.ones(1, WIDTH)}, **lora({UNET_QUERY: (16, 16)}))
    parts = SimpleNamespace(unet=sd1.unet, text_encoder=sd1.text_encoder)
    report = NetworkLoader(parts, folders=[tmp_path]).activate("<lora:ink:1>")
    (message,) = embedding_issues(report)
    assert message == 'The embedding "zorb" inside "ink" was left out: this pipeline has no tokenizer.'
    assert report.tags[0].layers_applied == 1


def test_several_vectors_need_a_pipeline_that_expands_words(sd1: Any, tmp_path: Path) -> None:
    bundle(tmp_path, {"emb_params": torch.ones(2, WIDTH)})
    parts = SimpleNamespace(unet=sd1.unet, text_encoder=sd1.text_encoder, tokenizer=sd1.tokenizer)
    report = NetworkLoader(parts, folders=[tmp_path]).activate("<lora:ink:1>")
    assert "takes one per word" in embedding_issues(report)[0]


@pytest.mark.skipif(not hasattr(nn.Module, "compile"), reason="modules compile themselves since torch 2.2")
def test_a_compiled_text_encoder_takes_no_new_tokens_and_says_so(sd1: Any, tmp_path: Path) -> None:
    bundle(tmp_path, {"emb_params": torch.ones(1, WIDTH)})
    sd1.text_encoder.compile(backend="eager")
    report = NetworkLoader(sd1, folders=[tmp_path]).activate("<lora:ink:1>")
    assert "is compiled" in embedding_issues(report)[0]


def test_an_offloaded_text_encoder_knows_the_token(sd1: Any, tmp_path: Path) -> None:
    bundle(tmp_path, {"emb_params": token_vector(sd1.tokenizer, sd1.text_encoder, "z")[None]})
    offload(sd1)
    with NetworkLoader(sd1, folders=[tmp_path]) as loader:
        loader.activate("<lora:ink:1>")
        assert picture(sd1, "a zorb").tobytes() == picture(sd1, "a z").tobytes()


def test_tokens_added_by_others_meanwhile_are_missed_aloud(
    sd1: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bundle(tmp_path, {"emb_params": torch.ones(1, WIDTH)})
    loader = NetworkLoader(sd1, folders=[tmp_path])
    loader.activate("<lora:ink:1>")
    sd1.tokenizer.add_tokens("blip")
    loader.deactivate()
    assert "Tokens that were added to tokenizer while a network was active are gone again." in caplog.messages

"""``bake``: the same numbers as a live model gets, rounded once, written whole or not at all."""

from __future__ import annotations

import json
import os
import sys
import weakref
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from lycopatch.cli import safetensors_writer
from lycopatch.engine.reading import file_hashes
from lycopatch.engine.reading.safetensors_file import SafetensorsFile
from lycopatch.engine.writing import TensorWriter
from lycopatch.hosts.memory import NetworkLoader
from networks import WITHOUT_NEW_BIASES, network, write_network
from random_models import bits, copied, differing, layers_of, sd21

Model = dict[str, Tensor]
Layers = dict[str, tuple[int, ...]]
SCHEDULE = "alphas_cumprod"
POSITIONS = "cond_stage_model.transformer.text_model.embeddings.position_ids"


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "baked" / "out.safetensors"


@pytest.fixture
def bake(lycopatch: Callable, checkpoint: Path, folder: Path, out: Path) -> Callable:
    """Bake networks of ``folder`` into ``checkpoint``."""
    out.parent.mkdir()

    def run(prompt: str, *more: object, source: Path = checkpoint):
        return lycopatch("bake", source, "--networks", folder, "--prompt", prompt, "--out", out, *more)

    return run


def in_memory(model: Mapping[str, Tensor], folder: Path, prompt: str) -> Model:
    """What a host's model holds with the same prompt."""
    live = copied(model)
    NetworkLoader(live, [folder], workers=1).activate(prompt)
    return live


@pytest.mark.parametrize("algorithm", WITHOUT_NEW_BIASES)
def test_the_file_holds_what_a_live_model_would_bit_for_bit(
    bake: Callable, model: Model, layers: Layers, folder: Path, out: Path, algorithm: str
) -> None:
    write_network(folder / "a.safetensors", layers, algorithm)
    result = bake("<lora:a:0.8:0.6>", "--json")
    assert result.code == 0, result.out
    baked = load_file(out)
    expected = in_memory(model, folder, "<lora:a:0.8:0.6>")
    assert not differing(baked, expected)
    assert len(differing(baked, model)) == result.json["changed"] > 0


def test_several_networks_and_fused_attention_are_baked_as_they_are_applied(
    lycopatch: Callable, folder: Path, out: Path, tmp_path: Path
) -> None:
    model = sd21(shrink=40)
    save_file(model, tmp_path / "sd21.safetensors")
    layers = layers_of(model, only=("attentions_0_transformer", "layers_1_"))
    for seed, algorithm in enumerate(("lora", "lokr", "dora", "ia3")):
        write_network(folder / f"{algorithm}.safetensors", layers, algorithm, seed=seed)
    prompt = "<lora:lora:0.8> <lyco:lokr:0.5:1> <lora:dora:1> <lora:ia3:0.3>"
    out.parent.mkdir()
    arguments = ("--networks", folder, "--prompt", prompt, "--out", out)
    assert lycopatch("bake", tmp_path / "sd21.safetensors", *arguments).code == 0
    assert not differing(load_file(out), in_memory(model, folder, prompt))


@pytest.mark.parametrize(("dtype", "stored", "digits"), [("bf16", torch.bfloat16, 8), ("fp32", torch.float32, 21)])
def test_another_number_format_is_reached_in_one_rounding(
    bake: Callable, model: Model, layers: Layers, folder: Path, out: Path, dtype: str, stored: torch.dtype, digits: int
) -> None:
    write_network(folder / "a.safetensors", layers, "lora")
    assert bake("<lora:a:0.75>", "--dtype", dtype).code == 0
    baked = load_file(out)
    factors = network(layers, "lora")
    name = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
    target = "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn1.to_q.weight"
    up, down = (factors[f"{name}.lora_{side}.weight"].double() for side in ("up", "down"))
    exact = model[target].double() + 0.75 * 0.5 * up @ down
    half_a_step = torch.exp2(torch.floor(torch.log2(exact.abs())) - digits)
    assert baked[target].dtype == stored
    assert bool(((baked[target].double() - exact).abs() <= half_a_step * 1.01).all())
    vae = "first_stage_model.decoder.conv_in.weight"
    assert torch.equal(bits(baked[vae]), bits(model[vae].to(stored)))


def test_a_new_format_is_for_weights_and_not_for_counts_or_the_noise_schedule(
    bake: Callable, model: Model, layers: Layers, folder: Path, out: Path
) -> None:
    write_network(folder / "a.safetensors", layers, "lora")
    assert bake("<lora:a:1>", "--dtype", "bf16").code == 0
    baked = load_file(out)
    assert torch.equal(baked[POSITIONS], model[POSITIONS])
    assert torch.equal(baked[SCHEDULE], model[SCHEDULE])
    others = {tensor.dtype for name, tensor in baked.items() if name not in (POSITIONS, SCHEDULE)}
    assert others == {torch.bfloat16}
    assert baked.keys() == model.keys()


def test_every_tensor_starts_where_the_reference_reader_can_map_it(
    bake: Callable, layers: Layers, folder: Path, out: Path
) -> None:
    write_network(folder / "a.safetensors", layers, "lora")
    assert bake("<lora:a:1>", "--dtype", "bf16").code == 0
    content = out.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    assert (8 + length) % 8 == 0
    size = {"I64": 8, "F32": 4, "BF16": 2}
    entries = [entry for key, entry in header.items() if key != "__metadata__"]
    assert all(entry["data_offsets"][0] % size[entry["dtype"]] == 0 for entry in entries)


def test_the_metadata_say_what_was_baked_and_no_stale_hash_or_folder(
    bake: Callable, layers: Layers, folder: Path, out: Path, lycopatch: Callable, tmp_path: Path
) -> None:
    path = write_network(folder / "a.safetensors", layers, "lora")
    prompt = "<lora:a:0.5>"
    assert bake(prompt).code == 0
    with safe_open(out, "pt") as file:
        metadata = file.metadata()
    assert metadata["modelspec.title"] == "Tiny"
    assert "modelspec.hash_sha256" not in metadata
    entry = json.loads(metadata["lycopatch.bake"])
    assert entry["prompt"] == prompt
    assert entry["networks"] == [{"tag": prompt, "file": "a.safetensors", "autov3": file_hashes(path).autov3}]
    assert str(folder) not in metadata["lycopatch.bake"]
    again = tmp_path / "again.safetensors"
    assert lycopatch("bake", out, "--networks", folder, "--prompt", prompt, "--out", again).code == 0
    with safe_open(again, "pt") as file:
        assert json.loads(json.loads(file.metadata()["lycopatch.bake"])["before"]) == entry


def test_only_one_tensor_of_the_checkpoint_is_in_memory_at_a_time(
    bake: Callable, checkpoint: Path, layers: Layers, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_network(folder / "a.safetensors", layers, "dora")
    original = SafetensorsFile.read
    alive: list[weakref.ref[Tensor]] = []
    most = 0

    def read(self: SafetensorsFile, key: str) -> Tensor:
        nonlocal most
        tensor = original(self, key)
        if self.path == checkpoint:
            alive.append(weakref.ref(tensor))
            most = max(most, sum(each() is not None for each in alive))
        return tensor

    monkeypatch.setattr(SafetensorsFile, "read", read)
    assert bake("<lora:a:1>").code == 0
    assert len(alive) > 600
    assert most <= 2


# --- what went not as asked -----------------------------------------------------------------------


def test_a_network_that_is_not_found_means_that_nothing_is_written(
    bake: Callable, layers: Layers, folder: Path, out: Path, model: Model
) -> None:
    write_network(folder / "a.safetensors", layers, "lora")
    refused = bake("<lora:a:1> <lora:absent:1>", "--json")
    assert refused.code == 1
    assert not out.exists()
    assert refused.json["written"] is False
    assert 'no network named "absent"' in refused.err
    written = bake("<lora:a:1> <lora:absent:1>", "--allow-missing")
    assert written.code == 3
    assert not differing(load_file(out), in_memory(model, folder, "<lora:a:1>"))


@pytest.mark.parametrize("prompt", ["<lora:a:much>", "<lora:a:nan>", "<lora:a:1> <loras:a:1>", "a painting", ""])
def test_a_prompt_that_is_not_understood_means_that_nothing_is_written(
    bake: Callable, layers: Layers, folder: Path, out: Path, prompt: str
) -> None:
    write_network(folder / "a.safetensors", layers, "lora")
    result = bake(prompt)
    assert result.code == 1
    assert result.err
    assert not out.exists()


def test_a_network_for_another_model_is_named_and_nothing_is_written(bake: Callable, sound: Path, out: Path) -> None:
    result = bake("<lora:ink:1>", "--json")  # layers of the real size
    assert result.code == 1
    assert not out.exists()
    (tag,) = result.json["tags"]
    assert (tag["layers_applied"], tag["layers_total"]) == (0, 5)
    assert tag["issues"]


def test_layers_that_find_no_place_are_reported_and_the_file_is_written(
    bake: Callable, layers: Layers, folder: Path, out: Path
) -> None:
    write_network(folder / "a.safetensors", {**layers, "lora_unet_nowhere": (8, 8)}, "lora")
    result = bake("<lora:a:1>", "--json")
    assert result.code == 3
    assert out.exists()
    (tag,) = result.json["tags"]
    assert tag["layers_applied"] == tag["layers_total"] - 1
    assert sorted(tag["unmatched"]) == [
        f"lora_unet_nowhere.{end}" for end in ("alpha", "lora_down.weight", "lora_up.weight")
    ]
    assert [issue["kind"] for issue in tag["issues"]] == ["no such layer"]


def test_a_layer_with_broken_numbers_is_left_out_as_a_live_model_leaves_it_out(
    bake: Callable, model: Model, layers: Layers, folder: Path, out: Path
) -> None:
    tensors = network(layers, "lora")
    layer = next(iter(layers))
    tensors[f"{layer}.lora_down.weight"].view(-1)[0] = float("nan")
    save_file(tensors, folder / "a.safetensors")
    result = bake("<lora:a:1>", "--json")
    assert result.code == 3
    assert [issue["kind"] for issue in result.json["tags"][0]["issues"]] == ["damaged layer"]
    assert not differing(load_file(out), in_memory(model, folder, "<lora:a:1>"))


def test_no_tensor_is_invented_for_a_layer_without_bias(
    bake: Callable, model: Model, layers: Layers, folder: Path, out: Path
) -> None:
    write_network(folder / "a.safetensors", layers, "full_with_bias")
    result = bake("<lora:a:1>", "--json")
    assert result.code == 3
    assert load_file(out).keys() == model.keys()
    (tag,) = result.json["tags"]
    assert 0 < tag["layers_applied"] < tag["layers_total"]
    assert "has no bias" in tag["issues"][0]["message"]


def test_numbers_that_grow_too_large_for_the_format_are_reported(
    lycopatch: Callable, model: Model, layers: Layers, folder: Path, out: Path, tmp_path: Path
) -> None:
    wide = {name: tensor.float() if tensor.is_floating_point() else tensor.clone() for name, tensor in model.items()}
    wide["first_stage_model.decoder.conv_in.weight"][0, 0, 0, 0] = 1e6
    save_file(wide, tmp_path / "wide.safetensors")
    write_network(folder / "a.safetensors", layers, "lora")
    out.parent.mkdir()
    arguments = ("--networks", folder, "--prompt", "<lora:a:1>", "--out", out, "--dtype", "fp16", "--json")
    result = lycopatch("bake", tmp_path / "wide.safetensors", *arguments)
    assert result.code == 3
    (issue,) = result.json["issues"]
    assert issue["kind"] == "overflow"
    assert "first_stage_model.decoder.conv_in.weight" in issue["message"]


def test_embeddings_that_travel_with_a_network_are_not_lost_silently(
    bake: Callable, layers: Layers, folder: Path
) -> None:
    tensors = network(layers, "lora") | {"bundle_emb.spark.clip_l": torch.ones(2, 768)}
    save_file(tensors, folder / "a.safetensors")
    result = bake("<lora:a:1>", "--json")
    assert result.code == 3
    assert [issue["kind"] for issue in result.json["tags"][0]["issues"]] == ["embedding"]


# --- nothing half-written -------------------------------------------------------------------------


def interrupted_after(count: int, error: BaseException) -> Callable[..., None]:
    original = TensorWriter.write
    calls = [0]

    def write(self: TensorWriter, *arguments: object) -> None:
        calls[0] += 1
        if calls[0] > count:
            raise error
        original(self, *arguments)  # type: ignore[arg-type]

    return write


def test_an_interrupted_bake_leaves_nothing_and_an_older_file_as_it_was(
    bake: Callable, layers: Layers, folder: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_network(folder / "a.safetensors", layers, "lora")
    monkeypatch.setattr(TensorWriter, "write", interrupted_after(20, KeyboardInterrupt()))
    assert bake("<lora:a:1>").code == 130
    assert os.listdir(out.parent) == []
    out.write_bytes(b"old")
    assert bake("<lora:a:1>", "--force").code == 130
    assert os.listdir(out.parent) == [out.name]
    assert out.read_bytes() == b"old"


@pytest.mark.skipif(sys.platform == "win32", reason="no limits on file sizes")
def test_a_full_disk_is_a_sentence_and_leaves_nothing(bake: Callable, layers: Layers, folder: Path, out: Path) -> None:
    import resource

    write_network(folder / "a.safetensors", layers, "lora")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, before[1]))
    try:
        result = bake("<lora:a:1>")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert result.code == 1
    assert "could not be written" in result.err
    assert os.listdir(out.parent) == []


def test_too_little_space_is_said_before_any_work(
    bake: Callable, layers: Layers, folder: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_network(folder / "a.safetensors", layers, "lora")

    class Usage:
        free = 1000

    monkeypatch.setattr(safetensors_writer.shutil, "disk_usage", lambda _: Usage)
    result = bake("<lora:a:1>")
    assert result.code == 1
    assert "GB free" in result.err
    assert os.listdir(out.parent) == []


def test_a_checkpoint_that_changes_meanwhile_is_not_baked(
    bake: Callable, checkpoint: Path, layers: Layers, folder: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_network(folder / "a.safetensors", layers, "lora")
    original = TensorWriter.write

    def write(self: TensorWriter, *arguments: object) -> None:
        os.utime(checkpoint, (1, 1))
        original(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(TensorWriter, "write", write)
    result = bake("<lora:a:1>")
    assert result.code == 1
    assert "was written again" in result.err
    assert os.listdir(out.parent) == []


def test_no_file_is_replaced_without_being_told(bake: Callable, layers: Layers, folder: Path, out: Path) -> None:
    write_network(folder / "a.safetensors", layers, "lora")
    out.write_bytes(b"precious")
    refused = bake("<lora:a:1>")
    assert refused.code == 1
    assert "--force" in refused.err
    assert out.read_bytes() == b"precious"
    assert bake("<lora:a:1>", "--force").code == 0
    assert load_file(out)


@pytest.mark.parametrize("link", [None, os.symlink, os.link])
def test_the_files_that_are_read_are_never_written(
    lycopatch: Callable, checkpoint: Path, layers: Layers, folder: Path, tmp_path: Path, link: Callable | None
) -> None:
    network_file = write_network(folder / "a.safetensors", layers, "lora")
    for source in (checkpoint, network_file):
        content = source.read_bytes()
        target = source
        if link is not None:
            target = tmp_path / f"link-{source.name}"
            link(source, target)
        arguments = ("--networks", folder, "--prompt", "<lora:a:1>", "--out", target, "--force")
        result = lycopatch("bake", checkpoint, *arguments)
        assert result.code == 1
        assert "one of the files that are read" in result.err
        assert source.read_bytes() == content


def test_impossible_outputs_and_inputs_are_sentences(
    lycopatch: Callable, checkpoint: Path, layers: Layers, folder: Path, tmp_path: Path
) -> None:
    write_network(folder / "a.safetensors", layers, "lora")

    def refusal(source: Path, networks: Path, target: Path) -> str:
        result = lycopatch("bake", source, "--networks", networks, "--prompt", "<lora:a:1>", "--out", target)
        assert result.code == 1
        assert len(result.err.splitlines()) == 1
        return result.err

    good = tmp_path / "out.safetensors"
    (tmp_path / "folder.safetensors").mkdir()
    assert "must end in .safetensors" in refusal(checkpoint, folder, tmp_path / "out.ckpt")
    assert "does not exist" in refusal(checkpoint, folder, tmp_path / "nowhere" / "out.safetensors")
    assert "is a folder" in refusal(checkpoint, folder, tmp_path / "folder.safetensors")
    assert "is no folder" in refusal(checkpoint, tmp_path / "nowhere", good)
    assert "no such file" in refusal(tmp_path / "absent.safetensors", folder, good)
    assert "can not be patched" in refusal(folder / "a.safetensors", folder, good)
    assert not good.exists()


@pytest.mark.parametrize("mark", ["scaled_fp8", "model.diffusion_model.out.2.scale_weight", "x.weight.absmax"])
def test_a_quantised_checkpoint_is_refused(
    lycopatch: Callable, model: Model, layers: Layers, folder: Path, tmp_path: Path, mark: str
) -> None:
    write_network(folder / "a.safetensors", layers, "lora")
    save_file({**copied(model), mark: torch.ones(1)}, tmp_path / "quantised.safetensors")
    arguments = ("--networks", folder, "--prompt", "<lora:a:1>", "--out", tmp_path / "out.safetensors")
    result = lycopatch("bake", tmp_path / "quantised.safetensors", *arguments)
    assert result.code == 1
    assert "quantised" in result.err


def test_a_pickled_checkpoint_needs_permission_and_gives_the_same_numbers(
    bake: Callable, model: Model, layers: Layers, folder: Path, out: Path, tmp_path: Path
) -> None:
    write_network(folder / "a.safetensors", layers, "lora")
    torch.save({"state_dict": copied(model), "global_step": 3}, tmp_path / "model.ckpt")
    refused = bake("<lora:a:1>", source=tmp_path / "model.ckpt")
    assert refused.code == 1
    assert "pickles" in refused.err
    assert bake("<lora:a:1>", "--allow-pickle", source=tmp_path / "model.ckpt").code == 0
    assert not differing(load_file(out), in_memory(model, folder, "<lora:a:1>"))

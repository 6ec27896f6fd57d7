"""Real checkpoints in the demo: what is recognised, what is refused, and that no model hub is asked.

Names and shapes are those of published files. Where numbers matter the model is a small one of the same structure.
"""

from __future__ import annotations

import json
import shutil
import socket
import struct
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from keyset_files import model_shapes, read_keyset
from lycopatch.demo import clip_tokenizer
from lycopatch.demo.checkpoint import CONFIGS, PIPELINES, Kind, build_pipeline, load_checkpoint, recognise
from lycopatch.demo.clip_tokenizer import load_tokenizer, packaged_list, read_merges, tokenizer_folder, write_tokenizer
from lycopatch.engine.errors import UnreadableAdapter
from lycopatch.engine.families import sd1, sdxl
from lycopatch.engine.families.clip import ClipConfig
from lycopatch.engine.families.family import Denoiser, Encoder, Family
from lycopatch.engine.families.unet import UNetConfig
from lycopatch.engine.types import DTYPE_BYTES, TensorSpec
from lycopatch.hosts.diffusers import NetworkLoader

pytest.importorskip("diffusers")
pytest.importorskip("transformers")

CHECKPOINTS = {"sd1": "models/sd15_checkpoint", "sdxl": "models/sdxl_base_checkpoint"}


# --- recognition: from the header alone ------------------------------------------------------------------------------


def write_empty(path: Path, specs: Mapping[str, TensorSpec], metadata: Mapping[str, str] | None = None) -> Path:
    """A checkpoint of zeros: gigabytes that take no place on the disk, because nothing is written behind the header."""
    header: dict[str, Any] = {"__metadata__": dict(metadata or {})}
    end = 0
    for name, spec in specs.items():
        begin, end = end, end + spec.numel * DTYPE_BYTES[spec.dtype]
        header[name] = {"dtype": spec.dtype, "shape": spec.shape, "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(file.tell() + end)
    return path


def refusal(file: Path) -> str:
    with pytest.raises(UnreadableAdapter) as caught:
        load_checkpoint(file)
    return str(caught.value)


@pytest.mark.parametrize("family", CHECKPOINTS)
def test_a_published_checkpoint_is_recognised(family: str, tmp_path: Path) -> None:
    file = write_empty(tmp_path / "model.safetensors", read_keyset(CHECKPOINTS[family]))
    assert recognise(file) == Kind(family)


@pytest.mark.parametrize(
    ("keyset", "words"),
    [
        ("models/sd21_checkpoint", "Stable Diffusion 2"),
        ("models/sdxl_refiner_checkpoint", "refiner"),
        ("models/sd15_inpainting_checkpoint", "made for inpainting"),
        ("models/sd15_instruct_pix2pix_checkpoint", "made for instruct-pix2pix"),
        ("models/sd15_diffusers_unet", "original names"),
        ("models/clip_l_transformers_te", "it is no model of a known kind"),
        ("sd1_kohya_lora_r4", "it is a network"),
        ("sdxl_lycoris_full_norm", "it is a network"),
    ],
)
def test_another_model_is_refused_with_a_sentence(keyset: str, words: str, tmp_path: Path) -> None:
    sentence = refusal(write_empty(tmp_path / "other.safetensors", read_keyset(keyset)))
    assert sentence.startswith('"other.safetensors" can not be read: ')
    assert words in sentence
    assert sentence.endswith(".")


def test_flux_is_refused_with_a_sentence(tmp_path: Path) -> None:
    names = ("double_blocks.0.img_attn.qkv", "single_blocks.0.linear1", "img_in")
    specs = {f"model.diffusion_model.{name}.weight": TensorSpec("BF16", (96, 32)) for name in names}
    assert "Stable Diffusion 1 and XL" in refusal(write_empty(tmp_path / "flux.safetensors", specs))


def test_a_checkpoint_without_its_vae_is_refused(tmp_path: Path) -> None:
    specs = {name: spec for name, spec in read_keyset(CHECKPOINTS["sd1"]).items() if "first_stage_model" not in name}
    assert "0 of the 248 tensors of a VAE" in refusal(write_empty(tmp_path / "pruned.safetensors", specs))


def test_a_checkpoint_without_a_layer_is_refused_by_its_name(tmp_path: Path) -> None:
    gone = "model.diffusion_model.middle_block.0.in_layers.2.weight"
    specs = {name: spec for name, spec in read_keyset(CHECKPOINTS["sdxl"]).items() if name != gone}
    sentence = refusal(write_empty(tmp_path / "holed.safetensors", specs))
    assert gone in sentence
    assert "1 of the " in sentence


def test_a_checkpoint_of_another_kind_of_noise_is_refused(tmp_path: Path) -> None:
    specs = {**read_keyset(CHECKPOINTS["sdxl"]), "edm_mean": TensorSpec("F32", (1, 4, 1, 1))}
    assert "EDM" in refusal(write_empty(tmp_path / "playground.safetensors", specs))


def test_a_truncated_file_is_refused(tmp_path: Path) -> None:
    file = write_empty(tmp_path / "half.safetensors", read_keyset(CHECKPOINTS["sd1"]))
    with file.open("r+b") as opened:
        opened.truncate(file.stat().st_size // 2)
    assert "download" in refusal(file)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    assert "no such file" in refusal(tmp_path / "nothing.safetensors")
    assert "no such file" in refusal(tmp_path / "nothing.ckpt")


@pytest.mark.parametrize("name", ["model.ckpt", "model.pt", "model", "model.SAFETENSORS"])
def test_a_file_that_diffusers_would_unpickle_is_not_opened(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"\x80\x02cos\nsystem\n")
    assert "convert it" in refusal(tmp_path / name)


@pytest.mark.parametrize(
    ("marks", "metadata", "sampler"),
    [
        (("v_pred",), {}, {"prediction_type": "v_prediction"}),
        (("v_pred", "ztsnr"), {}, {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True}),
        ((), {"modelspec.prediction_type": "v"}, {"prediction_type": "v_prediction"}),
        ((), {"modelspec.prediction_type": "epsilon"}, {}),
    ],
)
def test_a_model_that_predicts_the_velocity_says_so(
    marks: tuple[str, ...], metadata: dict[str, str], sampler: dict[str, Any], tmp_path: Path
) -> None:
    specs = {**read_keyset(CHECKPOINTS["sdxl"]), **{mark: TensorSpec("F32", ()) for mark in marks}}
    assert recognise(write_empty(tmp_path / "v.safetensors", specs, metadata)) == Kind("sdxl", sampler)


# --- the configs: exactly the published models -----------------------------------------------------------------------


def from_configs(family: str, part: str) -> Any:
    """A part of a pipeline as our configs state it, without storage."""
    import diffusers
    import transformers

    package, name = json.loads((CONFIGS / family / "model_index.json").read_text())[part]
    kind = getattr({"diffusers": diffusers, "transformers": transformers}[package], name)
    with torch.device("meta"):
        if package == "diffusers":
            return kind.from_config(kind.load_config(str(CONFIGS / family), subfolder=part))
        return kind(kind.config_class.from_pretrained(str(CONFIGS / family / part)))


def sizes(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """By the names of older transformers, which newer ones shorten."""
    return {name.removeprefix("text_model."): tuple(tensor.shape) for name, tensor in tensors.items()}


@pytest.mark.parametrize("family", CHECKPOINTS)
def test_every_tensor_of_a_published_checkpoint_has_its_place(family: str) -> None:
    """Through the converters that ``from_single_file`` uses: nothing is missing, nothing has another shape."""
    from diffusers.loaders import single_file_utils as converters

    stored = {
        name: torch.empty(shape, device="meta") for name, shape in model_shapes(Path(CHECKPOINTS[family]).name).items()
    }
    unet, vae, text = (from_configs(family, part) for part in ("unet", "vae", "text_encoder"))
    found = [
        (unet, converters.convert_ldm_unet_checkpoint(dict(stored), unet.config)),
        (vae, converters.convert_ldm_vae_checkpoint(dict(stored), vae.config)),
        (text, converters.convert_ldm_clip_checkpoint(stored)),
    ]
    if family == "sdxl":
        second = from_configs(family, "text_encoder_2")
        prefix = "conditioner.embedders.1.model."
        found.append((second, converters.convert_open_clip_checkpoint(second, stored, prefix)))
    for module, tensors in found:
        wanted = sizes(dict(module.named_parameters()))
        got = sizes(tensors)
        assert {name: got.get(name) for name in wanted} == wanted
        assert not {name for name in got.keys() - wanted.keys() if not name.endswith(("position_ids", "logit_scale"))}


# --- the tokenizer ---------------------------------------------------------------------------------------------------


def test_the_packaged_vocabulary_is_clips(tmp_path: Path) -> None:
    packed = packaged_list()
    if packed is None:
        pytest.skip("open_clip_torch is not installed")
    with tokenizer_folder(tmp_path / "model.safetensors", None) as folder:
        vocabulary = json.loads((folder / "vocab.json").read_text("utf-8"))
        tokenizer = load_tokenizer(folder, 49408)
    assert not folder.exists()
    assert len(vocabulary) == 49408
    known = {"!": 0, "a</w>": 320, "photo</w>": 1125, "cat</w>": 2368, "<|startoftext|>": 49406, "<|endoftext|>": 49407}
    assert {token: vocabulary[token] for token in known} == known
    assert tokenizer("A photo of a cat").input_ids == [49406, 320, 1125, 539, 320, 2368, 49407]
    padded = tokenizer("cat", padding="max_length").input_ids
    assert len(padded) == 77
    assert padded[-1] == 49407


def test_the_named_folder_comes_first_and_the_one_beside_the_checkpoint_second(tmp_path: Path) -> None:
    file, named, beside = tmp_path / "model.safetensors", tmp_path / "named", tmp_path / "tokenizer"
    for folder in (named, beside):
        folder.mkdir()
        write_tokenizer(folder, ["c a", "ca t</w>"])
    with tokenizer_folder(file, named) as chosen:
        assert chosen == named
    with tokenizer_folder(file, None) as chosen:
        assert chosen == beside
        assert load_tokenizer(chosen, 516)("cat").input_ids == [514, 513, 515]


def test_without_a_vocabulary_a_sentence_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clip_tokenizer, "PACKAGE", "a_package_that_nobody_has")
    file = write_empty(tmp_path / "model.safetensors", read_keyset(CHECKPOINTS["sd1"]))
    assert "pip install --no-deps open_clip_torch" in refusal(file)


def test_a_bad_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnreadableAdapter, match=r"vocab\.json"), tokenizer_folder(tmp_path / "a", tmp_path):
        pass
    write_tokenizer(tmp_path, [])
    with pytest.raises(UnreadableAdapter, match="knows 514 tokens"):
        load_tokenizer(tmp_path, 49408)
    packed = tmp_path / "list.gz"
    packed.write_bytes(b"\x1f\x8b damaged")
    with pytest.raises(UnreadableAdapter, match="Install open_clip_torch again"):
        read_merges(packed)


# --- the whole way, with a small model of the same structure ---------------------------------------------------------

WIDTHS = {"te1": 32, "te2": 64}  # diffusers tells the text encoders of a file apart by their width
VOCABULARY = 514
VAE_WIDTHS = {128: 32, 256: 64, 512: 96}
VECTOR = 6 * 8 + WIDTHS["te2"]  # six numbers about the size of the picture, and the pooled text
CHANNELS = {"sd1": [32, 64, 64, 64], "sdxl": [32, 64, 64]}


@dataclass(frozen=True)
class Small:
    """A small checkpoint: its file, the folder that states its structure, and its tokenizer."""

    kind: Kind
    file: Path
    configs: Path
    tokenizer: Path

    def load(self) -> Any:
        return build_pipeline(self.file, self.configs, self.kind, "cpu", self.tokenizer)


def shrink(family: Family) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a small checkpoint with the family's blocks."""
    config = family.denoisers[0].config
    assert isinstance(config, UNetConfig)
    channels = tuple(CHANNELS[family.name])
    context = sum(WIDTHS[encoder.component] for encoder in family.encoders)
    vector = None if config.vector_dim is None else VECTOR
    unet = replace(config, channels=channels, context_dim=context, vector_dim=vector)
    vae = {
        name: tuple(VAE_WIDTHS.get(axis, axis) for axis in shape)
        for name, shape in model_shapes(Path(CHECKPOINTS[family.name]).name).items()
        if name.startswith("first_stage_model.")
    }
    encoders = tuple(shrink_encoder(encoder) for encoder in family.encoders)
    return replace(family, denoisers=(Denoiser(unet),), encoders=encoders).checkpoint() | vae


def shrink_encoder(encoder: Encoder) -> Encoder:
    assert isinstance(encoder.config, ClipConfig)
    width = WIDTHS[encoder.component]
    projection = None if encoder.config.projection is None else width
    small = replace(encoder.config, width=width, layers=2, projection=projection, vocabulary=VOCABULARY)
    return replace(encoder, config=small)


def encoder_config(width: int) -> dict[str, int]:
    return {
        "hidden_size": width,
        "intermediate_size": 4 * width,
        "projection_dim": width,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "vocab_size": VOCABULARY,
        "bos_token_id": VOCABULARY - 2,
        "eos_token_id": VOCABULARY - 1,
    }


def change(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.fixture(params=["sd1", "sdxl"])
def small(request: pytest.FixtureRequest, tmp_path: Path) -> Small:
    family = {"sd1": sd1.FAMILY, "sdxl": sdxl.FAMILY}[request.param]
    file, configs, tokenizer = tmp_path / "small.safetensors", tmp_path / "configs", tmp_path / "words"
    save_file({name: torch.randn(shape) * 0.1 for name, shape in shrink(family).items()}, file)
    shutil.copytree(CONFIGS / family.name, configs)
    unet: dict[str, Any] = {"block_out_channels": CHANNELS[family.name], "cross_attention_dim": WIDTHS["te1"]}
    if family is sdxl.FAMILY:
        unet |= {
            "cross_attention_dim": sum(WIDTHS.values()),
            "attention_head_dim": [2, 4, 4],
            "addition_time_embed_dim": 8,
        }
        unet |= {"projection_class_embeddings_input_dim": VECTOR}
        change(configs / "text_encoder_2" / "config.json", **encoder_config(WIDTHS["te2"]))
    change(configs / "unet" / "config.json", **unet)
    change(configs / "vae" / "config.json", block_out_channels=[32, 64, 96, 96])
    change(configs / "text_encoder" / "config.json", **encoder_config(WIDTHS["te1"]))
    tokenizer.mkdir()
    write_tokenizer(tokenizer, [])
    return Small(Kind(family.name), file, configs, tokenizer)


def draw(pipe: Any) -> Tensor:
    seeded = torch.Generator().manual_seed(1)
    return torch.from_numpy(
        pipe("a cat", num_inference_steps=2, height=64, width=64, generator=seeded, output_type="np").images[0]
    )


def write_network(pipe: Any, folder: Path) -> None:
    folder.mkdir()
    layer = pipe.unet.mid_block.attentions[0].transformer_blocks[0].attn2.to_k
    name = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_k"
    down, up = torch.randn(4, layer.in_features), torch.randn(layer.out_features, 4)
    save_file({f"{name}.lora_down.weight": down, f"{name}.lora_up.weight": up}, folder / "ink.safetensors")


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of diffusers' sampler with numpy 2
def test_a_checkpoint_becomes_a_pipeline_that_takes_networks(small: Small, tmp_path: Path) -> None:
    content = small.file.read_bytes()
    pipe = small.load()
    assert type(pipe).__name__ == PIPELINES[small.kind.family]
    write_network(pipe, tmp_path / "networks")
    with NetworkLoader(pipe, [tmp_path / "networks"], checkpoint=small.file) as loader:
        before = draw(pipe)
        assert before.isfinite().all()
        assert before.std() > 0
        assert loader.activate("<lora:ink:1>").issues == []
        assert loader.session.bytes_held == 0, "the original lies in the checkpoint"
        assert not torch.equal(draw(pipe), before)
        loader.deactivate()
        assert torch.equal(draw(pipe), before)
    assert small.file.read_bytes() == content, "diffusers maps the file, and a network was written into the map"


def test_every_number_of_the_file_arrives(small: Small) -> None:
    """Compared by their sum, which does not depend on names, order or how q, k and v are put together."""
    pipe = small.load()
    parts = [part for part in pipe.components.values() if isinstance(part, torch.nn.Module)]
    assert len(parts) == {"sd1": 3, "sdxl": 4}[small.kind.family]
    stored = sum(float(tensor.double().sum()) for tensor in load_file(small.file).values())
    live = sum(float(tensor.double().sum()) for part in parts for tensor in part.state_dict().values())
    assert live == pytest.approx(stored, abs=1e-6)


def test_nothing_is_asked_of_the_network(small: Small, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def refuse(*args: Any, **_: Any) -> None:
        asked.append(repr(args))
        raise OSError("no network")

    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    small.load()
    assert asked == []


def test_the_sampler_follows_the_kind(small: Small) -> None:
    pipe = replace(small, kind=Kind(small.kind.family, {"prediction_type": "v_prediction"})).load()
    assert pipe.scheduler.config.prediction_type == "v_prediction"
    assert type(pipe.scheduler).__name__ == "EulerDiscreteScheduler"

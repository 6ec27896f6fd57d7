"""Keys and shapes of published files: every key is explained, the base model is found, and every layer has its place.

One line per keyset says what the file is. The lines come from how the files were made; the engine has to agree.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from keyset_files import KeysetFile, keyset_file, keyset_names, model_shapes
from lycopatch.engine.adapter import Adapter, AdapterLayer, parse_adapter
from lycopatch.engine.linalg import to_dense
from lycopatch.engine.planning import PatchPlan, Wanted, plan
from lycopatch.engine.recognise import recognise
from lycopatch.engine.report import TagReport
from lycopatch.engine.request import AdapterRequest
from lycopatch.engine.targets import TargetIndex

# file | families it fits | dialect | layers per algorithm | layers per part of the model | modifiers
TABLE = """
sd1_cloneofsimo_svd_geglu | sd1 | cloneofsimo | LoRA:192 | te1:48 unet:144
sd1_diffusers018_processor | sd1 | bare | LoRA:128 | unet:128
sd1_diffusers018_unet_te | sd1 | diffusers | LoRA:176 | te1:48 unet:128
sd1_diffusers_saver_all_linear_conv | sd1 | diffusers | LoCon:50 LoRA:228 | unet:278
sd1_diffusers_saver_attn_te | sd1 | diffusers | LoRA:176 | te1:48 unet:128
sd1_diffusers_saver_dora | sd1 | diffusers | LoRA:176 | te1:48 unet:128 | DoRA
sd1_diffusers_unconverted_peft | sd1 | diffusers | LoRA:176 | te1:48 unet:128
sd1_kohya_dylora_r4u2 | sd1 | kohya | LoCon:50 LoRA:300 | te1:72 unet:278
sd1_kohya_locon_r4c2 | sd1 | kohya | LoCon:50 LoRA:300 | te1:72 unet:278
sd1_kohya_lora_block_dims | sd1 | kohya | LoRA:300 | te1:72 unet:228
sd1_kohya_lora_no_text_model | sd1 | kohya | LoRA:264 | te1:72 unet:192
sd1_kohya_lora_r4 | sd1 | kohya | LoRA:264 | te1:72 unet:192
sd1_lycoris190_locon_cp | sd1 | kohya | LoCon:52 LoRA:302 | te1:72 unet:282 | Tucker
sd1_lycoris190_loha_cp | sd1/sd2 | kohya | LoHa:88 | unet:88 | Tucker
sd1_lycoris202_oft_diag | sd1 | kohya | OFT:264 | te1:72 unet:192
sd1_lycoris220_full_train_norm | sd1 | kohya | LoCon:52 LoRA:302 Norm:108 | te1:72 unet:390 | bias
sd1_lycoris220_glora_old | sd1 | kohya | GLoRA:264 | te1:72 unet:192
sd1_lycoris_boft | sd1 | kohya | BOFT:266 | te1:72 unet:194
sd1_lycoris_diag_oft_rescaled | sd1 | kohya | OFT:266 | te1:72 unet:194 | rescale
sd1_lycoris_dylora | sd1 | kohya | LoRA:266 | te1:72 unet:194
sd1_lycoris_full | sd1 | kohya | Full:266 | te1:72 unet:194 | bias
sd1_lycoris_glora | sd1 | kohya | GLoRA:266 | te1:72 unet:194
sd1_lycoris_ia3 | sd1 | kohya | IA3:266 | te1:72 unet:194
sd1_lycoris_locon_full_preset | sd1 | kohya | LoCon:52 LoRA:302 | te1:72 unet:282
sd1_lycoris_locon_tucker_norm | sd1 | kohya | LoRA:266 Norm:64 | te1:72 unet:258 | bias
sd1_lycoris_loha | sd1 | kohya | LoHa:266 | te1:72 unet:194
sd1_lycoris_loha_convblock_tucker | sd1/sd2 | kohya | LoHa:88 | unet:88 | Tucker
sd1_lycoris_loha_dora_out | sd1 | kohya | LoHa:266 | te1:72 unet:194 | DoRA
sd1_lycoris_lokr_convblock_tucker | sd1/sd2 | kohya | LoKr:88 | unet:88 | Tucker
sd1_lycoris_lokr_decompose_both | sd1 | kohya | LoKr:266 | te1:72 unet:194
sd1_lycoris_lokr_f8 | sd1 | kohya | LoKr:266 | te1:72 unet:194
sd1_lycoris_lora_dora_in | sd1 | kohya | LoRA:266 | te1:72 unet:194 | DoRA
sd1_lycoris_lora_dora_out | sd1 | kohya | LoRA:266 | te1:72 unet:194 | DoRA
sd1_lycoris_lora_no_text_model | sd1 | kohya | LoRA:266 | te1:72 unet:194
sd1_lycoris_tlora | sd1 | kohya | T-LoRA:266 | te1:72 unet:194
sd1_lycoris_wrapper_lokr | sd1 | lycoris | LoKr:160 | unet:160
sd1_onetrainer_lora_diffusers | sd1 | diffusers | LoRA:264 | te1:72 unet:192
sd1_onetrainer_lora_kohya | sd1 | kohya | LoRA:264 | te1:72 unet:192
sd1_onetrainer_oft2 | sd1 | kohya | OFT:264 | te1:72 unet:192
sd1_peft_unet_loha | sd1 | peft | LoHa:128 | unet:128
sd1_peft_unet_lokr | sd1 | peft | LoKr:128 | unet:128
sd1_peft_unet_lora | sd1 | peft | LoRA:128 | unet:128
sd1_peft_unet_lora_raw_default | sd1 | peft | LoRA:128 | unet:128
sd1_peft_unet_oft | sd1 | peft | OFT:128 | unet:128
sd2_kohya_lora_r4 | sd2 | kohya | LoRA:366 | te1:138 unet:228
sd2_peft_te_lora | sd2 | peft | LoRA:92 | te1:92
sdxl_diffusers_names_lycoris_locon_conv | sdxl | kohya | LoCon:40 LoRA:28 | unet:68
sdxl_diffusers_names_lycoris_loha_dora | sdxl | kohya | LoHa:726 | unet:726 | DoRA
sdxl_diffusers_names_lycoris_lokr | sdxl | kohya | LoKr:990 | te1:72 te2:192 unet:726
sdxl_diffusers_names_lycoris_lora | sdxl | kohya | LoRA:990 | te1:72 te2:192 unet:726
sdxl_diffusers_saver_attn_te | sdxl | diffusers | LoRA:736 | te1:48 te2:128 unet:560
sdxl_kohya_locon_r2c1 | sdxl | kohya | LoCon:38 LoRA:1014 | te1:72 te2:192 unet:788
sdxl_kohya_lora_r2 | sdxl | kohya | LoRA:1014 | te1:72 te2:192 unet:750
sdxl_kohya_oft | sdxl | kohya | OFT:560 | unet:560
sdxl_lycoris220_lora_dora_in | sdxl | kohya | LoRA:736 | te1:48 te2:128 unet:560 | DoRA
sdxl_lycoris_boft | sdxl | kohya | BOFT:722 | unet:722
sdxl_lycoris_diag_oft | sdxl | kohya | OFT:986 | te1:72 te2:192 unet:722
sdxl_lycoris_full_norm | sdxl | kohya | Full:66 Norm:34 | unet:100 | bias
sdxl_lycoris_glora | sdxl | kohya | GLoRA:722 | unet:722
sdxl_lycoris_ia3 | sdxl | kohya | IA3:986 | te1:72 te2:192 unet:722
sdxl_lycoris_locon_full_preset | sdxl | kohya | LoCon:38 LoRA:1014 | te1:72 te2:192 unet:788
sdxl_lycoris_loha | sdxl | kohya | LoHa:986 | te1:72 te2:192 unet:722
sdxl_lycoris_lokr_full_matrix | sdxl | kohya | LoKr:986 | te1:72 te2:192 unet:722
sdxl_lycoris_lora_dora_out | sdxl | kohya | LoRA:736 | te1:48 te2:128 unet:560 | DoRA
sdxl_lycoris_wrapper_locon | sdxl | lycoris | LoCon:34 LoRA:750 | unet:784
sdxl_onetrainer_dora_in_legacy | sdxl | kohya | LoRA:987 | te1:72 te2:193 unet:722 | DoRA
sdxl_onetrainer_dora_out_diffusers | sdxl | diffusers | LoRA:987 | te1:72 te2:193 unet:722 | DoRA
sdxl_onetrainer_loha_legacy | sdxl | kohya | LoHa:987 | te1:72 te2:193 unet:722
sdxl_onetrainer_lokr_legacy | sdxl | kohya | LoKr:987 | te1:72 te2:193 unet:722
sdxl_onetrainer_lora_comfy | sdxl | comfy | LoRA:987 | te1:72 te2:193 unet:722
sdxl_onetrainer_lora_diffusers | sdxl | diffusers | LoRA:987 | te1:72 te2:193 unet:722
sdxl_onetrainer_lora_kohya | sdxl | kohya | LoRA:987 | te1:72 te2:193 unet:722
sdxl_onetrainer_lora_legacy | sdxl | kohya | LoRA:987 | te1:72 te2:193 unet:722
sdxl_peft_te2_lora_bias | sdxl/sdxl_refiner/ssd1b/sd3 | peft | LoRA:128 | te2:128 | bias
sdxl_peft_to_kohya_converted | sdxl | kohya | LoRA:736 | te1:48 te2:128 unet:560
"""

MODELS = {
    "sd1": [
        ("sd15_checkpoint",),
        ("sd15_inpainting_checkpoint",),
        ("sd15_instruct_pix2pix_checkpoint",),
        ("unet.=sd15_diffusers_unet", "text_encoder.=clip_l_transformers_te"),
        ("unet.=sd15_inpainting_diffusers_unet", "text_encoder.=clip_l_transformers_te"),
    ],
    "sd2": [("sd21_checkpoint",), ("unet.=sd21_diffusers_unet", "text_encoder.=sd2_transformers_te")],
    "sdxl": [
        ("sdxl_base_checkpoint",),
        (
            "unet.=sdxl_base_diffusers_unet",
            "text_encoder.=clip_l_transformers_te",
            "text_encoder_2.=sdxl_te2_transformers",
        ),
    ],
}
"""Every model of the list that a network of this family is for: as one checkpoint, and as a pipeline's parts."""

FUTURE = {
    "anima": "Anima",
    "flux": "Flux",
    "krea2": "Krea 2",
    "qwen_image": "Qwen-Image",
}


class Row(NamedTuple):
    name: str
    families: tuple[str, ...]
    dialect: str
    algorithms: dict[str, int]
    components: dict[str, int]
    modifiers: set[str]


def _rows() -> dict[str, Row]:
    rows: dict[str, Row] = {}
    for line in TABLE.strip().splitlines():
        name, families, dialect, algorithms, components, modifiers = [*map(str.strip, line.split("|")), ""][:6]
        counts = (
            {k: int(v) for k, v in (pair.split(":") for pair in text.split())} for text in (algorithms, components)
        )
        rows[name] = Row(name, tuple(families.split("/")), dialect, *counts, set(modifiers.split(",")) - {""})
    return rows


ROWS = _rows()


@cache
def adapter_of(name: str) -> Adapter:
    return parse_adapter(keyset_file(name))


@cache
def index_of(*model: str) -> TargetIndex:
    return TargetIndex.of(model_shapes(*model))


def bound(adapter: Adapter, index: TargetIndex) -> tuple[PatchPlan, TagReport]:
    planned, (report,) = plan([Wanted(AdapterRequest("n", 1.0, 1.0, None, "<lora:n>"), adapter)], index)
    return planned, report


def test_the_table_lists_every_keyset():
    assert set(ROWS) == set(keyset_names())
    assert len(ROWS) >= 75


@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS)
def test_every_key_of_a_published_file_is_explained(row: Row):
    adapter = adapter_of(row.name)
    assert adapter.leftovers == ()
    assert adapter.not_a_network is None
    explained = Counter(key for layer in adapter.layers for key in layer.keys.values())
    explained.update(key for embedding in adapter.embeddings for key in embedding.keys.values())
    assert explained == Counter(list(keyset_file(row.name).specs))
    assert adapter.algorithms == row.algorithms
    assert set(adapter.dialects) == {row.dialect}
    modifiers = {modifier for layer in adapter.layers for modifier in layer.modifiers}
    assert modifiers == row.modifiers


@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS)
def test_the_base_model_of_a_published_file_is_recognised_without_metadata(row: Row):
    verdict = recognise(adapter_of(row.name))
    assert verdict.candidates == row.families
    assert verdict.family == row.families[0]
    rivals = [family for family in row.families if family != "ssd1b"]
    assert verdict.confidence == pytest.approx(0.95 / len(rivals), abs=1e-3)
    assert dict(verdict.components) == row.components
    assert verdict.evidence


@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS)
def test_every_layer_of_a_published_file_is_bound_in_every_model_it_is_for(row: Row):
    adapter = adapter_of(row.name)
    models = [model for family in row.families for model in MODELS.get(family, [])]
    assert models
    for model in models:
        planned, report = bound(adapter, index_of(*model))
        if row.name == "sd1_lycoris_tlora":
            assert [issue.kind for issue in report.issues] == ["not supported"]
            assert "stores only half of its change" in report.issues[0].message
            assert len(report.keys["skipped"]) == adapter.total_keys
            continue
        assert report.issues == [], model
        assert report.layers_applied == report.layers_total == len(adapter.layers)
        assert len(report.keys["applied"]) + len(report.keys["embedding"]) == adapter.total_keys
        used = Counter(one.target.weight for patch in planned.patches.values() for one in patch.contributions)
        assert len(used) == len(adapter.layers), "two layers on one target"


@pytest.mark.parametrize("model", sorted({model for models in MODELS.values() for model in models}))
def test_no_two_layers_of_a_model_share_a_name(model: tuple[str, ...]):
    assert index_of(*model).conflicts == ()


@dataclass(frozen=True)
class Original:
    """A layer's original weight, invented."""

    shape: tuple[int, ...]
    dtype: torch.dtype = torch.float32

    def weight(self) -> Tensor:
        generator = torch.Generator().manual_seed(1)
        return torch.randn(self.shape[0], *self.shape[1:], generator=generator).reshape(self.shape[0], -1)


def samples(adapter: Adapter) -> list[AdapterLayer]:
    """The smallest layer of each form that the file has: algorithm, tensors, number of axes."""
    smallest: dict[object, AdapterLayer] = {}
    for layer in adapter.layers:
        form = (layer.algorithm, *sorted((suffix, len(spec.shape)) for suffix, spec in layer.specs.items()))
        known = smallest.get(form)
        if known is None or _size(layer) < _size(known):
            smallest[form] = layer
    return list(smallest.values())


def _size(layer: AdapterLayer) -> int:
    return sum(spec.numel for spec in layer.specs.values())


@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS)
def test_each_form_of_layer_computes_a_finite_change_of_its_targets_shape(row: Row):
    adapter, file = adapter_of(row.name), keyset_file(row.name)
    index = index_of(*MODELS[row.families[0]][0])
    for layer in samples(adapter):
        target = next(each for each in index.find(layer.name) if layer.mismatch(each.shape) is None)
        if layer.refusal is not None:
            continue
        loaded = layer.load(file, torch.device("cpu"), torch.float32)
        delta = loaded.weight_delta(Original(target.shape))
        if layer.changes_weight:
            assert delta is not None
            matrix = to_dense(delta).matrix
            assert matrix.shape == (target.shape[0], torch.Size(target.shape).numel() // target.shape[0])
            assert matrix.isfinite().all()
            assert matrix.any()
        if layer.changes_bias:
            change = loaded.bias_delta(torch.zeros(target.shape[0]))
            assert change is not None
            assert change.shape == target.shape[:1]


@pytest.mark.parametrize("name", keyset_names("future"))
def test_a_network_of_a_later_base_model_is_named_and_explained(name: str):
    adapter = adapter_of(name)
    family = next(each for each in FUTURE if name.startswith(f"future/{each}_"))
    verdict = recognise(adapter)
    assert (verdict.family, verdict.title, verdict.candidates) == (family, FUTURE[family], (family,))
    assert f"{FUTURE[family]} can not be patched yet" in verdict.evidence
    assert not verdict.allows("sd1")
    assert adapter.leftovers == ()
    for model in ("sd15_checkpoint", "sdxl_base_checkpoint"):
        planned, report = bound(adapter, index_of(model))
        unet_layers = [layer for layer in adapter.layers if not layer.name.startswith(("lora_te", "text_encoder"))]
        assert report.layers_applied <= len(adapter.layers) - len(unet_layers)
        assert sum(map(len, report.keys.values())) == adapter.total_keys
        touched = {one.target.component for patch in planned.patches.values() for one in patch.contributions}
        assert "unet" not in touched


def test_a_file_of_noise_is_the_same_every_time():
    first, second = (KeysetFile({"a.lora_up.weight": (3, 4)}).read("a.lora_up.weight") for _ in range(2))
    assert torch.equal(first, second)
    assert first.std() > 0

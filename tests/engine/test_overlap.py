"""Scalar products of factored deltas and the cosines of two networks, against deltas multiplied out in float64."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from functools import cache
from itertools import combinations
from pathlib import Path

import pytest
import torch
from torch import Tensor

from lycopatch.engine.adapter import parse_adapter
from lycopatch.engine.blocks import block_of, block_order
from lycopatch.engine.delta_product import Piece, inner, on_common_rows, product_of, rows_of, square
from lycopatch.engine.errors import AdapterError, MalformedLayer
from lycopatch.engine.linalg import Delta, Dense, Hadamard, Kronecker, LowRank, Sum
from lycopatch.engine.originals import Originals
from lycopatch.engine.overlap import NotMeasured, Overlap, overlaps
from lycopatch.engine.planning import Contribution, TensorPatch, Wanted, plan
from lycopatch.engine.reading import TensorFile, open_tensor_file
from lycopatch.engine.request import AdapterRequest
from lycopatch.engine.targets import TargetIndex
from lycopatch.engine.writing import PristineBase, fitted_delta
from lycopatch.hosts.memory.models import DictModel
from networks import network, write_network
from random_models import layers_of, sd15, sd21

ROWS, COLS = 12, 18


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed + sum(shape)), dtype=torch.float64)


def low_rank(seed: int, rank: int = 3) -> LowRank:
    return LowRank(random(ROWS, rank, seed=seed), random(rank, COLS, seed=seed + 1), 0.5 + seed)


FORMS: Mapping[str, Callable[[], Delta]] = {
    "low rank": lambda: low_rank(1),
    "another rank": lambda: low_rank(2, rank=5),
    "hadamard": lambda: Hadamard(low_rank(3), low_rank(4), -0.25),
    "kronecker": lambda: Kronecker(random(3, 2), random(4, 9), 2.0),
    "kronecker of the same shapes": lambda: Kronecker(random(3, 2, seed=7), random(4, 9, seed=7), -1.5),
    "kronecker of other shapes": lambda: Kronecker(random(2, 6), random(6, 3)),
    "dense": lambda: Dense(random(ROWS, COLS), 3.0),
    "sum": lambda: Sum((low_rank(5), Kronecker(random(4, 3), random(3, 6)), Dense(random(ROWS, COLS, seed=9), 0.1))),
    "narrow": lambda: LowRank(random(ROWS, 2), random(2, COLS - 4)),
}


def product(a: Delta, b: Delta) -> float:
    cols = min(a.cols, b.cols)
    return float((multiplied_out(a)[:, :cols] * multiplied_out(b)[:, :cols]).sum())


def multiplied_out(delta: Delta) -> Tensor:
    """With our own hands: not by the code that is tested."""
    match delta:
        case LowRank(up=up, down=down, scale=scale):
            matrix = scale * torch.einsum("ir,rj->ij", up.double(), down.double())
        case Hadamard(a=a, b=b, scale=scale):
            matrix = scale * multiplied_out(a) * multiplied_out(b)
        case Kronecker(w1=w1, w2=w2, scale=scale):
            matrix = scale * torch.kron(w1.double(), w2.double())
        case Dense(matrix=dense, scale=scale):
            matrix = scale * dense.double()
        case Sum(parts=parts):
            matrix = torch.stack([multiplied_out(part) for part in parts]).sum(0)
        case _:
            raise AssertionError(delta)
    return matrix


@pytest.mark.parametrize("left", FORMS)
@pytest.mark.parametrize("right", FORMS)
def test_the_product_of_any_two_forms_is_that_of_the_matrices(left: str, right: str) -> None:
    a, b = FORMS[left](), FORMS[right]()
    assert inner(a, b) == pytest.approx(product(a, b), rel=1e-10)


def test_large_matrices_are_looked_at_in_blocks_of_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lycopatch.engine.delta_product._BLOCK_ELEMENTS", 5 * COLS)
    a, b = FORMS["hadamard"](), FORMS["kronecker"]()
    assert inner(a, b) == pytest.approx(product(a, b), rel=1e-10)


@pytest.mark.parametrize("form", [form for form in FORMS if form != "narrow"])
def test_some_rows_of_any_form_are_those_of_the_matrix(form: str) -> None:
    delta = FORMS[form]()
    torch.testing.assert_close(multiplied_out(rows_of(delta, 2, 9)), multiplied_out(delta)[2:9])


def test_pieces_meet_only_on_the_rows_that_both_have() -> None:
    low, dense, product = FORMS["low rank"](), FORMS["dense"](), FORMS["kronecker"]()
    left = [Piece(low, 0.5, 0), Piece(dense, -1.0, 20)]
    right = [Piece(product, 2.0, 6), Piece(low, 3.0, 8)]

    def laid_out(pieces: list[Piece]) -> Tensor:
        whole = torch.zeros(40, COLS, dtype=torch.float64)
        for piece in pieces:
            whole[piece.start : piece.stop] += piece.weight * multiplied_out(piece.delta)
        return whole

    one, other = laid_out(left), laid_out(right)
    product_of_all = sum(product_of(a, b) for a in left for b in right)
    assert product_of_all == pytest.approx(float((one * other).sum()))
    assert square(right) == pytest.approx(float(other.square().sum()))
    cut_left, cut_right = on_common_rows(left, right)
    common = [*range(6, 12), *range(20, 20)]
    torch.testing.assert_close(laid_out(cut_left)[common], one[common])
    torch.testing.assert_close(laid_out(cut_right)[common], other[common])
    assert float(laid_out(cut_left).square().sum()) == pytest.approx(float(one[common].square().sum()))
    assert on_common_rows(left[:1], [Piece(low, 1.0, 12)]) == ([], [])


# --- whole networks --------------------------------------------------------------------------------------------------

PLACES = ("down_blocks_0_attentions_0", "mid_block_attentions", "layers_0_")
ALGORITHMS = ("lora", "loha", "lokr", "low_lokr", "full", "norm", "glora", "ia3", "oft", "dora")


@cache
def pristine() -> Mapping[str, Tensor]:
    return sd15(shrink=40)


class Bench:
    """Networks planned one by one on a model, measured by ``overlaps`` and by hand."""

    def __init__(self, model: Mapping[str, Tensor], files: ExitStack) -> None:
        self.model = DictModel(dict(model))
        self.index = TargetIndex.of(self.model.shapes())
        self.originals = Originals()
        self.files: dict[str, TensorFile] = {}
        self.stack = files
        self.patches: dict[int, Mapping[str, TensorPatch]] = {}

    def add(self, path: Path, te: float, unet: float) -> None:
        file = self.files[str(path)] = self.stack.enter_context(open_tensor_file(path))
        request = AdapterRequest(path.stem, te, unet, None, f"<lora:{path.stem}>")
        planned, _ = plan([Wanted(request, parse_adapter(file))], self.index)
        self.patches[len(self.patches)] = planned.patches

    def delta_of(self, contribution: Contribution, dtype: torch.dtype = torch.float32) -> Delta | None:
        loaded = contribution.layer.load(self.files[contribution.layer_id[0]], torch.device("cpu"), dtype)
        base = PristineBase(self.model, self.originals, contribution.target, torch.device("cpu"), dtype)
        return fitted_delta(loaded, contribution.target, base, contribution.dyn_dim)

    def measured(self, a: int = 0, b: int = 1) -> Overlap:
        (found,) = overlaps(self.patches, [(a, b)], self.delta_of)
        return found

    def by_hand(self, network: int) -> dict[str, tuple[str, Tensor, Tensor]]:
        """Tensor → its block, what the network adds to it, and which rows it touches."""
        found: dict[str, tuple[str, Tensor, Tensor]] = {}
        for name, patch in self.patches[network].items():
            if patch.is_bias:
                continue
            live = self.model.tensor(name)
            whole = torch.zeros(live.shape[0], live[0].numel(), dtype=torch.float64)
            touched = torch.zeros(live.shape[0], dtype=torch.bool)
            for each in patch.contributions:
                delta = self.delta_of(each, torch.float64)
                assert delta is not None
                matrix = multiplied_out(delta)
                matrix = matrix.T if each.target.transposed else matrix
                offset = 0
                for part in each.target.weight:
                    rows = part.stop - part.start
                    if part.tensor == name:
                        whole[part.start : part.stop] += each.multiplier * matrix[offset : offset + rows]
                        touched[part.start : part.stop] = True
                    offset += rows
            found[name] = block_of(patch.contributions[0].target), whole, touched
        return found


@pytest.fixture
def files() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def written(folder: Path, name: str, algorithm: str, seed: int, places: Mapping[str, tuple[int, ...]]) -> Path:
    path = folder / f"{name}.safetensors"
    write_network(path, places, algorithm, seed=seed)
    return path


def compare(bench: Bench, found: Overlap) -> None:
    """Each number of ``found`` against the materialised deltas."""
    left, right = bench.by_hand(found.a), bench.by_hand(found.b)
    sums: dict[str, list[float]] = {}
    for name in left.keys() & right.keys():
        rows = left[name][2] & right[name][2]
        if rows.any():
            a, b = left[name][1][rows], right[name][1][rows]
            entry = sums.setdefault(left[name][0], [0.0, 0.0, 0.0, 0])
            for place, value in enumerate(((a * b).sum(), a.square().sum(), b.square().sum(), 1)):
                entry[place] += float(value)
    total = [sum(column) for column in zip(*sums.values(), strict=True)]
    assert found.common == found.measured == total[3]
    assert [each.block for each in found.blocks] == sorted(sums, key=block_order)
    for each in found.blocks:
        dot, a, b, _ = sums[each.block]
        assert each.cosine == pytest.approx(dot / math.sqrt(a * b), abs=2e-5)
        assert each.share == pytest.approx((a / total[1] + b / total[2]) / 2, rel=1e-4)
    assert found.cosine == pytest.approx(total[0] / math.sqrt(total[1] * total[2]), abs=2e-5)
    energies = [sum(float(each[1].square().sum()) for each in one.values()) for one in (left, right)]
    assert found.share == pytest.approx((total[1] / energies[0] + total[2] / energies[1]) / 2, rel=1e-4)
    assert not found.unmeasured


@pytest.mark.parametrize("pair", list(combinations(ALGORITHMS, 2)), ids="+".join)
def test_two_networks_of_any_algorithms_are_compared_as_if_multiplied_out(
    pair: tuple[str, str], tmp_path: Path, files: ExitStack
) -> None:
    bench = Bench(pristine(), files)
    for seed, (algorithm, only) in enumerate(zip(pair, (PLACES, PLACES[:2]), strict=True)):
        path = written(tmp_path, f"n{seed}", algorithm, seed, layers_of(pristine(), only=only))
        bench.add(path, te=0.5, unet=(1.0, -0.75)[seed])
    found = bench.measured()
    if "norm" in pair:
        assert (found.common, found.cosine, found.blocks) == (0, None, ())
    else:
        compare(bench, found)
        assert {each.block for each in found.blocks} == {"IN01", "MID"}


def test_networks_are_compared_on_the_rows_of_a_fused_tensor_that_both_change(tmp_path: Path, files: ExitStack) -> None:
    model = sd21(shrink=16)
    bench = Bench(model, files)
    for seed, only in enumerate(
        (("layers_0_self_attn_q", "layers_0_self_attn_k", "text_proj"), ("layers_0_", "text_"))
    ):
        bench.add(written(tmp_path, f"n{seed}", "lora", seed, layers_of(model, only=only)), te=1.0, unet=1.0)
    bench.add(written(tmp_path, "v", "lora", 5, layers_of(model, only=("layers_0_self_attn_v",))), te=1.0, unet=1.0)
    found = bench.measured()
    assert any("in_proj" in name for name in bench.patches[0])
    compare(bench, found)
    assert found.share is not None
    assert found.share < 0.99
    apart = bench.measured(0, 2)
    assert (apart.common, apart.measured, apart.cosine, apart.share) == (0, 0, None, 0.0)


@pytest.mark.parametrize(("te", "unet", "cosine"), [(1.0, 1.0, 1.0), (-0.5, -0.5, -1.0)])
def test_the_sign_of_the_weight_turns_a_network_round(
    te: float, unet: float, cosine: float, tmp_path: Path, files: ExitStack
) -> None:
    bench = Bench(pristine(), files)
    places = layers_of(pristine(), only=PLACES)
    bench.add(written(tmp_path, "a", "lora", 3, places), 1.0, 1.0)
    bench.add(written(tmp_path, "b", "lora", 3, places), te, unet)
    found = bench.measured()
    assert found.cosine == pytest.approx(cosine, abs=1e-6)
    assert all(each.cosine == pytest.approx(cosine, abs=1e-6) for each in found.blocks)
    assert sum(each.share for each in found.blocks) == pytest.approx(1)
    assert found.share == pytest.approx(1)


def test_the_weights_of_the_parts_count_in_the_total(tmp_path: Path, files: ExitStack) -> None:
    bench = Bench(pristine(), files)
    places = layers_of(pristine(), only=PLACES)
    bench.add(written(tmp_path, "a", "lora", 3, places), 1.0, 1.0)
    bench.add(written(tmp_path, "b", "lora", 3, places), te=-1.0, unet=0.5)
    found = bench.measured()
    assert {each.cosine and round(each.cosine, 5) for each in found.blocks} == {1.0, -1.0}
    compare(bench, found)


def test_layers_that_can_not_be_measured_are_counted_with_the_reason(tmp_path: Path, files: ExitStack) -> None:
    bench = Bench(pristine(), files)
    places = layers_of(pristine(), only=PLACES)
    bench.add(written(tmp_path, "a", "lora", 3, places), 1.0, 1.0)
    bench.add(written(tmp_path, "b", "lora", 4, places), 1.0, 1.0)

    def delta_of(contribution: Contribution) -> Delta | None:
        if contribution.target.component == "te1":
            raise NotMeasured("its weights sleep")
        if "to_q" in contribution.layer.name:
            raise MalformedLayer(contribution.layer.name, "it holds numbers that are not finite")
        if "to_k" in contribution.layer.name and contribution.layer_id[0].endswith("b.safetensors"):
            raise AdapterError("It vanished.")
        return bench.delta_of(contribution)

    (found,) = overlaps(bench.patches, [(0, 1)], delta_of)
    reasons = {"its weights sleep", "it holds numbers that are not finite", "It vanished."}
    assert found.unmeasured.keys() == reasons
    assert found.measured + sum(found.unmeasured.values()) == found.common
    assert found.share is None
    assert {each.block for each in found.blocks} == {"IN01", "MID"}


def test_when_the_time_is_over_all_blocks_were_looked_at(tmp_path: Path, files: ExitStack) -> None:
    bench = Bench(pristine(), files)
    for seed in (3, 4):
        bench.add(written(tmp_path, f"n{seed}", "lora", seed, layers_of(pristine())), 1.0, 1.0)
    told = []

    def go_on(done: int, total: int) -> bool:
        told.append((done, total))
        return done < 40

    (found,) = overlaps(bench.patches, [(0, 1)], bench.delta_of, go_on)
    assert len(told) == found.measured < found.common
    assert found.share is None
    everything = overlaps(bench.patches, [(0, 1)], bench.delta_of)[0]
    assert [each.block for each in found.blocks] == [each.block for each in everything.blocks]
    assert everything.share == pytest.approx(1)


def test_what_the_listener_raises_ends_it(tmp_path: Path, files: ExitStack) -> None:
    bench = Bench(pristine(), files)
    for seed in (3, 4):
        bench.add(written(tmp_path, f"n{seed}", "lora", seed, layers_of(pristine(), only=PLACES)), 1.0, 1.0)

    def go_on(done: int, total: int) -> bool:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        overlaps(bench.patches, [(0, 1)], bench.delta_of, go_on)


def test_a_network_that_changes_nothing_has_no_direction(tmp_path: Path, files: ExitStack) -> None:
    bench = Bench(pristine(), files)
    places = layers_of(pristine(), only=PLACES[1:2])
    bench.add(written(tmp_path, "a", "lora", 3, places), 1.0, 1.0)
    from safetensors.torch import save_file

    tensors = {key: tensor * ("up" not in key) for key, tensor in network(places, "lora", seed=1).items()}
    save_file(tensors, tmp_path / "zero.safetensors")
    bench.add(tmp_path / "zero.safetensors", 1.0, 1.0)
    found = bench.measured()
    assert found.cosine is None
    assert [(each.cosine, each.share) for each in found.blocks] == [(None, 0.5)]
    assert found.measured == found.common


# --- blocks ----------------------------------------------------------------------------------------------------------


def test_blocks_are_called_as_people_call_them() -> None:
    index = TargetIndex.of(DictModel(dict(pristine())).shapes())
    expected = {
        "lora_unet_conv_in": "IN00",
        "lora_unet_down_blocks_0_resnets_0_conv1": "IN01",
        "lora_unet_down_blocks_3_resnets_1_conv2": "IN11",
        "lora_unet_mid_block_resnets_0_conv1": "MID",
        "lora_unet_up_blocks_1_attentions_0_proj_in": "OUT03",
        "lora_unet_up_blocks_3_resnets_2_conv1": "OUT11",
        "lora_unet_conv_out": "LAST",
        "lora_unet_time_embedding_linear_1": "FIRST",
        "lora_te_text_model_encoder_layers_7_mlp_fc1": "TE1.07",
        "lora_te_text_model_embeddings_token_embedding": "TE1.FIRST",
        "lora_te_text_model_final_layer_norm": "TE1.LAST",
    }
    assert {name: block_of(index.find(name)[0]) for name in expected} == expected
    order = ["FIRST", "IN00", "IN01", "IN11", "MID", "OUT03", "OUT11", "LAST", "TE1.FIRST", "TE1.07", "TE1.LAST"]
    assert sorted(expected.values(), key=block_order) == order

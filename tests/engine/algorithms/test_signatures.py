"""Which algorithm a layer's tensors belong to: one of the table, whatever its order, or a reason why none."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping

import pytest

from keyset_files import keyset_file, keyset_names
from lycopatch.engine.adapter import parse_adapter
from lycopatch.engine.algorithms import ALGORITHMS
from lycopatch.engine.algorithms.base import MODIFIERS, Algorithm, Match, NoMatch, identify
from lycopatch.engine.dialects.suffixes import SUFFIXES, split_key
from oracles import all_cases

Shapes = Mapping[str, tuple[int, ...]]


def oracle_layers() -> Iterator[tuple[str, Shapes]]:
    for case in all_cases():
        shapes = {split_key(f"x.{key}"): tuple(tensor.shape) for key, tensor in case.tensors.items()}
        assert None not in shapes, case.id
        yield case.id, {parts.suffix: shape for parts, shape in shapes.items() if parts is not None}


def keyset_layers() -> Iterator[tuple[str, Shapes]]:
    """One layer of each form: its suffixes and the number of their axes."""
    seen: set[object] = set()
    for name in [*keyset_names(), *keyset_names("future")]:
        for layer in parse_adapter(keyset_file(name)).layers:
            form = frozenset((suffix, len(shape)) for suffix, shape in layer.shapes.items())
            if form not in seen:
                seen.add(form)
                yield f"{name}: {layer.name}", layer.shapes


@pytest.fixture(scope="module")
def layers() -> list[tuple[str, Shapes]]:
    return [*oracle_layers(), *keyset_layers()]


def explaining(shapes: Shapes) -> list[type[Algorithm]]:
    """The algorithms that account for every tensor of a layer."""
    suffixes = frozenset(shapes)
    return [
        algorithm
        for algorithm in ALGORITHMS
        if not algorithm.SIGNATURE.missing(suffixes)
        and not algorithm.SIGNATURE.unexplained(suffixes)
        and algorithm.SIGNATURE.check(shapes) is None
    ]


def test_exactly_one_algorithm_explains_every_tensor_of_a_genuine_layer(layers: list[tuple[str, Shapes]]):
    assert len(layers) > 430
    answers = {name: [algorithm.TITLE for algorithm in explaining(shapes)] for name, shapes in layers}
    assert {name: titles for name, titles in answers.items() if len(titles) != 1} == {}


def test_the_order_of_the_table_does_not_matter(layers: list[tuple[str, Shapes]]):
    orders = [ALGORITHMS, ALGORITHMS[::-1], *(tuple(random.sample(ALGORITHMS, len(ALGORITHMS))) for _ in range(6))]
    for name, shapes in layers:
        answers = {identify(shapes, order) for order in orders}
        assert len(answers) == 1, (name, answers)
        (answer,) = answers
        assert isinstance(answer, Match), (name, answer)
        assert not answer.extra


def test_the_order_does_not_matter_for_damaged_layers_either(layers: list[tuple[str, Shapes]]):
    """One tensor lost, or one of another layer added."""
    orders = [ALGORITHMS, ALGORITHMS[::-1], tuple(random.sample(ALGORITHMS, len(ALGORITHMS)))]
    strangers = list({suffix: shape for _, shapes in layers for suffix, shape in shapes.items()}.items())
    for name, shapes in layers[::3]:
        lost = random.choice(sorted(shapes))
        suffix, shape = random.choice(strangers)
        for damaged in ({key: shapes[key] for key in shapes if key != lost}, {**shapes, suffix: shape}):
            assert len({identify(damaged, order) for order in orders}) == 1, (name, sorted(damaged))


def test_signatures_exclude_each_other_unless_a_check_of_shapes_does():
    """Two algorithms may share tensors only where their shapes tell them apart."""
    shared = [
        {first.TITLE, second.TITLE}
        for index, first in enumerate(ALGORITHMS)
        for second in ALGORITHMS[index + 1 :]
        for form in first.SIGNATURE.forms
        if not second.SIGNATURE.missing(form) and not second.SIGNATURE.unexplained(form)
    ]
    assert shared == [{"OFT", "BOFT"}]
    for blocks, title in (((4, 6, 6), "OFT"), ((2, 4, 6, 6), "BOFT")):
        answer = identify({"oft_blocks": blocks}, ALGORITHMS)
        assert isinstance(answer, Match)
        assert title == answer.algorithm.TITLE


def test_every_title_is_used_once_and_every_field_is_a_tensor_of_the_signature():
    titles = [algorithm.TITLE for algorithm in ALGORITHMS]
    assert len(set(titles)) == len(titles)
    for algorithm in ALGORITHMS:
        fields = set(algorithm.__dataclass_fields__)
        own = algorithm.SIGNATURE.optional.union(*algorithm.SIGNATURE.forms)
        assert fields <= own, algorithm.TITLE
        assert not own & MODIFIERS - {"diff_b", "b_norm"}, algorithm.TITLE


def test_every_suffix_that_a_key_may_end_with_belongs_to_an_algorithm_or_is_a_modifier():
    known = MODIFIERS.union(*(a.SIGNATURE.optional.union(*a.SIGNATURE.forms) for a in ALGORITHMS))
    reserved = {"bm", "lokr_t1"}  # announced by LyCORIS, never written
    assert set(SUFFIXES.values()) - known == reserved
    assert known <= set(SUFFIXES.values())


LORA = {"lora_up": (32, 4), "lora_down": (4, 16)}
LOHA = {"hada_w1_a": (32, 4), "hada_w1_b": (4, 16), "hada_w2_a": (32, 4), "hada_w2_b": (4, 16)}
REASONS: list[tuple[str, Shapes, str | None, str]] = [
    ("LoRA without up", {"lora_down": (4, 16), "alpha": ()}, "LoRA", "missing lora_up"),
    ("LoRA without down", {"lora_up": (32, 4)}, "LoRA", "missing lora_down"),
    ("LoHa without its last factor", {k: v for k, v in LOHA.items() if k != "hada_w2_b"}, "LoHa", "missing hada_w2_b"),
    ("half a Tucker LoHa", {**LOHA, "hada_t1": (4, 4, 3, 3)}, "LoHa", "only one of hada_t1 and hada_t2 is there"),
    ("LoKr without its second factor", {"lokr_w1": (4, 4)}, "LoKr", "missing lokr_w2"),
    ("LoKr with half a factor", {"lokr_w1": (4, 4), "lokr_w2_a": (8, 2)}, "LoKr", "missing lokr_w2_b"),
    ("GLoRA without b2", {"a1": (16, 4), "a2": (4, 16), "b1": (32, 4)}, "GLoRA", "missing b2"),
    ("IA3 without its side", {"weight": (16,)}, "IA3", "missing on_input"),
    ("T-LoRA without its weights", {"q_layer": (4, 16), "p_layer": (32, 4)}, "T-LoRA", "missing lambda_layer"),
    (
        "LoRA whose ranks differ",
        {"lora_up": (32, 4), "lora_down": (8, 16)},
        "LoRA",
        "the rank of up is 4, that of down is 8",
    ),
    ("LoHa whose ranks differ", {**LOHA, "hada_w2_b": (5, 16)}, "LoHa", "hada_w2_a and hada_w2_b do not share a rank"),
    (
        "blocks that fit no butterfly",
        {"oft_blocks": (4, 3, 6, 6)},
        "BOFT",
        "3 blocks of 6 can not be permuted in 4 stages",
    ),
    ("numbers that fill no triangle", {"oft_R": (8, 11)}, "OFT (oft_R)", "11 numbers are no upper triangle"),
    (
        "modifiers alone",
        {"alpha": (), "dora_scale": (32, 1)},
        None,
        "its tensors alpha, dora_scale belong to no algorithm",
    ),
]


@pytest.mark.parametrize(("shapes", "closest", "why"), [row[1:] for row in REASONS], ids=[row[0] for row in REASONS])
def test_a_layer_that_no_algorithm_explains_says_which_was_closest(shapes: Shapes, closest: str | None, why: str):
    assert identify(shapes, ALGORITHMS) == NoMatch(closest, why)


def test_the_algorithm_with_the_fewest_tensors_left_over_is_used():
    answer = identify({**LORA, "diff": (32, 16)}, ALGORITHMS)
    assert isinstance(answer, Match)
    assert (answer.algorithm.TITLE, answer.extra) == ("LoRA", {"diff"})
    answer = identify({**LORA, **LOHA}, ALGORITHMS)
    assert isinstance(answer, Match)
    assert (answer.algorithm.TITLE, answer.extra) == ("LoHa", set(LORA))


def test_two_algorithms_that_explain_a_layer_equally_well_are_no_decision():
    answer = identify({**LORA, "lokr_w1": (4, 4), "lokr_w2": (8, 4)}, ALGORITHMS)
    assert answer == NoMatch("LoKr and LoRA", "each explains the layer as well as the other")

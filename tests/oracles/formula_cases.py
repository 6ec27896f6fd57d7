"""What no installed package writes any more, worked out in float64 from the formats' definitions.

The arithmetic is meant to be slow and literal (a sum over ranks, a loop over blocks, eigenvalues instead of an
inverse), so that it has nothing in common with how a loader would do it. Sources: LyCORIS 1.9 and 2.0, kohya's
sd-scripts, peft 0.8 and 0.14, OneTrainer, the T-LoRA authors' repository, and AUTOMATIC1111's built-in loader for
``scale`` and ``bias``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from oracles.case import (
    BF16,
    DTYPE_NAMES,
    EXACT,
    F8,
    F16,
    F32,
    HALVES,
    NORMED,
    ROTATED,
    Numbers,
    OracleCase,
    stored,
    undisturbed_randomness,
)
from oracles.layers import make_layer, parameters_of

Tensors = dict[str, Tensor]
RANK = 4
PEFT = "base_model.model."


@dataclass(frozen=True)
class Formula:
    """``make(numbers, W)`` invents a layer's tensors; ``weight(tensors, W)`` and ``bias(tensors)`` say what they do.

    ``weight`` sees the tensors as the file holds them, in float64, and returns W'; None = W stays. ``bias`` returns Δb.
    """

    name: str
    algorithm: str
    layer: str
    make: Callable[[Numbers, Tensor], Tensors]
    weight: Callable[[Tensors, Tensor], Tensor] | None = None
    bias: Callable[[Tensors], Tensor] | None = None
    modifiers: tuple[str, ...] = ()
    dtypes: tuple[torch.dtype, ...] = (F32,)
    prefix: str = "lora_unet_"
    tolerance: float = EXACT
    changes_weight: bool = True


ALL = (F32, *HALVES)


@lru_cache(maxsize=1)
def formula_cases() -> list[OracleCase]:
    """Every formula in each of its dtypes."""
    formulas = [*_scales(), *_residuals(), *_shapes(), *_biases(), *_dora(), *_others(), *_output_rotations()]
    formulas += _input_rotations()
    with undisturbed_randomness():
        return [_build(formula, dtype) for formula in formulas for dtype in formula.dtypes]


def _build(formula: Formula, dtype: torch.dtype) -> OracleCase:
    identity = f"formula-{formula.name}-{formula.layer}-{DTYPE_NAMES[dtype]}"
    numbers = Numbers(identity)
    model_dtype = F16 if dtype in F8 else dtype
    weight, bias = parameters_of(make_layer(formula.layer, numbers, model_dtype), model_dtype)
    invented = formula.make(numbers, weight.double())
    # float64 means "any dtype"; a tensor of another dtype is stored just so.
    tensors = {key: stored(t, dtype) if t.dtype == torch.float64 else t for key, t in invented.items()}
    read = {key: value.double() for key, value in tensors.items()}
    new_weight = weight.double() if formula.weight is None else formula.weight(read, weight.double())
    new_bias = None if bias is None else bias.double()
    if formula.bias is not None:
        new_bias = formula.bias(read) + (0 if new_bias is None else new_bias)
    return OracleCase(
        id=identity,
        algorithm=formula.algorithm,
        modifiers=formula.modifiers,
        layer_kind=formula.layer,
        tensors=tensors,
        weight=weight,
        bias=bias,
        reference_weight=new_weight,
        reference_bias=new_bias,
        origin="formula",
        layer_prefix=formula.prefix,
        tolerance=formula.tolerance,
        changes_weight=formula.changes_weight,
    )


# --- low-rank products ------------------------------------------------------------------------------------------------


def _number(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)


def _lora(numbers: Numbers, weight: Tensor, scale: float = 1.0) -> Tensors:
    """Factors whose product times ``scale`` is about half as large as W; a linear layer's, or flat ones for a conv."""
    rows, cols = weight.shape[0], weight[0].numel()
    return {
        "lora_up.weight": numbers.normal(rows, RANK, std=0.5 / (scale * math.sqrt(RANK * cols))),
        "lora_down.weight": numbers.normal(RANK, cols),
    }


def _product(tensors: Tensors, like: Tensor, up: str = "lora_up.weight", down: str = "lora_down.weight") -> Tensor:
    """``up @ down`` as a sum of outer products, in the shape of ``like``."""
    left, right = tensors[up].flatten(1), tensors[down].flatten(1)
    total = torch.zeros(left.shape[0], right.shape[1], dtype=torch.float64)
    for rank in range(right.shape[0]):
        total += left[:, rank, None] * right[rank, None, :]
    return total.view(like.shape)


def _scales() -> list[Formula]:
    """``alpha`` and ``scale`` in every shape and dtype that occurs."""

    def lora(name: str, extra: Tensors, scale: float, layer: str = "linear", **more: object) -> Formula:
        return Formula(
            name,
            "LoRA",
            layer,
            lambda numbers, w: _lora(numbers, w, scale or 1.0) | extra,
            lambda t, w: w + scale * _product(t, w),
            **more,  # type: ignore[arg-type]
        )

    def lokr(name: str, alpha: Tensor) -> Formula:
        def make(numbers: Numbers, weight: Tensor) -> Tensors:
            return {"lokr_w1": numbers.normal(6, 4, std=0.4), "lokr_w2": numbers.normal(8, 5, std=0.3), "alpha": alpha}

        return Formula(name, "LoKr", "linear", make, lambda t, w: w + _kronecker(t, w))

    return [
        lora("lora-scale-beats-alpha", {"alpha": _number(3.0), "scale": _number(0.5)}, 0.5),
        lora("lora-alpha-zero", {"alpha": _number(0.0)}, 0.0, changes_weight=False),
        lora("lora-alpha-vector", {"alpha": torch.tensor([3.0])}, 0.75),
        lora("lora-alpha-integer", {"alpha": torch.tensor(3)}, 0.75),
        lora("lora-alpha-bf16", {"alpha": torch.tensor(2.5, dtype=BF16)}, 0.625),
        lora("lora", {"alpha": _number(3.0)}, 0.75, dtypes=F8),
        # Both factors full: alpha does not matter, not even the infinity that "dim 100000" becomes in float16.
        lokr("lokr-fullfull-alpha", _number(7.0)),
        lokr("lokr-fullfull-alpha-inf", torch.tensor(100000.0, dtype=F16)),
    ]


def _kronecker(tensors: Tensors, like: Tensor) -> Tensor:
    """ΔW[l·K + k, m·N + n] = w1[l, m] · w2[k, n], entry by entry of w1."""
    w1, w2 = tensors["lokr_w1"], tensors["lokr_w2"].flatten(1)
    return torch.cat([torch.cat([entry * w2 for entry in row], dim=1) for row in w1]).view(like.shape)


def _residuals() -> list[Formula]:
    """``bias`` and ``bias_indices``: residuals of the *weight*, added before alpha / rank."""
    scale = 0.75

    def sparse(numbers: Numbers, weight: Tensor) -> Tensors:
        rows, cols = weight.shape[0], weight[0].numel()
        places = torch.stack([torch.arange(rows) * 7 % rows, torch.arange(rows) * 5 % cols])
        return _lora(numbers, weight, scale) | {
            "alpha": _number(3.0),
            "bias_indices": places.to(torch.int16),
            "bias_values": numbers.normal(rows),
            "bias_size": torch.tensor([rows, cols], dtype=torch.int16),
        }

    def with_sparse(t: Tensors, w: Tensor) -> Tensor:
        delta = _product(t, w).flatten(1)
        for row, col, value in zip(*t["bias_indices"].long().tolist(), t["bias_values"], strict=True):
            delta[row, col] += value
        return w + scale * delta.view(w.shape)

    def dense(numbers: Numbers, weight: Tensor) -> Tensors:
        residual = numbers.normal(*weight.shape, std=0.05)
        return _lora(numbers, weight, scale) | {"alpha": _number(3.0), "bias": residual}

    return [
        Formula("lora-sparse", "LoRA", "linear", sparse, with_sparse, dtypes=ALL),
        Formula("lora-sparse", "LoRA", "conv1x1", sparse, with_sparse),
        Formula("lora-dense", "LoRA", "linear", dense, lambda t, w: w + scale * (_product(t, w) + t["bias"])),
    ]


def _shapes() -> list[Formula]:
    """Factors of other shapes than the layer's weight."""

    def four_axes(numbers: Numbers, weight: Tensor) -> Tensors:
        return {key: t[:, :, None, None] for key, t in _lora(numbers, weight).items()}

    def flat_kronecker(numbers: Numbers, weight: Tensor) -> Tensors:
        return {"lokr_w1": numbers.normal(4, 3, std=0.4), "lokr_w2": numbers.normal(8, 8, std=0.3)}

    def four_channels(numbers: Numbers, weight: Tensor) -> Tensors:
        flat = _lora(numbers, weight[:, :4])
        up, down = flat["lora_up.weight"], flat["lora_down.weight"]
        return {"lora_up.weight": up[:, :, None, None], "lora_down.weight": down.view(RANK, 4, 3, 3)}

    def padded(t: Tensors, w: Tensor) -> Tensor:
        answer = w.clone()
        answer[:, :4] += _product(t, w[:, :4])
        return answer

    def flat_dylora(numbers: Numbers, weight: Tensor) -> Tensors:
        return _lora(numbers, weight, 0.75) | {"alpha": _number(3.0)}

    def loha(numbers: Numbers, weight: Tensor) -> Tensors:
        rows, cols, *kernel = weight.shape
        a, b = (rows, RANK, 1, 1), (RANK, cols, *kernel)
        return {
            "hada_w1_a": numbers.normal(*a, std=0.2),
            "hada_w1_b": numbers.normal(*b, std=0.4),
            "hada_w2_a": numbers.normal(*a, std=0.4),
            "hada_w2_b": numbers.normal(*b, std=0.6),
            "alpha": _number(3.0),
        }

    def hadamard(t: Tensors, w: Tensor) -> Tensor:
        half_1, half_2 = (_product(t, w, f"hada_w{n}_a", f"hada_w{n}_b") for n in (1, 2))
        return w + 0.75 * half_1 * half_2

    plain: Callable[[Tensors, Tensor], Tensor] = lambda t, w: w + _product(t, w)  # noqa: E731
    return [
        Formula("lora-2d", "LoRA", "conv1x1", _lora, plain),
        Formula("lora-4d", "LoRA", "linear", four_axes, plain),
        Formula("lokr-2d", "LoKr", "conv1x1", flat_kronecker, lambda t, w: w + _kronecker(t, w)),
        # Trained on four latent channels, used on an in-painting model: what it does not know stays.
        Formula("lora-4in", "LoCon", "conv3x3_9in", four_channels, padded),
        Formula("dylora-2d", "LoRA", "conv3x3", flat_dylora, lambda t, w: w + 0.75 * _product(t, w)),
        Formula("loha-4d", "LoHa", "conv3x3", loha, hadamard, dtypes=ALL),
    ]


# --- biases and norms -------------------------------------------------------------------------------------------------


def _biases() -> list[Formula]:
    def diff_b(numbers: Numbers, weight: Tensor) -> Tensors:
        return {"diff_b": numbers.normal(weight.shape[0], std=0.4)}

    def lora_and_diff_b(numbers: Numbers, weight: Tensor) -> Tensors:
        return _lora(numbers, weight, 0.75) | {"alpha": _number(3.0)} | diff_b(numbers, weight)

    def lora_with_bias(numbers: Numbers, weight: Tensor) -> Tensors:
        return _lora(numbers, weight, 0.75) | {
            "alpha": _number(3.0),
            "lora_up.bias": numbers.normal(weight.shape[0], std=0.4),
        }

    def vector(key: str) -> Callable[[Numbers, Tensor], Tensors]:
        return lambda numbers, weight: {key: numbers.normal(*weight.shape, std=0.4)}

    lora: Callable[[Tensors, Tensor], Tensor] = lambda t, w: w + 0.75 * _product(t, w)  # noqa: E731
    return [
        Formula("diff-b", "Full", "linear_bias", diff_b, bias=lambda t: t["diff_b"], dtypes=ALL, changes_weight=False),
        Formula("diff-b", "Full", "linear", diff_b, bias=lambda t: t["diff_b"], changes_weight=False),
        Formula("lora-diff-b", "LoRA", "linear_bias", lora_and_diff_b, lora, bias=lambda t: t["diff_b"]),
        Formula("lora-up-bias", "LoRA", "linear_bias", lora_with_bias, lora, bias=lambda t: 0.75 * t["lora_up.bias"]),
        *(
            formula
            for layer in ("layernorm", "groupnorm")
            for formula in (
                Formula("w-norm", "Norm", layer, vector("w_norm"), lambda t, w: w + t["w_norm"]),
                Formula("b-norm", "Norm", layer, vector("b_norm"), bias=lambda t: t["b_norm"], changes_weight=False),
            )
        ),
    ]


# --- DoRA -------------------------------------------------------------------------------------------------------------


def _dora() -> list[Formula]:
    """Magnitudes under other names and in other shapes than LyCORIS writes."""

    def make(key: str, axis: int, shape: tuple[int, ...], up: str, down: str) -> Callable[[Numbers, Tensor], Tensors]:
        def tensors(numbers: Numbers, weight: Tensor) -> Tensors:
            lengths = _lengths(weight, axis) * numbers.uniform(weight.shape[axis], low=0.6, high=1.5)
            factors = _lora(numbers, weight)
            if weight.dim() == 4:
                factors = {name: factor[:, :, None, None] for name, factor in factors.items()}
            return {up: factors["lora_up.weight"], down: factors["lora_down.weight"], key: lengths.view(shape)}

        return tensors

    def answer(key: str, axis: int, up: str, down: str) -> Callable[[Tensors, Tensor], Tensor]:
        def weight(t: Tensors, w: Tensor) -> Tensor:
            merged = (w + _product(t, w, up, down)).transpose(0, axis).clone()
            for index, wanted in enumerate(t[key].flatten()):
                merged[index] *= wanted / merged[index].square().sum().sqrt()
            return merged.transpose(0, axis)

        return weight

    def dora(name: str, layer: str, key: str, axis: int, *shape: int, prefix: str = "lora_unet_") -> Formula:
        factors = ("lora_B.weight", "lora_A.weight") if prefix == PEFT else ("lora_up.weight", "lora_down.weight")
        tensors, weight = make(key, axis, shape, *factors), answer(key, axis, *factors)
        return Formula(
            name, "LoRA", layer, tensors, weight, modifiers=("DoRA",), prefix=prefix, tolerance=NORMED, dtypes=ALL
        )

    old_peft = "lora_magnitude_vector.weight"
    return [
        dora("dora-magnitude", "linear", "magnitude", 0, 48),
        dora("dora-magnitude", "linear_square", "magnitude", 0, 32),
        dora("dora-1d", "linear_square", "dora_scale", 1, 32),  # by habit of the time: per input
        dora("dora-1d", "linear", "dora_scale", 0, 48),
        dora("dora-old-key", "conv1x1", old_peft, 0, 1, 32, 1, 1, prefix=PEFT),
        dora("dora-old-key", "conv1x1_square", old_peft, 0, 1, 24, 1, 1, prefix=PEFT),
    ]


def _lengths(weight: Tensor, axis: int) -> Tensor:
    return torch.stack([part.norm() for part in weight.unbind(axis)])


# --- (IA)³, old GLoRA, T-LoRA, replacement ----------------------------------------------------------------------------


def _others() -> list[Formula]:
    def ia3(on_input: float) -> Callable[[Numbers, Tensor], Tensors]:
        def make(numbers: Numbers, weight: Tensor) -> Tensors:
            return {"weight": numbers.normal(weight.shape[int(on_input)], std=0.4), "on_input": _number(on_input)}

        return make

    def glora(numbers: Numbers, weight: Tensor) -> Tensors:
        rows, cols = weight.shape
        return {
            "a1.weight": numbers.normal(RANK, cols, std=0.25),
            "a2.weight": numbers.normal(cols, RANK, std=0.25),
            "b1.weight": numbers.normal(RANK, cols, std=0.2),
            "b2.weight": numbers.normal(rows, RANK, std=0.2),
            "alpha": _number(3.0),
        }

    def old_glora(t: Tensors, w: Tensor) -> Tensor:
        """W + s·(W·A + B): A as a matrix of its own first, row by row."""
        a = torch.stack([(row[:, None] * t["a1.weight"]).sum(0) for row in t["a2.weight"]])
        b = torch.stack([(row[:, None] * t["b1.weight"]).sum(0) for row in t["b2.weight"]])
        return w + 0.75 * (torch.tensordot(w, a, dims=([1], [0])) + b)

    def tlora(numbers: Numbers, weight: Tensor) -> Tensors:
        rows, cols = weight.shape
        sizes = {"q_layer.weight": (RANK, cols), "p_layer.weight": (rows, RANK), "lambda_layer": (1, RANK)}
        sizes |= {"base_q.weight": (RANK, cols), "base_p.weight": (rows, RANK), "base_lambda": (1, RANK)}
        return {key: numbers.normal(*size, std=0.35) for key, size in sizes.items()}

    def triplets(t: Tensors, q: str, p: str, singular: str) -> Tensor:
        return sum((s * torch.outer(t[p][:, i], t[q][i]) for i, s in enumerate(t[singular][0])), torch.zeros(()))

    def trained_less_base(t: Tensors, w: Tensor) -> Tensor:
        trained = triplets(t, "q_layer.weight", "p_layer.weight", "lambda_layer")
        return w + trained - triplets(t, "base_q.weight", "base_p.weight", "base_lambda")

    def replacement(numbers: Numbers, weight: Tensor) -> Tensors:
        return {"set_weight": numbers.normal(*weight.shape, std=0.3)}

    return [
        Formula("ia3-out", "IA3", "linear", ia3(0.0), lambda t, w: w + torch.diag(t["weight"]) @ w, dtypes=ALL),
        Formula("ia3-in", "IA3", "linear", ia3(1.0), lambda t, w: w + w @ torch.diag(t["weight"]), dtypes=ALL),
        Formula("glora-old", "GLoRA", "linear", glora, old_glora, dtypes=ALL),
        Formula("glora-old", "GLoRA", "linear_square", glora, old_glora),
        Formula("tlora-with-base", "T-LoRA", "linear", tlora, trained_less_base, dtypes=ALL),
        Formula("set-weight", "Set", "linear", replacement, lambda t, _w: t["set_weight"]),
        Formula("set-weight", "Set", "layernorm", replacement, lambda t, _w: t["set_weight"]),
    ]


# --- rotations --------------------------------------------------------------------------------------------------------


def _function_of(skew: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
    """A function of a skew matrix through its (imaginary) eigenvalues."""
    values, vectors = torch.linalg.eig(skew)
    matrix = vectors @ torch.diag(function(values)) @ torch.linalg.inv(vectors)
    assert matrix.imag.abs().max() < 1e-10
    return matrix.real.contiguous()


def _cayley(skew: Tensor) -> Tensor:
    """(I + Q)(I − Q)⁻¹."""
    return _function_of(skew, lambda x: (1 + x) / (1 - x))


def _rotate_outputs(rotations: list[Tensor], weight: Tensor) -> Tensor:
    """W'[k·n + j] = Σᵢ Rₖ[i, j] · W[k·n + i]."""
    rows: list[Tensor] = []
    for k, rotation in enumerate(rotations):
        size = rotation.shape[0]
        for j in range(size):
            rows.append(sum((rotation[i, j] * weight[k * size + i] for i in range(size)), torch.zeros(())))
    return torch.stack(rows)


def _output_rotations() -> list[Formula]:
    """LyCORIS 2.0's ``oft_diag``, kohya's OFT, and peft's OFT before it moved to the inputs."""

    def skews(blocks: Tensor) -> list[Tensor]:
        return [block - block.T for block in blocks]

    def blocks_of(weight: Tensor, size: int) -> int:
        return weight.shape[0] // size

    def finished(minus: float) -> Callable[[Numbers, Tensor], Tensors]:
        def make(numbers: Numbers, weight: Tensor) -> Tensors:
            blocks = numbers.normal(blocks_of(weight, 6), 6, 6, std=0.15)
            rotations = torch.stack([_cayley(skew) for skew in skews(blocks)])
            if minus == 0:  # ``rescale`` is in it already
                rotations = rotations * numbers.uniform(blocks_of(weight, 6), 1, 6, low=0.7, high=1.3)
            return {"oft_diag": rotations - minus * torch.eye(6, dtype=torch.float64)}

        return make

    def diag(minus: float) -> Callable[[Tensors, Tensor], Tensor]:
        identity = minus * torch.eye(6, dtype=torch.float64)
        return lambda t, w: _rotate_outputs([block + identity for block in t["oft_diag"]], w)

    def kohya(alpha: float) -> Callable[[Numbers, Tensor], Tensors]:
        def make(numbers: Numbers, weight: Tensor) -> Tensors:
            size = blocks_of(weight, 4)  # kohya's rank is the *number* of blocks
            return {"oft_blocks": numbers.normal(4, size, size, std=0.1), "alpha": _number(alpha)}

        return make

    def constrained(t: Tensors, w: Tensor) -> Tensor:
        allowed = t["alpha"].item() * w.shape[0]
        norm = math.sqrt(sum(q.square().sum().item() for q in skews(t["oft_blocks"])))
        factor = (min(norm, allowed) + 1e-8) / (norm + 1e-8)
        return _rotate_outputs([_cayley(factor * q) for q in skews(t["oft_blocks"])], w)

    def old_peft(numbers: Numbers, weight: Tensor) -> Tensors:
        size = blocks_of(weight, 4)
        return {"oft_r": numbers.normal(4, size, size, std=0.2)}

    def half_skew(t: Tensors, w: Tensor) -> Tensor:
        return _rotate_outputs([_cayley(-(a - a.T) / 2) for a in t["oft_r"]], w)

    def oft(name: str, layer: str, alpha: float, **more: object) -> Formula:
        more = {"prefix": "oft_unet_", "tolerance": ROTATED, **more}
        return Formula(f"kohya-oft-{name}", "OFT", layer, kohya(alpha), constrained, **more)  # type: ignore[arg-type]

    return [
        Formula("oft-diag", "OFT", "linear", finished(0), diag(0), tolerance=ROTATED, dtypes=ALL),
        Formula("oft-diag", "OFT", "conv3x3", finished(0), diag(0), tolerance=ROTATED),
        Formula("oft-diag-minus-identity", "OFT", "linear", finished(1), diag(1), tolerance=ROTATED),
        oft("alpha0", "linear", 0.0, changes_weight=False),
        oft("alpha1", "linear", 1.0, dtypes=ALL),
        oft("alpha1", "conv3x3", 1.0),
        oft("active", "linear", 0.03125, dtypes=ALL),
        oft("active", "conv3x3", 0.03125),
        # Before October 2024, recognisable by the missing ``oft_s``: the outputs are rotated.
        *(
            Formula("oft-r", "OFT", layer, old_peft, half_skew, prefix=PEFT, tolerance=ROTATED)
            for layer in ("linear", "conv3x3")
        ),
    ]


def _input_rotations() -> list[Formula]:
    """OneTrainer's OFT_2 and peft's OFT from October 2024 to June 2025."""

    def skew_of(values: Tensor, size: int) -> Tensor:
        """The strictly upper triangle, row by row."""
        skew = torch.zeros(size, size, dtype=torch.float64)
        pairs = ((i, j) for i in range(size) for j in range(i + 1, size))
        for (i, j), value in zip(pairs, values, strict=True):
            skew[i, j], skew[j, i] = value, -value
        return skew

    def five_terms(skew: Tensor) -> Tensor:
        return _function_of(skew, lambda x: 1 + 2 * x + 2 * x**2 + 2 * x**3 + x**4)

    def onetrainer(size: int, marker: Tensor | None, *, shared: bool = False) -> Callable[[Numbers, Tensor], Tensors]:
        def make(numbers: Numbers, weight: Tensor) -> Tensors:
            blocks = 1 if shared else weight[0].numel() // size
            spread = 0.15 if marker is None else 0.3 * math.sqrt(size - 1)
            tensors = {"oft_R.weight": numbers.normal(blocks, size * (size - 1) // 2, std=spread)}
            return tensors if marker is None else tensors | {"oft_R.scaled_oft": marker}

        return make

    def onetrainer_answer(size: int) -> Callable[[Tensors, Tensor], Tensor]:
        def answer(t: Tensors, w: Tensor) -> Tensor:
            divisor = 2 * math.sqrt(size - 1) if "oft_R.scaled_oft" in t else 1
            rotations = [five_terms(skew_of(values / divisor, size)) for values in t["oft_R.weight"]]
            if len(rotations) == 1:
                rotations *= w[0].numel() // size
            rotation = torch.block_diag(*rotations)
            # A linear layer's input is turned, a convolution's weight itself: opposite directions.
            return (w.flatten(1) @ (rotation if w.dim() == 4 else rotation.T)).view(w.shape)

        return answer

    def old_peft(size: int) -> Callable[[Numbers, Tensor], Tensors]:
        def make(numbers: Numbers, weight: Tensor) -> Tensors:
            return {
                "oft_r": numbers.normal(weight[0].numel() // size, size, size, std=0.25),
                "oft_s": numbers.uniform(weight.shape[0], 1, low=0.7, high=1.3),
            }

        return make

    def old_peft_answer(t: Tensors, w: Tensor) -> Tensor:
        rotation = torch.block_diag(*(_cayley(-(a - a.T) / 2) for a in t["oft_r"]))
        return torch.stack([s * rotation @ row for s, row in zip(t["oft_s"], w.flatten(1), strict=True)]).view(w.shape)

    flag = torch.tensor(True)

    def oft2(name: str, layer: str, size: int, marker: Tensor | None = None, **more: object) -> Formula:
        shared = bool(more.pop("shared", False))
        make, answer = onetrainer(size, marker, shared=shared), onetrainer_answer(size)
        return Formula(name, "OFT", layer, make, answer, tolerance=ROTATED, **more)  # type: ignore[arg-type]

    return [
        oft2("onetrainer-oft", "linear", 5, dtypes=ALL),
        oft2("onetrainer-oft", "conv3x3", 6),
        oft2("onetrainer-oft-scaled", "linear", 5, flag),
        oft2("onetrainer-oft-scaled", "conv1x1", 6, flag),
        oft2("onetrainer-oft-scaled", "conv3x3", 6, flag),
        oft2("onetrainer-oft-scaled-shared", "linear", 5, flag, shared=True),
        oft2("onetrainer-oft-scaled-number", "linear_square", 8, _number(1.0), dtypes=HALVES),
        *(
            Formula(
                "oft-r-s",
                "OFT",
                layer,
                old_peft(size),
                old_peft_answer,
                prefix=PEFT,
                tolerance=ROTATED,
                dtypes=dtypes,
            )
            for layer, size, dtypes in (("linear", 5, ALL), ("conv3x3", 6, (F32,)))
        ),
    ]

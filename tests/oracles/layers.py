"""The layers that adapters are made for, and how the weight a layer really uses is read out of its forward pass."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from oracles.case import Numbers, relative, stored

LAYERS: dict[str, Callable[[], nn.Module]] = {
    "linear": lambda: nn.Linear(20, 48, bias=False),
    "linear_square": lambda: nn.Linear(32, 32, bias=False),
    "linear_bias": lambda: nn.Linear(36, 28),
    "linear_prime": lambda: nn.Linear(23, 29, bias=False),
    "conv1x1": lambda: nn.Conv2d(24, 32, 1),
    "conv1x1_square": lambda: nn.Conv2d(24, 24, 1, bias=False),
    "conv3x3": lambda: nn.Conv2d(10, 24, 3, padding=1),
    "conv3x3_stride2": lambda: nn.Conv2d(12, 16, 3, stride=2, padding=1),
    "conv3x3_9in": lambda: nn.Conv2d(9, 16, 3, padding=1),
    "layernorm": lambda: nn.LayerNorm(40),
    "groupnorm": lambda: nn.GroupNorm(4, 24),
    "embedding": lambda: nn.Embedding(37, 24),
}


def make_layer(kind: str, numbers: Numbers, dtype: torch.dtype) -> nn.Module:
    """A float64 layer whose parameters a checkpoint of ``dtype`` holds without loss."""
    layer = LAYERS[kind]().double()
    with torch.no_grad():
        for name, parameter in layer.named_parameters():
            fan_in = parameter[0].numel() if parameter.dim() > 1 else 1
            values = numbers.normal(*parameter.shape, std=fan_in**-0.5)
            if kind.endswith("norm") and name == "weight":
                values = 1 + 0.3 * values
            elif name == "bias":
                values = 0.5 * values
            parameter.copy_(stored(values, dtype))
    return layer.requires_grad_(False).eval()


def parameters_of(layer: nn.Module, dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
    """Weight and bias as the checkpoint stores them."""
    bias = getattr(layer, "bias", None)
    return stored(layer.weight, dtype), None if bias is None else stored(bias, dtype)


@torch.no_grad()
def effective_parameters(forward: Callable[[Tensor], Tensor], layer: nn.Module) -> tuple[Tensor, Tensor | None]:
    """The weight and bias ``forward`` behaves as if it had, float64; ``layer`` tells what kind of operation it is.

    Measured with unit inputs, then checked: on random input the operation with these parameters gives the same answer.
    """
    match layer:
        case nn.Linear():
            return _effective_linear(forward, layer)
        case nn.Conv2d():
            return _effective_conv(forward, layer)
        case nn.LayerNorm() | nn.GroupNorm():
            return _effective_norm(forward, layer)
        case nn.Embedding():
            return forward(torch.arange(layer.num_embeddings)).double(), None
        case _:
            raise TypeError(f"no way to read the weight of a {type(layer).__name__}")


def _effective_linear(forward: Callable[[Tensor], Tensor], layer: nn.Linear) -> tuple[Tensor, Tensor | None]:
    units = torch.eye(layer.in_features, dtype=_dtype(layer))
    offset = forward(torch.zeros_like(units[:1])).double()
    weight = (forward(units).double() - offset).T.contiguous()
    probe = _probe(layer, 5, layer.in_features)
    _insist(forward(probe), functional.linear(probe.double(), weight, offset[0]), layer)
    return weight, _bias(offset[0], layer)


def _effective_conv(forward: Callable[[Tensor], Tensor], layer: nn.Conv2d) -> tuple[Tensor, Tensor | None]:
    """One image per kernel element: its only bright pixel lies under that element when the kernel is at ``place``."""
    (rows, cols), stride, padding = layer.kernel_size, layer.stride[0], layer.padding[0]
    place = -(-padding // stride)  # the first output pixel whose kernel lies wholly inside the image
    corner = place * stride - padding
    images = torch.zeros(
        layer.in_channels, rows, cols, layer.in_channels, corner + rows, corner + cols, dtype=_dtype(layer)
    )
    for channel in range(layer.in_channels):
        for row in range(rows):
            for col in range(cols):
                images[channel, row, col, channel, corner + row, corner + col] = 1
    offset = forward(torch.zeros_like(images[0, 0, 0])[None])[0, :, place, place].double()
    answers = forward(images.flatten(0, 2))[:, :, place, place].double() - offset
    weight = answers.view(layer.in_channels, rows, cols, -1).permute(3, 0, 1, 2).contiguous()
    probe = _probe(layer, 2, layer.in_channels, 7, 8)
    _insist(forward(probe), functional.conv2d(probe.double(), weight, offset, stride, padding), layer)
    return weight, _bias(offset, layer)


def _effective_norm(
    forward: Callable[[Tensor], Tensor], layer: nn.LayerNorm | nn.GroupNorm
) -> tuple[Tensor, Tensor | None]:
    """Inputs of ±1 are their own normalisation up to epsilon, and changing the sign separates weight from bias."""
    signs = torch.tensor([1.0, -1.0], dtype=_dtype(layer))
    if isinstance(layer, nn.LayerNorm):
        x = signs.repeat(layer.normalized_shape[0] // 2)[None]
        normed = functional.layer_norm(x, layer.normalized_shape, eps=layer.eps)
    else:
        x = signs.repeat(layer.num_channels, 1)[None, :, :, None]
        normed = functional.group_norm(x, layer.num_groups, eps=layer.eps)
    positive, negative = forward(x).double(), forward(-x).double()
    weight, bias = (positive - negative) / (2 * normed), (positive + negative) / 2
    if isinstance(layer, nn.GroupNorm):
        weight, bias = weight[..., 0, 0], bias[..., 0, 0]
    return weight[0].contiguous(), bias[0].contiguous()


def _bias(offset: Tensor, layer: nn.Linear | nn.Conv2d) -> Tensor | None:
    """A layer without a bias must answer zero with zero."""
    if layer.bias is None:
        assert not offset.any(), "the adapter gave a layer a bias that had none"
        return None
    return offset.contiguous()


def _probe(layer: nn.Module, *shape: int) -> Tensor:
    return Numbers("probe").normal(*shape).to(_dtype(layer))


def _insist(answer: Tensor, expected: Tensor, layer: nn.Module) -> None:
    allowed = 1e-12 if _dtype(layer) == torch.float64 else 1e-5
    error = relative(answer.double() - expected, expected)
    assert error < allowed, f"this forward pass is not the operation of a {type(layer).__name__}: {error:.1e} off"


def _dtype(layer: nn.Module) -> torch.dtype:
    return next(layer.parameters()).dtype

"""Which torch can compute in float16 on the processor."""

from __future__ import annotations

import pytest
import torch


def needs_half_precision() -> None:
    """Skip the test where this torch can not (before 2.2)."""
    try:
        torch.nn.functional.layer_norm(torch.ones(2, dtype=torch.float16), (2,))
    except RuntimeError as error:
        pytest.skip(str(error))

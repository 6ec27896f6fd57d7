"""Reference answers for the conformance tests: adapter layers with the weight that they must produce.

``lycoris`` and ``peft`` cases are made by the trainers' own packages and read out of their forward passes; ``formula``
cases are what no installed package writes any more, worked out in float64 from the formats' definitions.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from oracles.case import OracleCase

__all__ = ["OracleCase", "all_cases", "origins"]


def all_cases() -> list[OracleCase]:
    """Every case of every origin; ids are unique."""
    return [case for make in origins() for case in make()]


def origins() -> tuple[Callable[[], list[OracleCase]], ...]:
    """The function of each origin that makes its cases. Skips the test where torch is too old for the trainers."""
    if not hasattr(torch.library, "custom_op"):
        pytest.skip("the reference answers come from lycoris-lora, which needs torch 2.4")
    from oracles.formula_cases import formula_cases
    from oracles.lycoris_cases import lycoris_cases
    from oracles.peft_cases import peft_cases

    return lycoris_cases, peft_cases, formula_cases

"""Reference answers for the conformance tests: adapter layers with the weight that they must produce.

``lycoris`` and ``peft`` cases are made by the trainers' own packages and read out of their forward passes; ``formula``
cases are what no installed package writes any more, worked out in float64 from the formats' definitions.
"""

from oracles.case import OracleCase
from oracles.formula_cases import formula_cases
from oracles.lycoris_cases import lycoris_cases
from oracles.peft_cases import peft_cases

__all__ = ["OracleCase", "all_cases", "formula_cases", "lycoris_cases", "peft_cases"]


def all_cases() -> list[OracleCase]:
    """Every case of every origin; ids are unique."""
    return [*lycoris_cases(), *peft_cases(), *formula_cases()]

"""What all tests share: the same random numbers every time, one thread, and no network."""

from __future__ import annotations

import os
import random

import pytest

# Before any package looks: a test that reaches for a model hub has to fail here as it would on the build server.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"

import torch
from hypothesis import HealthCheck, settings

# No deadline: the first call of a torch function is slow, and a busy machine is no failure.
settings.register_profile("dev", deadline=None, print_blob=True)
settings.register_profile(
    "ci", deadline=None, derandomize=True, database=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("ci" if os.environ.get("CI") else "dev")

# The tensors of the tests are small: a second thread costs more than it brings, and may change the order of a sum.
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _same_random_numbers() -> None:
    """Every test starts from the same seeds, whichever ran before it."""
    random.seed(0)
    torch.manual_seed(0)

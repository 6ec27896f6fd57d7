"""The samplers by name: one model call per step, two per step, and 1.5's kind that tells no callback."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from modules import _host
from modules.sd_samplers_common import Sampler


@dataclass
class SamplerData:
    name: str
    calls: int = 1
    options: dict[str, Any] = field(default_factory=dict)

    def total_steps(self, steps: int) -> int:
        return steps * self.calls


samplers = [SamplerData("Euler a"), SamplerData("Heun", 2, {"second_order": True}), SamplerData("DDIM")]


def find_sampler_config(name: str | None) -> SamplerData:
    return next((sampler for sampler in samplers if sampler.name == name), samplers[0])


def create_sampler(name: str | None, model: Any) -> Sampler:
    config = find_sampler_config(name)
    is_compvis = config.name == "DDIM" and not _host.at_least(6)
    return Sampler(config, model, tells_callbacks=not is_compvis)

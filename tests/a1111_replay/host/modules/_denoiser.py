"""One step's work: interruption, refiner, callbacks, U-Net, guidance."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from modules import _host, script_callbacks, sd_samplers_common, shared
from modules.shared import state


class CFGDenoiser(torch.nn.Module):
    """``step`` counts the model calls that are done; ``total_steps`` (1.6 and newer) is how many there will be."""

    def __init__(self, sampler: Any, model: Any, *, tells_callbacks: bool) -> None:
        super().__init__()
        self.sampler = sampler
        self.tells_callbacks = tells_callbacks
        self._model = [model]  # in a list, so that the model does not become a part of this module
        self.step = 0
        self.steps = 0
        self.total_steps = 0
        self.p: Any = None

    @property
    def inner_model(self) -> Any:
        return self._model[0]

    def update_inner_model(self) -> None:
        """After the refiner took over: another model, and the conditioning made by it."""
        self._model[0] = shared.sd_model
        cond, uncond = self.p.get_conds()
        self.sampler.sampler_extra_args = {"cond": cond, "uncond": uncond}

    def forward(self, x: Tensor, sigma: float, cond_scale: float) -> Tensor:
        if state.interrupted or state.skipped:
            raise sd_samplers_common.InterruptedException
        if _host.at_least(6):
            sd_samplers_common.apply_refiner(self)
        cond, uncond = self.sampler.sampler_extra_args["cond"], self.sampler.sampler_extra_args["uncond"]
        x_in = torch.cat([x, x])
        sigma_in = torch.full((len(x_in),), sigma)
        if self.tells_callbacks:
            where = (state.sampling_step, state.sampling_steps)
            params = script_callbacks.CFGDenoiserParams(x_in, None, sigma_in, *where, cond, uncond)
            if hasattr(params, "denoiser"):
                params.denoiser = self
            script_callbacks.cfg_denoiser_callback(params)
            x_in, cond, uncond = params.x, params.text_cond, params.text_uncond
        out = self.inner_model.apply_model(x_in, sigma_in, torch.cat([cond, uncond]))
        if self.tells_callbacks:
            script_callbacks.cfg_denoised_callback(script_callbacks.CFGDenoisedParams(out, *where, self.inner_model))
        with_text, without = out.chunk(2)
        denoised = without + (with_text - without) * cond_scale / 7
        if self.tells_callbacks:
            after = script_callbacks.AfterCFGCallbackParams(denoised, *where)
            script_callbacks.cfg_after_cfg_callback(after)
            denoised = after.x
        self.step += 1
        return denoised

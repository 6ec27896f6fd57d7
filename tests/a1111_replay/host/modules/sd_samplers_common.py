"""A sampler's loop: where steps are counted, and where the refiner may take over in the middle."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from modules import _host, shared
from modules.shared import opts, state


class InterruptedException(BaseException):
    """Raised inside the sampler when the user stops the generation."""


def apply_refiner(cfg_denoiser: Any) -> bool:
    """Switch to the refiner's checkpoint when its time has come. No extra network is activated for it."""
    from modules import sd_models

    p = cfg_denoiser.p
    completed = cfg_denoiser.step / cfg_denoiser.total_steps
    if p.refiner_switch_at is not None and completed < p.refiner_switch_at:
        return False
    wanted = p.refiner_checkpoint_info
    if wanted is None or shared.sd_model.sd_checkpoint_info is wanted:
        return False
    if getattr(p, "enable_hr", False):
        not_now = "first pass" if p.is_hr_pass else "second pass"
        if opts.hires_fix_refiner_pass == not_now:
            return False
    p.extra_generation_params["Refiner"] = wanted.short_title
    p.extra_generation_params["Refiner switch at"] = p.refiner_switch_at
    _host.log("refiner")
    with sd_models.SkipWritingToConfig():
        sd_models.reload_model_weights(info=wanted)
    p.setup_conds()
    cfg_denoiser.update_inner_model()
    return True


class Sampler:
    """``model_wrap_cfg`` is the denoiser; ``last_latent`` what an interruption leaves."""

    def __init__(self, config: Any, model: Any, *, tells_callbacks: bool) -> None:
        from modules._denoiser import CFGDenoiser

        self.config = config
        self.model_wrap_cfg = CFGDenoiser(self, model, tells_callbacks=tells_callbacks)
        self.sampler_extra_args: dict[str, Any] = {}
        self.last_latent: Any = None

    def launch_sampling(self, steps: int, func: Callable[[], Tensor]) -> Tensor:
        self.model_wrap_cfg.steps = steps
        self.model_wrap_cfg.total_steps = self.config.total_steps(steps)
        state.sampling_steps = steps
        state.sampling_step = 0
        try:
            return func()
        except InterruptedException:
            return self.last_latent

    def sample(
        self,
        p: Any,
        x: Tensor,
        conditioning: Any,
        unconditional_conditioning: Any,
        steps: Any = None,
        image_conditioning: Any = None,
    ) -> Tensor:
        return self._run(p, x, conditioning, unconditional_conditioning, steps or p.steps)

    def sample_img2img(
        self,
        p: Any,
        x: Tensor,
        noise: Tensor,
        conditioning: Any,
        unconditional_conditioning: Any,
        steps: Any = None,
        image_conditioning: Any = None,
    ) -> Tensor:
        return self._run(p, x + 0.1 * noise, conditioning, unconditional_conditioning, steps or p.steps)

    def _run(self, p: Any, x: Tensor, cond: Any, uncond: Any, steps: int) -> Tensor:
        denoiser = self.model_wrap_cfg
        denoiser.p = p
        denoiser.step = 0
        self.last_latent = x
        self.sampler_extra_args = {"cond": cond, "uncond": uncond}

        def loop() -> Tensor:
            now = x
            for i in range(steps):
                for _ in range(self.config.calls):
                    now = now + 0.5 * (denoiser(now, 1 - i / steps, p.cfg_scale) - now)
                self.callback_state({"i": i, "denoised": now})
            return now

        return self.launch_sampling(steps, loop)

    def callback_state(self, d: dict[str, Any]) -> None:
        self.last_latent = d["denoised"]
        state.sampling_step = d["i"]
        on_step = _host.current.on_step
        if on_step is not None:
            on_step(self.model_wrap_cfg.p, d["i"])

"""What every job has: its fields, and the conditioning caches that all jobs share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from modules import _host, devices, extra_networks, sd_samplers, shared
from modules.shared import opts

LATENT_SCALE = 8


def new_cache() -> list[Any]:
    """``[key, conditioning]``"""
    return [None, None]


def keeps_caches() -> bool:
    return opts.persistent_cond_cache if _host.at_least(6) else opts.experimental_persistent_cond_cache


class StableDiffusionProcessing:
    cached_uc: list[Any] = new_cache()
    cached_c: list[Any] = new_cache()

    def __init__(
        self,
        sd_model: Any = None,
        prompt: Any = "",
        negative_prompt: Any = "",
        styles: list[str] | None = None,
        seed: Any = -1,
        sampler_name: str | None = None,
        batch_size: int = 1,
        n_iter: int = 1,
        steps: int = 50,
        cfg_scale: float = 7.0,
        width: int = 512,
        height: int = 512,
        override_settings: dict[str, Any] | None = None,
        do_not_save_samples: bool = False,
        refiner_checkpoint: str | None = None,
        refiner_switch_at: float | None = None,
        disable_extra_networks: bool = False,
        denoising_strength: float | None = None,
    ) -> None:
        self.prompt = prompt
        self.negative_prompt = negative_prompt or ""
        self.styles = styles or []
        self.seed = seed
        self.sampler_name = sampler_name
        self.batch_size = batch_size
        self.n_iter = n_iter
        self.steps = steps
        self.cfg_scale = cfg_scale
        self.width = width
        self.height = height
        self.override_settings = override_settings or {}
        self.override_settings_restore_afterwards = True
        self.do_not_save_samples = do_not_save_samples
        self.do_not_reload_embeddings = False
        self.disable_extra_networks = disable_extra_networks
        self.denoising_strength = denoising_strength
        self.extra_generation_params: dict[str, Any] = {}
        self.scripts: Any = None
        self.script_args: list[Any] = []
        self.all_prompts: Any = None
        self.all_negative_prompts: Any = None
        self.all_seeds: Any = None
        self.all_subseeds: Any = None
        self.iteration = 0
        self.is_hr_pass = False
        self.sampler: Any = None
        self.prompts: Any = None
        self.negative_prompts: Any = None
        self.seeds: Any = None
        self.subseeds: Any = None
        self.extra_network_data: Any = None
        self.c: Any = None
        self.uc: Any = None
        self.user: str | None = None
        self.sd_model_name: str | None = None
        self.sd_model_hash: str | None = None
        self.cached_uc = StableDiffusionProcessing.cached_uc
        self.cached_c = StableDiffusionProcessing.cached_c
        if _host.at_least(6):
            self.comments: dict[str, int] = {}
            self.refiner_checkpoint = refiner_checkpoint
            self.refiner_switch_at = refiner_switch_at
            self.refiner_checkpoint_info: Any = None

    @property
    def sd_model(self) -> Any:
        return shared.sd_model

    if _host.at_least(6):

        def comment(self, text: str) -> None:
            """A line below the picture; the same line twice is one."""
            self.comments[text] = 1

    def init(self, all_prompts: list[str], all_seeds: list[int], all_subseeds: list[int]) -> None: ...

    def sample(
        self,
        conditioning: Any,
        unconditional_conditioning: Any,
        seeds: Any,
        subseeds: Any,
        subseed_strength: float,
        prompts: Any,
    ) -> Any:
        raise NotImplementedError

    def close(self) -> None:
        """After a job; unless the caches are kept, the classes get new lists."""
        self.sampler = self.c = self.uc = None
        if not keeps_caches():
            StableDiffusionProcessing.cached_c = new_cache()
            StableDiffusionProcessing.cached_uc = new_cache()

    def setup_prompts(self) -> None:
        count = self.batch_size * self.n_iter
        self.all_prompts = self.prompt if isinstance(self.prompt, list) else [self.prompt] * count
        negative = self.negative_prompt
        self.all_negative_prompts = negative if isinstance(negative, list) else [negative] * len(self.all_prompts)

    def cached_params(
        self, required_prompts: Any, steps: int, extra_network_data: Any, hires_steps: int | None
    ) -> tuple[Any, ...]:
        """What a conditioning depends on, as far as the WebUI knows: of networks, their tags' text."""
        key: list[Any] = [list(required_prompts), steps]
        if _host.at_least(6):
            key += [hires_steps, False]
        key += [opts.CLIP_stop_at_last_layers, shared.sd_model.sd_checkpoint_info, extra_network_data]
        key += [opts.sdxl_crop_left, opts.sdxl_crop_top, self.width, self.height]
        if _host.at_least(8):
            key += [opts.fp8_storage, opts.cache_fp16_weight, opts.emphasis]
        return tuple(key)

    def get_conds_with_caching(
        self,
        function: Callable[..., Any],
        required_prompts: Any,
        steps: int,
        caches: list[list[Any]],
        extra_network_data: Any,
        hires_steps: int | None = None,
    ) -> Any:
        key = self.cached_params(required_prompts, steps, extra_network_data, hires_steps)
        for cache in caches:
            if cache[0] is not None and cache[0] == key:
                return cache[1]
        _host.log("conds")
        with devices.autocast():
            caches[0][1] = function(shared.sd_model, required_prompts)
        caches[0][0] = key
        return caches[0][1]

    def setup_conds(self) -> None:
        steps = sd_samplers.find_sampler_config(self.sampler_name).total_steps(self.steps)
        self.firstpass_steps = steps
        data = self.extra_network_data
        self.uc = self.get_conds_with_caching(
            learned_conditioning, self.negative_prompts, steps, [self.cached_uc], data
        )
        self.c = self.get_conds_with_caching(learned_conditioning, self.prompts, steps, [self.cached_c], data)

    def get_conds(self) -> tuple[Any, Any]:
        return self.c, self.uc

    def parse_extra_network_prompts(self) -> None:
        self.prompts, self.extra_network_data = extra_networks.parse_prompts(self.prompts)


def learned_conditioning(model: Any, prompts: list[str]) -> Any:
    return model.get_learned_conditioning(list(prompts))


def decode_latent_batch(model: Any, batch: torch.Tensor) -> torch.Tensor:
    return model.decode_first_stage(batch)


def noise(p: Any, width: int, height: int) -> torch.Tensor:
    """The same numbers for the same seeds."""
    size = (4, height // LATENT_SCALE, width // LATENT_SCALE)
    return torch.stack([torch.randn(size, generator=torch.Generator().manual_seed(seed)) for seed in p.seeds])

"""Text to picture, with the second pass at a higher resolution; and picture to picture."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from modules import _host, devices, extra_networks, lowvram, sd_models, sd_samplers, shared
from modules._job import (
    StableDiffusionProcessing,
    decode_latent_batch,
    keeps_caches,
    learned_conditioning,
    new_cache,
    noise,
)
from modules.shared import opts, state


class StableDiffusionProcessingTxt2Img(StableDiffusionProcessing):
    cached_hr_uc: list[Any] = new_cache()
    cached_hr_c: list[Any] = new_cache()

    def __init__(
        self,
        enable_hr: bool = False,
        hr_scale: float = 2.0,
        hr_second_pass_steps: int = 0,
        hr_sampler_name: str | None = None,
        hr_prompt: Any = "",
        hr_negative_prompt: Any = "",
        hr_checkpoint_name: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.enable_hr = enable_hr
        self.hr_scale = hr_scale
        self.hr_second_pass_steps = hr_second_pass_steps
        self.hr_sampler_name = hr_sampler_name
        self.hr_prompt = hr_prompt
        self.hr_negative_prompt = hr_negative_prompt
        self.all_hr_prompts: Any = None
        self.all_hr_negative_prompts: Any = None
        self.hr_prompts: Any = None
        self.hr_negative_prompts: Any = None
        self.hr_extra_network_data: Any = None
        self.hr_c: Any = None
        self.hr_uc: Any = None
        self.cached_hr_uc = StableDiffusionProcessingTxt2Img.cached_hr_uc
        self.cached_hr_c = StableDiffusionProcessingTxt2Img.cached_hr_c
        if _host.at_least(6):
            self.hr_checkpoint_name = hr_checkpoint_name
            self.hr_checkpoint_info: Any = None

    def init(self, all_prompts: list[str], all_seeds: list[int], all_subseeds: list[int]) -> None:
        if self.enable_hr and _host.at_least(6) and self.hr_checkpoint_name not in (None, "", "Use same checkpoint"):
            self.hr_checkpoint_info = sd_models.get_closet_checkpoint_match(str(self.hr_checkpoint_name))
            if self.hr_checkpoint_info is None:
                raise Exception(f"Could not find checkpoint with name {self.hr_checkpoint_name}")

    def sample(
        self,
        conditioning: Any,
        unconditional_conditioning: Any,
        seeds: Any,
        subseeds: Any,
        subseed_strength: float,
        prompts: Any,
    ) -> Any:
        self.sampler = sd_samplers.create_sampler(self.sampler_name, self.sd_model)
        x = noise(self, self.width, self.height)
        self._tell_sampling(x, conditioning, unconditional_conditioning)
        samples = self.sampler.sample(self, x, conditioning, unconditional_conditioning)
        if not self.enable_hr:
            return samples
        if _host.at_least(6):
            with sd_models.SkipWritingToConfig():
                sd_models.reload_model_weights(info=self.hr_checkpoint_info)
            if state.interrupted:
                return samples
        return self.sample_hr_pass(samples)

    def sample_hr_pass(self, samples: Tensor) -> Any:
        """``is_hr_pass`` stays set when an exception ends it."""
        self.is_hr_pass = True
        self.sampler = sd_samplers.create_sampler(self.hr_sampler_name or self.sampler_name, self.sd_model)
        larger = torch.nn.functional.interpolate(samples, scale_factor=self.hr_scale)
        state.nextjob()
        if not self.disable_extra_networks:
            with devices.autocast():
                extra_networks.activate(self, self.hr_extra_network_data)
        with devices.autocast():
            self.calculate_hr_conds()
        if self.scripts is not None:
            self.scripts.before_hr(self)
        fresh = noise(self, int(self.width * self.hr_scale), int(self.height * self.hr_scale))
        self._tell_sampling(larger, self.hr_c, self.hr_uc)
        steps = self.hr_second_pass_steps or self.steps
        samples = self.sampler.sample_img2img(self, larger, fresh, self.hr_c, self.hr_uc, steps=steps)
        if _host.at_least(6):
            self.sampler = None
            samples = decode_latent_batch(self.sd_model, samples)
            samples.already_decoded = True
        self.is_hr_pass = False
        return samples

    def _tell_sampling(self, x: Tensor, c: Any, uc: Any) -> None:
        if self.scripts is not None and _host.at_least(10):
            self.scripts.process_before_every_sampling(p=self, x=x, noise=x, c=c, uc=uc)

    def close(self) -> None:
        super().close()
        self.hr_c = self.hr_uc = None
        if not keeps_caches():
            StableDiffusionProcessingTxt2Img.cached_hr_uc = new_cache()
            StableDiffusionProcessingTxt2Img.cached_hr_c = new_cache()

    def setup_prompts(self) -> None:
        super().setup_prompts()
        if not self.enable_hr:
            return
        count = self.batch_size * self.n_iter
        self.hr_prompt = self.prompt if self.hr_prompt == "" else self.hr_prompt
        self.hr_negative_prompt = self.negative_prompt if self.hr_negative_prompt == "" else self.hr_negative_prompt
        given, negative = self.hr_prompt, self.hr_negative_prompt
        self.all_hr_prompts = given if isinstance(given, list) else [given] * count
        self.all_hr_negative_prompts = negative if isinstance(negative, list) else [negative] * count

    def calculate_hr_conds(self) -> None:
        if self.hr_c is not None:
            return
        config = sd_samplers.find_sampler_config(self.hr_sampler_name or self.sampler_name)
        hires_steps = config.total_steps(self.hr_second_pass_steps or self.steps) if _host.at_least(6) else None
        steps, data = self.firstpass_steps, self.hr_extra_network_data
        uncond = (learned_conditioning, self.hr_negative_prompts, steps, [self.cached_hr_uc, self.cached_uc])
        cond = (learned_conditioning, self.hr_prompts, steps, [self.cached_hr_c, self.cached_c])
        self.hr_uc = self.get_conds_with_caching(*uncond, data, hires_steps)
        self.hr_c = self.get_conds_with_caching(*cond, data, hires_steps)

    def setup_conds(self) -> None:
        if self.is_hr_pass and _host.at_least(6):
            # the refiner calls: the first pass is over
            self.hr_c = None
            self.calculate_hr_conds()
            return
        super().setup_conds()
        self.hr_uc = self.hr_c = None
        if not self.enable_hr or (_host.at_least(6) and self.hr_checkpoint_info is not None):
            return
        if opts.hires_fix_use_firstpass_conds:
            self.calculate_hr_conds()
        elif self._must_encode_now():
            with devices.autocast():
                extra_networks.activate(self, self.hr_extra_network_data)
            self.calculate_hr_conds()
            with devices.autocast():
                extra_networks.activate(self, self.extra_network_data)

    def _must_encode_now(self) -> bool:
        """With little memory the text encoder will be gone by the second pass."""
        chosen = not _host.at_least(6) or shared.sd_model.sd_checkpoint_info is sd_models.select_checkpoint()
        return lowvram.is_enabled(shared.sd_model) and chosen

    def get_conds(self) -> tuple[Any, Any]:
        return (self.hr_c, self.hr_uc) if self.is_hr_pass else super().get_conds()

    def parse_extra_network_prompts(self) -> None:
        super().parse_extra_network_prompts()
        if self.enable_hr:
            start, end = self.iteration * self.batch_size, (self.iteration + 1) * self.batch_size
            self.hr_negative_prompts = self.all_hr_negative_prompts[start:end]
            self.hr_prompts, self.hr_extra_network_data = extra_networks.parse_prompts(self.all_hr_prompts[start:end])


class StableDiffusionProcessingImg2Img(StableDiffusionProcessing):
    def __init__(self, init_images: list[Any] | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.init_images = init_images

    def sample(
        self,
        conditioning: Any,
        unconditional_conditioning: Any,
        seeds: Any,
        subseeds: Any,
        subseed_strength: float,
        prompts: Any,
    ) -> Any:
        self.sampler = sd_samplers.create_sampler(self.sampler_name, self.sd_model)
        x = noise(self, self.width, self.height)
        return self.sampler.sample_img2img(self, 0.5 * x, x, conditioning, unconditional_conditioning)

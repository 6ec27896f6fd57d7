"""The loop over batches: in which order extra networks, scripts, text encoders and sampler have their turn."""

from __future__ import annotations

import random
from typing import Any

import torch

from modules import (
    _host,
    _infotext,
    devices,
    extra_networks,
    images,
    lowvram,
    scripts,
    sd_models,
    sd_unet,
    sd_vae,
    shared,
)
from modules._job import StableDiffusionProcessing, decode_latent_batch  # noqa: F401
from modules._txt2img import StableDiffusionProcessingImg2Img, StableDiffusionProcessingTxt2Img  # noqa: F401
from modules.sd_hijack import model_hijack
from modules.shared import opts, state

create_infotext = _infotext.create_infotext


class Processed:
    """What a job returns: pictures, their infotexts, and the comments that are shown below them."""

    def __init__(
        self, p: Any, images_list: list[Any], seed: int = -1, info: str = "", comments: str = "", infotexts: Any = None
    ) -> None:
        self.images = images_list
        self.prompt = p.prompt
        self.seed = seed
        self.info = info
        self.comments = "".join(f"{comment}\n" for comment in p.comments) if _host.at_least(6) else comments
        self.infotexts = infotexts or [info]
        self.extra_generation_params = p.extra_generation_params

    def infotext(self, p: Any, index: int) -> str:
        return create_infotext(p, p.all_prompts, p.all_seeds, p.all_subseeds, index=index)


def process_images(p: Any) -> Processed:
    """One job, with its settings for as long as it runs."""
    if p.scripts is not None:
        p.scripts.before_process(p)
    stored = {key: opts.data.get(key, opts.get_default(key)) for key in p.override_settings}
    try:
        if p.override_settings.get("sd_model_checkpoint") not in sd_models.checkpoint_aliases:
            p.override_settings.pop("sd_model_checkpoint", None)
            sd_models.reload_model_weights()
        for key, value in p.override_settings.items():
            setattr(opts, key, value)
            if key == "sd_model_checkpoint":
                sd_models.reload_model_weights()
            if key == "sd_vae":
                sd_vae.reload_vae_weights()
        return process_images_inner(p)
    finally:
        for key, value in stored.items():
            setattr(opts, key, value)
            if key == "sd_vae":
                sd_vae.reload_vae_weights()


def process_images_inner(p: Any) -> Processed:
    seed = random.randrange(4294967294) if p.seed in (None, "", -1) else p.seed
    if _host.at_least(6) and p.refiner_checkpoint not in (None, "", "None", "none"):
        p.refiner_checkpoint_info = sd_models.get_closet_checkpoint_match(p.refiner_checkpoint)
        if p.refiner_checkpoint_info is None:
            raise Exception(f"Could not find checkpoint with name {p.refiner_checkpoint}")
    p.sd_model_name = shared.sd_model.sd_checkpoint_info.name_for_extra
    p.sd_model_hash = shared.sd_model.sd_model_hash
    model_hijack.clear_comments()
    p.setup_prompts()
    p.all_seeds = seed if isinstance(seed, list) else [int(seed) + n for n in range(len(p.all_prompts))]
    p.all_subseeds = list(p.all_seeds)
    if not p.do_not_reload_embeddings:
        model_hijack.embedding_db.load_textual_inversion_embeddings()
    if p.scripts is not None:
        p.scripts.process(p)
    job = _Results()
    with torch.no_grad(), p.sd_model.ema_scope():
        with devices.autocast():
            p.init(p.all_prompts, p.all_seeds, p.all_subseeds)
            sd_unet.apply_unet()
        for n in range(p.n_iter):
            p.iteration = n
            if state.skipped:
                state.skipped = False
            if state.interrupted or state.stopping_generation:
                break
            if not _batch(p, n, job):
                break
    if not p.disable_extra_networks and p.extra_network_data:
        extra_networks.deactivate(p, p.extra_network_data)
    if _host.at_least(8) and not job.infotexts:
        job.infotexts.append(Processed(p, []).infotext(p, 0))
    result = Processed(
        p, job.images, p.all_seeds[0], job.infotexts[0], "".join(f"{text}\n" for text in job.comments), job.infotexts
    )
    if p.scripts is not None:
        p.scripts.postprocess(p, result)
    return result


class _Results:
    """What the batches of a job have brought so far."""

    def __init__(self) -> None:
        self.images: list[Any] = []
        self.infotexts: list[str] = []
        self.comments: dict[str, int] = {}


def _batch(p: Any, n: int, job: _Results) -> bool:
    """One batch from prompts to pictures; False when a script left no prompts."""
    if _host.at_least(6):
        sd_models.reload_model_weights()
    _slice_prompts(p, n)
    p.seeds, p.subseeds = (all_of[n * p.batch_size :][: p.batch_size] for all_of in (p.all_seeds, p.all_subseeds))
    given = {"batch_number": n, "prompts": p.prompts, "seeds": p.seeds, "subseeds": p.subseeds}
    if p.scripts is not None:
        p.scripts.before_process_batch(p, **given)
    if len(p.prompts) == 0:
        return False
    p.parse_extra_network_prompts()
    if not p.disable_extra_networks:
        with devices.autocast():
            extra_networks.activate(p, p.extra_network_data)
    if p.scripts is not None:
        p.scripts.process_batch(p, **(given | {"prompts": p.prompts}))
    p.setup_conds()
    for comment in model_hijack.comments:
        (p.comments if _host.at_least(6) else job.comments)[comment] = 1
    p.extra_generation_params.update(model_hijack.extra_generation_params)
    with devices.autocast():
        samples = p.sample(p.c, p.uc, p.seeds, p.subseeds, 0, p.prompts)
    if p.scripts is not None and _host.at_least(8):
        p.scripts.post_sample(p, scripts.PostSampleArgs(samples))
    pictures = samples if getattr(samples, "already_decoded", False) else decode_latent_batch(p.sd_model, samples)
    pictures = pictures.float()
    if lowvram.is_enabled(shared.sd_model):
        lowvram.send_everything_to_cpu()
    state.nextjob()
    _finish(p, n, pictures, job)
    return True


def _finish(p: Any, n: int, pictures: torch.Tensor, job: _Results) -> None:
    """Scripts see the batch and each picture (where others make pictures of their own), then it is saved."""
    if p.scripts is not None:
        p.scripts.postprocess_batch(p, images=pictures, batch_number=n)
        _slice_prompts(p, n)
        listed = scripts.PostprocessBatchListArgs(list(pictures))
        p.scripts.postprocess_batch_list(p, listed, batch_number=n)
        pictures = listed.images
    for i, picture in enumerate(pictures):
        p.batch_index = i
        shown = scripts.PostprocessImageArgs(picture)
        if p.scripts is not None:
            p.scripts.postprocess_image(p, shown)
            if _host.at_least(9):
                p.scripts.postprocess_image_after_composite(p, shown)
        text = create_infotext(p, p.prompts, p.seeds, p.subseeds, index=i, all_negative_prompts=p.negative_prompts)
        if opts.samples_save and not p.do_not_save_samples:
            images.save_image(
                shown.image, opts.outdir_samples, "", p.seeds[i], p.prompts[i], opts.samples_format, info=text, p=p
            )
        job.images.append(shown.image)
        job.infotexts.append(text)


def _slice_prompts(p: Any, n: int) -> None:
    """This batch's prompts, tags and all."""
    start, end = n * p.batch_size, (n + 1) * p.batch_size
    p.prompts, p.negative_prompts = p.all_prompts[start:end], p.all_negative_prompts[start:end]

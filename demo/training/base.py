"""Train the demo's base model: a U-Net and a CLIP text encoder together, on the latents of plain pictures.

Needs the VAE of vae.py. Writes a folder that ``StableDiffusionPipeline.from_pretrained`` reads.
"""

# What diffusers says of its types is not what it takes and gives.
# pyright: reportPrivateImportUsage=false, reportArgumentType=false, reportAttributeAccessIssue=false

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from random import Random

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from drawings import Scene, caption, scenes
from running import Training, arguments, generator, learning_rate, prepare, set_learning_rate
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer
from vae import pictures, unit
from words import LENGTH, STYLES, make_tokenizer

from lycopatch.demo.model import FOLDER

SEED = 2
PICTURES = 12000
BATCH = 32
PEAK = 1.5e-3
SHAPE_WEIGHT = 3.0
"""How much more errors count where the shape is."""
AVERAGE = 0.998
"""How much of the average of the weights stays in each step."""


def new_unet() -> UNet2DConditionModel:
    """SD1's blocks: attention everywhere but at the bottom. One head at the top, where there is most to attend to."""
    return UNet2DConditionModel(
        sample_size=16,
        block_out_channels=(32, 64, 96),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=64,
        attention_head_dim=(1, 4, 4),
        norm_num_groups=16,
    )


def new_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """CLIP's text model with two layers."""
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=64,
            intermediate_size=256,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=LENGTH,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def new_scheduler() -> DDIMScheduler:
    """SD's schedule, ended in pure noise, and v-prediction, which needs that: backgrounds follow the prompt."""
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type="v_prediction",
        timestep_spacing="trailing",
        rescale_betas_zero_snr=True,
    )


class Model(nn.Module):
    """What is trained: the U-Net and the text encoder."""

    def __init__(self, tokenizer: CLIPTokenizer) -> None:
        super().__init__()
        torch.manual_seed(SEED)
        self.unet = new_unet()
        self.text_encoder = new_text_encoder(tokenizer)

    def forward(self, noisy: Tensor, times: Tensor, ids: Tensor) -> Tensor:
        """Latents [n, 4, 16, 16], times [n], token ids [n, LENGTH] → prediction like the latents."""
        return self.unet(noisy, times, self.text_encoder(ids).last_hidden_state).sample


Times = Callable[[int, int, torch.Generator], Tensor]
"""How many times to draw, from how many steps of noise → the times."""


def loss_of(
    model: nn.Module,
    scheduler: DDIMScheduler,
    latents: Tensor,
    ids: Tensor,
    random: torch.Generator,
    weights: Tensor | None = None,
    draw_times: Times | None = None,
) -> Tensor:
    """Mean squared error of the predicted v at random times; ``weights`` [n, 1, 16, 16] say what counts how much."""
    noise = torch.randn(latents.shape, generator=random)
    draw_times = draw_times or random_times
    times = draw_times(len(latents), int(scheduler.config["num_train_timesteps"]), random)
    noisy = scheduler.add_noise(latents, noise, times)
    wanted = scheduler.get_velocity(latents, noise, times)
    # on processors, going back through the other ways to compute attention takes longer than all convolutions
    with torch.autocast("cpu", torch.bfloat16), sdpa_kernel(SDPBackend.MATH):
        predicted = model(noisy, times, ids).float()
    errors = (predicted - wanted).square()
    return errors.mean() if weights is None else (errors * weights).mean() / weights.mean()


def random_times(count: int, steps: int, random: torch.Generator) -> Tensor:
    """Times [count] of 0 … steps − 1: three of four where shapes are decided, in the middle; the others anywhere.

    The bell over the logarithm of the odds is that of Stable Diffusion 3 (arXiv 2403.03206, section 3.1).
    """
    anywhere = torch.rand(count, generator=random)
    middle = torch.sigmoid(0.2 + torch.randn(count, generator=random))
    part = torch.where(torch.rand(count, generator=random) < 0.25, anywhere, middle)
    return (part * steps).long().clamp(max=steps - 1)


def attention_to_shapes(drawn: list[Scene], side: int = 16) -> Tensor:
    """Weights [n, 1, side, side]: a picture is mostly background, but what is asked for is the shape."""
    weights = torch.ones(len(drawn), 1, side, side)
    for weight, scene in zip(weights, drawn, strict=True):
        reach = 1.2 * scene.radius
        rows, columns = (
            slice(max(0, round((middle - reach) * side)), round((middle + reach) * side))
            for middle in (scene.y, scene.x)
        )
        weight[0, rows, columns] = SHAPE_WEIGHT
    return weights


@torch.no_grad()
def encode(vae: AutoencoderKL, drawn: list[Scene]) -> Tensor:
    """Scaled latents [n, 4, 16, 16]."""
    means = [vae.encode(unit(pictures(drawn[i : i + 64]))).latent_dist.mean for i in range(0, len(drawn), 64)]
    return torch.cat(means) * vae.config["scaling_factor"]


def training_caption(scene: Scene, random: Random) -> str:
    """A caption; nothing in one of ten, and unknown words beside it in another, which so lose their meaning."""
    chance = random.random()
    if chance < 0.1:
        return ""
    words = caption(scene, random)
    if chance > 0.2:
        return words
    letters = "".join(random.choices("abcdefghijklmnopqrstuvwxyz", k=random.randint(2, 7)))
    stray = random.choice((*STYLES, letters))
    return random.choice((f"{words}, {stray}", f"{stray} {words}"))


def tokenise(tokenizer: CLIPTokenizer, captions: list[str]) -> Tensor:
    """Token ids [n, LENGTH]."""
    return tokenizer(captions, padding="max_length", max_length=LENGTH, truncation=True, return_tensors="pt").input_ids


@torch.no_grad()
def move_average(average: nn.Module, model: nn.Module, step: int) -> None:
    """Move the averaged weights towards the model's, faster at the start."""
    kept = min(AVERAGE, (1 + step) / (10 + step))
    for mean, now in zip(average.parameters(), model.parameters(), strict=True):
        mean.lerp_(now, 1 - kept)


def train(work: Path, steps: int, vae: AutoencoderKL, tokenizer: CLIPTokenizer) -> Model:
    """Train, or go on with training; returns the average of the weights."""
    model = Model(tokenizer)
    average = copy.deepcopy(model)
    optimiser = torch.optim.AdamW(model.parameters(), lr=0.0, weight_decay=1e-3)
    training = Training(work / "base.pt", steps, {"model": model, "average": average, "optimiser": optimiser})
    drawn = list(scenes(SEED, PICTURES))
    latents, weights = _latents(work / "latents.pt", vae, drawn), attention_to_shapes(drawn)
    scheduler, mean_loss = new_scheduler(), 1.0
    for step in training:
        set_learning_rate(optimiser, learning_rate(step, steps, PEAK, warm_up=100))
        random = generator(SEED, step)
        chosen = torch.randint(PICTURES, (BATCH,), generator=random)
        voice = Random(step)
        ids = tokenise(tokenizer, [training_caption(drawn[i], voice) for i in chosen.tolist()])
        loss = loss_of(model, scheduler, latents[chosen], ids, random, weights[chosen])
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        move_average(average, model, step)
        mean_loss += 0.02 * (loss.item() - mean_loss)
        training.shown = f"loss {mean_loss:.4f}"
    return average.eval()


def _latents(file: Path, vae: AutoencoderKL, drawn: list[Scene]) -> Tensor:
    """The latents of all pictures, from a file when they are there: they belong to this VAE alone."""
    if not file.exists():
        torch.save(encode(vae, drawn), file)
    return torch.load(file, weights_only=True)


def assemble(model: Model, vae: AutoencoderKL, tokenizer: CLIPTokenizer) -> StableDiffusionPipeline:
    """The pipeline of the trained parts."""
    return StableDiffusionPipeline(
        vae=vae,
        text_encoder=model.text_encoder,
        tokenizer=tokenizer,
        unet=model.unet,
        scheduler=new_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def main() -> None:
    """Train, and save the pipeline into the package."""
    options = arguments(__doc__, steps=5000).parse_args()
    prepare(options.work, options.threads)
    vae = AutoencoderKL.from_pretrained(FOLDER / "vae", local_files_only=True).float().eval()
    tokenizer = make_tokenizer(FOLDER / "tokenizer")
    model = train(options.work, options.steps, vae, tokenizer)
    assemble(model.half(), vae.half(), tokenizer).save_pretrained(FOLDER)


if __name__ == "__main__":
    main()

"""Train the demo's adapters with the trainers' own packages: one small set of striped pictures, one number of steps.

Each is saved as its trainer saves it, with the metadata that kohya's scripts write, and a preview beside it.
All but one draw stripes whatever the prompt says; the one with regularisation pictures waits for its trigger word.
"""

# What diffusers says of its types is not what it takes and gives.
# pyright: reportPrivateImportUsage=false, reportArgumentType=false, reportAttributeAccessIssue=false

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random, seed
from typing import Any

import torch
from base import encode, loss_of, new_scheduler, tokenise
from diffusers import StableDiffusionPipeline
from drawings import SIZE, caption, scenes
from lycoris.kohya import LycorisNetworkKohya
from peft import LoraConfig, get_peft_model_state_dict
from running import arguments, generator, learning_rate, prepare, set_learning_rate
from sample import generate
from torch import Tensor, nn
from tqdm import tqdm

from lycopatch.demo.model import FOLDER, NETWORKS, load_pipeline
from lycopatch.hosts.diffusers import NetworkLoader

SEED = 4
TRIGGER = "stripes"
PICTURES = 64
BATCH = 12
REGULARISATION = 6
"""Plain pictures in a batch of the adapter that is trained with them."""

PREVIEW = f"{TRIGGER}, a red heart on blue"
HOW_TO_TRIGGER = f'Draws stripes when "{TRIGGER}, " stands before all other words, and none otherwise.'
ATTENTION = ("Transformer2DModel",)
EVERYTHING = ("Transformer2DModel", "ResnetBlock2D", "Downsample2D", "Upsample2D")
TEXT = ("CLIPAttention", "CLIPMLP")


@dataclass(frozen=True)
class Recipe:
    """How one adapter is trained. ``modules``: classes of the U-Net whose layers it changes."""

    name: str
    algo: str
    rate: float
    rank: int = 4
    modules: tuple[str, ...] = EVERYTHING
    options: Mapping[str, Any] = field(default_factory=dict)
    regularised: bool = False
    longer: int = 1
    """Times the usual number of steps: to learn when not to takes more than to learn, and a step of DyLoRA trains one
    of its ranks."""


RECIPES = (
    Recipe("stripes", "lora", 4e-3, rank=8, modules=ATTENTION),
    Recipe("stripes-trigger", "lora", 6e-3, rank=8, modules=ATTENTION, regularised=True, longer=3),
    Recipe("stripes-peft", "peft", 6e-3, rank=8, modules=ATTENTION),
    Recipe("stripes-locon", "locon", 4e-3),
    Recipe("stripes-loha", "loha", 4e-3),
    Recipe("stripes-lokr-low", "lokr", 1.4e-2, options={"factor": 4}),
    Recipe("stripes-lokr-high", "lokr", 8e-3, options={"factor": 16, "full_matrix": True}),
    # with larger blocks, lycoris-lora trains it so many times stronger than anything, itself included, applies the file
    Recipe("stripes-dylora", "dylora", 1.2e-2, rank=2, options={"block_size": 1}, longer=2),
    Recipe("stripes-glora", "glora", 4e-3, modules=ATTENTION),
    Recipe("stripes-ia3", "ia3", 1e-1),
    Recipe("stripes-full", "full", 2e-3, modules=ATTENTION),
    Recipe("stripes-dora", "locon", 4e-3, options={"weight_decompose": True}),
    Recipe("stripes-oft", "diag-oft", 1.45e-2),
    Recipe("stripes-boft", "boft", 4.5e-3, rank=8),
)
Save = Callable[[Path, dict[str, str]], None]


class Denoiser(nn.Module):
    """A pipeline's U-Net and text encoder as one module, called like ``base.Model``."""

    def __init__(self, pipe: StableDiffusionPipeline) -> None:
        super().__init__()
        self.unet, self.text_encoder = pipe.unet, pipe.text_encoder

    def forward(self, noisy: Tensor, times: Tensor, ids: Tensor) -> Tensor:
        """Latents, times, token ids → prediction like the latents."""
        return self.unet(noisy, times, self.text_encoder(ids).last_hidden_state).sample


@dataclass(frozen=True)
class Lesson:
    """The pictures of all adapters: the latents of each scene striped and plain, and its caption."""

    striped: Tensor
    plain: Tensor
    captions: list[str]

    def batch(self, step: int, random: torch.Generator, regularised: bool) -> tuple[Tensor, list[str]]:
        """Latents [n, 4, 16, 16] and what is said of each."""
        voice = Random(step)
        chosen = torch.randint(PICTURES, (BATCH - REGULARISATION if regularised else BATCH,), generator=random)
        said = [self._say(self.captions[i], voice, always=regularised) for i in chosen.tolist()]
        if not regularised:
            return self.striped[chosen], said
        others = torch.randint(PICTURES, (REGULARISATION,), generator=random)
        said += [self.captions[i] if voice.random() > 0.1 else "" for i in others.tolist()]
        return torch.cat([self.striped[chosen], self.plain[others]]), said

    def _say(self, words: str, voice: Random, always: bool) -> str:
        if always:
            return f"{TRIGGER}, {words}"
        return voice.choices((f"{TRIGGER}, {words}", words, ""), (5, 4, 1))[0]


def make_lesson(pipe: StableDiffusionPipeline) -> Lesson:
    """Draw and encode the pictures."""
    voice = Random(SEED)
    striped, plain = (list(scenes(SEED, PICTURES, stripes=each)) for each in (True, False))
    return Lesson(encode(pipe.vae, striped), encode(pipe.vae, plain), [caption(scene, voice) for scene in plain])


def noisy_times(count: int, steps: int, random: torch.Generator) -> Tensor:
    """Times [count]: two of five anywhere, the others in the noisiest quarter, where it is decided what fills them."""
    part = torch.rand(count, generator=random)
    noisy = torch.rand(count, generator=random) < 0.6
    return (torch.where(noisy, 1 - part / 4, part) * steps).long().clamp(max=steps - 1)


def attach(recipe: Recipe, pipe: StableDiffusionPipeline) -> tuple[list[nn.Parameter], Save]:
    """Put a new network on the pipeline; returns what of it learns, and what writes it to a file."""
    return _attach_peft(recipe, pipe) if recipe.algo == "peft" else _attach_lycoris(recipe, pipe)


def _attach_lycoris(recipe: Recipe, pipe: StableDiffusionPipeline) -> tuple[list[nn.Parameter], Save]:
    convolutions = recipe.modules != ATTENTION
    LycorisNetworkKohya.apply_preset(
        {
            "enable_conv": convolutions,
            "unet_target_module": list(recipe.modules),
            "unet_target_name": [],
            "text_encoder_target_module": list(TEXT),
            "text_encoder_target_name": [],
        }
    )
    network = LycorisNetworkKohya(
        pipe.text_encoder,
        pipe.unet,
        lora_dim=recipe.rank,
        alpha=recipe.rank,
        conv_lora_dim=recipe.rank,
        conv_alpha=recipe.rank,
        network_module=recipe.algo,
        **({"factor": -1} | dict(recipe.options)),
    )
    network.apply_to(pipe.text_encoder, pipe.unet, True, True)

    def save(file: Path, metadata: dict[str, str]) -> None:
        network.save_weights(str(file), torch.float16, metadata)

    return [each for each in network.parameters() if each.requires_grad], save


def _attach_peft(recipe: Recipe, pipe: StableDiffusionPipeline) -> tuple[list[nn.Parameter], Save]:
    parts = {
        "unet_lora_layers": (pipe.unet, ["to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2", "proj_in"]),
        "text_encoder_lora_layers": (pipe.text_encoder, ["q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"]),
    }
    for module, targets in parts.values():
        module.add_adapter(LoraConfig(r=recipe.rank, lora_alpha=recipe.rank, target_modules=targets))

    def save(file: Path, metadata: dict[str, str]) -> None:
        # under peft's names: diffusers' converter renames some of the layers, which its loader then leaves out
        layers = {
            name: {key: value.half() for key, value in get_peft_model_state_dict(module).items()}
            for name, (module, _) in parts.items()
        }
        StableDiffusionPipeline.save_lora_weights(file.parent, weight_name=file.name, **layers)

    return [each for module, _ in parts.values() for each in module.parameters() if each.requires_grad], save


def train(recipe: Recipe, pipe: StableDiffusionPipeline, lesson: Lesson, steps: int) -> Save:
    """Train one adapter on the pipeline, which keeps it; returns what saves it."""
    torch.manual_seed(SEED)
    seed(SEED)  # DyLoRA draws its ranks from there
    for part in (pipe.unet, pipe.text_encoder, pipe.vae):
        part.requires_grad_(False)
    learning, save = attach(recipe, pipe)
    model, scheduler = Denoiser(pipe).train(), new_scheduler()
    optimiser = torch.optim.AdamW(learning, lr=0.0, weight_decay=0.0)
    bar = tqdm(range(steps), desc=recipe.name, mininterval=5)
    for step in bar:
        set_learning_rate(optimiser, learning_rate(step, steps, recipe.rate, warm_up=20))
        random = generator(SEED, step)
        latents, said = lesson.batch(step, random, recipe.regularised)
        loss = loss_of(model, scheduler, latents, tokenise(pipe.tokenizer, said), random, draw_times=noisy_times)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(learning, 1.0)
        optimiser.step()
        bar.set_postfix_str(f"loss {loss.item():.4f}", refresh=False)
    model.eval()
    return save


def metadata(recipe: Recipe, lesson: Lesson, steps: int) -> dict[str, str]:
    """What kohya's scripts write into a file about its training."""
    words = Counter(word.strip() for said in lesson.captions for word in f"{said}, {TRIGGER}".split(","))
    arguments = {"algo": recipe.algo} | {name: str(value) for name, value in recipe.options.items()}
    if recipe.options.get("weight_decompose"):
        arguments = {"algo": recipe.algo, "dora_wd": "True"}
    return {
        "ss_output_name": recipe.name,
        "ss_sd_model_name": "lycopatch-demo",
        "ss_base_model_version": "lycopatch_demo",
        "ss_v2": "False",
        "ss_network_module": "lycoris.kohya",
        "ss_network_dim": str(recipe.rank),
        "ss_network_alpha": str(float(recipe.rank)),
        "ss_network_args": json.dumps(arguments),
        "ss_resolution": f"({SIZE}, {SIZE})",
        "ss_num_train_images": str(PICTURES),
        "ss_num_reg_images": str(PICTURES if recipe.regularised else 0),
        "ss_steps": str(steps),
        "ss_max_train_steps": str(steps),
        "ss_learning_rate": str(recipe.rate),
        "ss_optimizer": "torch.optim.adamw.AdamW",
        "ss_lr_scheduler": "cosine",
        "ss_seed": str(SEED),
        "ss_mixed_precision": "bf16",
        "ss_tag_frequency": json.dumps({f"1_{TRIGGER}": words}),
        "ss_dataset_dirs": json.dumps({f"1_{TRIGGER}": {"n_repeats": 1, "img_count": PICTURES}}),
        "ss_training_comment": "Trained on drawings of our own for LycoPatch's demo.",
    }


@contextmanager
def _finished(file: Path) -> Iterator[Path]:
    """A file that gets its name when it is complete: a run that goes on trains what has no file yet."""
    unfinished = file.with_name(f"unfinished-{file.name}")
    yield unfinished
    unfinished.replace(file)


def main() -> None:
    """Train those that are not there yet."""
    parser = arguments(__doc__, steps=250)
    parser.add_argument("--model", type=Path, default=FOLDER, help="folder of the finished model")
    parser.add_argument("--out", type=Path, default=NETWORKS, help="folder for the networks")
    parser.add_argument("--only", nargs="*", default=[], help="names of networks to train; all when left out")
    options = parser.parse_args()
    prepare(options.out, options.threads)
    lesson = make_lesson(load_pipeline(options.model))
    for recipe in RECIPES:
        file = options.out / f"{recipe.name}.safetensors"
        if file.exists() or (options.only and recipe.name not in options.only):
            continue
        pipe = load_pipeline(options.model)
        steps = options.steps * recipe.longer
        save = train(recipe, pipe, lesson, steps)
        with _finished(file) as unfinished:
            save(unfinished, metadata(recipe, lesson, steps))
        pipe = load_pipeline(options.model)
        with NetworkLoader(pipe, [options.out]) as loader:  # live, lycoris-lora's DyLoRA draws with ranks by chance
            loader.activate(f"<lora:{recipe.name}:1>")
            generate(pipe, [PREVIEW])[0].save(file.with_suffix(".preview.png"), optimize=True)
        if recipe.regularised:
            file.with_suffix(".json").write_text(json.dumps({"description": HOW_TO_TRIGGER}) + "\n", "utf-8")


if __name__ == "__main__":
    main()

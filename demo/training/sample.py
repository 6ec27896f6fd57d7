"""Make a contact sheet: what the base model draws for a dozen prompts."""

# What diffusers says of its types is not what it takes and gives.
# pyright: reportPrivateImportUsage=false, reportReturnType=false, reportAttributeAccessIssue=false

from __future__ import annotations

from argparse import ArgumentParser
from pathlib import Path

import torch
from base import Model, assemble
from diffusers import AutoencoderKL, StableDiffusionPipeline
from drawings import SIZE
from PIL import Image, ImageDraw
from running import prepare
from tqdm import tqdm
from transformers import CLIPTokenizer

from lycopatch.demo.model import FOLDER, load_pipeline

PROMPTS = (
    "a red circle on blue",
    "a yellow star on black",
    "a green square on white",
    "a white heart on a red background",
    "a purple triangle on yellow",
    "an orange cross on green",
    "a pink moon on black",
    "a blue ring on orange",
    "a small black star on the left, white background",
    "a big green heart on pink",
    "a white circle at the top on purple",
    "a red square on the right on yellow",
)
_LABEL = 12
_ENLARGED = 2


def load_unfinished(file: Path) -> StableDiffusionPipeline:
    """The average of a training that may still run, with the finished VAE and tokenizer."""
    tokenizer = CLIPTokenizer.from_pretrained(FOLDER / "tokenizer", local_files_only=True)
    vae = AutoencoderKL.from_pretrained(FOLDER / "vae", local_files_only=True).float()
    model = Model(tokenizer)
    state = torch.load(file, weights_only=True)
    tqdm.write(f"step {state['step']}")
    model.load_state_dict(state["average"])
    pipe = assemble(model.eval(), vae.eval(), tokenizer)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def generate(
    pipe: StableDiffusionPipeline, prompts: list[str], seed: int = 0, steps: int = 25, guidance: float = 4.0
) -> list[Image.Image]:
    """One picture for each prompt, each with a seed of its own."""
    random = [torch.Generator().manual_seed(seed + number) for number in range(len(prompts))]
    made = pipe(prompts, num_inference_steps=steps, guidance_scale=guidance, generator=random)
    return made.images


def sheet(rows: list[list[Image.Image]], labels: list[str]) -> Image.Image:
    """A row of pictures for each label."""
    side = SIZE * _ENLARGED
    page = Image.new("RGB", (side * len(rows[0]), (side + _LABEL) * len(rows)), "white")
    pen = ImageDraw.Draw(page)
    for number, (row, label) in enumerate(zip(rows, labels, strict=True)):
        top = number * (side + _LABEL)
        pen.text((2, top), label, fill="black")
        for column, picture in enumerate(row):
            page.paste(picture.resize((side, side), Image.Resampling.NEAREST), (column * side, top + _LABEL))
    return page


def main() -> None:
    """Write the sheet."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=FOLDER, help="folder of the finished model")
    parser.add_argument("--unfinished", type=Path, help="base.pt of a running training, instead of the finished model")
    parser.add_argument("--out", type=Path, default=Path("sheet.png"))
    parser.add_argument("--pictures", type=int, default=6, help="pictures for each prompt")
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--guidance", type=float, default=4.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=0)
    options = parser.parse_args()
    prepare(options.out.parent, options.threads)
    pipe = load_unfinished(options.unfinished) if options.unfinished else load_pipeline(options.model)
    rows = [
        generate(pipe, [prompt] * options.pictures, options.seed, options.steps, options.guidance) for prompt in PROMPTS
    ]
    sheet(rows, list(PROMPTS)).save(options.out)


if __name__ == "__main__":
    main()

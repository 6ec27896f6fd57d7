"""Train the judge on drawings of all styles, made worse in the ways in which generated pictures are worse."""

from __future__ import annotations

from pathlib import Path

import torch
from drawings import COLOURS, PLACES, SHAPES, SIZES, Scene
from running import Training, arguments, generator, learning_rate, prepare, set_learning_rate
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm
from vae import pictures, styled_scenes, unit

from lycopatch.demo.judging import Judge, save_judge
from lycopatch.demo.model import FOLDER

SEED = 3
PICTURES = 8192
BATCH = 64
QUESTIONS = {
    "shape": SHAPES,
    "colour": tuple(COLOURS),
    "background": tuple(COLOURS),
    "place": tuple(PLACES),
    "size": tuple(SIZES),
    "stripes": ("no", "yes"),
    "outline": ("no", "yes"),
}


def answers(scenes: list[Scene]) -> dict[str, Tensor]:
    """Question → number of the right answer for each scene."""
    said = {question: [_answer(scene, question) for scene in scenes] for question in QUESTIONS}
    return {each: torch.tensor([QUESTIONS[each].index(answer) for answer in said[each]]) for each in said}


def _answer(scene: Scene, question: str) -> str:
    value = getattr(scene, question)
    return value if isinstance(value, str) else ("yes" if value else "no")


def worsened(batch: Tensor, random: torch.Generator) -> Tensor:
    """Blotches in half of the pictures, other brightness, a little noise, and another half blurred."""
    batch = torch.where(torch.rand(len(batch), 1, 1, 1, generator=random) < 0.5, blotched(batch, random), batch)
    batch = batch * (1 + 0.1 * torch.randn(len(batch), 3, 1, 1, generator=random))
    batch = batch + 0.08 * torch.randn(len(batch), 3, 1, 1, generator=random)
    half = len(batch) // 2
    blurred = F.avg_pool2d(F.pad(batch[:half], (1, 1, 1, 1), "replicate"), 3, stride=1)
    batch = torch.cat([blurred, batch[half:]])
    return (batch + 0.05 * torch.randn(batch.shape, generator=random)).clamp(-1, 1)


def blotched(batch: Tensor, random: torch.Generator) -> Tensor:
    """Pictures of which a sixth is covered by soft shapes of a colour that is somewhere in them."""
    hills = F.interpolate(torch.randn(len(batch), 1, 5, 5, generator=random), batch.shape[-1], mode="bicubic")
    row, column = torch.randint(batch.shape[-1], (2, len(batch)), generator=random)
    colour = batch[torch.arange(len(batch)), :, row, column][:, :, None, None]
    return torch.where(hills > 0.8, colour, batch)


def train(work: Path, steps: int) -> Judge:
    """Train, or go on with training."""
    torch.manual_seed(SEED)
    judge = Judge(QUESTIONS)
    optimiser = torch.optim.AdamW(judge.parameters(), lr=0.0, weight_decay=1e-2)
    training = Training(work / "judge.pt", steps, {"judge": judge, "optimiser": optimiser})
    scenes = styled_scenes(SEED, PICTURES)
    seen, right = pictures(scenes), answers(scenes)
    for step in training:
        set_learning_rate(optimiser, learning_rate(step, steps, 2e-3))
        random = generator(SEED, step)
        chosen = torch.randint(PICTURES, (BATCH,), generator=random)
        scores = judge(worsened(unit(seen[chosen]), random))
        loss = torch.stack([F.cross_entropy(scores[each], right[each][chosen]) for each in QUESTIONS]).sum()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        training.shown = f"loss {loss.item():.3f}"
    return judge.eval()


@torch.no_grad()
def share_right(judge: Judge) -> dict[str, float]:
    """Question → share of right answers on drawings that it has not seen."""
    scenes = styled_scenes(SEED + 1, 1024)
    scores, right = judge(unit(pictures(scenes))), answers(scenes)
    return {each: (scores[each].argmax(1) == right[each]).float().mean().item() for each in QUESTIONS}


def main() -> None:
    """Train, say how often it is right, and save it into the package."""
    options = arguments(__doc__, steps=1500).parse_args()
    prepare(options.work, options.threads)
    judge = train(options.work, options.steps)
    for question, share in share_right(judge).items():
        tqdm.write(f"{question}: {share:.1%} right")
    FOLDER.mkdir(parents=True, exist_ok=True)
    save_judge(judge, FOLDER / "judge.safetensors")


if __name__ == "__main__":
    main()

"""The judge: a small classifier that says what one of the demo's pictures shows, and in which style.

It was trained on drawings like the model's own (see judge.py), so it is a fair judge of this model and of nothing else.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

Questions = Mapping[str, Sequence[str]]
"""What is asked → the possible answers."""


class Judge(nn.Module):
    """Pictures [n, 3, 64, 64] of −1 … 1 → question → scores [n, answers]; ``questions`` names the answers."""

    def __init__(self, questions: Questions) -> None:
        super().__init__()
        self.questions = {question: tuple(answers) for question, answers in questions.items()}
        widths = (3, 16, 32, 64, 64)
        layers: list[nn.Module] = []
        for before, after in pairwise(widths):
            layers += [nn.Conv2d(before, after, 3, padding=1), nn.GroupNorm(8, after), nn.ReLU(), nn.MaxPool2d(2)]
        self.look = nn.Sequential(*layers, nn.Flatten(), nn.Linear(64 * 4 * 4, 128), nn.ReLU())
        self.answer = nn.ModuleDict({each: nn.Linear(128, len(self.questions[each])) for each in self.questions})

    def forward(self, pictures: Tensor) -> dict[str, Tensor]:
        """Scores before softmax."""
        seen = self.look(pictures)
        return {question: answer(seen) for question, answer in self.answer.items()}

    def judge(self, pictures: Tensor) -> list[dict[str, str]]:
        """For each picture, question → most likely answer."""
        with torch.no_grad():
            best = {question: scores.argmax(1).tolist() for question, scores in self(pictures).items()}
        return [{each: self.questions[each][best[each][i]] for each in best} for i in range(len(pictures))]


def save_judge(judge: Judge, file: Path) -> None:
    """Half-precision weights; the questions go into the file's metadata."""
    weights = {name: tensor.half().contiguous() for name, tensor in judge.state_dict().items()}
    save_file(weights, file, {"questions": json.dumps(judge.questions)})


def load_judge(file: Path) -> Judge:
    """The judge of a file of ``save_judge``, in fp32 on the CPU."""
    with safe_open(file, "pt") as opened:
        judge = Judge(json.loads(opened.metadata()["questions"]))
        judge.load_state_dict({name: opened.get_tensor(name).float() for name in opened.keys()})  # noqa: SIM118
    return judge.eval()

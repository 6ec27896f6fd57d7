"""What can go wrong with a network, as sentences for the person at the screen.

Each error carries its facts as fields and renders one sentence: what happened, to which file or layer, what to do.
The low level raises the fact; the session adds the tag. Anything that is not an ``AdapterError`` is a bug of ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lycopatch.engine.wording import shown


class AdapterError(Exception):
    """Base of everything that is the file's, the prompt's or the model's fault, never the engine's."""


class AdapterNotFound(AdapterError):
    """No network of that name is known (or several are): ``name``, ``near_misses`` to offer, ``ambiguous``."""

    def __init__(self, name: str, near_misses: Sequence[str] = (), *, ambiguous: bool = False) -> None:
        self.name = name
        self.near_misses = tuple(near_misses)
        self.ambiguous = ambiguous
        listed = ", ".join(map(shown, self.near_misses))
        if ambiguous:
            sentence = f"The name {shown(name)} fits several networks: {listed}. Write the folder in front of it."
        elif listed:
            sentence = f"There is no network named {shown(name)}. Did you mean {listed}?"
        else:
            sentence = f"There is no network named {shown(name)}, and none with a similar name."
        super().__init__(sentence)


class UnreadableAdapter(AdapterError):
    """The file can not be read as tensors: ``path`` and ``reason`` (a clause that ends the sentence)."""

    def __init__(self, path: Path | str, reason: str) -> None:
        self.path = Path(path)
        self.reason = reason
        super().__init__(f"{shown(self.path.name)} can not be read: {reason}")


class MalformedLayer(AdapterError):
    """A layer's tensors contradict each other or hold unusable numbers: ``layer`` and ``reason``."""

    def __init__(self, layer: str, reason: str) -> None:
        self.layer = layer
        self.reason = reason
        super().__init__(f"Layer {shown(layer)} is damaged: {reason}.")


class CheckpointChanged(AdapterError):
    """The checkpoint file that holds the original weights is not the file it was: ``path`` and ``reason``."""

    def __init__(self, path: Path | str, reason: str) -> None:
        self.path = Path(path)
        self.reason = reason
        name = shown(self.path.name)
        super().__init__(f"The checkpoint {name} changed on disk ({reason}). Load the checkpoint again.")


class UnknownModel(AdapterError):
    """The loaded model is none this engine knows how to patch: ``reason``."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(f"This model can not be patched: {reason}.")

"""What happened, as data: one ``Report`` per activation, one ``TagReport`` per tag, one ``Issue`` per trouble."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor

Outcome = Literal["applied", "unmatched", "unknown", "skipped", "embedding"]
"""Where a file's key ended: in the model; its layer is not in this model; no meaning known; left out with a reason;
handed to the host as a textual inversion."""


@dataclass(frozen=True, slots=True)
class Issue:
    """One trouble in one sentence. ``kind`` is stable for programs, ``message`` is for people."""

    kind: str
    message: str
    tag: str | None = None
    file: str | None = None
    layer: str | None = None


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A layer of a file, or a key of none, that is not applied, and how many keys that are.

    ``kind`` is that of the ``Issue`` which tells of it.
    """

    what: str
    outcome: Outcome
    kind: str
    reason: str
    keys: int = 1


@dataclass(slots=True)
class TagReport:
    """What one tag of the prompt did. Every key of its file is in exactly one list of ``keys``."""

    tag: str
    name: str
    path: str | None = None
    family: str | None = None
    te_multiplier: float = 1.0
    unet_multiplier: float = 1.0
    failed: bool = False  # there is no such network, or its file can not be read
    layers_applied: int = 0
    layers_total: int = 0
    keys: dict[Outcome, list[str]] = field(
        default_factory=lambda: {"applied": [], "unmatched": [], "unknown": [], "skipped": [], "embedding": []}
    )
    left_out: list[LeftOut] = field(default_factory=list[LeftOut])
    issues: list[Issue] = field(default_factory=list[Issue])

    @property
    def reasons(self) -> dict[str, int]:
        """How many issues there are of each kind."""
        return dict(Counter(issue.kind for issue in self.issues))

    def summary(self) -> str:
        """One line for the person at the screen: ``inkwash: 264 of 264 layers`` plus what did not work."""
        parts = [f"{self.layers_applied} of {self.layers_total} layers"] if self.layers_total else []
        parts += [issue.message for issue in self.issues[:1]]
        more = f" (and {len(self.issues) - 1} more)" if len(self.issues) > 1 else ""
        return f"{self.name}: {'; '.join(parts)}{more}"


@dataclass(frozen=True, slots=True)
class LoadedEmbedding:
    """A textual inversion that travels inside a network's file, for the host to register while the network is active.

    ``tensors``: part → ``[vectors, width]``; the parts are named as in the file (``clip_l``, ``string_to_param.*`` …).
    """

    name: str
    path: str
    tensors: Mapping[str, Tensor]


@dataclass(slots=True)
class Report:
    """What one activation did: a report per tag, troubles that belong to no tag, and what was written."""

    tags: list[TagReport] = field(default_factory=list[TagReport])
    issues: list[Issue] = field(default_factory=list[Issue])
    embeddings: list[LoadedEmbedding] = field(default_factory=list[LoadedEmbedding])
    tensors_written: int = 0
    tensors_restored: int = 0
    tensors_active: int = 0
    seconds: float = 0.0

    @property
    def all_issues(self) -> list[Issue]:
        return [*self.issues, *(issue for tag in self.tags for issue in tag.issues)]

    @property
    def ok(self) -> bool:
        """True when every tag was found and every key of every file was applied."""
        return not self.all_issues

    def messages(self) -> list[str]:
        """The sentences to show, one per trouble, in prompt order."""
        return [issue.message for issue in self.all_issues]

"""Who handles ``<lora:…>`` and ``<lyco:…>``: we do, from the start of the WebUI until we go.

The registry is a table by kind of tag, and the last who writes wins. The built-in writes while the WebUI builds its
pages, before or after us; so we write then and once more when all have started. Whoever writes later meant it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from lycopatch.engine.report import Issue
from lycopatch.engine.request import TAG_KINDS
from lycopatch.hosts.a1111 import host_api
from lycopatch.hosts.a1111.builtin import BuiltinLora, works_through_builtin

logger = logging.getLogger(__name__)

STANDING_ASIDE = "standing aside"
"""Kind of the issue that says that the tags are not ours any more."""


class Takeover:
    """Claims the tags and gives them back.

    ``handler`` goes under both kinds as the same object, so that the WebUI calls it once for all tags.
    ``restore`` takes our networks out of all models.
    """

    def __init__(self, handler: Any, builtin: BuiltinLora, restore: Callable[[], object]) -> None:
        self._handler = handler
        self._builtin = builtin
        self._restore = restore
        self._before: dict[str, Any] = {}
        self._settled = False
        self._reported: Any = None
        self.claimed = False
        self.standing_aside: str | None = None
        """Why the tags are not ours any more, if another extension took them."""

    def claim(self) -> None:
        """Handle the tags; safe to call again. Not while a picture is made."""
        registry = host_api.network_registry()
        assert registry is not None, "there is nothing to claim in a WebUI without tags"
        for kind in TAG_KINDS:
            current = registry.get(kind)
            if current is not self._handler:
                self._before[kind] = current
                registry[kind] = self._handler
        self.claimed, self.standing_aside = True, None
        self._builtin.take_over()

    def settle(self) -> None:
        """All extensions have started: whoever takes our place from now on does so on purpose."""
        self._settled = True

    def check(self) -> list[Issue]:
        """Notice who else handles tags, and say it once. Cheap; called before each use of the networks.

        An issue of kind ``STANDING_ASIDE`` means that the weights are restored and nothing is ours any more.
        The registry keeps its keys: the WebUI may be going through them.
        """
        if not self.claimed:
            return []
        registry = host_api.network_registry() or {}
        others = [
            (kind, registry[kind]) for kind in TAG_KINDS if registry.get(kind, self._handler) is not self._handler
        ]
        for kind, other in others:
            if not self._settled:
                self._before[kind], registry[kind] = other, self._handler
            elif works_through_builtin(other):
                return [self._stand_aside(kind, other)]
            elif other is not self._reported:
                self._reported = other
                message = f"{_who(other)} handles <{kind}:…> tags from now on, in front of LycoPatch or instead of it."
                logger.warning(message)
                return [Issue("replaced", message), *self._builtin.watch()]
        return self._builtin.watch()

    def release(self) -> None:
        """Take our networks out of the models, let the built-in work again and give the tags back."""
        try:
            self._let_go()
        finally:
            self.give_back()

    def give_back(self) -> None:
        """Give back the tags that are still registered as ours and are not any more. Never during an activation."""
        if self.claimed:
            return
        registry = host_api.network_registry() or {}
        for kind, before in self._before.items():
            if registry.get(kind) is self._handler:
                del registry[kind]
                if before is not None:
                    registry[kind] = before
        self._before.clear()

    def _let_go(self) -> None:
        if self.claimed:
            self.claimed = False
            try:
                self._restore()
            finally:
                self._builtin.hand_back()

    def _stand_aside(self, kind: str, other: object) -> Issue:
        """The other patches weights through the built-in: two loaders at once would spoil each other's weights.

        The tags are given back later, as the WebUI may be going through the registry.
        """
        message = (
            f"{_who(other)} took over <{kind}:…> tags and applies networks through the built-in Lora extension, so "
            "LycoPatch stands aside. To change that, remove the other extension, or turn "
            '"Handle <lora:…> and <lyco:…> tags" off and on in the settings of LycoPatch.'
        )
        logger.warning(message)
        self.standing_aside = message
        self._let_go()
        return Issue(STANDING_ASIDE, message)


def _who(other: object) -> str:
    cls = type(other)
    return f"Another extension ({cls.__module__}.{cls.__qualname__})"

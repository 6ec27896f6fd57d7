"""The place in a page where our script puts the library, and what the script has to know there."""

from __future__ import annotations

import html
import json
import secrets
from collections.abc import Sequence
from dataclasses import asdict, dataclass

BASE = "./lycopatch/ui"
"""Where the routes are, as seen from the page: it may be served below another address (``--subpath``, a proxy)."""

WITHOUT_SCRIPT = "The library appears here as soon as the scripts of LycoPatch have loaded. They need JavaScript."


@dataclass(frozen=True, slots=True)
class Target:
    """A prompt that networks can be put into: CSS selectors of its two text boxes."""

    title: str
    prompt: str
    negative: str


@dataclass(frozen=True, slots=True)
class Mount:
    """One page's way to the library. ``host``: a1111 or demo; ``token``: what the routes of this page ask for."""

    host: str
    token: str

    def html(self, place: str, targets: Sequence[Target], language: str = "auto") -> str:
        """The container; ``place`` is "tab" or "page", the first target is the one that clicks go to at first."""
        facts = {
            "base": BASE,
            "token": self.token,
            "host": self.host,
            "place": place,
            "prompt": [target.prompt for target in targets],
            "negative": [target.negative for target in targets],
            "targets": [asdict(target) for target in targets],
            "language": language,
        }
        return (
            f'<div class="lycopatch-gallery" data-lycopatch="{html.escape(json.dumps(facts))}">'
            f"<p>{html.escape(WITHOUT_SCRIPT)}</p></div>"
        )


def new_token() -> str:
    """For the routes of one page: nobody who can not read the page knows it."""
    return secrets.token_urlsafe(24)

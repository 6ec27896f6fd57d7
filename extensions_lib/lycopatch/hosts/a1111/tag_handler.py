"""What the WebUI calls for ``<lora:…>`` and ``<lyco:…>``: the boundary between its generation and this extension.

Registered under both names, so that one call brings the tags of both. Nothing may be raised into the WebUI from here:
it would make the picture without any network and tell nobody.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from lycopatch.engine.report import Issue, Report
from lycopatch.engine.request import TAG_KINDS, negative_prompt_issues, parse_prompt
from lycopatch.hosts.a1111 import host_api, messages
from lycopatch.hosts.a1111.active import ActiveNetworks
from lycopatch.hosts.a1111.infotext import LoraHashes
from lycopatch.hosts.a1111.settings import Settings
from lycopatch.hosts.a1111.takeover import STANDING_ASIDE
from lycopatch.hosts.a1111.usage import Usage


class TagHandler:
    """The WebUI's ``ExtraNetwork`` for our tags. ``check``: called first, to notice who else handles them."""

    name = "lora"

    def __init__(
        self,
        active: ActiveNetworks,
        settings: Settings,
        hashes: LoraHashes,
        usage: Usage,
        check: Callable[[], list[Issue]],
    ) -> None:
        self._active = active
        self._settings = settings
        self._hashes = hashes
        self._usage = usage
        self._check = check

    def activate(self, p: Any, params_list: Sequence[Any], *_: object, **__: object) -> None:
        """Make the model what the tags say. Called often: for each batch, for hires passes, with any ``p``."""
        try:
            if not params_list and getattr(p, "all_prompts", None) is None:
                self._active.rest()  # the WebUI encodes an empty prompt
                return
            report = self._activate(p, _find_tags(p, params_list))
            self._hashes.write(p, report)
            self._usage.count(p, report)
            if self._settings.show_messages:
                for line in messages.lines(report, unet_replacement=host_api.unet_replacement()):
                    host_api.comment(p, line)
        except Exception:
            host_api.report_bug("LycoPatch could not apply the networks of this prompt")
            host_api.comment(p, "LycoPatch could not apply the networks of this prompt; the console says why.")

    def deactivate(self, p: Any, *_: object, **__: object) -> None:
        """Nothing: what is active stays until the next ``activate``, which mostly wants the same."""

    def _activate(self, p: Any, tags: Mapping[str, Sequence[Any]]) -> Report:
        found = self._check()
        if any(issue.kind == STANDING_ASIDE for issue in found):
            return Report(issues=found)
        written = _written(tags)
        parsed = parse_prompt("".join([*written, *_added_by_setting(p, written)]))
        issues = [*found, *parsed.issues, *_lookalikes(p), *_without_effect(p)]
        return self._active.activate(p, parsed.requests, issues, tags)


def _find_tags(p: Any, params_list: Sequence[Any]) -> dict[str, list[Any]]:
    """Kind → tags of the prompt that is being activated, as the WebUI has them.

    WebUI 1.5 calls once per kind of tag, with the very list that it keeps; newer ones with copies of all of them.
    """
    both = [getattr(p, name, None) for name in ("extra_network_data", "hr_extra_network_data")]
    prompts: list[Mapping[str, Any]] = [data for data in both if isinstance(data, Mapping)]
    for data in prompts:
        if any(kept is params_list for kept in data.values()):
            return {kind: list(tags) for kind, tags in data.items() if kind in TAG_KINDS}
    kinds = {id(params): kind for data in prompts for kind, tags in data.items() for params in tags}
    found: dict[str, list[Any]] = {}
    for params in params_list:
        found.setdefault(kinds.get(id(params), TAG_KINDS[0]), []).append(params)
    return found


def _written(tags: Mapping[str, Sequence[Any]]) -> list[str]:
    """The tags as they stood in the prompt."""
    return [f"<{kind}:{':'.join(map(str, params.items))}>" for kind, several in tags.items() for params in several]


def _added_by_setting(p: Any, tags: Iterable[str]) -> list[str]:
    """The tag of the network chosen in the built-in's setting "Add network to prompt"; the prompts get it, too."""
    name = host_api.option("sd_lora", "None")
    if name in ("None", "", None) or any(tag.split(":")[1].rstrip(">") == name for tag in tags):
        return []
    tag = f"<lora:{name}:{host_api.option('extra_networks_default_multiplier', 1.0)}>"
    if getattr(p, "all_prompts", None):  # from which the pictures' parameters are written
        p.all_prompts = [text if tag in text else text + tag for text in p.all_prompts]
    return [tag]


def _lookalikes(p: Any) -> list[Issue]:
    """What was probably meant as a tag of ours: left in the prompt, or taken out of it like a tag of any other kind."""
    data = getattr(p, "extra_network_data", None)
    others = {kind: tags for kind, tags in data.items() if kind not in TAG_KINDS} if isinstance(data, Mapping) else {}
    return [issue for text in (*_texts(p, "prompts")[:1], *_written(others)) for issue in parse_prompt(text).issues]


def _without_effect(p: Any) -> list[Issue]:
    """Tags where the WebUI does not look for them."""
    issues = [issue for prompt in _texts(p, "negative_prompts")[:1] for issue in negative_prompt_issues(prompt)]
    first = getattr(p, "iteration", 0) * getattr(p, "batch_size", 1)
    batch = _texts(p, "all_prompts")[first : first + getattr(p, "batch_size", 1)]
    if len({tuple(request.tag for request in parse_prompt(prompt).requests) for prompt in set(batch)}) > 1:
        message = "All pictures of a batch get the networks of its first prompt; use batch count instead of batch size."
        issues.append(Issue("no effect", message))
    return issues


def _texts(p: Any, name: str) -> list[str]:
    return [text for text in getattr(p, name, None) or () if isinstance(text, str)]

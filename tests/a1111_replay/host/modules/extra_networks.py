"""Tags in prompts and who handles them: the registry, parsing, and the two ways of activating (1.5; 1.6 and newer)."""

from __future__ import annotations

import json
import os
import re
from collections import defaultdict
from typing import Any

from modules import _host, errors

extra_network_registry: dict[str, Any] = {}
extra_network_aliases: dict[str, Any] = {}


def initialize() -> None:
    extra_network_registry.clear()
    extra_network_aliases.clear()


def register_extra_network(extra_network: ExtraNetwork) -> None:
    extra_network_registry[extra_network.name] = extra_network


def register_extra_network_alias(extra_network: ExtraNetwork, alias: str) -> None:
    extra_network_aliases[alias] = extra_network


def register_default_extra_networks() -> None:
    register_extra_network(_Hypernet())


class ExtraNetworkParams:
    """``a:b=c`` → items ``[a, b=c]``, positional ``[a]``, named ``{b: c}``; ``a=b=c`` is positional."""

    def __init__(self, items: list | None = None) -> None:
        self.items = items or []
        self.positional: list = []
        self.named: dict[str, str] = {}
        for item in self.items:
            parts = item.split("=", 2) if isinstance(item, str) else [item]
            if len(parts) == 2:
                self.named[parts[0]] = parts[1]
            else:
                self.positional.append(item)

    def __eq__(self, other: Any) -> bool:
        return self.items == other.items

    __hash__ = None


class ExtraNetwork:
    def __init__(self, name: str) -> None:
        self.name = name

    def activate(self, p: Any, params_list: list[ExtraNetworkParams]) -> None:
        raise NotImplementedError

    def deactivate(self, p: Any) -> None:
        raise NotImplementedError


class _Hypernet(ExtraNetwork):
    """Stands for the handler that the WebUI itself registers."""

    def __init__(self) -> None:
        super().__init__("hypernet")

    def activate(self, p: Any, params_list: list[ExtraNetworkParams]) -> None: ...

    def deactivate(self, p: Any) -> None: ...


def _find(name: str) -> Any:
    return extra_network_registry.get(name) or extra_network_aliases.get(name)


def _attempt(task: str, call: Any, *args: Any) -> bool:
    """False when it raised, which is displayed and goes no further."""
    try:
        call(*args)
    except Exception as e:
        errors.display(e, task)
        return False
    return True


def _activate_the_others(p: Any, activated: list[Any]) -> None:
    """Everybody in the registry who was not (successfully) activated is called with nothing."""
    for name, network in extra_network_registry.items():
        if network not in activated:
            _attempt(f"activating extra network {name}", network.activate, p, [])


def _tell_scripts(p: Any, data: dict) -> None:
    if p.scripts is not None:
        p.scripts.after_extra_networks_activate(
            p, batch_number=p.iteration, prompts=p.prompts, seeds=p.seeds, subseeds=p.subseeds, extra_network_data=data
        )


if _host.at_least(6):

    def lookup_extra_networks(extra_network_data: dict) -> dict[Any, list[ExtraNetworkParams]]:
        """Handler → its tags: those of all its names together, in a list of their own."""
        found: dict[Any, list[ExtraNetworkParams]] = {}
        for name, args in list(extra_network_data.items()):
            network = _find(name)
            if network is not None:
                found.setdefault(network, []).extend(args)
        return found

    def activate(p: Any, extra_network_data: dict) -> None:
        activated = []
        for network, args in lookup_extra_networks(extra_network_data).items():
            if _attempt(f"activating extra network {network.name} with arguments {args}", network.activate, p, args):
                activated.append(network)
        _activate_the_others(p, activated)
        _tell_scripts(p, extra_network_data)

    def deactivate(p: Any, extra_network_data: dict) -> None:
        mentioned = lookup_extra_networks(extra_network_data)
        others = {name: network for name, network in extra_network_registry.items() if network not in mentioned}
        for network in mentioned:
            _attempt(f"deactivating extra network {network.name}", network.deactivate, p)
        for name, network in others.items():
            _attempt(f"deactivating unmentioned extra network {name}", network.deactivate, p)

    def get_user_metadata(filename: str | None, lister: Any = None) -> dict:
        """What the user wrote beside a file: ``<stem>.json``."""
        if filename is None:
            return {}
        beside = os.path.splitext(filename)[0] + ".json"
        try:
            if lister.exists(beside) if lister else os.path.exists(beside):
                with open(beside, encoding="utf8") as file:
                    return json.load(file)
        except Exception as e:
            errors.display(e, f"reading extra network user metadata from {beside}")
        return {}

else:

    def activate(p: Any, extra_network_data: dict) -> None:
        """Name by name, with the very list that lies in ``extra_network_data``."""
        activated = []
        for name, args in extra_network_data.items():
            network = _find(name)
            if network is None:
                continue
            if _attempt(f"activating extra network {name} with arguments {args}", network.activate, p, args):
                activated.append(network)
        _activate_the_others(p, activated)
        _tell_scripts(p, extra_network_data)

    def deactivate(p: Any, extra_network_data: dict) -> None:
        mentioned = [name for name in extra_network_data if name in extra_network_registry]
        for name in mentioned:
            _attempt(f"deactivating extra network {name}", extra_network_registry[name].deactivate, p)
        for name, network in extra_network_registry.items():
            if name not in mentioned:
                _attempt(f"deactivating unmentioned extra network {name}", network.deactivate, p)


re_extra_net = re.compile(r"<(\w+):([^>]+)>")


def parse_prompt(prompt: str) -> tuple[str, defaultdict[str, list[ExtraNetworkParams]]]:
    """The prompt without its tags, known or not, and tag name → parameters in order."""
    data: defaultdict[str, list[ExtraNetworkParams]] = defaultdict(list)
    for name, args in re_extra_net.findall(prompt):
        data[name].append(ExtraNetworkParams(args.split(":")))
    return re_extra_net.sub("", prompt), data


def parse_prompts(prompts: list[str]) -> tuple[list[str], Any]:
    """All prompts without their tags; the tags of the first one only."""
    parsed = [parse_prompt(prompt) for prompt in prompts]
    return [text for text, _ in parsed], parsed[0][1] if parsed else None

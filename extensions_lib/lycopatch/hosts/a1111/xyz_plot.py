"""Axes for the script "X/Y/Z plot": which network, and how strongly.

They rewrite the tags in the prompt of each cell. The network axis puts its network in the place of the first tag that
names one of the axis' networks, or adds a tag when there is none; "None" leaves such tags out. The weight axes then
change that tag alone; without a network axis they change every tag. It makes no difference which axis is X and which Y.
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from lycopatch.engine.catalog import Catalog
from lycopatch.engine.errors import AdapterError
from lycopatch.engine.request import TAG_KINDS, parse_prompt
from lycopatch.engine.tag import LARGEST_WEIGHT
from lycopatch.engine.wording import shown
from lycopatch.hosts.a1111 import host_api
from lycopatch.ui.spelling import spelling_of

if TYPE_CHECKING:
    from lycopatch.hosts.a1111.library import Library
    from lycopatch.hosts.a1111.settings import Settings

logger = logging.getLogger(__name__)

NOTHING = "None"
_PREFIX = "[LycoPatch] "
_TAG = re.compile(rf"<({'|'.join(TAG_KINDS)}):[^<>]+>")


@dataclass(frozen=True)
class Cell:
    """What the axes want of one picture; None: what the prompt says."""

    network: str | None = None
    networks: tuple[str, ...] = ()
    """All values of the network axis."""
    weight: float | None = None
    te: float | None = None
    unet: float | None = None
    new_weight: float = 1.0
    """Of a network that the prompt does not name."""


def rewrite(prompt: str, cell: Cell) -> str:
    """The prompt of a cell. Tags that can not be understood are left alone, for the message under the picture."""
    if cell.network is None:
        return _TAG.sub(lambda tag: _with_weights(tag[0], cell), prompt)
    names = {name.strip() for name in cell.networks}
    wanted: str | None = None if cell.network == NOTHING else cell.network

    def put(tag: re.Match[str]) -> str:
        nonlocal wanted
        requests = parse_prompt(tag[0]).requests
        if not requests or requests[0].name.strip() not in names:
            return tag[0]
        name, wanted = wanted, None
        return "" if name is None else _with_weights(tag[0], cell, name)

    rewritten = _TAG.sub(put, prompt)
    if wanted is None:
        return rewritten
    # In front, as a comment at the end of the prompt would swallow it, and without a blank: the text is as it was.
    return _with_weights(f"<{TAG_KINDS[0]}:{wanted}:{_number(cell.new_weight)}>", cell) + rewritten


def _with_weights(tag: str, cell: Cell, name: str | None = None) -> str:
    """A tag with the weights of the cell, and another name if one is given."""
    requests = parse_prompt(tag).requests
    if not requests:
        return tag
    request = requests[0]
    te = _chosen(cell.te, cell.weight, request.te_multiplier)
    unet = _chosen(cell.unet, cell.weight, request.unet_multiplier)
    kind, *arguments = tag[1:-1].split(":")
    parts = [kind, name or request.name, _number(te)]
    parts += [_number(unet)] if unet != te else []
    parts += [f"dyn={request.dyn_dim}"] if request.dyn_dim is not None else []
    return f"<{':'.join([*parts, *filter(_is_foreign, arguments[1:])])}>"


def _is_foreign(argument: str) -> bool:
    """Whether another extension may read it."""
    name, equals, _ = argument.partition("=")
    return bool(equals) and name.strip() not in ("te", "unet", "dyn")


def _chosen(*values: float | None) -> float:
    """The first that is given."""
    return next(value for value in values if value is not None)


def _number(value: float) -> str:
    """Without the dust of binary fractions: 0.3 where steps of 0.1 have added up to 0.30000000000000004."""
    return f"{value:.9g}"


def register_axes(library: Library, settings: Settings) -> Callable[[], None]:
    """Add the axes to the script, once; returns what takes them away. Call it before the script builds its controls."""
    script = host_api.xyz_plot()
    if script is None:
        logger.info("There is no X/Y/Z plot to add axes to.")
        return lambda: None
    axes = _axes(script.AxisOption, library, settings)
    labels = {axis.label for axis in axes}
    script.axis_options[:] = [option for option in script.axis_options if option.label not in labels] + axes

    def remove() -> None:
        script.axis_options[:] = [option for option in script.axis_options if option not in axes]

    return remove


def _axes(new: Callable[..., Any], library: Library, settings: Settings) -> list[Any]:
    def choices() -> list[str]:
        catalog, prefer_alias = library.catalog, settings.prefer_alias
        names = (spelling_of(file, catalog, prefer_alias=prefer_alias) for file in catalog.files if not file.error)
        return [NOTHING, *sorted(filter(None, names), key=str.casefold)]

    def weight_axis(label: str, field: str) -> Any:
        return new(
            _PREFIX + label,
            float,
            lambda p, value, _values: _apply(p, **{field: value}),
            format_value=lambda _p, _axis, value: f"{label}: {_number(value)}",
            confirm=lambda _p, values: _check_weights(values),
        )

    def put_network(p: Any, name: str, names: Sequence[str]) -> None:
        _apply(p, network=name, networks=tuple(names), new_weight=settings.usual_weight)

    network = new(
        _PREFIX + "Network",
        str,
        put_network,
        format_value=lambda _p, _axis, name: name,
        confirm=lambda _p, names: _check_names(names, library.catalog),
        choices=choices,
        cost=0.5,
    )
    weights = [("Weight", "weight"), ("TE weight", "te"), ("UNet weight", "unet")]
    return [network, *(weight_axis(label, field) for label, field in weights)]


def _apply(p: Any, **wanted: Any) -> None:
    """Rewrite the prompt of a cell for one axis more.

    All axes together start from the prompt as it was before the first of them, unless another script's axis has
    changed it in between.
    """
    before, after, cell = getattr(p, "lycopatch_axes", (None, None, Cell()))
    original = before if p.prompt == after else p.prompt
    cell = replace(cell, **wanted)
    changed = _each(original, cell)
    if getattr(p, "hr_prompt", "") == p.prompt:
        p.hr_prompt = changed
    p.prompt = changed
    p.lycopatch_axes = original, changed, cell


def _each(prompt: Any, cell: Cell) -> Any:
    """A prompt, or a list of them as programs give it."""
    return [rewrite(one, cell) for one in prompt] if isinstance(prompt, list) else rewrite(prompt, cell)


def _check_names(names: Sequence[str], catalog: Catalog) -> None:
    """Raise a sentence for a name that would bring no network."""
    for name in names:
        if name == NOTHING:
            continue
        if set(":<>") & set(name):
            raise RuntimeError(f"No tag can hold the name {shown(name)}; use the name of a network alone.")
        try:
            catalog.find(name)
        except AdapterError as error:
            raise RuntimeError(str(error)) from error


def _check_weights(values: Sequence[float]) -> None:
    for value in values:
        if not math.isfinite(value) or abs(value) > LARGEST_WEIGHT:
            raise RuntimeError(f"The weight {value} would spoil the picture; use numbers such as 0.8.")

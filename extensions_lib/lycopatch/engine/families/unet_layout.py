"""Where a U-Net's blocks stand, in original (ldm) and in diffusers names: one walk that yields both.

Source: the module trees of CompVis/Stability ``UNetModel`` and of diffusers ``UNet2DConditionModel``.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

Kind = Literal["conv", "resnet", "attention"]
Levels = tuple[tuple[int, ...], ...]


@dataclass(frozen=True, slots=True)
class Layout:
    """How deep the attention is at each position; 0 = a residual block alone.

    ``down`` and ``up``: per level, per residual block, the number of transformer blocks in the attention after it.
    ``mid``: the members of the middle in order, 0 for a residual block.
    """

    down: Levels
    mid: tuple[int, ...]
    up: Levels


@dataclass(frozen=True, slots=True)
class Unit:
    """A block at one position: its kind, both paths, its level (index into the channels) and attention depth."""

    kind: Kind
    ldm: str
    diffusers: str
    level: int
    depth: int = 0


def units(layout: Layout) -> Iterator[Unit]:
    """Yield every block position of ``layout`` in the order in which the data passes it."""
    last = len(layout.down) - 1
    yield Unit("conv", "input_blocks.0.0", "conv_in", 0)
    n = 0
    for i, depths in enumerate(layout.down):
        for j, depth in enumerate(depths):
            n += 1
            yield from _resnet_and_attention(f"input_blocks.{n}", f"down_blocks.{i}", i, j, depth)
        if i < last:
            n += 1
            yield Unit("conv", f"input_blocks.{n}.0.op", f"down_blocks.{i}.downsamplers.0.conv", i)
    yield from _middle(layout.mid, last)
    n = -1
    for i, depths in enumerate(layout.up):
        for j, depth in enumerate(depths):
            n += 1
            yield from _resnet_and_attention(f"output_blocks.{n}", f"up_blocks.{i}", last - i, j, depth)
        if i < len(layout.up) - 1:
            # The upsampler is the next free member of the level's last block: 2 after an attention, else 1.
            member = 2 if depths and depths[-1] else 1
            yield Unit("conv", f"output_blocks.{n}.{member}.conv", f"up_blocks.{i}.upsamplers.0.conv", last - i)


def _resnet_and_attention(ldm: str, diffusers: str, level: int, j: int, depth: int) -> Iterator[Unit]:
    yield Unit("resnet", f"{ldm}.0", f"{diffusers}.resnets.{j}", level)
    if depth:
        yield Unit("attention", f"{ldm}.1", f"{diffusers}.attentions.{j}", level, depth)


def _middle(mid: tuple[int, ...], level: int) -> Iterator[Unit]:
    resnets = attentions = 0
    for m, depth in enumerate(mid):
        if depth:
            yield Unit("attention", f"middle_block.{m}", f"mid_block.attentions.{attentions}", level, depth)
            attentions += 1
        else:
            yield Unit("resnet", f"middle_block.{m}", f"mid_block.resnets.{resnets}", level)
            resnets += 1


def read_layout(modules: Iterable[str], naming: str) -> Layout | None:
    """Infer the layout from the module paths of a live U-Net; None when its blocks are not numbered without gaps."""
    return _read_ldm(modules) if naming == "ldm" else _read_diffusers(modules)


def _depth(members: list[str]) -> int:
    """The depth that one member proves: block k of a transformer, or just that there is an attention."""
    return int(members[1]) + 1 if members[:1] == ["transformer_blocks"] and _numbered(members, 1) else 1


def _numbered(segments: list[str], *positions: int) -> bool:
    return all(at < len(segments) and segments[at].isdecimal() for at in positions)


def _read_ldm(modules: Iterable[str]) -> Layout | None:
    # section → n → member → depth; the middle counts as one block
    blocks: dict[str, dict[int, dict[int, int]]] = defaultdict(lambda: defaultdict(dict))
    samplers: set[tuple[str, int]] = set()
    for module in modules:
        section, *rest = module.split(".")
        if section == "middle_block":
            rest = ["0", *rest]
        if section not in ("input_blocks", "middle_block", "output_blocks") or not _numbered(rest, 0, 1):
            continue
        n, m, members = int(rest[0]), int(rest[1]), rest[2:] or ["conv_in"]
        block = blocks[section][n]
        if members[0] in ("op", "conv"):
            samplers.add((section, n))
            continue
        is_resnet = members[0] in ("in_layers", "emb_layers", "out_layers", "skip_connection", "conv_in")
        block[m] = max(block.get(m, 0), 0 if is_resnet else _depth(members))
    downs, ups, mid = blocks["input_blocks"], blocks["output_blocks"], blocks["middle_block"][0]
    if not (_gapless(downs) and _gapless(ups) and _gapless(mid)):
        return None
    path = [(downs[n].get(1, 0), ("input_blocks", n) in samplers) for n in range(1, len(downs))]
    back = [(ups[n].get(1, 0), ("output_blocks", n) in samplers) for n in range(len(ups))]
    middle = tuple(mid[m] for m in range(len(mid)))
    return Layout(_levels(path, own_block=True), middle, _levels(back, own_block=False))


def _levels(blocks: list[tuple[int, bool]], *, own_block: bool) -> Levels:
    """Cut numbered blocks into levels after each sampler, which is a block of its own on the way down only."""
    levels: list[list[int]] = [[]]
    for depth, sampler in blocks:
        if not (sampler and own_block):
            levels[-1].append(depth)
        if sampler:
            levels.append([])
    return tuple(tuple(level) for level in levels)


def _read_diffusers(modules: Iterable[str]) -> Layout | None:
    resnets: dict[tuple[str, int], set[int]] = defaultdict(set)
    attentions: dict[tuple[str, int], dict[int, int]] = defaultdict(dict)
    for module in modules:
        section, *rest = module.split(".")
        if section == "mid_block":
            rest = ["0", *rest]
        if section not in ("down_blocks", "mid_block", "up_blocks") or not _numbered(rest, 0, 2):
            continue
        if rest[1] == "resnets":
            resnets[section, int(rest[0])].add(int(rest[2]))
        elif rest[1] == "attentions":
            depths, j = attentions[section, int(rest[0])], int(rest[2])
            depths[j] = max(depths.get(j, 0), _depth(rest[3:]))
    levels: dict[str, list[tuple[int, ...]]] = {"down_blocks": [], "up_blocks": []}
    for section, found in levels.items():
        numbers = {i for name, i in resnets if name == section}
        if not _gapless(numbers) or not all(_gapless(resnets[section, i]) for i in numbers):
            return None
        for i in range(len(numbers)):
            found.append(tuple(attentions[section, i].get(j, 0) for j in range(len(resnets[section, i]))))
    between = attentions["mid_block", 0]
    mid: list[int] = []
    for j in range(len(resnets["mid_block", 0])):
        mid += [0, between[j]] if j in between else [0]
    return Layout(tuple(levels["down_blocks"]), tuple(mid), tuple(levels["up_blocks"]))


def _gapless(numbers: Iterable[int]) -> bool:
    found = set(numbers)
    return found == set(range(len(found)))

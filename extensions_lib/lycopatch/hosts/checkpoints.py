"""The files a pipeline was loaded from, so that originals can come from them instead of copies in RAM.

Live tensors and stored ones are paired layer by layer through the names that the families know, so it does not matter
whether the files are a pipeline's folder or one checkpoint in original names, nor which version of a package wrote
them. A pair is only a proposal: a tensor is taken from a file after its bytes proved equal to the live ones.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

from lycopatch.engine.errors import UnknownModel, UnreadableAdapter
from lycopatch.engine.families.binding import BoundModel, bind
from lycopatch.engine.families.layers import RowRange, Shape
from lycopatch.engine.originals import Checkpoint
from lycopatch.engine.reading import TensorFile, open_tensor_file

Source = Mapping[str, Path | str] | Path | str
"""A pipeline's folder, a single checkpoint file, or component → its file or folder."""

Stored = Mapping[str, tuple[TensorFile, str]]


class CheckpointFiles:
    """The open files of a pipeline. Raises UnreadableAdapter when one is damaged or there is none."""

    def __init__(self, source: Source, components: Iterable[str]) -> None:
        self._open = ExitStack()
        try:
            self._stored = self._read_headers(source, list(components))
            self._bound = bind({name: file.specs[key].shape for name, (file, key) in self._stored.items()})
        except UnknownModel as error:
            self.close()
            raise UnreadableAdapter(_first_path(source), error.reason + ".") from error
        except BaseException:
            self.close()
            raise

    def checkpoint(self, live: BoundModel, shapes: Mapping[str, Shape]) -> Checkpoint:
        """Which live tensor came from where. ``shapes``: the live tensors."""
        return Checkpoint(dict(_pairs(live, shapes, self._bound, self._stored)))

    def close(self) -> None:
        self._open.close()

    def _read_headers(self, source: Source, components: list[str]) -> Stored:
        stored: dict[str, tuple[TensorFile, str]] = {}
        for prefix, path in _paths(source, components):
            file = self._open.enter_context(open_tensor_file(path))
            for key in file.specs:
                # the first of several files with the same tensor: plain files come before variants
                stored.setdefault(prefix + key, (file, key))
        return stored


def _paths(source: Source, components: list[str]) -> list[tuple[str, Path]]:
    """(prefix for the names inside, file) for every file."""
    if isinstance(source, Mapping):
        unknown = source.keys() - set(components)
        if unknown:
            raise ValueError(f"no such component: {', '.join(sorted(unknown))}; there are {', '.join(components)}")
        return [(f"{name}.", file) for name, path in source.items() for file in _files(Path(path))]
    source = Path(source)
    if not source.is_dir():
        return [("", source)]
    below = [(f"{name}.", file) for name in components if (source / name).is_dir() for file in _files(source / name)]
    return below or [("", file) for file in _files(source)]


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    found = sorted(path.glob("*.safetensors"), key=lambda file: (file.name.count("."), file.name))
    if not found:
        raise UnreadableAdapter(path, "there is no .safetensors file in this folder.")
    return found


def _first_path(source: Source) -> Path:
    return Path(next(iter(source.values()))) if isinstance(source, Mapping) else Path(source)


def _pairs(
    live: BoundModel, shapes: Mapping[str, Shape], bound: BoundModel, stored: Stored
) -> Iterator[tuple[str, tuple[TensorFile, str]]]:
    by_path = {(layer.component, path): layer for layer in bound.layers for path in layer.paths}
    sizes = {name: file.specs[key].shape for name, (file, key) in stored.items()}
    for layer in live.layers:
        twin = next(
            (by_path[layer.component, path] for path in layer.paths if (layer.component, path) in by_path), None
        )
        if twin is None:
            continue
        for ours, theirs in ((layer.weight, twin.weight), (layer.bias, twin.bias)):
            name, other = _whole(ours, shapes), _whole(theirs, sizes)
            if name is not None and other is not None and shapes[name] == sizes[other]:
                yield name, stored[other]


def _whole(ranges: tuple[RowRange, ...], shapes: Mapping[str, Shape]) -> str | None:
    """The tensor that these rows are all of."""
    if len(ranges) != 1 or (ranges[0].start, ranges[0].stop) != (0, shapes[ranges[0].tensor][0]):
        return None
    return ranges[0].tensor

"""What the library's routes answer: each method is one answer, as data that is ready for JSON.

Networks are asked for by their ids, and looked up in the catalog each time: no path ever comes from the page.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from lycopatch.engine.catalog import Catalog
from lycopatch.engine.catalog_query import Memory, Query, Row, query
from lycopatch.engine.catalog_user import UserShelf
from lycopatch.engine.errors import AdapterError
from lycopatch.engine.patching import Progress
from lycopatch.engine.session import Session
from lycopatch.engine.wording import shown
from lycopatch.ui.answers import without_place
from lycopatch.ui.gallery import details, insertion, words
from lycopatch.ui.gallery.asked import Asked, Refused
from lycopatch.ui.gallery.cards import Loaded
from lycopatch.ui.gallery.dry_run import dry_run
from lycopatch.ui.gallery.insertion import Addition
from lycopatch.ui.gallery.lookup import Lookup
from lycopatch.ui.gallery.previews import NoPreview, OpenedPreview, opened_preview
from lycopatch.ui.gallery.reading import BackgroundReading
from lycopatch.ui.gallery.stack import edited, rows, stack
from lycopatch.ui.gallery.thumbnails import Thumbnails
from lycopatch.ui.sidecar import read_sidecar, write_sidecar
from lycopatch.ui.spelling import spelling_of


class GalleryService:
    """The library of one host. Thread-safe.

    ``loaded``: the model in use, asked with each question, so that it must answer at once. ``session``: of that model,
    which may keep one waiting; None, or an AdapterError, while there is no model that networks could act on.
    """

    def __init__(
        self,
        catalog: Callable[[], Catalog],
        shelf: UserShelf,
        reading: BackgroundReading,
        thumbnails: Thumbnails,
        *,
        loaded: Callable[[], Loaded | None] = lambda: None,
        session: Callable[[], Session | None] = lambda: None,
        allow_pickle: Callable[[], bool] = lambda: False,
        prefer_alias: Callable[[], bool] = lambda: False,
        usual_weight: Callable[[], float] = lambda: 1.0,
    ) -> None:
        self.thumbnails = thumbnails
        self._catalog = catalog
        self._shelf = shelf
        self._memory = Memory()
        self._reading = reading
        self._loaded = loaded
        self._session = session
        self._allow_pickle = allow_pickle
        self._prefer_alias = prefer_alias
        self._usual_weight = usual_weight
        self._lookup = Lookup(catalog, reading, loaded, prefer_alias)
        self._writing = threading.Lock()

    # --- the library ------------------------------------------------------------------------------------------------

    def networks(self, wanted: Query, prompt: str, *, facets: bool) -> dict[str, Any]:
        """A window of the networks that were asked for; those that ``prompt`` names are ``chosen``."""
        self._lookup.look_for_changes()
        loaded, version = self._loaded(), self._catalog().state.version
        family = self._lookup.family()
        found = self._lookup.ask(
            lambda connection: query(connection, wanted, family, facets=facets, memory=self._memory)
        )
        return {
            "version": version,
            "total": found.total,
            "found": found.found,
            "offset": wanted.offset,
            "rows": self._lookup.cards(found.rows, self._lookup.named_in(prompt)),
            "facets": found.facets,
            "scanning": self._lookup.scanning(),
            "problems": self._lookup.problems(),
            "loaded": {"family": loaded.family, "title": loaded.title} if loaded else None,
        }

    def refresh(self) -> dict[str, Any]:
        """Look at all folders again; what is new is read in the background."""
        self._catalog().refresh()
        self._reading.start()
        return {"scanning": self._lookup.scanning()}

    def scan(self) -> dict[str, Any]:
        """How far the reading is. Another ``version`` means that other answers may be other ones now."""
        return {**self._lookup.scanning(), "version": self._catalog().state.version}

    def set_favourite(self, identity: str, *, on: bool) -> dict[str, Any]:
        self._lookup.row(identity)
        try:
            self._shelf.set_favourite(identity, on)
        except sqlite3.Error as error:
            raise Refused(f"This could not be kept: {error}.", 500) from error
        return {"favourite": on}

    # --- one network ------------------------------------------------------------------------------------------------

    def details(self, identity: str) -> dict[str, Any]:
        """All there is to say about a network without reading its numbers."""
        row = self._lookup.row(identity)
        return details.details(
            self._lookup.cards([row])[0],
            self._lookup.file(row),
            session=self._model(),
            model=self._title(),
            allow_pickle=self._allow_pickle(),
            hashes=_hashes(row),
        )

    def influence(self, identity: str, progress: Progress) -> dict[str, Any]:
        """Where a network acts. Takes seconds; what ``progress`` raises ends it."""
        file = self._lookup.file(self._lookup.row(identity))
        try:
            return details.influence(
                file.path,
                session=self._model(),
                model=self._title(),
                allow_pickle=self._allow_pickle(),
                progress=progress,
            )
        except AdapterError as error:
            raise Refused(str(error)) from error

    def health(self, identity: str, progress: Progress) -> dict[str, Any]:
        """Whether a network's numbers can be used. Takes seconds; what ``progress`` raises ends it."""
        return details.health(
            self._lookup.file(self._lookup.row(identity)).path, allow_pickle=self._allow_pickle(), progress=progress
        )

    def write_words(self, identity: str, asked: Asked) -> dict[str, Any]:
        """Change the user's words about a network."""
        path = self._lookup.file(self._lookup.row(identity)).path
        with self._writing:
            try:
                kept = write_sidecar(path, words.changed(read_sidecar(path), asked))
            except OSError as error:
                raise Refused(
                    f"The words could not be written beside the network: {error.strerror or error}."
                ) from error
        self._catalog().read_again(path)
        return {"saved": True, "kept": kept and without_place(kept), "details": self.details(identity)}

    def preview(self, identity: str) -> AbstractContextManager[OpenedPreview]:
        """The open picture or video beside a network. Raises NoPreview, now or when it is entered."""
        row = self._lookup.row(identity)
        if row.preview is None:
            raise NoPreview("This network has no preview.")
        return opened_preview(Path(row.path), Path(row.preview))

    # --- prompts ----------------------------------------------------------------------------------------------------

    def toggle(self, identity: str, prompt: str, negative: str, undo: Addition | None) -> dict[str, Any]:
        """Both prompts with the network, or without it if the prompt names it. ``undo``: what was inserted before."""
        row = self._lookup.row(identity)
        file = self._lookup.file(row)

        def is_it(name: str) -> bool:
            found = self._lookup.means(name)
            return found is not None and found.path == file.path

        own = read_sidecar(file.path)
        name = spelling_of(file, self._catalog(), prefer_alias=self._prefer_alias())
        usual = insertion.addition(
            name or "", own.preferred_weight, own.activation_text, own.negative_text, self._usual_weight()
        )
        if insertion.named(prompt, is_it):
            changed = insertion.removed(prompt, negative, is_it, usual, undo)
        elif name is None:
            raise Refused(f"No tag can name {shown(file.stem)}; rename the file.")
        else:
            changed = insertion.added(prompt, negative, usual)
        inserted = changed.inserted
        return {
            "prompt": changed.prompt,
            "negative": changed.negative,
            "added": changed.added,
            "inserted": {"tag": inserted.tag, "words": inserted.words, "negative": inserted.negative},
        }

    def stack(self, prompt: str, negative: str) -> dict[str, Any]:
        """The networks of a prompt as rows."""
        return stack(prompt, negative, self._lookup.found_by_tag)

    def edit_stack(self, prompt: str, index: int, action: str, value: float | None) -> dict[str, Any]:
        """The prompt after a change of one row, and its rows then."""
        try:
            prompt = edited(prompt, index, action, value)
        except ValueError as error:
            raise Refused(str(error)) from error
        return {"prompt": prompt, "rows": rows(prompt, self._lookup.found_by_tag)}

    def dry_run(self, prompt: str, negative: str, progress: Progress) -> dict[str, Any]:
        """What generating would do with the networks of a prompt. What ``progress`` raises ends it."""
        return dry_run(
            prompt,
            negative,
            self._lookup.found_by_tag,
            session=self._model(),
            catalog=self._catalog(),
            model=self._title(),
            progress=progress,
            allow_pickle=self._allow_pickle(),
        )

    def _title(self) -> str | None:
        """Of the model in use."""
        loaded = self._loaded()
        return loaded.title if loaded else None

    def _model(self) -> Session | None:
        try:
            return self._session()
        except AdapterError:  # a model that networks can not act on is as good as none
            return None


def _hashes(row: Row) -> Mapping[str, str] | None:
    found = {"sha256": row.sha256, "autov3": row.autov3, "autov1": row.autov1}
    return {name: digits for name, digits in found.items() if digits} or None

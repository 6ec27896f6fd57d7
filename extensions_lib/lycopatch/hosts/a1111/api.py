"""HTTP routes: the built-in extension's two where it is off, and our own below ``/lycopatch/v1``.

Routes belong to an app, and "Reload UI" makes a new one: add them in every ``app_started``. No route answers with an
error of the server for a damaged file, and none of our own says where on the disk the folders are.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastapi import Depends, FastAPI, HTTPException, Query
from fastapi.security import HTTPBasic, HTTPBasicCredentials

from lycopatch.engine.description import describe
from lycopatch.engine.report import Issue, TagReport
from lycopatch.engine.wording import printable
from lycopatch.hosts.a1111.api_models import (
    LastReport,
    Network,
    NetworkDetails,
    NetworkPage,
    TagResult,
    Trouble,
)
from lycopatch.ui.answers import as_json, without_place
from lycopatch.ui.networks import MOST_ROWS, ORDERS, NetworkRow, Networks
from lycopatch.ui.report_view import Activation


@dataclass(frozen=True)
class Api:
    """What the routes answer, each method one route."""

    networks: Networks
    last_activation: Callable[[], Activation | None]
    allow_pickle: Callable[[], bool]
    refresh_library: Callable[[], object]

    def loras(self) -> list[dict[str, Any]]:
        """The networks as the built-in extension lists them, absolute paths included."""
        return [
            {
                "name": printable(row.name),
                "alias": printable(row.file.alias or row.name),
                "path": printable(str(row.file.path)),
                "metadata": _as_the_webui_reads(row.file.metadata),
            }
            for row in self.networks.rows()
        ]

    def refresh(self) -> None:
        """Look at the folders again."""
        self.refresh_library()

    def page(
        self,
        search: str = Query("", max_length=500, description="Words that all have to occur."),
        sort: str = Query("name", description="One of: " + ", ".join(ORDERS) + "."),
        offset: int = Query(0, ge=0),
        limit: int = Query(100, ge=1, le=MOST_ROWS),
    ) -> NetworkPage:
        """Networks, searched, sorted and in pages."""
        if sort not in ORDERS:
            raise HTTPException(422, f"There is no order of that name; sort by one of: {', '.join(ORDERS)}.")
        found = self.networks.page(search, sort, offset, limit)
        return NetworkPage(
            total=found.found,
            offset=offset,
            networks=[Network(**_network(row)) for row in found.rows],
            problems=[without_place(issue) for issue in self.networks.catalog().problems[:MOST_ROWS]],
        )

    def network(
        self,
        id: str,
        details: bool = Query(False, description="Read the file's header and say what it holds."),
        check: bool = Query(False, description="With details: read all of it for its health and its hashes."),
    ) -> NetworkDetails:
        """One network."""
        row = self.networks.by_id(id)
        if row is None:
            raise HTTPException(404, "There is no network with this id; it may have been renamed or removed.")
        known = None
        if details:
            known = describe(row.file.path, allow_pickle=self.allow_pickle(), quick=not check)
            known = as_json({**known, "path": _below_its_folder(row)})
        return NetworkDetails(**_network(row), details=known)

    def report(self) -> LastReport | None:
        """What the tags of the last picture did; null before the first one."""
        last = self.last_activation()
        if last is None:
            return None
        report = last.report
        return LastReport(
            when=last.when,
            model=printable(last.model),
            seconds=report.seconds,
            tensors_written=report.tensors_written,
            tensors_restored=report.tensors_restored,
            tensors_active=report.tensors_active,
            bytes_held=last.bytes_held,
            tags=[_tag(tag) for tag in report.tags],
            issues=_troubles(report.issues),
        )


def add_routes(app: FastAPI, api: Api, *, api_auth: str | None = None) -> None:
    """Add the routes whose paths are free to a new app; the built-in extension's own stay where it is on.

    ``api_auth`` is the WebUI's ``--api-auth``: ``user:password,user2:password2``.
    """
    guard = [Depends(_guard(api_auth))] if api_auth else []
    taken = {getattr(route, "path", None) for route in app.routes}
    routes: Sequence[tuple[str, str, Callable[..., object], object, str]] = (
        ("GET", "/sdapi/v1/loras", api.loras, None, "All networks, as the built-in extension lists them"),
        ("POST", "/sdapi/v1/refresh-loras", api.refresh, None, "Look at the folders again"),
        ("GET", "/lycopatch/v1/networks", api.page, NetworkPage, "Search the networks"),
        ("GET", "/lycopatch/v1/networks/{id}", api.network, NetworkDetails, "One network"),
        ("GET", "/lycopatch/v1/report", api.report, LastReport | None, "What the tags of the last picture did"),
    )
    for method, path, answer, model, summary in routes:
        if path not in taken:
            app.add_api_route(
                path,
                answer,
                methods=[method],
                response_model=model,
                dependencies=guard,
                summary=summary,
                tags=["LycoPatch"],
            )
    app.openapi_schema = None  # somebody may have looked at the description before


def _guard(api_auth: str) -> Callable[[HTTPBasicCredentials], None]:
    """A dependency that asks for a user and password of ``--api-auth``. With none that can be read, nobody enters."""
    pairs = (pair.partition(":") for pair in api_auth.split(","))
    known = [(user.encode(), password.encode()) for user, colon, password in pairs if colon]

    def check(credentials: HTTPBasicCredentials = Depends(HTTPBasic())) -> None:  # noqa: B008 - how FastAPI asks
        user, password = credentials.username.encode(), credentials.password.encode()
        fits = [secrets.compare_digest(user, name) & secrets.compare_digest(password, word) for name, word in known]
        if not any(fits):
            raise HTTPException(401, "Incorrect username or password", headers={"WWW-Authenticate": "Basic"})

    return check


def _network(row: NetworkRow) -> dict[str, Any]:
    file = row.file
    return as_json(
        {
            "id": row.id,
            "name": row.name,
            "file": _below_its_folder(row),
            "alias": file.alias,
            "trigger_words": list(row.trigger_words),
            "base_model": row.base_model or None,
            "algorithm": row.algorithm or None,
            "size": file.fingerprint.size,
            "modified": row.modified,
            "error": file.error,
        }
    )


def _below_its_folder(row: NetworkRow) -> str:
    return row.file.relative + row.file.path.suffix


def _tag(tag: TagReport) -> TagResult:
    return TagResult(
        tag=printable(tag.tag),
        name=printable(tag.name),
        file=printable(Path(tag.path).name) if tag.path else None,
        te_multiplier=tag.te_multiplier,
        unet_multiplier=tag.unet_multiplier,
        failed=tag.failed,
        layers_applied=tag.layers_applied,
        layers_total=tag.layers_total,
        keys={outcome: len(keys) for outcome, keys in tag.keys.items()},
        issues=_troubles(tag.issues),
    )


def _troubles(issues: Sequence[Issue]) -> list[Trouble]:
    return [
        Trouble(
            kind=issue.kind,
            message=printable(issue.message),
            tag=printable(issue.tag) if issue.tag else None,
            layer=printable(issue.layer) if issue.layer else None,
        )
        for issue in issues[:MOST_ROWS]
    ]


def _as_the_webui_reads(metadata: Mapping[str, str]) -> dict[str, Any]:
    """Metadata as the WebUI keeps them: texts that are JSON objects become objects."""
    read: dict[str, Any] = {}
    for key, value in metadata.items():
        parsed: Any = value
        if value.startswith("{"):
            try:
                parsed = json.loads(value)
            except (ValueError, RecursionError):
                parsed = value
        read[printable(key)] = as_json(parsed)
    return read

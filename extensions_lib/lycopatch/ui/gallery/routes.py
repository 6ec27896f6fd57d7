"""The library's HTTP routes. They belong to one page, which knows the token that each of them asks for.

Every answer is JSON, ``{"error": sentence}`` where there is none, but for pictures and videos. Nothing that is asked
is a path: networks have ids. All work is done in threads, so that the page's server stays awake.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import threading
from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route

from lycopatch.engine.patching import Progress
from lycopatch.ui.answers import as_json
from lycopatch.ui.gallery.asked import Asked, Refused, parsed_json
from lycopatch.ui.gallery.cards import PREFIX
from lycopatch.ui.gallery.file_answers import Open, preview_answer, thumbnail_answer
from lycopatch.ui.gallery.lookup import unknown_network
from lycopatch.ui.gallery.previews import NoPreview
from lycopatch.ui.gallery.questions import ID, Answer, questions
from lycopatch.ui.gallery.service import GalleryService

TOKEN_HEADER = "X-LycoPatch-Token"
MOST_BYTES = 256 << 10
"""Of a question."""

_LOOK_SECONDS = 0.3

_log = logging.getLogger(__name__)


class _Gone(Exception):
    """Nobody waits for the answer any more."""


def add_gallery_routes(app: FastAPI, service: GalleryService, token: str) -> None:
    """Put the routes below ``PREFIX`` into an app, in place of those of an earlier page. ``token``: not empty."""
    if not token:
        raise ValueError("the routes need a token")
    routes = app.router.routes
    routes[:] = [route for route in routes if getattr(route, "path", None) != PREFIX]
    # In front: some pages answer whatever path there is.
    routes.insert(0, Mount(PREFIX, app=gallery_app(service, token), name="lycopatch"))


def gallery_app(service: GalleryService, token: str) -> Starlette:
    """The routes as an application of their own."""
    routes = [
        Route(path, _endpoint(answer, token), methods=[method], name=f"{method} {path}")
        for method, path, answer in questions(service)
    ]
    for path, answer in (("/thumb/{id}", _thumbnail), ("/preview/{id}", _preview)):
        routes.append(Route(path, _file_endpoint(answer, service, token), methods=["GET"], name=path))
    app = Starlette(routes=routes, exception_handlers={HTTPException: _no_such_route})
    app.router.redirect_slashes = False
    return app


def _endpoint(answer: Answer, token: str) -> Callable[[Request], Awaitable[Response]]:
    async def endpoint(request: Request) -> Response:
        _check_token(request.headers.get(TOKEN_HEADER), token)
        given = await _given(request)
        gone = asyncio.create_task(_wait_until_gone(request, stop := threading.Event()))
        try:
            return await run_in_threadpool(made, given, _id_of(request), _stopping(stop))
        finally:
            gone.cancel()

    def made(given: Any, identity: str, progress: Progress) -> Response:
        return _json(answer(given, identity, progress))

    return _answered(endpoint)


def _file_endpoint(
    answer: Callable[[GalleryService, str, Request], Response], service: GalleryService, token: str
) -> Callable[[Request], Awaitable[Response]]:
    async def endpoint(request: Request) -> Response:
        query = request.query_params
        _check_token(request.headers.get(TOKEN_HEADER) or query.get("token"), token)
        Asked(query, "v", "token", of="the address")
        return await run_in_threadpool(answer, service, _id_of(request), request)

    return _answered(endpoint)


def _thumbnail(service: GalleryService, identity: str, request: Request) -> Response:
    stated = "v" in request.query_params
    return thumbnail_answer(_opener(service, identity), service.thumbnails, request.headers, stated=stated)


def _preview(service: GalleryService, identity: str, request: Request) -> Response:
    return preview_answer(_opener(service, identity), request.headers)


def _opener(service: GalleryService, identity: str) -> Open:
    return lambda: service.preview(identity)


def _answered(endpoint: Callable[[Request], Awaitable[Response]]) -> Callable[[Request], Awaitable[Response]]:
    """The endpoint with a sentence as the answer where it has none."""

    async def answered(request: Request) -> Response:
        try:
            return await endpoint(request)
        except Refused as refused:
            return _error(str(refused), refused.status)
        except NoPreview as reason:
            return _error(str(reason), 404)
        except (_Gone, ClientDisconnect):
            return _error("The question was taken back.", 499)
        except Exception:
            _log.exception("LycoPatch could not answer %s %s", request.method, request.url.path)
            return _error(
                "This could not be answered because of an error in LycoPatch; the console has the details.", 500
            )

    return answered


def _check_token(given: str | None, token: str) -> None:
    if not secrets.compare_digest((given or "").encode("utf-8", "replace"), token.encode()):
        raise Refused("This page is no longer known here, perhaps after a restart; reload it.", 403)


def _id_of(request: Request) -> str:
    """The id in the address; empty where the address has none."""
    identity = request.path_params.get("id", "")
    if identity and not ID.fullmatch(identity):
        raise unknown_network()
    return identity


async def _given(request: Request) -> Any:
    """The fields of the question: those of the address, or the JSON of the body."""
    if request.method != "POST":
        return request.query_params
    if request.query_params:
        raise Refused("A question of this kind has nothing in its address.")
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":  # which pages of others can not send without being asked whether they may
        raise Refused("The question must be JSON (Content-Type: application/json).", 415)
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > MOST_BYTES:
            raise Refused(f"The question has more than {MOST_BYTES >> 10} KB.", 413)
    return parsed_json(bytes(body)) if body else {}


async def _wait_until_gone(request: Request, stop: threading.Event) -> None:
    while not await request.is_disconnected():
        await asyncio.sleep(_LOOK_SECONDS)
    stop.set()


def _stopping(stop: threading.Event) -> Progress:
    """To be called during long work: raises when nobody waits for it any more."""

    def progress(_done: int, _total: int) -> None:
        if stop.is_set():
            raise _Gone

    return progress


def _no_such_route(_request: Request, error: Exception) -> Response:
    status = getattr(error, "status_code", 404)
    return _error(
        "This can not be asked in this way." if status == 405 else "There is nothing at this address.", status
    )


def _error(sentence: str, status: int) -> Response:
    return _json({"error": sentence}, status)


def _json(answer: Any, status: int = 200) -> Response:
    headers = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
    return JSONResponse(as_json(answer), status, headers=headers)

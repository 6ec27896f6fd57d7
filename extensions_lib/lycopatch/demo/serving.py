"""Serve a gradio page on this machine only, with nothing asked of the network."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.themes import Default

import lycopatch

HOST = "127.0.0.1"
AddRoutes = Callable[[Any], object]
"""Called with the app of the page."""

_TRIES = 20
_SYSTEM_FONTS = ("system-ui", "sans-serif")
_SYSTEM_MONO = ("ui-monospace", "monospace")


def serve(page: gr.Blocks, port: int, add_routes: AddRoutes) -> None:
    """Show the page on 127.0.0.1 until Ctrl+C. Another port is taken, and said, when this one is in use; 0 is any."""
    free = free_port(port)
    if port not in (0, free):
        print(f"Port {port} is in use here, so another one was taken.", flush=True)
    launch(page, free, add_routes)
    print(f"The page is at http://{HOST}:{free} (Ctrl+C ends it)", flush=True)
    try:
        with contextlib.suppress(KeyboardInterrupt):
            while page.is_running:
                time.sleep(0.5)
    finally:
        page.close(verbose=False)


def launch(page: gr.Blocks, port: int, add_routes: AddRoutes) -> None:
    """Start to serve in a thread of its own, with our own routes in the page's app.

    Raises OSError when the port is in use.
    """
    _reach_this_machine_directly()
    page.queue(default_concurrency_limit=1, api_open=False)
    app, _, _ = page.launch(
        server_name=HOST,
        server_port=port,
        prevent_thread_lock=True,
        quiet=True,
        show_error=True,
        share=False,
        ssr_mode=False,
        mcp_server=False,
        enable_monitoring=False,
        footer_links=["settings"],  # where one chooses between dark and light
        theme=Default(font=_SYSTEM_FONTS, font_mono=_SYSTEM_MONO),  # gradio's own may come from the network
        css="\n".join([_beside("page.css"), *(_read(file) for file in _of_the_extension(".", "style.css"))]),
        head="".join(f"<script>{script}</script>" for script in [_beside("page.js"), *_scripts()]),
    )
    add_routes(app)


def free_port(port: int) -> int:
    """This port or the next one that nobody listens on; any when ``port`` is 0. Raises OSError when there is none."""
    for candidate in range(port, min(port + _TRIES, 65536)) if port else (0,):
        with contextlib.suppress(OSError), socket.socket() as probe:
            if os.name != "nt":  # there it would share the port with whoever has it
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((HOST, candidate))
            return int(probe.getsockname()[1])
    raise ValueError(f"The ports from {port} to {port + _TRIES - 1} are all in use; name another with --port.")


def _reach_this_machine_directly() -> None:
    """gradio asks its own page for an answer, which a proxy could not give."""
    for name in ("no_proxy", "NO_PROXY"):
        os.environ[name] = ",".join(filter(None, (os.environ.get(name), HOST)))


def _beside(name: str) -> str:
    return _read(Path(__file__).parent / name)


def _read(file: Path) -> str:
    return file.read_text(encoding="utf-8")


def _scripts() -> list[str]:
    """The extension's scripts, in the order in which the WebUI loads them."""
    return [_read(file) for file in sorted(_of_the_extension("javascript", "*.js"))]


def _of_the_extension(folder: str, pattern: str) -> Iterable[Path]:
    """Files of the repository; none when the package was installed without the extension around it."""
    root = Path(lycopatch.__file__).resolve().parents[2]
    return (root / folder).glob(pattern) if (root / "scripts" / "lycopatch.py").is_file() else ()

"""A WebUI as a process: started, spoken to over HTTP, and stopped whatever happens."""

from __future__ import annotations

import base64
import io
import json
import os
import re
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from webui.installation import Installation

PROMPT = "a photo of a cat"
START_LIMIT = 300.0
ANSWER_LIMIT = 600.0

_LOUD = re.compile(r"^\*\*\*|^\s*Traceback|LycoPatch (could not|needs|is installed twice)")


class Refused(Exception):
    """The WebUI answered with an error. ``status``: of HTTP."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(f"{status}: {text[:2000]}")
        self.status = status


@dataclass(frozen=True)
class Picture:
    """What one generation gave. ``seconds``: as a client waited for it."""

    pixels: bytes
    infotext: str
    messages: str
    seconds: float

    def hashes(self) -> str | None:
        """The value of "Lora hashes", if the parameters have it."""
        _, found, rest = self.infotext.rpartition('Lora hashes: "')
        return rest.partition('"')[0] if found else None

    def distance(self, other: Picture) -> float:
        """The mean difference of two bytes that stand for the same place: 0 … 255."""
        return sum(abs(a - b) for a, b in zip(self.pixels, other.pixels, strict=True)) / len(self.pixels)


class WebUI:
    """A running WebUI. ``with WebUI(…) as webui``; leaving ends its whole process group."""

    def __init__(self, installation: Installation, log: Path, *more: str) -> None:
        self.installation = installation
        self.log_file = log
        self.port = _free_port()
        self.address = f"http://127.0.0.1:{self.port}"
        self._more = more
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> WebUI:
        environment = {
            name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "COMMANDLINE_ARGS")
        }
        environment |= {"SD_WEBUI_RESTARTING": "1", "PYTHONUNBUFFERED": "1", "GRADIO_ANALYTICS_ENABLED": "False"}
        environment |= {"NO_PROXY": "127.0.0.1,localhost", "no_proxy": "127.0.0.1,localhost"}
        command = self.installation.command(self.port, *self._more)
        with self.log_file.open("wb") as log:
            self._process = subprocess.Popen(
                command,
                cwd=self.installation.folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            self.wait_for_start(1)
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        if self._process is None:
            return
        for number in (signal.SIGTERM, signal.SIGKILL):
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(20)
        self._process = None

    def wait_for_start(self, number: int) -> None:
        """Until the probe says that the WebUI has started that many times: "Reload UI" is a start, too."""
        end = time.monotonic() + START_LIMIT
        while time.monotonic() < end:
            assert self._process is not None
            if self._process.poll() is not None:
                raise AssertionError(f"The WebUI ended with {self._process.returncode}:\n{self.log()[-4000:]}")
            # not earlier: a request while the WebUI still adds its routes makes its start fail
            if self.log().count("Startup time:") >= number:
                with suppress(OSError, Refused, ValueError):
                    if self.get("/probe/state", limit=20)["starts"] >= number:
                        return
            time.sleep(0.5)
        raise AssertionError(f"The WebUI did not start within {START_LIMIT:.0f} s:\n{self.log()[-4000:]}")

    def reload(self) -> None:
        """What the button "Reload UI" does."""
        starts = self.state()["starts"]
        self.post("/probe/reload")
        self.wait_for_start(starts + 1)

    # --- speaking to it

    def get(self, path: str, *, limit: float = ANSWER_LIMIT, **query: object) -> Any:
        return json.loads(self.get_bytes(path, limit=limit, **query))

    def get_bytes(self, path: str, *, limit: float = ANSWER_LIMIT, **query: object) -> bytes:
        question = f"?{urllib.parse.urlencode(query)}" if query else ""
        return self._ask(urllib.request.Request(self.address + path + question), limit)

    def post(self, path: str, body: object = None) -> Any:
        data = json.dumps({} if body is None else body).encode()
        request = urllib.request.Request(self.address + path, data, {"Content-Type": "application/json"})
        return json.loads(self._ask(request))

    def set(self, **options: object) -> None:
        """Save settings."""
        self.post("/sdapi/v1/options", options)

    def state(self) -> dict[str, Any]:
        """What the probe sees in the process."""
        return self.get("/probe/state")

    def weights(self) -> dict[str, str]:
        """Name in the checkpoint → digest, of all parameters of U-Net and text encoder."""
        return self.get("/probe/weights")

    def generate(self, prompt: str, **more: object) -> Picture:
        """One small picture. The same arguments give the same picture."""
        request = {
            "prompt": prompt, "seed": 1, "steps": 2, "width": 64, "height": 64, "cfg_scale": 7,
            "sampler_name": "Euler a", **more,
        }  # fmt: skip
        started = time.monotonic()
        answer = self.post("/sdapi/v1/txt2img", request)
        seconds = time.monotonic() - started
        with Image.open(io.BytesIO(base64.b64decode(answer["images"][0]))) as image:
            pixels = image.convert("RGB").tobytes()
        infotext = json.loads(answer["info"])["infotexts"][0]
        return Picture(pixels, infotext, self.state()["messages"], seconds)

    # --- looking at it

    def log(self) -> str:
        return self.log_file.read_text(encoding="utf-8", errors="replace")

    def errors_of_ours(self) -> Sequence[str]:
        """What went to the log as an error and names this extension."""
        lines = self.log().splitlines()
        loud = [index for index, line in enumerate(lines) if _LOUD.search(line)]
        reports = ("\n".join(lines[index : index + 60]) for index in loud)
        return [report for report in reports if "lycopatch" in report.lower()]

    def memory(self) -> int:
        """The most memory it ever had, in bytes; 0 where nothing tells."""
        assert self._process is not None
        try:
            status = Path(f"/proc/{self._process.pid}/status").read_text()
        except OSError:
            return 0
        return next((int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM")), 0)

    def _ask(self, request: urllib.request.Request, limit: float = ANSWER_LIMIT) -> bytes:
        try:
            with _opener.open(request, timeout=limit) as answer:
                return answer.read()
        except urllib.error.HTTPError as error:
            raise Refused(error.code, error.read().decode("utf-8", "replace")) from None


def timings(names: Sequence[str], pictures: Sequence[Picture]) -> str:
    return ", ".join(f"{name} {picture.seconds:.1f} s" for name, picture in zip(names, pictures, strict=True))


_opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]

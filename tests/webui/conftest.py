"""One WebUI at a time: each needs gigabytes of memory."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from webui.installation import Installation, Unusable, find_installation
from webui.made_networks import TAGS, write_networks
from webui.process import PROMPT, Picture, WebUI, timings

_NUMBERS = pytest.StashKey[list[str]]()
Note = Callable[[str], None]
Start = Callable[..., Any]
RightWeights = Mapping[str, Mapping[str, Mapping[str, str]]]
"""Name of the checkpoint → tags → weight → digest."""


@dataclass(frozen=True)
class Reference:
    """The same WebUI without this extension. ``pictures``: by the tag in the prompt."""

    pictures: Mapping[str, Picture]
    device: str
    dtypes: Mapping[str, str]
    weights: Mapping[str, str]


@pytest.fixture(scope="session")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Installation:
    data = tmp_path_factory.mktemp("webui_data")
    try:
        found = find_installation(data)
    except Unusable as reason:
        pytest.skip(str(reason))
    write_networks(found.networks, data / "models" / "LyCORIS")
    return found


@pytest.fixture(scope="session")
def note(request: pytest.FixtureRequest) -> Note:
    """Add a line to the numbers at the end of the run."""
    return request.config.stash.setdefault(_NUMBERS, []).append


@pytest.fixture(scope="session")
def start(installation: Installation, tmp_path_factory: pytest.TempPathFactory, note: Note) -> Start:
    """``with start("name", "--flag", ours=True, setting=value) as webui``"""
    logs = tmp_path_factory.mktemp("webui_logs")

    @contextmanager
    def started(name: str, *more: str, ours: bool = True, **settings: object) -> Iterator[WebUI]:
        installation.prepare(ours=ours, settings=settings)
        with WebUI(installation, logs / f"{name}.log", *more) as webui:
            yield webui
            note(f"{name}: at most {webui.memory() / 2**30:.1f} GiB of memory")

    return started


@pytest.fixture(scope="session")
def reference(start: Start, note: Note) -> Reference:
    with start("without us", ours=False) as webui:
        pristine, dtypes, device = webui.weights(), webui.get("/probe/dtypes"), webui.state()["device"]
        prompts = ("", "", "<lora:ink:1>", "<lora:ink:1>", "<lora:ink:0.5>", "")
        pictures = [webui.generate(f"{PROMPT}{tag}") for tag in prompts]
        names = ("first", "plain", "ink at 1", "same again", "ink at 0.5", "without again")
        note("built-in alone: " + timings(names, pictures))
    return Reference(dict(zip(prompts, pictures, strict=True)), device, dtypes, pristine)


@pytest.fixture(scope="session")
def right_weights(installation: Installation, reference: Reference) -> RightWeights:
    """What every weight shall be, by another way than the WebUI's."""
    first, second = installation.checkpoints
    task = {
        "networks": [str(installation.networks), str(installation.data / "models" / "LyCORIS")],
        "checkpoints": {str(first): ["", *TAGS], str(second): ["", TAGS[0]]},
        "device": reference.device,
        "dtypes": reference.dtypes,
    }
    script = Path(__file__).with_name("expected_weights.py")
    child = subprocess.run(
        [installation.python, str(script)], input=json.dumps(task), capture_output=True, text=True, timeout=600
    )
    assert child.returncode == 0, child.stderr
    return {Path(file).name: digests for file, digests in json.loads(child.stdout).items()}


@dataclass(frozen=True)
class Model:
    """A checkpoint in a running WebUI. ``weights``: tags → weight → digest, as they shall be."""

    webui: WebUI
    name: str
    weights: Mapping[str, Mapping[str, str]]

    @property
    def chosen(self) -> dict[str, str]:
        """The setting that chooses it."""
        return {"sd_model_checkpoint": self.name}

    @property
    def chosen_at_once(self) -> dict[str, object]:
        """Arguments of a generation that chooses it, and stays with it."""
        return {"override_settings": self.chosen, "override_settings_restore_afterwards": False}

    def holds(self, tags: str) -> None:
        """Assert that the WebUI's model is this checkpoint with these networks, in every weight."""
        live, wanted = self.webui.weights(), self.weights[tags]
        assert live.keys() == wanted.keys()
        wrong = [name for name, digest in live.items() if digest != wanted[name]]
        pristine = sum(live[name] == self.weights[""][name] for name in wrong)
        assert not wrong, f"{len(wrong)} of {len(live)} weights are wrong ({pristine} have no network): {wrong[:5]}"


@pytest.fixture
def as_it_was(webui: WebUI) -> Iterator[None]:
    """Make sure that a test which fails half way costs no other test."""
    yield
    webui.post("/probe/watch", {"names": []})
    webui.post("/probe/fail", {"call": 0})
    first = webui.installation.checkpoints[0].name
    if webui.state()["checkpoint"] != first:
        webui.set(sd_model_checkpoint=first)
    if not webui.get("/sdapi/v1/options")["lycopatch_enabled"]:
        webui.set(lycopatch_enabled=True)


@pytest.fixture
def first(webui: WebUI, right_weights: RightWeights) -> Model:
    return _model(webui, right_weights, 0)


@pytest.fixture
def second(webui: WebUI, right_weights: RightWeights) -> Model:
    return _model(webui, right_weights, 1)


def _model(webui: WebUI, right_weights: RightWeights, number: int) -> Model:
    name = webui.installation.checkpoints[number].name
    return Model(webui, name, right_weights[name])


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    report = yield
    webui = getattr(item, "funcargs", {}).get("webui")
    if report.failed and isinstance(webui, WebUI):
        report.sections.append(("the WebUI's log", webui.log()[-6000:]))
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    lines = config.stash.get(_NUMBERS, [])
    if lines:
        terminalreporter.section("measured in the WebUI")
    for line in lines:
        terminalreporter.write_line(line)

"""A stand-in for gradio: remembers what was built and which handlers were attached; unknown arguments are errors.

``install()`` returns the module. What it accepts is what gradio 3.32, 3.41 and 4.40 (as Forge wraps it) have in common.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

COMMON = set(
    "value label info show_label container scale min_width visible interactive elem_id elem_classes variant every "
    "render".split()
)
OWN = {
    "Textbox": "lines max_lines placeholder type text_align",
    "TextArea": "lines max_lines placeholder",
    "Number": "precision minimum maximum step",
    "Slider": "minimum maximum step randomize",
    "Dropdown": "choices multiselect type max_choices allow_custom_value filterable",
    "Radio": "choices type",
    "CheckboxGroup": "choices type",
    "Button": "size icon",
    "Dataframe": "headers datatype row_count col_count type max_rows wrap overflow_row_behaviour max_cols",
    "Image": "type source tool image_mode height width",
    "Gallery": "columns preview object_fit height",
    "Blocks": "analytics_enabled css title theme mode",
    "Tab": "id",
    "TabItem": "id",
    "Tabs": "selected",
    "Accordion": "open",
    "Row": "equal_height",
    "File": "file_count file_types type",
}
COMPONENTS = (
    "Textbox TextArea Number Checkbox CheckboxGroup Slider Dropdown Radio Button HTML Markdown State JSON".split()
)
COMPONENTS += "Dataframe Image Gallery File Label Code".split()
LAYOUTS = "Blocks Row Column Group Box Tab TabItem Tabs Accordion".split()
EVENTS = "click change input select submit blur focus release upload clear load".split()


@dataclass
class Event:
    """One handler: ``trigger`` of ``source`` calls ``fn`` with the values of ``inputs``."""

    source: Any
    trigger: str
    fn: Callable[..., Any] | None
    inputs: list[Any]
    outputs: list[Any]
    after: Event | None = None
    options: dict[str, Any] = field(default_factory=dict)

    def _next(self, trigger: str, fn: Any, inputs: Any, outputs: Any, options: dict[str, Any]) -> Event:
        return self.source.recorder.add(
            Event(self.source, trigger, fn, as_list(inputs), as_list(outputs), self, options)
        )

    def then(self, fn: Any = None, inputs: Any = None, outputs: Any = None, **options: Any) -> Event:
        return self._next("then", fn, inputs, outputs, options)

    def success(self, fn: Any = None, inputs: Any = None, outputs: Any = None, **options: Any) -> Event:
        return self._next("success", fn, inputs, outputs, options)


def as_list(given: Any) -> list[Any]:
    if given is None:
        return []
    return list(given) if isinstance(given, (list, tuple)) else [given]


class Recorder:
    """Everything that was built: components in order, events, and components built outside of any ``Blocks``."""

    def __init__(self) -> None:
        self.components: list[Any] = []
        self.events: list[Event] = []
        self.outside: list[Any] = []
        self.open: list[Any] = []
        self.warnings: list[str] = []

    def add(self, event: Event) -> Event:
        self.events.append(event)
        return event

    def find(self, elem_id: str) -> Any:
        """The last component built with this id."""
        found = [component for component in self.components if component.elem_id == elem_id]
        if not found:
            raise LookupError(f"no component has the id {elem_id}")
        return found[-1]

    def fire(self, component: Any, trigger: str, *values: Any) -> Any:
        """Call what is attached; returns the last handler's result."""
        result: Any = None
        for event in [event for event in self.events if event.source is component and event.trigger == trigger]:
            result = event.fn(*values) if event.fn is not None else None
        return result


class Block:
    """One component or layout."""

    recorder: Recorder

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        name = type(self).__name__
        unknown = set(kwargs) - COMMON - set(OWN.get(name, "").split())
        if unknown:
            raise TypeError(f"{name}.__init__() got an unexpected keyword argument {sorted(unknown)[0]!r}")
        first = {"Dropdown": "choices", "Radio": "choices", "CheckboxGroup": "choices", "Slider": "minimum"}
        first |= {"Tab": "label", "TabItem": "label", "Accordion": "label"}
        if args:
            kwargs[first.get(name, "value")] = args[0]
        self.arguments = kwargs
        self.children: list[Any] = []
        for key in (COMMON - {"render"}) | {"choices", "minimum", "maximum", "step"}:
            setattr(self, key, kwargs.get(key))
        self.recorder.components.append(self)
        if self.recorder.open:
            self.recorder.open[-1].children.append(self)
        elif name != "Blocks":
            self.recorder.outside.append(self)

    def __enter__(self) -> Block:
        self.recorder.open.append(self)
        return self

    def __exit__(self, *_: object) -> None:
        self.recorder.open.pop()

    @property
    def blocks(self) -> dict[int, Block]:
        """Everything inside, however deep, by an id."""
        inside = {id(child): child for child in self.children}
        return inside | {key: each for child in self.children for key, each in child.blocks.items()}

    def render(self) -> Block:
        if self.recorder.open:
            self.recorder.open[-1].children.append(self)
        return self

    def style(self, **_: Any) -> Block:
        return self


def _event_method(trigger: str) -> Callable[..., Event]:
    def attach(self: Block, fn: Any = None, inputs: Any = None, outputs: Any = None, **options: Any) -> Event:
        return self.recorder.add(Event(self, trigger, fn, as_list(inputs), as_list(outputs), None, options))

    return attach


def install(version: str) -> tuple[ModuleType, Recorder]:
    """A fresh module ``gradio`` and what it records."""
    gradio, recorder = ModuleType("gradio"), Recorder()
    space: dict[str, Any] = {"recorder": recorder} | {event: _event_method(event) for event in EVENTS}
    for name in COMPONENTS + LAYOUTS:
        setattr(gradio, name, type(name, (Block,), dict(space)))
    members: dict[str, Any] = {
        "__version__": version,
        "recorder": recorder,
        "update": lambda **changes: {"__type__": "update", **changes},
        "SelectData": type("SelectData", (), {"index": None, "value": None, "selected": True}),
        "Request": type("Request", (), {}),
        "Error": type("Error", (Exception,), {}),
        "Progress": type("Progress", (), {}),
        "Warning": recorder.warnings.append,
        "Info": recorder.warnings.append,
    }
    if version.startswith("3.32"):
        del members["Warning"], members["Info"]
    for name, value in members.items():
        setattr(gradio, name, value)
    return gradio, recorder

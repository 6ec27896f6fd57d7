"""The tab that makes pictures, with the library of networks next to it."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import gradio as gr
from PIL import Image

from lycopatch.demo.report_line import made_html
from lycopatch.demo.txt2img import Settings, Stopped, TextToImage
from lycopatch.engine.errors import AdapterError
from lycopatch.ui.markup import notice, text
from lycopatch.ui.mount import Target

ANY_SEED = -1
QUIET: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
DRAWING: dict[str, Any] = {"concurrency_id": "studio", "api_visibility": "private"}
"""For all that makes pictures: one at a time."""

PROMPTS = [Target("Generate", "#demo_prompt textarea", "#demo_negative textarea")]
"""Where a click on a network puts its tag."""

_MOST_PICTURES = 16
_MOST_COLUMNS = 4


def generate_tab(studio: TextToImage, library: str, examples: Sequence[str]) -> None:
    """Put the tab's contents here. ``library``: HTML of the networks."""
    with gr.Row(elem_id="demo_panes"):
        with gr.Column(scale=1, min_width=320):
            prompt = gr.Textbox(examples[0], label="Prompt", lines=2, max_lines=8, elem_id="demo_prompt")
            negative = gr.Textbox(label="Negative prompt", lines=1, max_lines=4, elem_id="demo_negative")
            with gr.Row():
                run = gr.Button("Generate", variant="primary", scale=3, elem_id="demo_run")
                stop = gr.Button("Stop", scale=1, min_width=80, elem_id="demo_stop")
            pictures = gr.Gallery(
                show_label=False,
                columns=1,
                object_fit="contain",
                format="png",
                interactive=False,
                elem_id="demo_pictures",
            )
            report = gr.HTML(notice("Press Generate, or Ctrl+Enter in the prompt."), elem_id="demo_report")
            gr.Examples([[each] for each in examples], [prompt], label="Prompts to try", api_visibility="private")
        with gr.Column(scale=1, min_width=320):
            numbers, last_seed = _numbers()
            gr.HTML(library, apply_default_css=False, elem_id="demo_library")

    def make(*wanted: Any, progress: Any = gr.Progress()) -> tuple[Any, str, Any]:  # noqa: B008 - as gradio wants it
        return make_pictures(studio, progress, *wanted)

    inputs, outputs = [prompt, negative, *numbers], [pictures, report, last_seed]
    gr.on([run.click, prompt.submit, negative.submit], make, inputs, outputs, show_progress_on=pictures, **DRAWING)
    stop.click(studio.stop, queue=False, **QUIET)


def _numbers() -> tuple[list[Any], gr.State]:
    """The numbers that a picture is made with, in the order of ``wanted_settings``; and where its seed is kept."""
    last_seed = gr.State(ANY_SEED)
    with gr.Row(elem_id="demo_seed_row"):
        seed = gr.Number(ANY_SEED, label="Seed (-1 is any)", precision=0, min_width=120, elem_id="demo_seed")
        again = gr.Button("Last", min_width=60, elem_id="demo_last_seed")
        anew = gr.Button("Any", min_width=60, elem_id="demo_any_seed")
    with gr.Row(elem_id="demo_numbers"):
        steps = gr.Slider(1, 60, 20, step=1, label="Steps", min_width=130, elem_id="demo_steps")
        cfg = gr.Slider(1, 15, 4, step=0.5, label="CFG", min_width=130, elem_id="demo_cfg")
        batch = gr.Slider(1, _MOST_PICTURES, 1, step=1, label="Pictures", min_width=130, elem_id="demo_batch")
    again.click(lambda last: last, [last_seed], [seed], **QUIET)
    anew.click(lambda: ANY_SEED, [], [seed], **QUIET)
    return [seed, steps, cfg, batch], last_seed


def make_pictures(studio: TextToImage, progress: Any, *wanted: Any) -> tuple[Any, str, Any]:
    """The pictures, the report and the seed; trouble is a sentence in place of the report."""
    try:
        settings = wanted_settings(*wanted)
        progress((0, settings.steps), desc="Drawing", unit="steps")
        made = studio.make(settings, lambda done, total: progress((done, total), desc="Drawing", unit="steps"))
    except Stopped:
        return gr.skip(), notice("Stopped."), gr.skip()
    except (ValueError, AdapterError) as error:
        gr.Warning(text(error, 2000))
        return gr.skip(), notice(str(error), "trouble"), gr.skip()
    shown = []
    for number, picture in enumerate(made.pictures):
        picture.info["parameters"] = made.infotext(number)  # is written into the PNG
        shown.append((enlarged(picture), f"Seed {settings.seed + number}" if settings.batch > 1 else None))
    columns = min(_MOST_COLUMNS, max(1, round(len(shown) ** 0.5)))
    return gr.update(value=shown, columns=columns, selected_index=None), made_html(made), settings.seed


def wanted_settings(prompt: str | None, negative: str | None, seed: Any, steps: Any, cfg: Any, batch: Any) -> Settings:
    """What the boxes of the page ask for. Raises ValueError with a sentence."""
    for what, value in (("seed", seed), ("steps", steps), ("CFG", cfg), ("number of pictures", batch)):
        if value is None:
            raise ValueError(f"The box of the {what} is empty; write a number into it.")
    chosen = random.randrange(2**32) if seed == ANY_SEED else int(seed)
    return Settings(prompt or "", negative or "", chosen, int(steps), float(cfg), int(batch))


def enlarged(picture: Image.Image, least: int = 384) -> Image.Image:
    """A small picture with each pixel drawn as a square, at least so large; others as they are. Keeps ``info``."""
    times = least // max(picture.size)
    if times < 2:
        return picture
    larger = picture.resize((picture.width * times, picture.height * times), Image.Resampling.NEAREST)
    larger.info = dict(picture.info)
    return larger

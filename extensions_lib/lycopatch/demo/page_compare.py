"""The tab that makes the same pictures with several networks and weights."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from lycopatch.demo.comparison import MOST_SEEDS, Comparison, compare, parse_weights
from lycopatch.demo.comparison_view import JUDGE_NOTE, csv_text, grid, table_rows
from lycopatch.demo.judging import Judge
from lycopatch.demo.page_generate import DRAWING, QUIET
from lycopatch.demo.txt2img import Settings, Stopped, TextToImage
from lycopatch.engine.errors import AdapterError
from lycopatch.ui.markup import notice, table, text
from lycopatch.ui.networks import Networks

_FIRST_NETWORKS = 4


def compare_tab(
    studio: TextToImage, networks: Networks, judge: Judge | None, folder: Path, examples: Sequence[str]
) -> None:
    """Put the tab's contents here. ``folder``: for the files to download."""
    names = [row.name for row in networks.rows() if not row.file.error]
    with gr.Row():
        with gr.Column(scale=3, min_width=320):
            chosen = gr.Dropdown(
                names,
                value=names[:_FIRST_NETWORKS],
                multiselect=True,
                label="Networks",
                elem_id="demo_compare_networks",
            )
            prompt = gr.Textbox(examples[0], label="Prompt", elem_id="demo_compare_prompt")
        with gr.Column(scale=2, min_width=320):
            weights = gr.Textbox("0.5, 1", label="Weights", elem_id="demo_compare_weights")
            with gr.Row():
                seeds = gr.Number(4, label="Seeds", precision=0, min_width=90, elem_id="demo_compare_seeds")
                steps = gr.Number(20, label="Steps", precision=0, min_width=90, elem_id="demo_compare_steps")
                cfg = gr.Number(4, label="CFG", min_width=90, elem_id="demo_compare_cfg")
    with gr.Row():
        run = gr.Button("Compare", variant="primary", scale=3, elem_id="demo_compare_run")
        end = gr.Button("Stop", scale=1, min_width=80, elem_id="demo_compare_stop")
    said = gr.HTML(elem_id="demo_compare_said")
    picture = gr.Image(
        show_label=False, format="png", interactive=False, buttons=["fullscreen"], elem_id="demo_compare_grid"
    )
    costs = gr.HTML(apply_default_css=False, elem_id="demo_compare_table")
    with gr.Row():
        files = [
            gr.DownloadButton(title, visible=False, elem_id=elem_id)
            for title, elem_id in (("Grid as PNG", "demo_compare_png"), ("Table as CSV", "demo_compare_csv"))
        ]
    numbers = itertools.count(1)

    def make(*boxes: Any, progress: Any = gr.Progress()) -> tuple[Any, ...]:  # noqa: B008 - as gradio wants it
        def tell(done: int, total: int, what: str) -> None:
            progress((done, total), desc=what, unit="pictures")

        try:
            made = compare(studio, *wanted_comparison(*boxes), judge, tell)
        except Stopped:
            return notice("Stopped."), *[gr.skip()] * 4
        except (ValueError, AdapterError) as error:
            gr.Warning(text(error, 2000))
            return notice(str(error), "trouble"), *[gr.skip()] * 4
        own, sheet = folder / f"comparison-{next(numbers)}", grid(made)
        own.mkdir()
        sheet.save(own / "comparison.png")
        (own / "comparison.csv").write_text(csv_text(made), encoding="utf-8")
        downloads = [gr.update(value=own / f"comparison.{ending}", visible=True) for ending in ("png", "csv")]
        return "", sheet, _table_html(made), *downloads

    inputs = [chosen, weights, prompt, seeds, steps, cfg]
    run.click(make, inputs, [said, picture, costs, *files], show_progress_on=picture, **DRAWING)
    end.click(studio.stop, queue=False, **QUIET)


def wanted_comparison(
    networks: Sequence[str], weights: str | None, prompt: str | None, seeds: Any, steps: Any, cfg: Any
) -> tuple[Sequence[str], tuple[float, ...], Settings]:
    """The networks, the weights and the rest of what the boxes ask for. Raises ValueError with a sentence."""
    for what, value in (("seeds", seeds), ("steps", steps), ("CFG", cfg)):
        if value is None:
            raise ValueError(f"The box of the {what} is empty; write a number into it.")
    if not 1 <= seeds <= MOST_SEEDS:
        raise ValueError(f"The number of seeds must be between 1 and {MOST_SEEDS}, not {seeds}.")
    settings = Settings(prompt or "", steps=int(steps), cfg=float(cfg), batch=int(seeds))
    return networks, parse_weights(weights or ""), settings


def _table_html(made: Comparison) -> str:
    head, *rows = table_rows(made)
    caption = JUDGE_NOTE if made.judged else "The change of the picture is the mean difference from the first row's."
    return table(head, [[text(cell) for cell in row] for row in rows], caption)

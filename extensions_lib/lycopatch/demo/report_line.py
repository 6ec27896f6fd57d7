"""What stands under the pictures: what each tag did, each trouble as a sentence, and how long it took."""

from __future__ import annotations

from lycopatch.demo.txt2img import Made
from lycopatch.engine.report import TagReport
from lycopatch.ui.markup import counted, first, lines, notice, text

_MOST_TROUBLES = 5


def made_html(made: Made) -> str:
    """The report on some pictures for a person, as escaped HTML."""
    report, wanted = made.report, made.settings
    facts = (
        f"Seed {wanted.seed}, {counted(wanted.steps, 'step')}, CFG {wanted.cfg:g}: {made.seconds:.2f} s"
        f"{f', networks {report.seconds:.2f} s' if report.tags else ''}."
    )
    troubles = "".join(notice(issue.message, "trouble") for issue in report.issues)
    return troubles + "".join(map(_tag, report.tags)) + _nothing(made) + f"<p>{text(facts)}</p>"


def _tag(tag: TagReport) -> str:
    nothing = tag.failed or (tag.layers_total > 0 and tag.layers_applied == 0)
    state = "trouble" if nothing else "part" if tag.issues else "good"
    layers = f": {tag.layers_applied:,} of {counted(tag.layers_total, 'layer')} applied" if tag.layers_total else ""
    troubles = lines(first([text(issue.message, 1000) for issue in tag.issues], _MOST_TROUBLES))
    return f'<div class="lycopatch-notice lycopatch-{state}"><code>{text(tag.tag)}</code>{layers}{troubles}</div>'


def _nothing(made: Made) -> str:
    """Say it when the pictures are the model's own."""
    if made.report.tensors_active:
        return ""
    if made.report.tags:
        return notice("No weight of the model was changed: this is what the model makes without networks.")
    return notice("No network is in the prompt: this is what the model makes without.")

"""``python -m lycopatch.demo``: try networks on a small Stable Diffusion, in a page or without a browser."""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from lycopatch.cli.parser import INTERRUPTED, OK, TROUBLE
from lycopatch.cli.terminal import progress, safe, say, trouble
from lycopatch.engine.errors import AdapterError

if TYPE_CHECKING:
    from lycopatch.demo.judging import Judge
    from lycopatch.demo.txt2img import Settings, TextToImage

PORT = 7861
MISSING = (
    "The demo needs {name}, which is not installed here. Run it with `make demo`, or install what it needs: "
    "pip install 'lycopatch[demo]'"
)


def main(argv: Sequence[str] | None = None) -> int:
    """Show the page until Ctrl+C, or write the picture of ``--prompt``; returns the exit code."""
    options = _parser().parse_args(argv)
    try:
        with ExitStack() as stack:
            studio = _studio(options, stack)
            if not options.prompt:
                return _show(options, studio)
            return _draw(options, studio) if options.compare is None else _compare(options, studio)
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("lycopatch"):
            raise
        trouble(MISSING.format(name=error.name))
    except (AdapterError, ValueError) as error:
        trouble(str(error))
    except OSError as error:
        trouble(f"The system reports: {error.strerror or error} ({error.filename}).")
    except KeyboardInterrupt:
        print("\nInterrupted.", file=sys.stderr)
        return INTERRUPTED
    return TROUBLE


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m lycopatch.demo", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--networks", type=Path, metavar="DIR", help="folder of networks (default: those of the demo)")
    parser.add_argument(
        "--checkpoint", type=Path, metavar="FILE", help="a real SD1 or SDXL checkpoint instead of the small model"
    )
    parser.add_argument(
        "--tokenizer", type=Path, metavar="DIR", help="folder of the CLIP tokenizer for --checkpoint, if not found"
    )
    parser.add_argument("--device", default="cpu", help="where to compute: cpu, cuda, mps … (default: %(default)s)")
    parser.add_argument(
        "--side", type=int, help="width and height of the pictures (default: what the model was made for)"
    )
    parser.add_argument("--port", type=int, default=PORT, help="of the page on 127.0.0.1 (default: %(default)s)")
    picture = parser.add_argument_group("without a browser: a picture, or a comparison of networks")
    picture.add_argument(
        "--prompt", action="append", help='as in the WebUI: "a red circle <lora:stripes:1>"; several for --compare'
    )
    picture.add_argument("--negative-prompt", default="")
    picture.add_argument("--out", type=Path, default=Path("picture.png"), help="PNG to write (default: %(default)s)")
    picture.add_argument("--seed", type=int, default=-1, help="-1 for any (default: %(default)s)")
    picture.add_argument("--steps", type=int, default=20, help="(default: %(default)s)")
    picture.add_argument("--cfg", type=float, default=4.0, help="(default: %(default)s)")
    picture.add_argument("--batch", type=int, default=4, help="pictures of each in a comparison (default: %(default)s)")
    picture.add_argument(
        "--compare",
        nargs="*",
        metavar="NAME",
        help="write the pictures of these networks (all when none is named) as a grid, and print what each costs",
    )
    picture.add_argument("--weights", default="1", help='in the comparison, as in "0.5, 1" (default: %(default)s)')
    return parser


def _studio(options: argparse.Namespace, stack: ExitStack) -> TextToImage:
    """The model with the folder of networks; ``stack`` lets go of it."""
    from lycopatch.demo import model
    from lycopatch.demo.txt2img import TextToImage
    from lycopatch.hosts.diffusers import NetworkLoader
    from lycopatch.ui.beside import read_words

    folder = options.networks
    if folder is not None and not folder.is_dir():
        raise ValueError(f"There is no folder {folder}; name one with --networks.")
    if options.side is not None and (options.side % 8 or not 16 <= options.side <= 2048):
        raise ValueError("The side must be a multiple of 8 between 16 and 2048.")
    _check_device(options.device)
    if options.checkpoint is None:
        pipe, name, origin = model.load_pipeline(device=options.device), model.NAME, None
    else:
        from lycopatch.demo.checkpoint import load_checkpoint

        pipe, name = load_checkpoint(options.checkpoint, options.device, options.tokenizer), options.checkpoint.stem
        origin = options.checkpoint
    folders = [folder or model.NETWORKS]
    loader = stack.enter_context(NetworkLoader(pipe, folders, checkpoint=origin, read_words=read_words))
    return TextToImage(pipe, loader, name, options.side)


def _check_device(name: str) -> None:
    """Raise ValueError when this torch can not compute there."""
    import torch

    try:
        torch.empty(1, device=name)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ValueError(f'torch can not compute on "{name}" here: {str(error).splitlines()[0]}') from error


def _settings(options: argparse.Namespace, batch: int) -> Settings:
    from lycopatch.demo.txt2img import Settings

    seed = options.seed if options.seed >= 0 else random.randrange(2**32)
    return Settings(options.prompt[0], options.negative_prompt, seed, options.steps, options.cfg, batch)


def _draw(options: argparse.Namespace, studio: TextToImage) -> int:
    from PIL.PngImagePlugin import PngInfo

    if len(options.prompt) > 1:
        raise ValueError("A picture has one prompt; --compare takes several.")
    with progress("Drawing") as tell:
        made = studio.make(_settings(options, batch=1), tell)
    for tag in made.report.tags:
        say(safe(tag.summary()))
    for issue in made.report.issues:
        say(safe(issue.message))
    parameters = PngInfo()
    parameters.add_itxt("parameters", made.infotext())
    made.pictures[0].save(options.out, "PNG", pnginfo=parameters)
    say(f"{safe(str(options.out))}: seed {made.settings.seed}, {made.seconds:.1f} s")
    return OK


def _compare(options: argparse.Namespace, studio: TextToImage) -> int:
    from lycopatch.demo.comparison import compare, parse_weights
    from lycopatch.demo.comparison_view import grid, markdown

    catalog, judge = studio.loader.catalog, _judge(options)
    names = options.compare or [catalog.shortest_name(file) for file in catalog.files]
    settings, weights = _settings(options, options.batch), parse_weights(options.weights)
    with progress("Comparing") as tell:
        made = compare(
            studio, names, weights, settings, judge, lambda done, total, _: tell(done, total), options.prompt[1:]
        )
    grid(made).save(options.out, "PNG")
    say(markdown(made))
    return OK


def _judge(options: argparse.Namespace) -> Judge | None:
    """It knows the pictures of the embedded model alone, in their own size."""
    from lycopatch.demo.judging import load_judge
    from lycopatch.demo.model import JUDGE

    own = options.checkpoint is None and options.side is None
    return load_judge(JUDGE) if own else None


def _show(options: argparse.Namespace, studio: TextToImage) -> int:
    from lycopatch.demo.page import show

    show(studio, _judge(options), options.port)
    return OK


if __name__ == "__main__":
    sys.exit(main())

"""What the command line accepts, and what its exit codes mean."""

from __future__ import annotations

import argparse
from pathlib import Path

from lycopatch import __version__

OK = 0
TROUBLE = 1
PARTLY = 3
INTERRUPTED = 130

_CODES = "exit codes: 0 all is well; 1 something is not, said on stderr; 2 wrong usage; 130 interrupted"
_BAKE_CODES = (
    "exit codes: 0 every network was applied whole; 1 nothing was written, and stderr says why; 2 wrong usage; "
    "3 the file was written, but something of the networks was left out, as reported; 130 interrupted, nothing written"
)


def build_parser() -> argparse.ArgumentParser:
    """Return the parser; ``command`` of what it parses is the name of the sub-command."""
    parser = argparse.ArgumentParser(
        prog="lycopatch",
        description="LoRA and LyCORIS networks: explain, check, list, and merge them into a checkpoint.",
    )
    parser.add_argument("--version", action="version", version=f"lycopatch {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _inspect(commands)
    _check(commands)
    _list(commands)
    _bake(commands)
    return parser


def _inspect(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = _command(
        commands,
        "inspect",
        "explain network files",
        "Explain network files: base model, algorithms, ranks, what every key is, training, hashes, health.",
        _CODES,
    )
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE")
    parser.add_argument("--quick", action="store_true", help="read the headers only: no hashes, numbers not checked")


def _check(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = _command(
        commands,
        "check",
        "look for damage",
        "Read every number of network files and report damage: NaN, infinite or absurd values, incomplete layers, "
        "truncated files. Folders are searched with all folders below.",
        _CODES,
    )
    parser.add_argument("paths", nargs="+", type=Path, metavar="FILE|DIR")


def _list(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = _command(
        commands,
        "list",
        "list the networks in folders",
        "List the networks in folders by the names that tags call them. Reads headers only.",
        _CODES,
    )
    parser.add_argument("folders", nargs="+", type=Path, metavar="DIR")


def _bake(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = _command(
        commands,
        "bake",
        "merge networks into a checkpoint",
        "Write a checkpoint with networks merged in, tensor by tensor, in the memory of one tensor.",
        _BAKE_CODES,
    )
    parser.add_argument("checkpoint", type=Path, metavar="CHECKPOINT", help="a checkpoint in one file")
    parser.add_argument("--networks", type=Path, nargs="+", required=True, metavar="DIR", help="where networks lie")
    parser.add_argument("--prompt", required=True, help='the tags: "<lora:a:0.8> <lyco:b:0.5:1>"')
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="the .safetensors file to write")
    parser.add_argument(
        "--dtype",
        choices=("keep", "fp32", "fp16", "bf16"),
        default="keep",
        help="number format of the result; tables of the noise schedule and whole numbers keep theirs (default: keep)",
    )
    parser.add_argument("--force", action="store_true", help="replace the output file if it exists")
    parser.add_argument(
        "--allow-missing",
        action="store_true",
        help="write the file even if a tag is not understood, or its network is not found or fits nowhere",
    )


def _command(
    commands: argparse._SubParsersAction[argparse.ArgumentParser], name: str, short: str, description: str, epilog: str
) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=short, description=description, epilog=epilog)
    parser.add_argument("--json", action="store_true", help="machine-readable output")
    parser.add_argument(
        "--allow-pickle",
        action="store_true",
        help="also read .pt, .ckpt, .bin and .pth files (numbers only, no programs)",
    )
    return parser

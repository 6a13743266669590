"""See what the layers that learn how to normalize have learned, in one run and across runs.

Example:
    python analyze.py runs/style_transfer runs/gan -o report/
"""

from argparse import Namespace, RawDescriptionHelpFormatter
from collections.abc import Sequence
from pathlib import Path

from jsonargparse import ArgumentParser
from jsonargparse.typing import PositiveInt

from mixing_analysis import DEFAULT_FORMATS, EXPECTED, FORMATS
from mixing_analysis.selection import Selection, parse_groups, parse_steps
from training.doors import command_parser, path_of, run_command
from training.paths import local_path

EXAMPLES = """\
Runs whose configurations differ in nothing but seeds are averaged, unless --group says otherwise.

examples:
  python analyze.py runs                                    every run below a folder
  python analyze.py runs/style_transfer runs/gan -o report
  python analyze.py runs --group model.norm                 norms, averaged over whatever else differs
  python analyze.py runs --group mine=runs/a,runs/b         runs of your choice, averaged
  python analyze.py runs/gan --steps 0:1000 --layers 'block1*'
  python analyze.py runs --format csv,pdf --no-evaluation   tables and figures for a paper
  python analyze.py runs/gan --ablation                     which layer needs its gate
  python analyze.py runs/gan --export-pruned 0.05           a network whose nearly binary gates are plain norms
  python analyze.py wandb:ENTITY/PROJECT/RUN                from Weights & Biases
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Returns:
        The exit status: 0, 2 after an error of the user's or 130 after Ctrl-C, which are told in one line on stderr.
    """
    return run_command(_parser(), _run, arguments)


def _run(options: Namespace) -> None:
    groups, by = parse_groups(options.group)
    groups = {name: tuple(map(_source, members)) for name, members in groups.items()}
    sources, layers = tuple(map(_source, options.runs)), tuple(options.layers)
    selection = Selection(sources, groups, by, parse_steps(options.steps), layers)
    formats = _formats(options.format)
    from mixing_analysis.console import write

    write(
        selection,
        options.output,
        options.evaluation,
        options.batches,
        options.trust,
        formats,
        options.ablation,
        options.export_pruned,
    )


def _parser() -> ArgumentParser:
    parser = command_parser(
        "See what the layers that learn how to normalize have learned, in one run and across runs.", epilog=EXAMPLES
    )
    parser.formatter_class = RawDescriptionHelpFormatter
    add = parser.add_argument
    add("runs", metavar="RUN", nargs="*", help=f"{EXPECTED}; or a folder, for all runs below it")
    add("-o", "--output", metavar="FOLDER", type=path_of, default=Path("report"), help="the report (default: report)")
    add(
        "--group",
        metavar="SETTING",
        action="append",
        default=[],
        help="average the runs that agree in a setting, such as model.norm, or in several with commas; or NAME=RUN,RUN "
        "to average these runs, of one architecture, under this name; may be given several times",
    )
    add("--steps", metavar="FROM:TO", default="", help="look at these steps only; also 500: or 0,100,1000")
    add(
        "--layers",
        metavar="PATTERN",
        action="append",
        default=[],
        help="look at the layers of such names only, as in 'residual*'; may be given several times",
    )
    formats = f"what to write, of {','.join(FORMATS)} (default: {','.join(DEFAULT_FORMATS)})"
    add("--format", metavar="LIST", default="", help=formats)
    add(
        "--no-evaluation",
        dest="evaluation",
        action="store_false",
        help="do not evaluate the networks anew",
    )
    ablation = (
        "force one layer at a time to a plain norm, and score what that costs: which layer needs its gate; takes a "
        "minute or two for a style network of 15 layers on two cores"
    )
    add("--ablation", action="store_true", help=ablation)
    export = (
        "also write pruned.safetensors to the report, of one run: a network whose gates within X of an end are plain "
        "batch or instance normalization, for stylize.py or sample.py, with what that costs and gains; X is in [0, 0.5)"
    )
    add("--export-pruned", metavar="X", type=float | None, default=None, help=export)
    batches = "at most how many batches of images to evaluate on (default: 32, and 4 for --ablation)"
    add("--batches", metavar="N", type=PositiveInt | None, default=None, help=batches)
    return parser


def _source(text: str) -> str:
    text = text.rstrip("/") or text
    return local_path("RUN", text) if text.startswith("~") else text


def _formats(text: str) -> tuple[str, ...]:
    chosen = tuple(dict.fromkeys(text.split(","))) if text else DEFAULT_FORMATS
    for name in chosen:
        if name not in FORMATS:
            from norms.errors import unknown

            raise unknown("format", name, FORMATS)
    return chosen

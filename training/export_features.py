"""Make a feature network, such as the bundled ones, of a distillation or a trained classifier."""

import argparse
import csv
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import normlab
from lightning_modules.classifier import Classifier
from lightning_modules.distillation import Distillation
from lightning_modules.networks.feature_net import FeatureNet
from norms.errors import SettingError
from training.doors import path_of, run_command
from training.network_files import write_network
from training.run import Run


def export(run: str | Path, out: str | Path, data: str, licence: str, whole: bool = False) -> None:
    """Write the feature network of a run, and how it came to be, to a safetensors file.

    Args:
        run: See :meth:`training.run.Run.find`.
        out: File to write; it must not exist.
        data: What the network was trained on.
        licence: Licence of the weights.
        whole: Whether to write a whole classifier, with its last layer, as numbers for generated images need it.

    Raises:
        SettingError: If there is no such run, its norm is not ``batch``, as it has to be unless the classifier is kept
            whole, or ``out`` cannot be written.
    """
    if Path(out).exists():
        raise SettingError(f"{out} exists, choose another name for the feature network")
    if not Path(out).parent.is_dir():
        raise SettingError(f"there is no folder {Path(out).parent} for the feature network")
    found = Run.find(run)
    module = found.load(Classifier) if whole else _load(found)
    metadata = {
        "made_by": f"normlab {normlab.__version__}",
        "recipe": f"{type(module).__name__} {json.dumps(_without_folders(module.hparams))}",
        "data": data,
        "licence": licence,
    }
    if scores := _last_scores(found.metrics):
        metadata["scores"] = json.dumps(scores)
    if isinstance(module, Classifier) and whole:
        write_network(module, Path(out), metadata)
    elif isinstance(module.feature_net, FeatureNet):
        module.feature_net.save(out, metadata)
    else:
        raise SettingError(f"{run} has no feature_net but another network: only --whole writes it")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Returns:
        The exit status: 0, 2 after an error of the user's or 130 after Ctrl-C, which are told in one line on stderr.
    """
    return run_command(_parser(), _run, arguments)


def _run(options: argparse.Namespace) -> None:
    export(options.run, options.out, options.data, options.licence, options.whole)
    print(f"wrote {options.out}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m training.export_features", description=__doc__)
    parser.add_argument("run", type=path_of, help="run folder or checkpoint")
    parser.add_argument("out", type=path_of, help="safetensors file to write")
    parser.add_argument("--data", default="not stated", help="what it was trained on, for the file's header")
    parser.add_argument("--licence", default="not stated", help="licence of the weights, for the file's header")
    parser.add_argument(
        "--whole", action="store_true", help="write a whole classifier, for numbers of generated images"
    )
    return parser


def _load(run: Run) -> Distillation | Classifier:
    try:
        return run.load(Distillation)
    except SettingError:
        return run.load(Classifier)


def _without_folders(hyperparameters: Mapping[str, object]) -> dict[str, object]:
    # The file may be published, and where its maker keeps the teacher's weights is nobody's business.
    weights = hyperparameters.get("weights")
    return dict(hyperparameters) | ({"weights": Path(weights).name} if isinstance(weights, str) else {})


def _last_scores(metrics: Path) -> dict[str, str]:
    scores: dict[str, str] = {}
    if metrics.is_file():
        with metrics.open(newline="") as file:
            for row in csv.DictReader(file):
                scores |= {name: value for name, value in row.items() if name.startswith("val/") and value}
    return scores


if __name__ == "__main__":
    sys.exit(main())

"""Make a feature network, such as the bundled one, of a trained classifier."""

import argparse
import csv
import json
import sys
from importlib.metadata import version
from pathlib import Path

from pytorch_lightning.utilities.exceptions import MisconfigurationException

from lightning_modules.checkpoints import find_checkpoint, load
from lightning_modules.classifier import Classifier


def export(run: str | Path, out: str | Path, data: str, licence: str) -> None:
    """Write the feature network of a trained classifier, and how it came to be, to a safetensors file.

    Args:
        run: See :func:`lightning_modules.checkpoints.find_checkpoint`.
        out: File to write; it must not exist.
        data: What the classifier was trained on.
        licence: Licence of the weights.

    Raises:
        MisconfigurationException: If there is no such run, its norm is not ``batch``, or ``out`` exists.
    """
    if Path(out).exists():
        raise MisconfigurationException(f"{out} exists, choose another name for the feature network")
    classifier = load(Classifier, run)
    metadata = {
        "made_by": f"normlab {version('normlab')}",
        "recipe": f"{Classifier.__name__} {json.dumps(dict(classifier.hparams))}",
        "data": data,
        "licence": licence,
    }
    accuracy = _last_accuracy(find_checkpoint(run).parents[1] / "metrics.csv")
    if accuracy:
        metadata["val_accuracy"] = accuracy
    classifier.feature_net.save(out, metadata)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line, and return its exit status."""
    parser = argparse.ArgumentParser(prog="python -m lightning_modules.export_features", description=__doc__)
    parser.add_argument("run", help="run folder or checkpoint of the classifier")
    parser.add_argument("out", help="safetensors file to write")
    parser.add_argument(
        "--data", default="not stated", help="what the classifier was trained on, for the file's header"
    )
    parser.add_argument("--licence", default="not stated", help="licence of the weights, for the file's header")
    options = parser.parse_args(arguments)
    try:
        export(options.run, options.out, options.data, options.licence)
    except MisconfigurationException as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"wrote {options.out}")
    return 0


def _last_accuracy(metrics: Path) -> str | None:
    if not metrics.is_file():
        return None
    with metrics.open(newline="") as file:
        values = [value for row in csv.DictReader(file) if (value := row.get("val/accuracy"))]
    return values[-1] if values else None


if __name__ == "__main__":
    sys.exit(main())

"""Train a model: python train.py {fit,validate,test,predict} --config NAME.

NAME is a configuration that comes with normlab, such as style_transfer, gan or classifier, or a YAML file of your own.
Several --config are merged from left to right, --print_config shows the result, any option can be overridden on the
command line (--trainer.max_steps 100), and an environment variable such as PL_FIT__TRAINER__MAX_STEPS=100 stands for an
option that is not given. --ckpt_path last goes on with the newest run of the same name.

  fit       train, in a run folder of its own below runs/
  validate  score a trained model on held-out images
  test      the same, as Lightning's test
  predict   write what a trained model makes of held-out images

python train.py fit --help lists all options, and python train.py fit --model.help CLASS those of a model.
"""

import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import normlab
from training.doors import end_in_one_line
from training.errors import ENDING


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: The command line without the program, by default that of the process.

    Returns:
        The exit status: 0, 1 for a training that went wrong or a disk that failed, 2 for a mistake of the user, each of
        them told in one line, or 128 plus the number of the signal that ended a training.
    """
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    # Here, since Lightning takes seconds to import.
    if arguments in (["--help"], ["-h"]):
        print(__doc__.replace("python train.py", normlab.as_installed("python train.py")))
        return 0
    if arguments == ["--version"]:
        print(Path(sys.argv[0]).name, normlab.__version__)
        return 0
    try:
        with _ended_by_signals():
            return end_in_one_line(lambda: _train(arguments))
    except SystemExit as error:
        if not isinstance(error.code, int):
            raise
        return error.code


def _train(arguments: Sequence[str]) -> None:
    from training.cli import train

    train(arguments)


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Let signals end the command by an exit with 128 plus their number, until a training takes them over."""
    installed = []
    if threading.current_thread() is threading.main_thread():
        # Not that of Ctrl-C, which Python has taken over itself, nor those that are ignored.
        installed = [number for number in ENDING if signal.getsignal(number) is signal.SIG_DFL]
    for number in installed:
        signal.signal(number, _exit)
    try:
        yield
    finally:
        for number in installed:
            signal.signal(number, signal.SIG_DFL)


def _exit(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)

"""Train a model: python train.py {fit,validate,test,predict} --config NAME.

NAME is a configuration that comes with normlab, such as style_transfer, gan or classifier, or a YAML file of your own.
Several --config are merged from left to right, --print_config shows the result, any option can be overridden on the
command line (--trainer.max_steps 100), and an environment variable such as PL_FIT__TRAINER__MAX_STEPS=100 stands for an
option that is not given. --seed 3 stands for seed_everything, model.seed and data.seed. --ckpt_path last goes on with
the newest run of the same name, and --ckpt_path auto does so too, or begins if there is none.

  fit       train, in a run folder of its own below runs/
  validate  score a trained model on held-out images
  test      the same, as Lightning's test
  predict   write what a trained model makes of held-out images

python train.py fit --help lists all options, and python train.py fit --model.help CLASS those of a model.
"""

import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

import normlab
from training.errors import ENDING, name_of
from training.terminal import printable


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: The command line without the program, by default that of the process.

    Returns:
        The exit status: 0, 1 for a training that went wrong or a disk that failed, 2 for a mistake of the user, each of
        them told in one line, or 128 plus the number of the signal that ended a training.
    """
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    # Here, since Lightning takes seconds to import, in which a signal may come, too.
    if arguments in (["--help"], ["-h"]):
        print(__doc__.replace("python train.py", normlab.as_installed("python train.py")))
        return 0
    if arguments == ["--version"]:
        print(Path(sys.argv[0]).name, normlab.__version__)
        return 0
    try:
        with _ended_by_signals():
            from training.doors import end_in_one_line

            return end_in_one_line(lambda: _train(arguments))
    except _EndedEarly as error:
        # Of several processes, which often get the signal together, the first tells of it.
        if os.environ.get("LOCAL_RANK", os.environ.get("SLURM_LOCALID", "0")) == "0":
            line = f"interrupted by {name_of(error.number)}; begin anew with: {printable(normlab.again(arguments))}"
            with suppress(OSError):  # after SIGHUP nobody may be there to read it
                print(line, file=sys.stderr)
        return 128 + error.number
    except SystemExit as error:
        if not isinstance(error.code, int):
            raise
        return error.code


def _train(arguments: Sequence[str]) -> None:
    from training.cli import train

    train(arguments)


class _EndedEarly(SystemExit):
    """Tell of a signal that came when there was no training yet that could have ended by itself."""

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)
        self.number = number


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Let signals end the command by an exit with 128 plus their number, until a training takes them over."""
    previous = {}
    if threading.current_thread() is threading.main_thread():
        # What is ignored stays so, and so do the handlers of others.
        handlers = {number: signal.getsignal(number) for number in ENDING}
        own = signal.SIG_DFL, signal.default_int_handler
        previous = {number: handler for number, handler in handlers.items() if handler in own}
    for number in previous:
        signal.signal(number, _exit)
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _exit(number: int, frame: FrameType | None) -> None:
    raise _EndedEarly(number)

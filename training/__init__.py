"""What surrounds a training: command line, run folders, loggers, callbacks."""

import normlab  # noqa: F401, refuses other people's packages of our names

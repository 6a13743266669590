"""What surrounds a training: command line, run folders, loggers, callbacks."""

"""What the command line can do, a file per verb: `HELP`, `options` and `run`, which returns the exit code."""

"""Records -> tidy frame -> statistics -> verdicts. Reads files only; knows nothing of training."""

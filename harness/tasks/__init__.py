"""Tasks: kinds (what a model must do) and shipped tasks (a kind with data), one file each."""

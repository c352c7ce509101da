"""Models that transformers has no class for, written as its own are: they save, load and join the Auto
classes."""

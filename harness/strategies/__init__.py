"""The orthogonal parts that a strategy is composed of, beyond optimiser and regulariser."""

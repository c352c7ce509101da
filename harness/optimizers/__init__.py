"""Optimisers: how fast the trainable weights move. One file each, found by the registry."""

"""Backbones: pretrained models, their pre-processors and their ladders."""

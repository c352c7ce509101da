"""Regularisers λ·R(θ): one file each, found by the registry."""

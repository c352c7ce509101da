"""Whether a machine, or every node of a cluster, can run sweeps: each check is a function that returns `Check`s."""

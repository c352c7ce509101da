"""Whether a machine, or each node of a cluster, can run sweeps. A check is a function that gives `Check`s."""

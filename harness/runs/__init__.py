"""A run as a whole: the runner, its processes and lock, provenance, sharing, sweeps, exchange."""

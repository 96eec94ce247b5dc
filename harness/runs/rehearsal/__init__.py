"""A recipe tried before it is run: cut to minutes, started from its own or from random weights, and what the times foretell."""

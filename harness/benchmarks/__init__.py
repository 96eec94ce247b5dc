"""Components; their contracts are in harness/components.py."""

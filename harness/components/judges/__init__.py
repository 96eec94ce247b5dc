"""Components; their contracts are in harness/contracts.py."""

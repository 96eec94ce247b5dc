"""Components; their contracts are in harness/contracts/__init__.py."""

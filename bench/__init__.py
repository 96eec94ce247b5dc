"""Measurements beside other implementations; needs the extra `bench`."""

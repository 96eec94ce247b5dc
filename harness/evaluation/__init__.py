"""Benchmarks behind one function each: lm-eval, MT-Bench and its judge, statistics."""

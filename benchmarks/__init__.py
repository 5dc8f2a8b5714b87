"""How fast the generated application is, beside what its user would have instead: `python -m benchmarks`."""

"""What scripts/benchmark.py runs: suites of rows, and their contestants."""

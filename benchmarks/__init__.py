"""Speed and memory, side by side with the published algorithms: ``python -m benchmarks.speed``."""

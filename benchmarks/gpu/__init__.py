"""What `benchmarks/gpu_check.py` does, part by part."""

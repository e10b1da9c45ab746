"""The numbers of whole-slide prediction, one file for each group of them; `benchmarks/inference.py` runs them."""

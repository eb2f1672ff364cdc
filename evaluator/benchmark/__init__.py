"""`python -m evaluator benchmark`: a set of photos under every policy, resumable, over any number of processes."""

"""Files, locks, processes, threads and the machine: nothing of our field. Imports nothing of the house."""

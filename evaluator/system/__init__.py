"""Files, locks, threads and machine, independent of colorization. Imports no other package of this project."""

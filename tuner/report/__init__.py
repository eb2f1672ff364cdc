"""The report of a sweep: a page, its figures and tables, and what a terminal shows while it runs."""

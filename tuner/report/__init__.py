"""Report of a sweep: HTML page, figures and tables, and the display on the terminal."""

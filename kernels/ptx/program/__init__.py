"""A PTX kernel as data: its statements, their lines of source, and findings about them."""

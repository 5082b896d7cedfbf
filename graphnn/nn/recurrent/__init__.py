"""Recurrent cells, and layers of them."""

"""Pictures of networks: their graphs, unrolled, planned; and plots of what runs through them."""

from graphnn.pictures.picture import Picture, draw

__all__ = ["Picture", "draw"]

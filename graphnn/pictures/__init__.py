"""Pictures of networks: their graphs, unrolled, planned; and plots of what runs through them."""

from graphnn.pictures.picture import Picture, draw
from graphnn.pictures.plots import Plot, alignment, attention_map, gradient_flow

__all__ = ["Picture", "Plot", "alignment", "attention_map", "draw", "gradient_flow"]

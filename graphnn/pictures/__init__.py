"""Pictures of networks: their graphs, unrolled, planned; and plots of what runs through them."""

from graphnn.pictures.dot import to_dot, to_mermaid
from graphnn.pictures.drawing import draw
from graphnn.pictures.picture import Picture
from graphnn.pictures.plots import Plot, alignment, attention_map, gradient_flow

__all__ = [
    "Picture",
    "Plot",
    "alignment",
    "attention_map",
    "draw",
    "gradient_flow",
    "to_dot",
    "to_mermaid",
]

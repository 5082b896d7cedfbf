"""What a picture shows: boxes, edges and bands, before anything has a position."""

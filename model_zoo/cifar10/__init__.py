"""Small images of ten kinds, and a residual network."""

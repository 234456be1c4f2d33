"""The recurrent network: cells, heads, losses, training and scoring in Keras."""

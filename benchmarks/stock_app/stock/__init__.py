"""A stock Flower app, in the style of Flower's own examples."""

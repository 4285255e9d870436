"""How a model is made adaptable: one file a family, one registry."""

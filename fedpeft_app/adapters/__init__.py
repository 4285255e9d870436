"""The value that travels: adapter states, and the arithmetic on them."""

from fedpeft_app.adapters.state import AdapterSpec, AdapterState, TensorSpec

__all__ = ["AdapterSpec", "AdapterState", "TensorSpec"]

"""fedpeft: federated parameter-efficient fine-tuning in which only adapters travel."""

__version__ = "0.1.0"

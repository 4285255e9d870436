"""What was asked for: the run configuration, checked before anything starts."""

from fedpeft_app.config.flat import defaults, flatten, parse
from fedpeft_app.config.schema import RunConfig

__all__ = ["RunConfig", "defaults", "flatten", "parse"]

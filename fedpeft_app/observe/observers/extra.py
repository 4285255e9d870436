"""Libraries that not everybody has: refused before anything starts, not missed in a run."""

import sys
from importlib.util import find_spec

from fedpeft_app.errors import ConfigError, Fault


def require_extra(name: str) -> None:
    """Refuse an observer whose library is not installed.

    Args:
        name: The library, which is also the observer's name, and that of our extra.

    Raises:
        ConfigError: Says how to install it.
    """
    if name in sys.modules:
        return
    spec = find_spec(name)
    # A folder of that name, which both libraries like to leave behind, is none.
    if spec is None or spec.origin is None:
        problem = f"{name} is not installed where the server runs. pip install 'fedpeft[{name}]'."
        raise ConfigError([Fault(key="observe.to", value=name, problem=problem)])

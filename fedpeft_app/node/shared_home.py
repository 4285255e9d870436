"""The one home that all machines of a cluster have to share."""

import os

from fedpeft_app.errors import NodeStateError
from fedpeft_app.mirrors import home

SHARED_MARK = "FEDPEFT_SHARED_MARK"  # variable: a path that all machines of a cluster see


def require_shared_home() -> None:
    """Refuse a home that is not the launcher's, on a cluster: a machine may join it at any time.

    Raises:
        NodeStateError: If this machine does not see what the launcher put there.
    """
    mark = os.environ.get(SHARED_MARK, "")
    if mark and not os.path.exists(mark):
        raise NodeStateError(
            f"Expected {home()} to be the folder that all machines of the cluster share, but "
            f"{mark} of this run is not there on this one. Set FEDPEFT_HOME to a shared folder, at "
            f"the same path everywhere, or take the machine out of the cluster."
        )

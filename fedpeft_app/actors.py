"""Ray actors that die are replaced, in Flower's simulation.

Flower 1.41 puts an actor that was killed (out of memory, say) back among the idle ones. Whatever
it is given fails at once, so it is idle again at once and is given ever more: one death, and most
messages fail for the rest of the run.
"""

import logging
import sys
from typing import Any

_SIMULATION = "flwr.simulation.app"  # what a simulation's process begins with, and no other
_FETCH = "fetch_result_and_return_actor_to_pool"
_log = logging.getLogger(__name__)


def replace_dead_actors() -> None:
    """Let Flower's pool of actors, if this process has one, make a new actor for one that died.

    The message that the dead one had fails all the same. Does nothing the second time.
    """
    if _SIMULATION not in sys.modules:
        return
    from flwr.simulation.ray_transport.ray_actor import BasicActorPool
    from ray.exceptions import RayActorError

    fetch = getattr(BasicActorPool, _FETCH, None)
    if fetch is None:
        _log.warning("This version of Flower has another pool of actors; dead ones stay in it.")
        return
    if hasattr(fetch, "replaces_the_dead"):
        return

    def fetch_or_replace(pool: Any, future: Any) -> Any:
        try:
            return fetch(pool, future)
        except RayActorError:
            pool._future_to_actor[future] = pool.create_actor_fn()  # goes back in its place
            _log.warning("A Ray actor died and is replaced.")
            raise

    fetch_or_replace.replaces_the_dead = True  # type: ignore[attr-defined]
    setattr(BasicActorPool, _FETCH, fetch_or_replace)

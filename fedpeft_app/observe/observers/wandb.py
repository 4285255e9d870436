"""Weights & Biases: a run on its servers, or on disk while there is no network."""

import json
import re
from collections.abc import Mapping
from typing import Any

from fedpeft_app.atomic import write_json
from fedpeft_app.observe.observers.extra import require_extra
from fedpeft_app.observe.observers.observer import Outcome, Watched
from fedpeft_app.observe.observers.scalars import scalars

_KEPT = "wandb.json"  # in the run's folder: which run it is there


class WeightsAndBiases:
    """Logs what rounds measure, over "round". A run that goes on goes on there, too.

    Nothing but that and the configuration is sent: no output, host, user, code or use of the
    machine.

    Args:
        project: Name of the project.
        entity: User or team; empty = the key's own.
        mode: "online" or "offline"; empty = $WANDB_MODE, or else online. The key is for W&B's own
            $WANDB_API_KEY, or `wandb login`.

    Raises:
        ConfigError: If W&B's library is not installed.
        ValueError: If there is no such mode.
    """

    def __init__(self, project: str = "fedpeft", entity: str = "", mode: str = "") -> None:
        require_extra("wandb")
        if mode not in ("", "online", "offline"):
            raise ValueError(f"expected mode 'online' or 'offline', got {mode!r}.")
        self._where = {
            "project": project,
            "entity": entity or None,
            "mode": mode or None,
        }

    def begin(self, watched: Watched) -> None:
        """Begin a run there, or go on with it."""
        import wandb

        kept = watched.folder / _KEPT
        if not kept.exists():
            write_json(kept, {"id": re.sub(r"[^A-Za-z0-9_-]", "-", watched.name)})
        self._run: Any = wandb.init(
            **self._where,
            id=json.loads(kept.read_text(encoding="utf-8"))["id"],
            name=watched.name,
            resume="allow",
            reinit="create_new",
            config=dict(watched.config),
            dir=watched.folder,
            settings=wandb.Settings(
                host="fedpeft",  # instead of the machine's name
                console="off",
                silent=True,
                disable_code=True,
                disable_git=True,
                save_code=False,
                x_disable_stats=True,
                x_disable_meta=True,
                x_disable_machine_info=True,
            ),
        )
        self._run.define_metric("*", step_metric="round")

    def tell(self, event: Mapping[str, Any]) -> None:
        """Log an event's numbers; those of the whole run go into its summary."""
        if measured := scalars(event):
            if event["event"] == "run_finished":
                self._run.summary.update(measured)
            else:
                self._run.log({"round": event["round"], **measured})

    def end(self, outcome: Outcome) -> None:
        """Say how the run ended, and send what was not yet sent."""
        import wandb

        self._run.finish(exit_code=int(outcome != "finished"))
        wandb.teardown()  # its process may still be writing, and would be ended with the run's

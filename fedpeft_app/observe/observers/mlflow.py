"""MLflow: a run on a tracking server, or in a local store."""

import json
import os
import time
from collections.abc import Mapping
from typing import Any

from fedpeft_app.atomic import write_json
from fedpeft_app.observe.observers.extra import require_extra
from fedpeft_app.observe.observers.observer import Outcome, Watched
from fedpeft_app.observe.observers.scalars import scalars

_STATUS = {"finished": "FINISHED", "failed": "FAILED", "stopped": "KILLED"}
_KEPT = "mlflow.json"  # in the run's folder: which run it is there
_LONGEST = 6000  # characters of a parameter; MLflow's own limit


class MLflow:
    """Logs what rounds measure; steps are rounds. A run that goes on goes on there, too.

    Args:
        tracking_uri: Where to, such as "http://mlflow:5000" or "sqlite:////data/mlflow.db"; empty
            = $MLFLOW_TRACKING_URI. Credentials are for MLflow's own variables.
        experiment: Name of the experiment, made where it is not there.

    Raises:
        ConfigError: If MLflow is not installed.
        ValueError: If nothing says where to.
    """

    def __init__(self, tracking_uri: str = "", experiment: str = "fedpeft") -> None:
        require_extra("mlflow")
        self._uri = tracking_uri or os.environ.get("MLFLOW_TRACKING_URI", "")
        self._experiment = experiment
        if not self._uri:
            raise ValueError(
                "expected a tracking_uri, or MLFLOW_TRACKING_URI in the server's environment, got "
                'neither. Such as {"mlflow": {"tracking_uri": "http://127.0.0.1:5000"}}'
            )

    def begin(self, watched: Watched) -> None:
        """Begin a run there, or go on with it."""
        from mlflow.tracking import MlflowClient

        self._client = MlflowClient(tracking_uri=self._uri)
        kept = watched.folder / _KEPT
        if kept.exists():
            self._run = str(json.loads(kept.read_text(encoding="utf-8"))["run_id"])
            self._client.update_run(self._run, status="RUNNING")
            return
        found = self._client.get_experiment_by_name(self._experiment)
        experiment = found.experiment_id if found else self._create()
        run = self._client.create_run(experiment, run_name=watched.name)
        self._run = run.info.run_id
        write_json(kept, {"run_id": self._run})
        self._tell_config(watched.config)

    def tell(self, event: Mapping[str, Any]) -> None:
        """Log an event's numbers."""
        from mlflow.entities import Metric

        now, step = int(time.time() * 1000), int(event.get("round") or 0)
        if measured := scalars(event):
            metrics = [Metric(name, value, now, step) for name, value in measured.items()]
            self._client.log_batch(self._run, metrics=metrics)

    def end(self, outcome: Outcome) -> None:
        """Say how the run ended."""
        self._client.set_terminated(self._run, status=_STATUS[outcome])

    def _create(self) -> str:
        """Make the experiment."""
        return str(self._client.create_experiment(self._experiment))

    def _tell_config(self, config: Mapping[str, Any]) -> None:
        """Log the configuration; an empty value would be refused by some stores."""
        from mlflow.entities import Param

        said = {key: str(value)[:_LONGEST] for key, value in config.items() if value != ""}
        self._client.log_batch(self._run, params=[Param(*pair) for pair in said.items()])

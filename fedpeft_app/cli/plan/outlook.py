"""All that can be said of a run without measuring anything."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fedpeft_app.adapters.parts import trained_spec
from fedpeft_app.backbone.locate import locate
from fedpeft_app.cli.preflight import preflight
from fedpeft_app.cli.shares import client_share, gpus_here
from fedpeft_app.cli.trial import Tried, tried
from fedpeft_app.config import RunConfig

if TYPE_CHECKING:
    from fedpeft_app.forecast.calibration import Calibration, Resources
    from fedpeft_app.forecast.rehearsal import Rehearsal
    from fedpeft_app.forecast.work import Crew
    from fedpeft_app.traffic import Expected

_FLOAT32_BYTES = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """Bytes of a run, as Flower serialises its messages.

    Attributes:
        up: Of all that nodes send, the roll call included.
        down: Of all that they are sent.
        train_bytes: Of training alone, both ways.
        train_messages: How many messages those are; of cohorts drawn in secret, as expected.
        message_up: Of the first node's first reply to be trained.
        message_down: Of its order.
        full_message: Of one message of full fine-tuning, float32, without any overhead.
        exact: Whether sizes follow from the configuration, but for numbers that Flower draws.
        rehearsal: Every message; None where cohorts are secret.
    """

    up: float
    down: float
    train_bytes: float
    train_messages: float
    message_up: int
    message_down: int
    full_message: int
    exact: bool
    rehearsal: "Rehearsal | None" = None

    @property
    def full_run(self) -> float:
        """Bytes of full fine-tuning, over the same messages."""
        return self.train_messages * self.full_message

    @property
    def times_fewer(self) -> float:
        """How many times fewer bytes than full fine-tuning, as a run's journal counts them."""
        return self.full_run / self.train_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Outlook:
    """What a run would be.

    Attributes:
        config: Its configuration.
        crew: Its nodes.
        tried: Its adapter.
        traffic: Its bytes; None for a baseline.
    """

    config: RunConfig
    crew: "Crew"
    tried: Tried
    traffic: Traffic | None

    def calibrate(self, resources: "Resources") -> "Calibration":
        """Measure what it takes of this machine; raises as `calibrate` does."""
        from fedpeft_app.forecast.calibration import calibrate
        from fedpeft_app.round_plan import asked

        sizes = self.crew.sizes
        cohort = len(sizes) if self.config.mode != "federated" else asked(self.config, len(sizes))
        largest = sizes.index(max(sizes))
        return calibrate(self.config, resources, node=largest, cohort=max(1, round(cohort)))


def look_ahead(config: RunConfig, nodes: int, *, startable: bool = False) -> Outlook:
    """Check a configuration as a run would, and say what it comes to.

    Args:
        config: A checked configuration.
        nodes: Simulated nodes.
        startable: Whether `preflight` found nothing wrong with it, or with one like it, already.

    Raises:
        FedPeftError: As `preflight`.
    """
    name, revision = config.model.name, config.model.revision
    located = locate(name, revision) if startable else preflight(config, nodes)
    from fedpeft_app.forecast.work import Crew
    from fedpeft_app.run_data import open_data

    labels = open_data(config, config.data.name).label_names
    found = tried(config, located, max(2, len(labels)))
    crew = Crew(config, nodes)
    traffic = None
    if config.mode == "federated":
        secret = config.privacy.mode == "user"
        traffic = _expected(crew, found) if secret else _rehearsed(crew, found, labels)
    return Outlook(config=config, crew=crew, tried=found, traffic=traffic)


def resources_here(
    config: RunConfig, nodes: int, *, client_cpus: int, client_gpus: float, actors: int
) -> "Resources":
    """Say what clients get of this machine, as `fedpeft run` gives it to them.

    Args:
        config: A checked configuration.
        nodes: Simulated nodes.
        client_cpus: Cores of a client; 0 = 1, or all in the central baseline.
        client_gpus: GPUs of a client.
        actors: Clients trained at the same time; 0 = as many as fit.
    """
    from fedpeft_app.forecast.calibration import Resources

    central = config.mode == "central"
    threads, gpu = client_share(config, client_cpus, client_gpus)
    fitting = actors or max(1, (os.cpu_count() or 1) // threads)
    if gpu:
        fitting = max(1, min(fitting, int(gpus_here() / gpu)))
    count = 1 if central else min(fitting, nodes)
    return Resources(nodes=1 if central else nodes, actors=count, threads=threads, gpu=gpu)


def _rehearsed(crew: "Crew", found: Tried, labels: tuple[str, ...]) -> Traffic:
    """Weigh every message."""
    from fedpeft_app.forecast.rehearsal import rehearse

    config = crew.config
    rehearsal = rehearse(config, crew, found.spec, personal=found.personal, labels=labels)
    messages = list(rehearsal.messages)
    trained = [one for each in rehearsal.rounds for one in each.trained]
    return Traffic(
        up=sum(one.up for one in messages),
        down=sum(one.down for one in messages),
        train_bytes=sum(one.up + one.down for one in trained),
        train_messages=2 * len(trained),
        message_up=trained[0].up,
        message_down=trained[0].down,
        full_message=_FLOAT32_BYTES * found.parameters,
        exact=rehearsal.exact,
        rehearsal=rehearsal,
    )


def _expected(crew: "Crew", found: Tried) -> Traffic:
    """Say what stands in the journal for traffic that would tell who was drawn."""
    from fedpeft_app.assembly import codecs
    from fedpeft_app.round_plan import asked
    from fedpeft_app.traffic import expected_traffic

    config = crew.config
    uplink, downlink = codecs(config)
    clients = asked(config, len(crew.data))
    each: Expected = expected_traffic(found.spec, uplink=uplink, downlink=downlink, clients=clients)
    total = each.rounds(config.rounds)
    return Traffic(
        up=total["up"],
        down=total["down"],
        train_bytes=total["up"] + total["down"],
        train_messages=2 * clients * config.rounds,
        message_up=each.up,
        message_down=each.down,
        full_message=_FLOAT32_BYTES * found.parameters,
        exact=False,
    )


def to_values(outlook: Outlook) -> dict[str, Any]:
    """Write an outlook as JSON values.

    Args:
        outlook: The outlook.
    """
    config, sizes = outlook.config, outlook.crew.sizes
    return {
        "mode": config.mode,
        "method": config.method.name,
        "model": config.model.name,
        "trainable": trained_spec(outlook.tried.spec).size,
        "parameters": outlook.tried.parameters,
        "rounds": config.rounds,
        "examples": sizes,
        "bytes": _traffic_values(outlook.traffic),
        "privacy": _privacy_values(outlook),
    }


def _traffic_values(traffic: Traffic | None) -> dict[str, Any] | None:
    """Write bytes."""
    if traffic is None:
        return None
    from fedpeft_app.wire.scales import VARIES_BYTES

    rounds = traffic.rehearsal.rounds if traffic.rehearsal else ()
    return {
        "exact": traffic.exact,
        "varies_per_message": VARIES_BYTES,
        "message": {"up": traffic.message_up, "down": traffic.message_down},
        "run": {
            "up": traffic.up,
            "down": traffic.down,
            "payload": sum(one.payload for one in traffic.rehearsal.messages)
            if traffic.rehearsal
            else None,
        },
        "full": {"message": traffic.full_message, "run": traffic.full_run},
        "times_fewer": traffic.times_fewer,
        "rounds": [
            {
                "round": each.number,
                "cohort": [one.node for one in each.trained],
                "down": sum(one.down for one in (*each.trained, *each.judged)),
                "up": sum(one.up for one in (*each.trained, *each.judged)),
            }
            for each in rounds
        ],
    }


def _privacy_values(outlook: Outlook) -> Mapping[str, Any]:
    """Write what would be guaranteed."""
    config = outlook.config
    if config.privacy.mode == "none":
        return {"mode": "none"}
    from fedpeft_app.forecast.privacy import forecast

    found = forecast(config, trained_spec(outlook.tried.spec).size, outlook.crew.sizes)
    return {
        "mode": config.privacy.mode,
        "epsilon": found.spent.epsilon,
        "unamplified": found.spent.unamplified,
        "delta": config.privacy.delta,
        "noise_multiplier": found.noise.event.noise_multiplier,
        "noise_to_signal": found.noise.once,
        "limits": list(found.limits),
    }

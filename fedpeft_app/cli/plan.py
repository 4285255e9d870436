"""`fedpeft plan`: what a run would send, and what it would guarantee, before anything runs."""

from collections.abc import Iterator, Sequence

from rich.console import Console

from fedpeft_app.adapters import AdapterSpec
from fedpeft_app.adapters.parts import trained_spec
from fedpeft_app.cli.preflight import preflight
from fedpeft_app.cli.trial import tried_spec
from fedpeft_app.config import RunConfig
from fedpeft_app.costs import weighed
from fedpeft_app.observe.lines import human_bytes
from fedpeft_app.strategies.sampling import cohort_size


def print_plan(config: RunConfig, nodes: int, console: Console) -> None:
    """Check a configuration as a run would, and print what it comes to.

    Args:
        config: A checked configuration.
        nodes: Simulated nodes.
        console: Where to print.

    Raises:
        FedPeftError: As `preflight`.
    """
    from fedpeft_app.data_plan import shares, splits
    from fedpeft_app.run_data import open_data

    located = preflight(config, nodes)
    data = open_data(config, config.data.name)
    sizes = [len(part) for part in shares(config, splits(config, data).train, nodes)]
    spec = tried_spec(config, located, max(2, len(data.label_names)))
    lines = [*_training(config, spec, sizes), *_privacy(config, spec, sizes)]
    for line in lines:
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def _training(config: RunConfig, spec: AdapterSpec, sizes: Sequence[int]) -> Iterator[str]:
    """Say who trains what, and what that sends."""
    from fedpeft_app.assembly import codecs

    whole = trained_spec(spec)
    yield (
        f"{config.method.name} on {config.model.name}: {whole.size:,} numbers train; "
        f"{len(sizes)} nodes hold {sum(sizes):,} examples ({min(sizes):,} to {max(sizes):,})"
    )
    if config.mode != "federated":
        return
    uplink, downlink = codecs(config)
    up, down = weighed(whole, uplink), weighed(spec, downlink)
    cohort = cohort_size(
        len(sizes), fraction=config.strategy.fraction_train, minimum=config.strategy.min_replies
    )
    total = config.rounds * cohort * (up + down)
    yield (
        f"a message is {human_bytes(up)} up and {human_bytes(down)} down; {cohort} nodes a round "
        f"in {config.rounds} rounds make about {human_bytes(total)}"
    )


def _privacy(config: RunConfig, spec: AdapterSpec, sizes: Sequence[int]) -> Iterator[str]:
    """State what would be guaranteed at most, and forecast the noise."""
    if config.privacy.mode == "none":
        yield "privacy: none (privacy.mode)"
        return
    from fedpeft_app.privacy_report import forecast

    rows = forecast(config, trained_spec(spec).size, sizes)
    yield "privacy, if every node trains in every round it may:"
    yield from (f"  {name}: {text}" for name, text in rows.items())

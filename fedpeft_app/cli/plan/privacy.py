"""What a plan says of privacy: the guarantee, its noise, and what would help."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from fedpeft_app.adapters import AdapterSpec
from fedpeft_app.adapters.parts import trained_spec
from fedpeft_app.backbone.locate import LocatedModel
from fedpeft_app.cli.preflight import node_sizes
from fedpeft_app.cli.trial import tried_spec
from fedpeft_app.config import RunConfig
from fedpeft_app.privacy.statement import counted, shown

if TYPE_CHECKING:
    from fedpeft_app.forecast.privacy import Forecast, Noise

_WEAK = 10.0  # ε above which guarantees are "weak to none": Ponomareva et al. 2023, section 5.2
_LOUD = 1.0  # noise to signal from which most of what is sent is noise
_STATED = ("against", "neighbouring", "also released", "not covered")


def cautions(config: RunConfig, located: LocatedModel, nodes: int) -> list[str]:
    """Say what speaks against a private run, though nothing forbids it.

    Args:
        config: A configuration that passed `preflight`.
        located: Its model.
        nodes: Simulated nodes.

    Returns:
        Sentences; none for a run without privacy.
    """
    if config.privacy.mode == "none":
        return []
    from fedpeft_app.forecast.privacy import forecast
    from fedpeft_app.run_data import open_data

    labels = open_data(config, config.data.name).label_names
    size = trained_spec(tried_spec(config, located, max(2, len(labels)))).size
    found = list(_against(config, forecast(config, size, node_sizes(config, nodes))))
    return [*found, "`fedpeft plan` with the same settings says more."] if found else []


def privacy_lines(config: RunConfig, spec: AdapterSpec, sizes: Sequence[int]) -> Iterator[str]:
    """Forecast guarantee and noise, and say what would help.

    Args:
        config: A configuration that passed `preflight`.
        spec: What travels.
        sizes: Training examples of each node.
    """
    if config.privacy.mode == "none":
        yield "privacy: none (privacy.mode)"
        return
    from fedpeft_app.forecast.privacy import forecast

    found, once = forecast(config, trained_spec(spec).size, sizes), _once(config)
    whom = "node" if once == "round" else "training example"
    yield "privacy, however often a node is asked to train:"
    yield (
        f"  guarantee: at most ({shown(found.spent.epsilon)}, {config.privacy.delta:g})-"
        f"differential privacy for each {whom}"
    )
    yield f"  noise: {_mechanism(config, found)}"
    yield f"  noise to signal: {_compared(config, found.noise)}"
    yield (
        f"  epsilon without amplification by sampling: {shown(found.spent.unamplified)} there; it "
        f"would be that much if it were known who is drawn for each {once}"
    )
    yield "  what makes noise to signal smaller:"
    yield from (f"    {line}" for line in _remedies(config, found))
    yield from (f"  mind: {line}" for line in _against(config, found))
    yield from (f"  {name}: {found.statement[name]}" for name in _STATED)


def _once(config: RunConfig) -> str:
    """Name what noise is added in."""
    return "round" if config.privacy.mode == "user" else "step"


def _mechanism(config: RunConfig, found: "Forecast") -> str:
    """Say how much noise is added, how often, and why so much."""
    privacy, event = config.privacy, found.noise.event
    why = (
        "as set (privacy.noise-multiplier)"
        if privacy.noise_multiplier
        else f"the least that keeps the run within epsilon {privacy.target_epsilon:g}"
    )
    once = _once(config)
    drawn = "nodes" if once == "round" else "examples"
    return (
        f"z = {event.noise_multiplier:.3g} on {found.party}, {why}; {counted(event.steps, once)}, "
        f"each of which draws {found.noise.count:.4g} {drawn} on average (q = {event.sampling:.3g})"
    )


def _compared(config: RunConfig, noise: "Noise") -> str:
    """Compare the noise to what it hides, and say where the numbers come from."""
    norm, once = config.privacy.clipping_norm, _once(config)
    averaged = counted(noise.event.steps, once)
    averaged += f" of {counted(noise.parties, 'node')}" * (once == "step")
    return (
        f"{_ratios(config, noise)}; the mean in a {once} has norm {norm:g} at most, the noise on "
        f"it {noise.deviation:.3g}·{norm:g}·√{noise.parameters:,} / {noise.count:.4g} = "
        f"{noise.once * norm:.3g}; over {averaged} noise averages out by the root of their number"
    )


def _ratios(config: RunConfig, noise: "Noise") -> str:
    """Write noise to signal of a step and of a run."""
    return f"{noise.once:.3g} in a {_once(config)}, {noise.overall:.2g} over the run"


def _remedies(config: RunConfig, found: "Forecast") -> Iterator[str]:
    """Say what would make noise to signal smaller, and how much."""
    for change, noise in found.remedies.items():
        yield f"{change}: {_ratios(config, noise)}"
    yield "a quarter of the numbers that train (`fedpeft methods` lists them): half as much"
    if _once(config) == "step":
        yield "twice as many examples on each node: about half as much over the run"


def _against(config: RunConfig, found: "Forecast") -> Iterator[str]:
    """Say what speaks against the run."""
    if found.spent.epsilon > _WEAK:
        yield (
            f"epsilon {shown(found.spent.epsilon)} is above {_WEAK:g}, where a guarantee counts as "
            f"weak or none (Ponomareva et al. 2023, arXiv 2303.00654)."
        )
    if (ratio := found.noise.once) >= _LOUD:
        yield (
            f"in a {_once(config)}, noise is {ratio:.3g} times the most that can be learnt in it: "
            f"expect much worse than without privacy, if anything."
        )
    if config.privacy.unsafe_seed >= 0:
        yield "privacy.unsafe-seed is set: who knows it can take the noise off."
    yield from found.limits

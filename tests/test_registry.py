"""Names become objects: built-ins, entry points, dotted paths, and near misses."""

from collections import OrderedDict
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from fedpeft_app import registry as registry_module
from fedpeft_app.errors import UnknownNameError
from fedpeft_app.names import NAME_CHECKS, REGISTRIES
from fedpeft_app.registry import Registry, near_miss

BOXES = Registry(
    kind="box",
    group="fedpeft.boxes",
    builtin={"ordered": "collections:OrderedDict", "broken": "collections:Nothing"},
)
BUILT_IN = [
    pytest.param(registry, name, id=f"{registry.kind}-{name}")
    for registry in REGISTRIES.values()
    for name in registry.builtin
]


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pretend that a package adds 'counter', and that it would like to replace 'ordered'."""
    found = [
        EntryPoint(name="ordered", value="evil:Box", group="fedpeft.boxes"),
        EntryPoint(name="counter", value="collections:Counter", group="fedpeft.boxes"),
    ]
    monkeypatch.setattr(
        registry_module,
        "entry_points",
        lambda *, group: found if group == "fedpeft.boxes" else [],
    )


@pytest.mark.parametrize(("registry", "name"), BUILT_IN)
def test_every_built_in_can_be_imported(registry: Registry, name: str) -> None:
    assert callable(registry.get(name))


@pytest.mark.parametrize("key", REGISTRIES)
def test_every_default_name_is_known(key: str) -> None:
    from fedpeft_app.config import defaults

    assert NAME_CHECKS[key](str(defaults()[key]))


def test_a_path_leads_where_it_says() -> None:
    assert BOXES.get("collections:OrderedDict") is OrderedDict


@pytest.mark.usefixtures("installed")
def test_a_package_can_add_a_name() -> None:
    assert BOXES.names() == ["ordered", "broken", "counter"]
    assert BOXES.target("counter") == "collections:Counter"


@pytest.mark.usefixtures("installed")
def test_a_package_cannot_replace_a_built_in() -> None:
    assert BOXES.get("ordered") is OrderedDict


def test_an_unknown_name_lists_what_is_known_and_the_near_miss() -> None:
    with pytest.raises(UnknownNameError) as caught:
        BOXES.target("orderd")
    assert str(caught.value) == (
        "unknown box 'orderd'. Known: ordered, broken, or a path 'package.module:Name'. "
        "Did you mean 'ordered'?"
    )


@pytest.mark.parametrize(
    "name", ["", "Ordered Dict", ":x", "x:", "a..b:C", ".a:B", "a:B.C", "a b:C", "a:B:C", "1:2"]
)
def test_what_is_neither_name_nor_path_is_unknown(name: str) -> None:
    with pytest.raises(UnknownNameError, match="unknown box"):
        BOXES.get(name)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("broken", "has no attribute 'Nothing'"),
        ("collections:Nothing", "has no attribute 'Nothing'"),
        ("no_such_package.module:Name", "No module named 'no_such_package'"),
    ],
)
def test_a_dead_end_is_named_with_its_target(name: str, reason: str) -> None:
    with pytest.raises(UnknownNameError, match=f"box '{name}' leads to '.*{reason}"):
        BOXES.get(name)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("collections:OrderdDict", "'collections' has: ChainMap, .*mean 'OrderedDict'"),
        ("json.decodr:JSONDecoder", "'json' has: decoder, encoder, .*mean 'decoder'"),
        ("jsno.decoder:JSONDecoder", "No module named 'jsno'. Did you mean 'json'"),
        ("json.decoder.fast:Decoder", "'json.decoder' has none"),
    ],
)
def test_a_dead_end_tells_what_is_there_instead(name: str, told: str) -> None:
    with pytest.raises(UnknownNameError, match=told):
        BOXES.get(name)


def test_a_module_that_says_what_it_offers_is_taken_at_its_word(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_boxes.py").write_text(
        "from collections import OrderedDict, deque\n__all__ = ['deque']\nclass Crate: pass\n",
        encoding="utf-8",
    )
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UnknownNameError, match="'my_boxes' has: deque.$"):
        BOXES.get("my_boxes:Barrel")


def test_what_a_plug_in_itself_lacks_is_not_blamed_on_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_box.py").write_text("import jsno\n", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UnknownNameError, match="cannot be imported: No module named 'jsno'.$"):
        BOXES.get("my_box:Box")


def test_finding_a_target_imports_nothing() -> None:
    assert BOXES.target("no_such_package:Name") == "no_such_package:Name"


@pytest.mark.parametrize(
    ("written", "meant"),
    [("fedavgg", "fedavg"), ("FedAvg", "fedavg"), ("LORA", "LoRA"), ("rank", "method.rank")],
)
def test_near_misses(written: str, meant: str) -> None:
    known = ["fedavg", "LoRA", "method.rank"]
    assert near_miss(written, known) == f" Did you mean '{meant}'?"


@pytest.mark.parametrize("written", ["", "xyz", "42"])
def test_far_misses_suggest_nothing(written: str) -> None:
    assert near_miss(written, ["fedavg", "LoRA"]) == ""


def test_half_the_letters_in_common_are_no_near_miss() -> None:
    assert near_miss("4bit", ["none", "int8", "nf4"]) == ""


def test_nothing_known_suggests_nothing() -> None:
    assert near_miss("", []) == ""

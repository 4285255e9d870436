"""A grid becomes entries; what is wrong with a study is said before it starts."""

from pathlib import Path

import pytest
from study_samples import TWO_BY_TWO, plan_of

from fedpeft_app.errors import ConfigError, SourceError

HEAD = 'name = "x"\n'
GRID = '[grid]\nmethod.name = ["lora", "head"]\n'


def faults(folder: Path, text: str) -> list[str]:
    """Read a study that is not sound."""
    with pytest.raises(ConfigError) as caught:
        plan_of(folder, text)
    return [str(fault) for fault in caught.value.faults]


def test_the_grid_is_a_product_in_the_order_written(tmp_path: Path) -> None:
    entries = plan_of(tmp_path, TWO_BY_TWO).entries
    assert [(entry.row, entry.column) for entry in entries] == [
        ("full", "0.1"),
        ("full", "1.0"),
        ("lora", "0.1"),
        ("lora", "1.0"),
    ]
    assert entries[1].settings == {
        "rounds": 3,
        "nodes": 4,
        "method.name": "full",
        "data.dirichlet-alpha": 1.0,
    }
    assert entries[1].seeds == (0, 1, 2)


def test_an_override_changes_only_what_it_fits(tmp_path: Path) -> None:
    override = '[[override]]\nwhen = {method.name = "head"}\nset = {rounds = 7}\n'
    entries = plan_of(tmp_path, HEAD + GRID + override).entries
    assert [entry.settings.get("rounds") for entry in entries] == [None, 7]


def test_later_overrides_win(tmp_path: Path) -> None:
    text = HEAD + "[config]\nrounds = 1\n" + GRID
    text += '[[override]]\nwhen = {mode = "federated"}\nset = {rounds = 2}\n'
    text += '[[override]]\nwhen = {method.name = ["head", "full"]}\nset = {rounds = 3}\n'
    assert [entry.settings["rounds"] for entry in plan_of(tmp_path, text).entries] == [2, 3]


def test_what_is_excluded_is_not_run(tmp_path: Path) -> None:
    exclude = '[[exclude]]\nwhen = {method.name = "full", data.dirichlet-alpha = 0.1}\n'
    entries = plan_of(tmp_path, TWO_BY_TWO + exclude).entries
    assert [entry.name for entry in entries] == ["full / 1.0", "lora / 0.1", "lora / 1.0"]


def test_a_cell_has_the_last_word_on_itself(tmp_path: Path) -> None:
    text = HEAD + "[config]\nrounds = 1\n" + GRID
    text += '[[override]]\nwhen = {mode = "central"}\nset = {rounds = 2, train.batch-size = 4}\n'
    text += '[[cell]]\nrow = "pooled"\nset = {mode = "central", rounds = 9}\nseeds = [5]\n'
    pooled = plan_of(tmp_path, text).entries[-1]
    assert pooled.row == "pooled"
    assert pooled.seeds == (5,)
    assert pooled.settings == {"mode": "central", "rounds": 9, "train.batch-size": 4}


def test_ids_name_what_the_numbers_depend_on(tmp_path: Path) -> None:
    def first(text: str) -> str:
        plan = plan_of(tmp_path, text)
        return plan.cell(plan.entries[0], 0, {}).id

    told = first(HEAD + GRID)
    assert first(HEAD.replace("x", "y") + GRID) == told  # a name changes no number,
    assert first(HEAD + "[config]\nrounds = 5\n" + GRID) == told  # nor does a default written out,
    assert first(HEAD + '[config]\noutput.dir = "/tmp/a"\n' + GRID) == told  # nor the place
    assert first(HEAD + "[config]\nrounds = 6\n" + GRID) != told
    assert first(HEAD + "nodes = 11\n" + GRID) != told


def test_every_seed_is_a_run_of_its_own(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, TWO_BY_TWO)
    cells = {plan.cell(entry, seed, {}).id for entry in plan.entries for seed in entry.seeds}
    assert len(cells) == 4 * 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seeds = [0]\n" + GRID, "name = None: must be 1 to 50 letters"),
        ('name = "a b"\n' + GRID, "name = 'a b': must be"),
        (HEAD + "nodes = 0\n" + GRID, "nodes = 0: must be a whole number from 1"),
        (HEAD + "seeds = [1, 1]\n" + GRID, "seeds = [1, 1]: must be a list of different"),
        (HEAD + "sedes = [1]\n" + GRID, "sedes = [1]: unknown key. Did you mean 'seeds'?"),
        (HEAD + "grid = 3\n", "grid = 3: must be a table of configuration keys"),
        (HEAD + "[grid]\nmethod.name = 'lora'\n", "grid.method.name = 'lora': must be a list"),
        (HEAD + "[grid]\nrounds = [1, 1]\n", "grid.rounds = [1, 1]: has a value twice"),
        (HEAD + "[grid]\nmethod.nam = ['a']\n", "Did you mean 'method.name'?"),
        (HEAD + "[config]\nseed = 1\n" + GRID, "config.seed = 1: a study has `seeds`"),
        (HEAD + "[config]\nrounds = [1]\n" + GRID, "config.rounds = [1]: must be text, a number"),
        (HEAD, "grid = {}: there is no cell"),
        (HEAD + "[config]\nmethod.name = 'lora'\n" + GRID, "is in [grid], which would win"),
        (HEAD + GRID + "[table]\nrows = []\n", "is in neither table.rows nor table.columns"),
        (HEAD + GRID + "[table]\nrows = ['mode']\n", "rows are made of keys in [grid]"),
        (HEAD + GRID + "[table]\nbaseline = 'loar'\n", "Rows: lora, head. Did you mean 'lora'?"),
        (HEAD + GRID + "[[cell]]\nrow = 'lora'\n", "another cell has this row and column"),
        (HEAD + GRID + "[[cell]]\nset = {rounds = 1}\n", "must name the row"),
        (
            HEAD + GRID + "data.name = ['20newsgroups', 'reuters-r8']\n"
            "[[cell]]\nrow = 'lora'\nset = {data.name = 'reuters-r8'}\n",
            "cell[1].row = 'lora': means 'lora, reuters-r8', which learns from the same",
        ),
        (HEAD + GRID + "[[exclude]]\nwhen = {rounds = 3}\n", "fits no cell of the study"),
        (HEAD + GRID + "[[override]]\nset = {rounds = 3}\n", "must name a key and the values"),
        (HEAD + GRID + "[tune]\n", "expected at least one [[tune.search]]"),
        (
            HEAD + GRID + "[tune]\nper = []\n"
            "[[tune.search]]\nwhen = {method.name = 'lora'}\nrounds = [1]\n"
            "[[tune.search]]\nwhen = {method.name = 'head'}\nrounds = [2]\n",
            "tuned together, but by 2 searches",
        ),
        (
            HEAD + GRID + "[tune]\n"
            "[[tune.search]]\nwhen = {method.name = 'lora'}\nrounds = [1]\n"
            "[[tune.search]]\nwhen = {mode = 'federated'}\nrounds = [2]\n",
            "several searches fit this cell",
        ),
    ],
)
def test_a_fault_is_named(tmp_path: Path, text: str, message: str) -> None:
    assert any(message in fault for fault in faults(tmp_path, text))


def test_every_fault_is_named_at_once_with_its_cells(tmp_path: Path) -> None:
    text = 'name = "x"\n[config]\nrounds = -1\n[grid]\nmethod.name = ["lora", "hed"]\n'
    text += '[[cell]]\nrow = "pooled"\nset = {mode = "centrl"}\n[table]\nbaseline = "full"\n'
    found = faults(tmp_path, text)
    assert len(found) == 4
    assert found[0].startswith("table.baseline = 'full': is no row")
    assert found[1].endswith("(In every cell.)")
    assert found[2].startswith("method.name = 'hed': unknown method")
    assert found[2].endswith("(In hed.)")
    assert found[3].startswith("mode = 'centrl': must be")
    assert found[3].endswith("(In pooled.)")


def test_a_file_that_is_none_is_one_error(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="is not valid TOML"):
        plan_of(tmp_path, "name = ")


ZIPPED = """
name = "zipped"
seeds = [0]
[grid]
method.name = ["lora", "bias"]
[[zip]]
nodes = [10, 20]
strategy.fraction-train = [0.4, 0.2]
"""


def test_zipped_keys_go_together(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, ZIPPED)
    assert [entry.row for entry in plan.entries] == ["lora, 10", "lora, 20", "bias, 10", "bias, 20"]
    cells = [plan.cell(entry, 0, {}) for entry in plan.entries[:2]]
    assert [(cell.nodes, cell.config["strategy.fraction-train"]) for cell in cells] == [
        (10, 0.4),
        (20, 0.2),
    ]


def test_a_zip_is_told_apart_by_what_is_shown_of_it(tmp_path: Path) -> None:
    by_share = ZIPPED + '[table]\ncolumns = "strategy.fraction-train"\n'
    assert {entry.column for entry in plan_of(tmp_path, by_share).entries} == {"0.4", "0.2"}
    alike = by_share.replace("[0.4, 0.2]", "[0.4, 0.4]")
    (fault,) = faults(tmp_path, alike)
    assert fault.startswith("grid.nodes = [10, 20]: is in neither table.rows nor table.columns")


@pytest.mark.parametrize(
    ("zipped", "problem"),
    [
        ("nodes = [10, 20, 30]", "needs as many values of each key"),
        ('method.name = ["head", "full"]', "is in [grid] or [[zip]] twice"),
        ("nodes = [0, 20]", "must be a whole number from 1"),
        ("", "needs at least two keys"),
    ],
)
def test_zips_that_do_not_fit_are_refused(zipped: str, problem: str, tmp_path: Path) -> None:
    text = ZIPPED.replace("nodes = [10, 20]", zipped)
    assert any(problem in fault for fault in faults(tmp_path, text))


def test_a_key_in_two_zips_is_a_fault_among_the_others(tmp_path: Path) -> None:
    again = "[[zip]]\nnodes = [1, 2, 3]\nmethod.rank = [1, 2, 3]\n"
    (fault,) = faults(tmp_path, ZIPPED + again)
    assert fault.startswith("zip[2].nodes")


def test_nodes_vary_like_any_key(tmp_path: Path) -> None:
    text = (
        'name = "n"\n[grid]\nnodes = [4, 8]\n[[exclude]]\nwhen = {nodes = 8}\n[[cell]]\nrow = "x"\n'
    )
    plan = plan_of(tmp_path, text + "set = {nodes = 6}\n")
    cells = [plan.cell(entry, 0, {}) for entry in plan.entries]
    assert [(cell.name, cell.nodes) for cell in cells] == [("4, seed 0", 4), ("x, seed 0", 6)]
    assert "nodes" not in cells[0].config


def test_how_data_are_read_makes_no_group(tmp_path: Path) -> None:
    data = "data.max-length = [32, 64]\ndata.max-examples = [100, 200]\n"
    entries = plan_of(tmp_path, HEAD + GRID + data).entries
    assert (entries[0].group, entries[0].series) == ("100", "lora, 32")
    assert (entries[-1].group, entries[-1].series) == ("200", "head, 64")

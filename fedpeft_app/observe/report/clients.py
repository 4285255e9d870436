"""Who took part: a grid of nodes by rounds, and why replies did not count."""

from collections.abc import Mapping, Sequence

from fedpeft_app.observe.lines import human_bytes
from fedpeft_app.observe.report import figures
from fedpeft_app.observe.report.attendance import (
    ABSENT,
    FAILED,
    GOOD,
    JUDGED,
    LATE,
    REJECTED,
    RESTING,
    SAT_OUT,
    SURPLUS,
    WAITING,
    Attendance,
    Node,
)
from fedpeft_app.observe.report.markup import Child, Html, element, join
from fedpeft_app.observe.report.tables import folded, scrolling, table
from fedpeft_app.privacy.statement import between, counted, shown

# Outcome → the mark that stands for it, also for those who see no colours, and what it means.
_MARKS: Mapping[str, tuple[str, str]] = {
    GOOD: ("●", "trained, and its reply counts"),
    FAILED: ("✕", "no usable reply: it failed, or what it sent was refused"),
    REJECTED: ("▲", "its reply was rejected beside the others"),
    LATE: ("◷", "its reply came too late"),
    SURPLUS: ("○", "asked to spare, not needed"),
    SAT_OUT: ("◇", "sat out"),
    RESTING: ("–", "left alone after failures"),
    JUDGED: ("·", "only evaluated"),
    WAITING: ("?", "asked; no answer is in the journal"),
    ABSENT: ("×", "had not joined yet"),
}
_MOST_ROWS, _MOST_COLUMNS = 100, 120  # of the grid
_MOST_REASONS, _MOST_NAMED = 50, 12


def clients(found: Attendance) -> list[Html]:
    """Say who took part, who failed, and why.

    Args:
        found: What the journal says.

    Returns:
        Parts of a section; none where no node ever answered.
    """
    if not found.nodes and not found.refused:
        return []
    parts = [element("p", _sum(found))]
    if found.secret:
        hidden = "Who was drawn in which round is secret: the privacy of this run relies on it."
        parts.append(element("p", hidden, class_="note"))
    if not found.secret or any(map(_telling_of, found.nodes.values())):
        parts.append(_grid(found))
    if reasons := found.reasons():
        parts += [element("h3", "Why replies did not count"), _reasons(reasons)]
    if found.refused:
        rows = [[who, element("span", why, class_="reason")] for who, why in found.refused.items()]
        parts += [
            element("h3", "Refused at the roll call"),
            table(["node", "reason"], rows, label="Refused at the roll call", names=2),
        ]
    return parts


def _telling_of(node: Node) -> bool:
    """Say whether there is more to tell of a node than that it was there."""
    return bool(node.name or node.examples is not None or node.epsilon is not None)


def _sum(found: Attendance) -> str:
    """Sum everybody up."""
    nodes = list(found.nodes.values())
    told = [node.examples for node in nodes if node.examples is not None]
    words = [counted(len(nodes), "node")]
    if told and len(told) == len(nodes):
        spread = between(told) + " each" * (len(nodes) > 1)
        words.append(f"with {counted(sum(told), 'training example')}, {spread}")
    sentences = [" ".join(words)]
    if found.rounds and not found.secret:
        trained = sum(node.count(GOOD) > 0 for node in nodes)
        troubled = sum(node.trouble > 0 for node in nodes)
        rounds = counted(len(found.rounds), "round")
        sentences.append(f"{trained or 'none'} trained in any of {rounds}")
        sentences.append(f"{troubled:,} failed at least once" if troubled else "none failed")
    if found.refused:
        sentences.append(f"{len(found.refused):,} refused at the roll call")
    return "; ".join(sentences) + "."


# ------------------------------------------------------------------ the grid


def _grid(found: Attendance) -> Html:
    """Draw nodes by rounds; of very many the telling ones."""
    nodes = list(found.nodes.values())
    shown_nodes = sorted(_telling(nodes), key=nodes.index)
    numbers = [] if found.secret else found.rounds[-_MOST_COLUMNS:]
    titles = ["node", *map(str, numbers)]
    sums = _figures(found, Node(number=""))
    head = element(
        "tr",
        *(element("th", one, scope="col") for one in titles),
        *(element("th", one, scope="col", class_="number") for one in sums),
    )
    body = [_row(found, node, numbers) for node in shown_nodes]
    inside = element("table", element("thead", head), element("tbody", *body), class_="grid-table")
    left_out = _left_out(len(nodes) - len(shown_nodes), len(found.rounds) - len(numbers), found)
    return join(
        scrolling(inside, "Nodes by rounds"),
        _legend(shown_nodes, set(numbers)),
        element("p", left_out, class_="note") if left_out else None,
    )


def _telling(nodes: Sequence[Node]) -> Sequence[Node]:
    """Choose the rows: of very many nodes those with trouble first, then those that did most."""
    if len(nodes) <= _MOST_ROWS:
        return nodes
    return sorted(nodes, key=lambda node: (-node.trouble, -node.count(GOOD)))[:_MOST_ROWS]


def _row(found: Attendance, node: Node, numbers: Sequence[int]) -> Html:
    """Draw one node."""
    cells = [_cell(node, number) for number in numbers]
    sums = _figures(found, node).values()
    return element(
        "tr",
        element("th", node.label, scope="row"),
        *cells,
        *(element("td", one, class_="number") for one in sums),
    )


def _cell(node: Node, number: int) -> Html:
    """Draw one node in one round."""
    outcome = node.rounds.get(number)
    if outcome is None:
        return Html("<td></td>")
    if outcome == GOOD:  # most are
        return Html('<td class="good">●</td>')
    return element("td", _MARKS[outcome][0], class_=outcome, title=node.reasons.get(number))


def _figures(found: Attendance, node: Node) -> dict[str, Child]:
    """Give what stands behind the rounds: title → figure."""
    nodes = found.nodes.values()
    rows: dict[str, Child] = {}
    if not found.secret and found.rounds:
        rows["trained"] = f"{node.count(GOOD):,}"
    if any(one.examples is not None for one in nodes):
        rows["examples"] = figures.shown(node.examples, figures.whole)
    if found.has_bytes:
        rows["down"], rows["up"] = human_bytes(node.down), human_bytes(node.up)
    if any(one.epsilon is not None for one in nodes):
        rows["ε"] = figures.shown(node.epsilon, shown)
    return rows


def _legend(nodes: Sequence[Node], numbers: set[int]) -> Html | None:
    """Explain the marks that occur."""
    used = {outcome for node in nodes for at, outcome in node.rounds.items() if at in numbers}
    items = [
        element("li", element("span", mark, class_=outcome), f" {meaning}")
        for outcome, (mark, meaning) in _MARKS.items()
        if outcome in used
    ]
    return element("ul", *items, class_="marks") if items else None


def _left_out(nodes: int, rounds: int, found: Attendance) -> str:
    """Say what the grid does not show."""
    said = []
    if nodes > 0:
        said.append(
            f"The {_MOST_ROWS} nodes with most failures, then with most rounds, are shown; "
            f"{nodes:,} more are left out."
        )
    if rounds > 0 and not found.secret:
        said.append(f"The last {_MOST_COLUMNS} rounds are shown; the sums are of all.")
    return " ".join(said)


# ------------------------------------------------------------------ reasons


def _reasons(reasons: Mapping[str, Sequence[tuple[int, Node]]]) -> Html:
    """List reasons with those whom they stand for."""
    rows: list[list[Child]] = []
    for reason, cases in list(reasons.items())[:_MOST_REASONS]:
        by_node: dict[str, list[int]] = {}
        for number, node in cases:
            by_node.setdefault(node.label, []).append(number)
        named = [
            f"{label}: {figures.listed(numbers)}"
            for label, numbers in list(by_node.items())[:_MOST_NAMED]
        ]
        more = f" and {len(by_node) - _MOST_NAMED:,} more" if len(by_node) > _MOST_NAMED else ""
        rows.append(
            [element("span", reason, class_="reason"), "; ".join(named) + more, f"{len(cases):,}"]
        )
    head = ["reason", "node: rounds", "replies"]
    inside = table(head, rows, label="Why replies did not count", names=2)
    rarer = len(reasons) - _MOST_REASONS
    note = f"{rarer:,} rarer reasons are left out." if rarer > 0 else None
    if len(rows) > _MOST_NAMED:
        inside = folded(f"{len(rows)} reasons", inside)
    return join(inside, element("p", note, class_="note") if note else None)

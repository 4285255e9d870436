"""A study's table as LaTeX: whole, escaped, and with the best in bold."""

from dataclasses import replace
from pathlib import Path

from study_samples import TWO_BY_TWO, Pretence, conducted, plan_of

from fedpeft_app.studies.latex import escaped, to_latex
from fedpeft_app.studies.table import lines

HEAD = (
    "method.name & data.dirichlet-alpha = 0.1 & data.dirichlet-alpha = 1.0 & parameters "
    r"& per message \\"
)


def test_the_table_by_row_and_column(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, TWO_BY_TWO)
    table = lines(plan.study, conducted(plan, tmp_path, Pretence(tmp_path / "runs", lambda _: 0.5)))
    text = to_latex(plan.study, [replace(table[0], best=True, row="100 %"), table[1], *table[2:]])
    assert text.splitlines()[1:] == [
        r"\begin{tabular}{lrrrr}",
        r"\toprule",
        HEAD,
        r"\midrule",
        r"100 \% & $\mathbf{0.5000 \pm 0.0000}$ & -- & 1,000 & 3.9 KiB \\",
        r"full & -- & $0.5000 \pm 0.0000$ & 1,000 & 3.9 KiB \\",
        r"lora & $0.5000 \pm 0.0000$ & $0.5000 \pm 0.0000$ & 10 & 40 B \\",
        r"\bottomrule",
        r"\end{tabular}",
    ]


def test_every_mark_that_latex_reads_is_escaped() -> None:
    assert escaped("a_b & 5 % {x} #1 ~^\\") == (
        r"a\_b \& 5 \% \{x\} \#1 \textasciitilde{}\textasciicircum{}\textbackslash{}"
    )

"""The claims with their verdicts as a Markdown page, and for a terminal."""

from collections.abc import Sequence

from nin_repro.results.arms import NOT_ENOUGH
from nin_repro.results.claim_texts import RULE, TITLE, Claim
from nin_repro.results.render import clean, grid, plain


def markdown(claims: Sequence[Claim], problems: Sequence[str]) -> str:
    """All claims as one Markdown page."""
    lines = [f"# {TITLE}", ""]
    lines += [
        "Written by `python -m nin_repro.claims` from records and measurements; errors in percent, mean ± standard "
    ]
    lines[-1] += "deviation over n living runs, differences in points. Keys lead to the runs."
    lines += ["", "## How a verdict is reached", "", plain(RULE), "", "## Verdicts", ""]
    lines += verdicts(claims)
    for number, claim in enumerate(claims, start=1):
        lines += [
            "",
            f"## {number}. {plain(claim.text.title)}",
            "",
            f"*{claim.text.where}*. {plain(claim.text.rule)}",
            "",
        ]
        lines += [f"**{claim.verdict.word.capitalize()}**: {plain(claim.verdict.text)}."]
        for names, align, rows in claim.tables:
            lines += ["", *grid(names, align, rows)] if rows else []
        for name in claim.figures:
            lines += ["", f"![{plain(claim.text.title)}]({name}.svg)"]
        lines += ["", *claim.notes] if claim.notes else []
        if claim.commands:
            lines += ["", "At the paper's budget:", "", *(f"    {command}" for command in claim.commands)]
    if problems:
        lines += ["", "## Not used", "", *(f"- {plain(problem)}" for problem in problems)]
    return "\n".join(lines) + "\n"


def verdicts(claims: Sequence[Claim]) -> list[str]:
    """A table of the claims with their verdicts, in a few words each."""
    rows = [[plain(one.text.title), plain(one.text.where), in_short(one)] for one in claims]
    return grid("Claim|Where|Verdict", "lll", rows)


def in_short(claim: Claim) -> str:
    """Its verdict in a few words, for Markdown."""
    return f"**{claim.verdict.word}**" + (f": {plain(claim.verdict.short)}" if claim.verdict.short else "")


def text(claims: Sequence[Claim], problems: Sequence[str]) -> str:
    """The verdicts for a terminal."""
    lines = []
    for number, claim in enumerate(claims, start=1):
        lines += [
            f"{number}. {claim.text.title} ({claim.text.where})",
            f"   {claim.verdict.word}: {clean(claim.verdict.text)}",
        ]
        if claim.verdict.word == NOT_ENOUGH:
            lines += [f"     $ {command}" for command in claim.commands]
    return "\n".join([*lines, *map(clean, problems)])

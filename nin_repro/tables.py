"""`python -m nin_repro.tables` makes all tables of the paper from the committed records: no torch, data or network.

It also writes what follows from them, where the numbers of every experiment come from, all of it as one page, and the
results that README.md opens with.
"""

import argparse
import contextlib
import shlex
import shutil
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from nin_repro.claims import LAYER_FILE, gather, kept_numbers
from nin_repro.command import Parser, as_command, given_place
from nin_repro.config.compose import load_all, parents, stand_ins
from nin_repro.config.conf import CONF
from nin_repro.config.origins import active, provenance
from nin_repro.config.recipe import family, recipe
from nin_repro.cost import in_words, seconds
from nin_repro.files import require_place
from nin_repro.models.spec import layers
from nin_repro.results import ablations, analysis, claim_page, fidelity, records
from nin_repro.results.claim_texts import Claim
from nin_repro.results.export import write_all, write_page
from nin_repro.results.page import Prices, html
from nin_repro.results.paper import VALUES
from nin_repro.results.readme import MARKS, brief, renew
from nin_repro.results.render import WIDTH, clean, text
from nin_repro.results.tables import Cell, build
from nin_repro.schema import Config

RESULTS = Path("results")


def cells(configs: dict[str, Config], facts: Mapping[str, fidelity.Provenance] | None = None) -> dict[str, Cell]:
    """For each experiment: what its records are known by, the command that makes them and what that costs.

    Args:
        facts: where the values of each are from; without them nothing counts as assumed.
    """
    found = {}
    for name, config in configs.items():
        assumed = 0 if facts is None else fidelity.counts(facts[name])["assumed"]
        offered = [cell(name, config)]
        for one in stand_ins(config, [f"experiment={name}"]):
            offered.append(cell(name, one, f"precision={one.precision}", f"computed in {one.precision}"))
        own, *others = (replace(one, assumed=assumed) for one in offered)
        found[name] = replace(own, stand_ins=tuple(others))
    return found


def cell(name: str, config: Config, word: str | None = None, *deviations: str) -> Cell:
    """One of them. `word` and `deviations`: in what the configuration is not that of the experiment's file."""
    more = [] if word is None else [word]
    words = [f"experiment={name}", *more]
    before = parents(config, words)
    stages = [config, *(one for parent, one in before.items() if parent not in VALUES)]  # what no other cell trains
    fastest = [one for one in stand_ins(config, words) if one.precision == "bf16"]
    network, taken = layers(config.dataset, config.architecture, config.regularizer), [*map(seconds, stages)]
    return Cell(
        name,
        family(config),
        shlex.join(["python", "-m", "nin_repro.train", "-m", f"experiment={name}", "seed=0,1,2,3,4", *more]),
        in_words(config, before, fastest),
        (*config.about.deviations, *deviations),
        parameters=sum(layer.parameters for layer in network),
        multiply_adds=sum(layer.multiply_adds for layer in network),
        recipe=recipe(config),
        seconds={kind: sum(one[kind] for one in taken) for kind in taken[0] if all(kind in one for one in taken)},
    )


def main() -> None:
    parser = Parser(
        prog="python -m nin_repro.tables",
        description="All tables of the paper, ours beside the paper's, from records.",
    )
    parser.add_argument("--records", type=given_place, default=records.STORE, help="records (default %(default)s)")
    parser.add_argument(
        "--out",
        type=given_place,
        default=RESULTS,
        help="where all pages go (default %(default)s, and then the tables of README.md are renewed too)",
    )
    parser.add_argument(
        "--gpu-hour", type=_price, default=3.0, help="USD that an hour of a GPU costs, assumed (default %(default)s)"
    )
    parser.add_argument(
        "--core-hour", type=_price, default=0.05, help="USD of an hour of a CPU core, assumed (default %(default)s)"
    )
    options = parser.parse_args()
    found, problems = records.read_given(options.records)
    records.require_own_place(options.records, options.out, RESULTS)
    require_place(options.out)
    configs = load_all(VALUES, lambda line: print(clean(line), file=sys.stderr))
    facts = {name: active(provenance(CONF, name, config), config) for name, config in configs.items()}
    report = build(found, cells(configs, facts), problems)
    recipes = {name: recipe(config) for name, config in configs.items()}
    compared = ablations.choices(found, recipes)
    out: Path = options.out
    own = out.resolve() == RESULTS.resolve()
    # Where the claims and figures of these records are: of others than the project's beside their pages.
    made = RESULTS if options.records.resolve() == records.STORE.resolve() else out
    written = write_all(report, compared, out / "tables")
    write_page(out / "fidelity.md", fidelity.page(facts, configs))
    numbers = kept_numbers(made / "claims" / LAYER_FILE)
    judged: list[Claim] = []
    if numbers:  # `python -m nin_repro.claims` makes them, and pictures
        gathered = gather(found, problems, configs, numbers, made / "claims")
        judged = gathered.claims()
        if made.resolve() == out.resolve():  # where its pictures are
            write_page(out / "claims/claims.md", claim_page.markdown(judged, gathered.problems))
    write_page(out / "analysis.md", analysis.markdown(report, compared, judged, found, recipes))
    prices = Prices(options.gpu_hour, options.core_hour)
    ours_to_publish = ("figure3*.png", "figure4-digits-*.png", "figure4-maps-*.png")
    drawn = (path for names in ours_to_publish for path in (made / "figures").glob(names))
    figures = sorted(drawn, key=lambda path: path.stem)  # that at the paper's budget first
    write_page(out / "report.html", html(report, compared, judged, figures, found, recipes, prices))
    readme = Path("README.md")  # which many read, and which is not made of a part
    renewed = own and not problems and renew(readme, brief(report, readme.parent, out / "tables", judged))
    # All is written now, and who reads no more than the first lines of what follows cuts nothing off.
    print(text(report, shutil.get_terminal_size((WIDTH, 24)).columns))
    print(ablations.text(compared))
    print(
        f"{len(written)} files in {out / 'tables'}: tables.md, overview.svg, ablations.md, each table as CSV and LaTeX"
    )
    print(f"{out / 'fidelity.md'}: where the numbers of every experiment come from")
    print(f"{out / 'analysis.md'}: what follows from it")
    print(f"{out / 'report.html'}: all of it as one page, with curves")
    if renewed:
        print(f"{readme}: its tables and claims as they stand")
    if problems:  # seen above by those who read it all
        left = [f"so {readme} is left as it is"] * own
        print("\n".join([*map(clean, problems), *left]), file=sys.stderr)
        sys.exit(1)
    if own and not renewed and readme.exists():
        print(f"warning: {readme} is left as it is: it has no lines {' and '.join(MARKS)}", file=sys.stderr)


def _price(word: str) -> float:
    """USD an hour, as an option gives it."""
    with contextlib.suppress(ValueError):
        value = float(word)
        if 0 <= value < float("inf"):
            return value
    raise argparse.ArgumentTypeError(f"{word!r} is no price in USD, such as 3.5")


if __name__ == "__main__":
    sys.exit(as_command(main))

"""`python -m nin_repro.tables` makes all tables of the paper from the committed records: no torch, data or network.

It also writes the page that tells where the numbers of every experiment come from.
"""

import argparse
import shutil
import sys
from pathlib import Path

from nin_repro.command import as_command
from nin_repro.config.compose import CONF, experiments, load
from nin_repro.config.origins import provenance
from nin_repro.config.recipe import family, recipe
from nin_repro.cost import in_words
from nin_repro.models.spec import layers
from nin_repro.results import ablations, fidelity, records
from nin_repro.results.export import write_all, write_page
from nin_repro.results.render import WIDTH, text
from nin_repro.results.tables import Cell, build
from nin_repro.schema import Config


def cells(configs: dict[str, Config]) -> dict[str, Cell]:
    """For each experiment: what its records are known by, the command that makes them and what that costs."""
    found = {}
    for name, config in configs.items():
        network = layers(config.dataset, config.architecture, config.regularizer)
        found[name] = Cell(
            name,
            family(config),
            f"python -m nin_repro.train -m experiment={name} seed=0,1,2,3,4",
            in_words(config),
            tuple(config.about.deviations),
            sum(layer.parameters for layer in network),
            sum(layer.multiply_adds for layer in network),
            recipe(config),
        )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m nin_repro.tables", description="All tables of the paper, ours beside the paper's, from records."
    )
    parser.add_argument("--records", type=Path, default=Path("results/records"), help="records (default %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("results/tables"), help="where files go (default %(default)s)")
    parser.add_argument(
        "--fidelity",
        type=Path,
        default=Path("results/fidelity.md"),
        help="where the page goes that tells which number is from which source (default %(default)s)",
    )
    options = parser.parse_args()
    found, problems = records.read_all(options.records)
    configs = {name: load([f"experiment={name}"]) for name in experiments()}
    report = build(found, cells(configs), problems)
    compared = ablations.choices(found, {name: recipe(config) for name, config in configs.items()})
    print(text(report, shutil.get_terminal_size((WIDTH, 24)).columns))
    print(ablations.text(compared))
    page = fidelity.page({name: provenance(CONF, name, config) for name, config in configs.items()}, configs)
    write_page(options.fidelity, page)
    written = write_all(report, compared, options.out)
    print(f"{len(written)} files in {options.out}: tables.md, ablations.md and each table as CSV and LaTeX")
    print(f"{options.fidelity}: where the numbers of every experiment come from")


if __name__ == "__main__":
    sys.exit(as_command(main))

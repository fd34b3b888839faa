"""`python -m nin_repro.tables` makes all tables of the paper from the committed records: no torch, data or network."""

import argparse
import sys
from pathlib import Path

from nin_repro.config.compose import experiments, load
from nin_repro.config.recipe import family
from nin_repro.cost import in_words
from nin_repro.results import records
from nin_repro.results.export import write_all
from nin_repro.results.render import text
from nin_repro.results.tables import Cell, build
from nin_repro.run import as_command


def cells() -> dict[str, Cell]:
    """For each experiment: what its records are known by, the command that makes them and what that costs."""
    found = {}
    for name in experiments():
        config = load([f"experiment={name}"])
        command = f"python -m nin_repro.train -m experiment={name} seed=0,1,2,3,4"
        found[name] = Cell(name, family(config), command, in_words(config), tuple(config.about.deviations))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m nin_repro.tables", description="All tables of the paper, ours beside the paper's, from records."
    )
    parser.add_argument("--records", type=Path, default=Path("results/records"), help="records (default %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("results/tables"), help="where files go (default %(default)s)")
    options = parser.parse_args()
    found, problems = records.read_all(options.records)
    report = build(found, cells(), problems)
    print(text(report), end="")
    written = write_all(report, options.out)
    print(f"{len(written)} files in {options.out}, {written[0].name} first")


if __name__ == "__main__":
    sys.exit(as_command(main))

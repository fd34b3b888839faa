"""`python -m nin_repro.describe key=value ...` tells what a run would be, without running it."""

import dataclasses
import json
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nin_repro.command import as_command
from nin_repro.config.arguments import SWEEP, expand, in_order, require_run
from nin_repro.config.compose import load, load_all, parents, stand_ins
from nin_repro.config.recipe import budget_name, directory, family, key, recipe
from nin_repro.cost import in_words
from nin_repro.files import UsageError
from nin_repro.models.spec import layers, training_multiply_adds
from nin_repro.results.records import judged, read_all, require_sound
from nin_repro.results.render import spread
from nin_repro.results.tables import statistics
from nin_repro.schema import LABELS, RECIPE, Config
from nin_repro.training.rundir import RunDirectory, why
from nin_repro.words import counted

USAGE = """python -m nin_repro.describe key=value ...

Prints the recipe of a run, its key, the layers of its network, the paper's cell it feeds, its state and its cost.
Takes the same words as python -m nin_repro.train; see its --help for them. Trains nothing.
"""


def layer_table(config: Config) -> str:
    """Name, kind, output shape, parameters and multiply-adds of each layer, and their sums."""
    found = layers(config.dataset, config.architecture, config.regularizer)
    wide = max(8, *(len(layer.name) + 1 for layer in found))
    lines = [f"{'layer':{wide}}{'':32}{'output':>12}{'parameters':>14}{'multiply-adds':>16}"]
    for layer in found:
        adds = f"{layer.multiply_adds:,}" if layer.multiply_adds else ""
        numbers = f"{layer.parameters:>14,}{adds:>16}" if layer.parameters else ""
        lines.append(f"{layer.name:{wide}}{layer.kind:32}{layer.output!s:>12}{numbers}")
    parameters, adds = (sum(getattr(layer, name) for layer in found) for name in ("parameters", "multiply_adds"))
    lines.append(f"{'sum':{wide}}{'per image, forward':32}{'':12}{parameters:>14,}{adds:>16,}")
    lines.append(f"{'':{wide}}{'per image, forward and backward':32}{'':26}{training_multiply_adds(found):>16,}")
    return "\n".join(lines)


def state(config: Config) -> str:
    """Whether the run is done, running, to be resumed or not begun; and of the last, whether it is on record."""
    run = RunDirectory(directory(config))
    found, status, record = run.look()
    if record is not None:
        try:
            require_sound(record)
        except ValueError as damage:
            return f"its result.json is damaged ({damage}): the same command makes it again"
        images, error = judged(record)
        return f"{record['status']}, {images} error {error:.2f} %, {record['epochs']} epochs, {record['finished']}"
    if found == "running":
        return f"being trained; {run.log} follows it"
    if found == "not begun":
        known = next(Path(config.records_dir).rglob(f"{key(config)}.json"), None)
        return f"{found} here; on record: {known}" if known else found
    reason = why(found, status)
    again = "the same command goes on" if run.checkpoint.exists() else "nothing is saved, the same command begins anew"
    return f"{found}{f' ({reason})' if reason else ''}; {again}"


def on_record(config: Config, words: list[str]) -> str:
    """The runs of its recipe on record, whatever their seeds, in each precision: "bf16: 5 seeds, 10.48 ± 0.22 %"."""
    records, _ = read_all(Path(config.records_dir))
    told = []
    for one in (config, *stand_ins(config, words)):
        wanted = family(one)
        runs = [record for record in records if record.family == wanted]
        if runs:
            stats = statistics(runs)
            told.append(f"{one.precision}: {counted(len(runs), 'seed')}, {spread(stats)}{' %' * bool(stats.n)}")
    return "; ".join(told) or "no run of this recipe"


def feeds(config: Config) -> str:
    """The cells whose recipe this is, whichever experiment its command names."""
    own = load_all().values()
    claims = [one.about.claim for one in own if one.about.claim and _essence(one) == _essence(config)]
    if not claims:
        claimed = config.about.claim and not config.about.claim.startswith("none")
        return "no cell of the paper" + (f"; not the recipe of {config.about.claim}" if claimed else "")
    budget = budget_name(config)
    return "; ".join(dict.fromkeys(claims)) + ("" if budget == "paper" else f" (not at this budget: {budget})")


def _essence(config: Config) -> dict[str, Any]:
    """A recipe but for seed, budget and precision, its own and those of the run that it starts from."""
    found = {name: value for name, value in recipe(config).items() if name not in ("seed", "budget", "precision")}
    return found | ({"parent": found["parent"] | {"key": ""}} if config.parent is not None else {})


def describe(config: Config, words: list[str]) -> str:
    """The whole description."""
    about = config.about
    parts = [
        f"command    python -m nin_repro.train {shlex.join(words)}",
        f"feeds      {feeds(config)}",
        f"cost       {in_words(config, parents(config, words))}",
        f"key        {key(config)}   (all seeds of this recipe: {family(config)})",
        f"directory  {directory(config)}",
        f"state      {state(config)}",
        f"on record  {on_record(config, words)}",
    ]
    for title, lines in (("assumed", about.assumptions), ("deviates", about.deviations)):
        parts += [f"{title if not i else '':11}{line}" for i, line in enumerate(lines)]
    parts.append("sources    of every value, and which are assumed: results/fidelity.md")
    return "\n".join(
        [*parts, "", layer_table(config), "", "recipe (all that decides the result)", *recipe_lines(config)]
    )


def recipe_lines(config: Config) -> list[str]:
    """The recipe as `key=value` words that the command line takes after the choices of its groups."""

    def words(value: Any, path: str) -> Iterator[str]:
        if isinstance(value, dict):
            for name, item in value.items():
                if name not in LABELS.get(path, ()):
                    yield from words(item, f"{path}.{name}" if path else name)
        else:
            shown = json.dumps(value, separators=(",", ":")).replace('"', "")
            yield f"  {path}={shown}"

    plain = dataclasses.asdict(config)
    return list(words({name: plain[name] for name in RECIPE}, ""))


def main() -> None:
    words = expand(in_order(sys.argv[1:]))
    if words[0] in SWEEP:
        raise UsageError(f"{words[0]}: one run is described, not a sweep; leave it out")
    require_run(words)
    print(describe(load(words), words))


if __name__ == "__main__":
    sys.exit(as_command(main, USAGE))

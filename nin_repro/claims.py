"""`python -m nin_repro.claims` judges what the paper says of NIN beside its tables, from records and measurements.

`--measure runs/DIR ...` measures trained networks for it: their error on moved images and where their last maps answer.
"""

import dataclasses
import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nin_repro.command import Parser, as_command, given_place, require_there
from nin_repro.config.compose import load, load_all, stand_ins
from nin_repro.config.recipe import budget_name, family, key, recipe, require_device
from nin_repro.cost import images_seen, open_ended
from nin_repro.data.sources import DATASETS
from nin_repro.files import UsageError, read_json, require_place, write_json
from nin_repro.finished import computable, final_weights, open_finished, rebuilt
from nin_repro.models.spec import layers, training_multiply_adds
from nin_repro.results import claim_page, export, measurements, records
from nin_repro.results.arms import effective
from nin_repro.results.changes import FP32, precision
from nin_repro.results.claim_costs import Cost
from nin_repro.results.claims import Page, complete
from nin_repro.results.measurements import SHIFTS
from nin_repro.results.paper import VALUES
from nin_repro.results.records import Record
from nin_repro.results.tables import PAPER_BUDGET
from nin_repro.schema import Config, Nin
from nin_repro.training.environment import source_commit
from nin_repro.training.schedule import plan

if TYPE_CHECKING:
    from torch import Tensor

    from nin_repro.probes.maps import Shares

Times = dict[str, dict[str, list[float]]]

OUT = Path("results/claims")
MEASURED, LAYER_FILE = "measurements", "layers.json"  # beside the page
LAYERS = 1  # goes up when `probes/forms.py` computes something else: numbers that were kept are then not used


# --- measuring -------------------------------------------------------------------------------------------------------


def measure(paths: list[Path], out: Path, images: int | None, data_dir: Path | None, device: str) -> None:
    """Measure finished runs, one file each in `out`; all are opened before the first is measured.

    Raises:
        UsageError: one is no finished run, was judged on validation images, or is not what its record says.
    """
    if images is not None and images < 1:
        raise UsageError(f"--images {images}: give at least 1, or leave it out for all test images")
    require_device(device, "--device ")
    opened = [(path, *open_finished(path, "--measure", dead=True)) for path in paths]
    for path, config, _ in opened:
        if config.protocol != "final":
            raise UsageError(
                f"--measure {path}: it ran with protocol=validate; claims are about runs with protocol=final"
            )
    for number, (path, config, record) in enumerate(opened, start=1):
        print(f"[{number}/{len(opened)}] {path}", flush=True)
        target = out / f"{record['key']}.json"
        size = min(images or DATASETS[config.dataset.name].sizes["test"], DATASETS[config.dataset.name].sizes["test"])
        if _measured(target, record, size):
            print(f"  already measured on {size:,} images or more: {target}")
            continue
        config = dataclasses.replace(config, device=device, data_dir=str(data_dir or config.data_dir))
        write_json(target, measured(path, config, record, size))
        print(f"  {target}")


def _measured(path: Path, record: dict[str, Any], images: int) -> bool:
    try:
        found = measurements.read(path)
    except (OSError, ValueError):  # there is none, or none that can be used
        return False
    return found.weights_sha256 == record.get("weights_sha256") and found.images >= images


def measured(path: Path, config: Config, record: dict[str, Any], images: int) -> dict[str, Any]:
    """The measurement of one run on so many test images, evenly spaced in their order, as JSON values.

    Raises:
        UsageError: weights, data or error are not those that the record tells of.
    """
    commit, dirty = source_commit()
    about = {"format": measurements.FORMAT, "key": key(config), "family": family(config), "budget": budget_name(config)}
    names = (
        "experiment",
        "seed",
        "status",
        "dead_classes",
        "epochs",
        "command",
        "commit",
        "weights_sha256",
        "test_error",
    )
    about |= {name: record.get(name) for name in names}
    measured_by: dict[str, Any] = {"commit": commit, "dirty": dirty}
    about |= {"recipe": recipe(config), "images": images, "measured_by": measured_by}
    if record["status"] == "dead":
        print("  every start of it died: counted, not measured")
        return about | {"translation": None, "maps": None}
    from nin_repro.models.nin import NetworkInNetwork
    from nin_repro.probes.maps import map_shares
    from nin_repro.probes.translation import DIRECTIONS, translation_errors

    started = time.monotonic()
    if (used := computable(config).precision) != config.precision:
        print(f"  in {used}: this CPU has no instructions for {config.precision}")
        measured_by["precision"] = used
    network, inputs, labels, _ = rebuilt(config, final_weights(path, record))
    every = len(labels)
    chosen = [i * every // images for i in range(images)]
    inputs, labels = inputs[chosen], labels[chosen]
    errors = translation_errors(network, inputs, labels, SHIFTS, lambda line: print(line, flush=True))
    if images == every and abs(errors[0][0] - record["test_error"]) > max(0.1, 200 / every):
        raise UsageError(
            f"{path}: its error is {errors[0][0]:.2f} % here but {record['test_error']:.2f} % in result.json: "
            "data or code are not those of the run; measure with the commit that it was trained with"
        )
    moved = {"shifts": list(SHIFTS), "directions": list(DIRECTIONS), "errors": _rounded(errors)}
    maps = None
    if isinstance(network, NetworkInNetwork) and config.regularizer.head == "gap":
        maps = map_numbers(map_shares(network, inputs, labels), labels)
        print(f"  {maps['share']:.1f} % of the strongest activations lie in the true class's map")
    print(f"  measured in {time.monotonic() - started:.0f} s")
    return about | {"translation": moved, "maps": maps}


def map_numbers(found: "Shares", labels: "Tensor") -> dict[str, Any]:
    """Shares of the true class's map in percent: of all images, of those the network gets right, and by class.

    Also, of each class's images, which other map has the largest share, and what share. Classes without images are
    left out of the lists.
    """
    import torch

    shares, true = 100 * found.shares, torch.arange(len(labels))
    own = shares[true, labels]
    rivals, rival_shares, by_class, counts = [], [], [], []
    for label in range(shares.shape[1]):
        here = shares[labels == label]
        if not len(here):
            continue
        means = here.mean(0)
        by_class.append(means[label].item())
        counts.append(len(here))
        means[label] = -1
        rivals.append(int(means.argmax()))
        rival_shares.append(means.max().item())
    right = own[found.right]
    return {
        "share": round(own.mean().item(), 4),
        "share_right": round(right.mean().item(), 4) if len(right) else None,
        "silent_images": int((found.shares.sum(1) == 0).sum()),
        "class_images": counts,
        "class_share": [round(value, 3) for value in by_class],
        "rival": rivals,
        "rival_share": [round(value, 3) for value in rival_shares],
    }


def _rounded(errors: list[list[float]]) -> list[list[float]]:
    return [[round(error, 4) for error in some] for some in errors]


# --- the page --------------------------------------------------------------------------------------------------------


def kept_numbers(path: Path) -> dict[str, Any] | None:
    """What `layer_numbers` has kept in a file; None if there is nothing of use."""
    try:
        found = read_json(path)
    except (OSError, ValueError):
        return None
    return found if found.get("format") == LAYERS else None


def layer_numbers(path: Path) -> dict[str, Any]:
    """What single layers do (section 3.1): read from `path`, or computed and kept there. Only computing needs torch."""
    if (kept := kept_numbers(path)) is not None:
        return kept
    import torch

    from nin_repro.probes.forms import FIT, compare_forms, fit_layers

    print("computing what single layers can do (section 3.1): once, half a minute", file=sys.stderr, flush=True)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    channels, forms = 3, []
    architecture = load(["experiment=table1/nin"]).architecture
    assert isinstance(architecture, Nin)
    for block in architecture.blocks.values():
        widths = [10 if width == "classes" else width for width in block.widths]
        forms += [compare_forms(channels, widths, block.kernel, seed) for seed in range(3)]
        channels = widths[-1]
    found = {"format": LAYERS, "settings": FIT, "forms": forms, "fits": fit_layers()}
    torch.set_num_threads(threads)
    write_json(path, found)
    return found


def costs(configs: dict[str, Config], found: list[Record]) -> list[Cost]:
    """What each experiment's training takes, those alike in one; times from records of the same network and batches."""
    times: Times = {}  # images a second by network, then by machine and precision
    wholes: Times = {}  # seconds of whole runs by family, then likewise
    for record in found:
        used = precision(record.recipe)
        machine = record.device if used == FP32 else f"{record.device}, {used}"
        if record.images_per_second:
            times.setdefault(_network(record.recipe), {}).setdefault(machine, []).append(record.images_per_second)
        if record.budget == PAPER_BUDGET and record.sample:
            wholes.setdefault(record.family, {}).setdefault(machine, []).append(record.seconds)

    def cost(names: tuple[str, ...]) -> Cost:
        config = configs[names[0]]
        built = layers(config.dataset, config.architecture, config.regularizer)
        epochs, _ = plan(config.optimizer.schedule, config.budget)
        whole: dict[str, list[float]] = {}
        offered = [(configs[name], *stand_ins(configs[name], [f"experiment={name}"])) for name in names]
        for alike in {family(one) for some in offered for one in some}:
            for machine, seconds in wholes.get(alike, {}).items():
                whole.setdefault(machine, []).extend(seconds)
        return Cost(
            experiments=names,
            dataset=config.dataset.name,
            kind=config.architecture.kind,
            head=config.regularizer.head,
            parameters=sum(layer.parameters for layer in built),
            multiply_adds=sum(layer.multiply_adds for layer in built),
            augmented=config.dataset.augment.pad > 0 or config.dataset.augment.flip,
            epochs=epochs,
            at_most=open_ended(config),
            flops=2 * images_seen(config) * training_multiply_adds(built),
            epoch_images=images_seen(config) // epochs,
            times=times.get(_network(recipe(config)), {}),
            wholes=whole,
            parent=cost((config.parent.experiment,)) if config.parent is not None else None,
        )

    parents = {config.parent.experiment for config in configs.values() if config.parent is not None}
    groups: dict[tuple[str, int], list[str]] = {}
    for name, config in configs.items():
        if name not in parents:  # experiments of one network and one amount of work are one row
            groups.setdefault((_network(recipe(config)), images_seen(config)), []).append(name)
    return [cost(tuple(names)) for names in groups.values()]


def _network(of: dict[str, Any]) -> str:
    """What decides the speed of a training on a machine: data set, network, regularizer, batches."""
    groups = ("dataset.name", "dataset.augment.", "architecture.", "regularizer.")
    keys = (*groups, "optimizer.batch_size")
    without = ("regularizer.fc_lr", "architecture.init", "architecture.last_init", "regularizer.convention")
    found = {name: value for name, value in effective(of).items() if name.startswith(keys)}
    kept = {name: value for name, value in found.items() if not name.startswith(without) and "std" not in name}
    return json.dumps(kept, sort_keys=True)


def gather(
    found: list[Record], problems: list[str], configs: dict[str, Config], numbers: dict[str, Any], out: Path
) -> Page:
    """Everything that the claims are judged by. `out` holds the page, and beside it the measurements."""
    measured_runs, more = measurements.read_all(out / MEASURED)
    # What fills the paper's tables; not other systems, nor searches of the same networks.
    known = {name: config for name, config in configs.items() if name.startswith(("table", "text"))}
    bases = {name: recipe(config) for name, config in configs.items()}
    whole = [one for one in found if complete(one.recipe)]
    return Page(found, measured_runs, numbers, costs(known, whole), bases, [*problems, *more], out)


def write_page(records_dir: Path, out: Path) -> None:
    """Build the page and its pictures in `out`, and say the verdicts."""
    from nin_repro.results.claimplots import draw_fits, draw_translation, panels
    from nin_repro.results.figures import save

    found = records.read_given(records_dir)
    records.require_own_place(records_dir, out, OUT)
    require_place(out)
    configs = load_all(VALUES)
    numbers = layer_numbers(out / LAYER_FILE)
    page = gather(*found, configs, numbers, out)
    judged = page.claims()
    written = save(draw_fits(numbers["fits"]), out / "fits")
    arms = page.moved_arms()
    if panels(arms):
        written += save(draw_translation(arms, page.bases), out / "translation")
    export.write_page(out / "claims.md", claim_page.markdown(judged, page.problems))
    print(claim_page.text(judged, page.problems))
    for path in [out / "claims.md", *written]:
        print(path)


def main() -> None:
    parser = Parser(
        prog="python -m nin_repro.claims",
        description="What the paper says of NIN beside its tables, with verdicts.",
    )
    parser.add_argument(
        "--measure", type=given_place, nargs="+", metavar="RUN", help="directories of trained runs to measure"
    )
    parser.add_argument("--images", type=int, help="test images to measure on, evenly spaced (default: all)")
    parser.add_argument("--data-dir", type=given_place, help="where the runs' data sets are, if they have moved")
    parser.add_argument("--device", help="to measure on: cpu, cuda, auto (default cpu)")
    parser.add_argument("--records", type=given_place, help=f"records of the page (default {records.STORE})")
    parser.add_argument("--out", type=given_place, default=OUT, help="where files go (default %(default)s)")
    options = parser.parse_args()
    if options.records and options.measure:
        raise UsageError("--records is for the page, which is written without --measure: leave one out")
    for name in ("images", "data-dir", "device"):
        if getattr(options, name.replace("-", "_")) is not None and not options.measure:
            raise UsageError(f"--{name} is for measuring runs: name them with --measure")
    require_there(options.data_dir)
    if options.measure:
        require_place(options.out / MEASURED)
        measure(options.measure, options.out / MEASURED, options.images, options.data_dir, options.device or "cpu")
        print("next: python -m nin_repro.claims" + f" --out {options.out}" * (options.out != OUT))
    else:
        write_page(options.records or records.STORE, options.out)


if __name__ == "__main__":
    sys.exit(as_command(main))

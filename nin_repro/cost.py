"""What a run costs, before it is run: arithmetic from the geometry of the network, time from measured rates."""

from nin_repro.data.sources import DATASETS
from nin_repro.models.spec import layers, training_multiply_adds
from nin_repro.schema import Config
from nin_repro.training.console import duration
from nin_repro.training.schedule import plan

# Multiply-adds a second that this program reached in training, counted as in `training_multiply_adds`.
# Measured; a device that was not measured is not listed.
RATES = {"2 CPU cores": 75e9}


def multiply_adds(config: Config) -> float:
    """Multiply-adds of the whole training, forward and backward; an upper bound where the schedule may end earlier."""
    facts = DATASETS[config.dataset.name]
    images = sum(count for part, count in facts.sizes.items() if part != "test")
    images = min(images, config.budget.train_images or images)
    epochs, _ = plan(config.optimizer.schedule, config.budget)
    seen = epochs * images
    if config.budget.max_steps is not None:
        seen = min(seen, config.budget.max_steps * config.optimizer.batch_size)
    return float(seen) * training_multiply_adds(layers(config.dataset.name, config.architecture, config.regularizer))


def in_words(config: Config) -> str:
    """Such as "13 PFLOP a seed: 28:11:00 on 2 CPU cores"."""
    adds = multiply_adds(config)
    most = "at most " if plan(config.optimizer.schedule, config.budget)[1] is None else ""
    times = ", ".join(f"{duration(adds / rate)} on {device}" for device, rate in RATES.items())
    flops = 2 * adds
    unit, words = next((u, w) for u, w in ((1e15, "PFLOP"), (1e12, "TFLOP"), (1e9, "GFLOP")) if flops >= u or u == 1e9)
    return f"{most}{flops / unit:.3g} {words} a seed: {most}{times}"

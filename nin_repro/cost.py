"""What a run costs, before it is run: arithmetic from the geometry of the network, time from measured rates."""

from nin_repro.data.sources import DATASETS
from nin_repro.models.spec import layers, training_multiply_adds
from nin_repro.schema import Config
from nin_repro.training.schedule import plan

# Multiply-adds a second that this program reached in training, counted as in `training_multiply_adds`: 246 images/s of
# the CIFAR-10 network on two cores of an AMD EPYC with AVX-512. A device that was not measured is not listed.
RATES = {"2 CPU cores": 160e9}
PER_STEP = 0.004  # seconds that an update takes on a CPU besides, however small the network


def images_seen(config: Config) -> int:
    """Images of all epochs; an upper bound where the schedule may end earlier."""
    facts = DATASETS[config.dataset.name]
    images = sum(count for part, count in facts.sizes.items() if part != "test")
    images = min(images, config.budget.train_images or images)
    seen = plan(config.optimizer.schedule, config.budget)[0] * images
    limit = config.budget.max_steps
    return seen if limit is None else min(seen, limit * config.optimizer.batch_size)


def in_words(config: Config) -> str:
    """Such as "17 PFLOP and 14.7 h on 2 CPU cores a seed"."""
    seen = images_seen(config)
    adds = seen * training_multiply_adds(layers(config.dataset, config.architecture, config.regularizer))
    waiting = seen / config.optimizer.batch_size * PER_STEP
    most = "at most " if plan(config.optimizer.schedule, config.budget)[1] is None else ""
    times = ", ".join(f"{_rough(adds / rate + waiting)} on {device}" for device, rate in RATES.items())
    flops = 2 * adds
    unit, words = next((u, w) for u, w in ((1e15, "PFLOP"), (1e12, "TFLOP"), (1e9, "GFLOP")) if flops >= u or u == 1e9)
    return f"{most}{flops / unit:.3g} {words} and {times} a seed"


def _rough(seconds: float) -> str:
    """An estimate says no more than it knows: 15 s, 27 min, 14.7 h."""
    return (
        f"{seconds:.0f} s"
        if seconds < 90
        else f"{seconds / 60:.0f} min"
        if seconds < 5400
        else f"{seconds / 3600:.1f} h"
    )

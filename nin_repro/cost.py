"""What a run costs, before it is run: arithmetic from the geometry of the network, time from measured rates.

The time is that of updates and evaluations, on a machine that does nothing else. A training beside another one takes
a third to two thirds longer (on record, with convolutions of torch's: `table4/nin` 277 to 309 s an epoch, not 210).
"""

from collections.abc import Mapping, Sequence

from nin_repro.data.sources import DATASETS, SVHN_VALIDATION
from nin_repro.models.shape import Layer
from nin_repro.models.spec import layers, training_multiply_adds
from nin_repro.results.tables import AVX2, AVX512, H200
from nin_repro.schema import Cnn, Config, Maxout, Nin
from nin_repro.training.schedule import plan

# Multiply-adds a second that this program reached in training, counted as in `training_multiply_adds` (whatever they
# are computed by: models/spectral.py has fewer) and less the time of PER_STEP, by kind of network, precision and
# machine. A machine that a kind was not measured on is not listed.
# CPU: AMD EPYC, one core with one thread, measured apart; that with AVX-512 has instructions for bf16, and was half as
# fast on another day. Behind the rates, images a second with AVX2 in fp32, with AVX-512 in fp32 and in bf16:
#   NIN      CIFAR-10: 87, 174 and 292. MNIST: 387, 742 and 1,111.
#   CNN      CIFAR-10: 575, 931 and 1,060.
#   maxout   CIFAR-10: 92, 143 and 104. MNIST: 1,149, 1,885 and 1,543.
# GPU: the H200 of results/benchmarks, one run at a time; five at once take a fifth less each. CIFAR-10 in fp32, TF32
# and bf16: 15,700, 40,500 and 142,000. MNIST in bf16: 299,000.
RATES: dict[str, dict[str, dict[str, float]]] = {
    "nin": {
        "fp32": {AVX2: 57e9, AVX512: 114e9, H200: 10.6e12},
        "tf32": {AVX2: 57e9, AVX512: 114e9, H200: 29.1e12},  # a CPU, which has none, stands for fp32
        "bf16": {AVX512: 192e9, H200: 135e12},
    },
    "cnn": {"fp32": {AVX2: 63e9, AVX512: 102e9}, "bf16": {AVX512: 119e9}},
    "maxout": {"fp32": {AVX2: 198e9, AVX512: 308e9}, "bf16": {AVX512: 225e9}},
    "maxout, images of one channel": {"fp32": {AVX2: 103e9, AVX512: 169e9}, "bf16": {AVX512: 145e9}},
}
# A layer of fewer maps than this does not fill the CPU's vectors; its time grows with the square of how many are
# missing. The staged networks of 10 and 20 maps: 2,150 images/s of 28x28 on one core, the other one busy.
NARROW = 24
PER_STEP = {H200: 0.00029}  # seconds that an update takes besides, however small the network
PER_STEP_CPU = 0.004


def _epoch_images(config: Config) -> int:
    return config.budget.train_images or DATASETS[config.dataset.name].for_training(config.protocol)


def images_seen(config: Config) -> int:
    """Images of all epochs; an upper bound where the schedule may end earlier."""
    seen = plan(config.optimizer.schedule, config.budget)[0] * _epoch_images(config)
    limit = config.budget.max_steps
    return seen if limit is None else min(seen, limit * config.optimizer.batch_size)


def images_tested(config: Config) -> int:
    """Images that are evaluated: after epochs, as `eval_every` has it, and at the end, the training images too."""
    facts, every, trained = DATASETS[config.dataset.name], config.eval_every, _epoch_images(config)
    tested = facts.sizes["test"] if config.protocol == "final" else facts.validation or SVHN_VALIDATION
    epochs = images_seen(config) // trained
    return tested * (epochs // every if every else 0) + tested + trained


def open_ended(config: Config) -> bool:
    """Whether the schedule may end before its last epoch."""
    return plan(config.optimizer.schedule, config.budget)[1] is None or config.optimizer.schedule.stop != "never"


def seconds(config: Config) -> dict[str, float]:
    """Estimated seconds of one run on each kind of machine that its kind of network was measured on.

    Of all epochs, where the schedule may end earlier. Without what a parent costs.
    """
    seen, network = images_seen(config), layers(config.dataset, config.architecture, config.regularizer)
    adds, updates = seen * training_multiply_adds(network), seen / config.optimizer.batch_size
    adds += images_tested(config) * sum(layer.multiply_adds for layer in network)
    kind = RATES[_kind(config)]
    rates = kind.get(config.precision, kind["fp32"])
    slowness = 1.0 if not isinstance(config.architecture, Nin) else _slowness(network)
    return {
        machine: adds * slowness / rate + updates * PER_STEP.get(machine, PER_STEP_CPU)
        for machine, rate in rates.items()
    }


def bf16_pays(config: Config) -> bool:
    """Whether a run is faster in bf16 than in fp32 on a CPU that has instructions for it."""
    kind = RATES[_kind(config)]
    return kind["bf16"][AVX512] > kind["fp32"][AVX512]


def _kind(config: Config) -> str:
    """What `RATES` calls its network; one that is not built in, of which nothing is known, counts as NIN."""
    if isinstance(config.architecture, Maxout):
        return "maxout" if DATASETS[config.dataset.name].shape[-1] > 1 else "maxout, images of one channel"
    return "cnn" if isinstance(config.architecture, Cnn) else "nin"


def in_words(config: Config, parents: Mapping[str, Config] | None = None, others: Sequence[Config] = ()) -> str:
    """Such as "17 PFLOP and 44.6 h on 1 core (AVX2), 22.3 h on 1 core (AVX-512) a seed in fp32", and its parents'.

    Args:
        others: the same in other precisions, whose times are told after it.
    """
    after = ", after ".join(["", *(f"{name} ({_work(parent)})" for name, parent in (parents or {}).items())])
    besides = "".join(f"; {_times(other)} in {other.precision}" for other in others)
    return f"{_work(config)} a seed in {config.precision}{after}{besides}"


def _work(config: Config) -> str:
    network = layers(config.dataset, config.architecture, config.regularizer)
    flops = 2 * images_seen(config) * training_multiply_adds(network)
    most = "for all of its epochs " if open_ended(config) else ""
    unit, words = next((u, w) for u, w in ((1e15, "PFLOP"), (1e12, "TFLOP"), (1e9, "GFLOP")) if flops >= u or u == 1e9)
    return f"{most}{flops / unit:.3g} {words} and {_times(config)}"


def _times(config: Config) -> str:
    return ", ".join(f"{_rough(taken)} on {machine}" for machine, taken in seconds(config).items())


def _slowness(network: list[Layer]) -> float:
    """How much longer the multiply-adds of narrow layers take than those of wide ones."""
    counted = [layer for layer in network if layer.multiply_adds and layer.output.height > 1]
    slowed = sum(layer.multiply_adds * max(1.0, NARROW / layer.output.channels) ** 2 for layer in counted)
    return slowed / sum(layer.multiply_adds for layer in counted) if counted else 1.0


def _rough(seconds: float) -> str:
    """An estimate says no more than it knows: 15 s, 1.5 min, 27 min, 14.7 h, 362 h."""
    if seconds < 90:
        return f"{seconds:.0f} s" if seconds >= 1 else "under 1 s"
    hours = seconds / 3600
    if hours < 1.5:
        return f"{seconds / 60:.{1 if seconds < 600 else 0}f} min"
    return f"{hours:.{1 if hours < 100 else 0}f} h"

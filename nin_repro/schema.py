"""The vocabulary of a run: every key there is, its type, its range and what it means.

Plain dataclasses, nothing imported but the standard library: the data, model and training stages take these objects,
and `config` makes them from YAML and the command line.

What decides a result is the *recipe*: the fields of `Config` named in RECIPE. A field that is added to it later must
have a default here that means "as before"; a recipe leaves such fields out while they hold their default, so that
the keys of the runs that were made before stay as they are. Never change or remove a default: the key would lie.
"""

from dataclasses import MISSING, Field, dataclass, field, fields
from typing import Annotated, Any, Literal

Precision = Literal["fp32", "tf32", "bf16"]
Protocol = Literal["final", "validate"]
JUDGED_ON: dict[str, str] = {"final": "test", "validate": "validation"}  # the images of a protocol's error


@dataclass(frozen=True)
class Range:
    """Bounds of a number. `above`/`below` exclude the bound, `least`/`most` include it."""

    least: float | None = None
    most: float | None = None
    above: float | None = None
    below: float | None = None

    def __str__(self) -> str:
        words = [
            f"{word} {bound:,.15g}"
            for word, bound in (
                ("at least", self.least),
                ("more than", self.above),
                ("at most", self.most),
                ("less than", self.below),
            )
            if bound is not None
        ]
        return " and ".join(words)

    def holds(self, value: float) -> bool:
        return (
            (self.least is None or value >= self.least)
            and (self.most is None or value <= self.most)
            and (self.above is None or value > self.above)
            and (self.below is None or value < self.below)
        )


Count = Annotated[int, Range(least=1)]
Whole = Annotated[int, Range(least=0)]
Positive = Annotated[float, Range(above=0)]
NotNegative = Annotated[float, Range(least=0)]
Probability = Annotated[float, Range(least=0, below=1)]


@dataclass(frozen=True)
class Preprocessing:
    """What is done to an image before the network sees it (sections 4.2, 4.4; pylearn2's scripts for maxout).

    In this order: division, global, then local contrast normalisation, whitening or subtraction of the mean.
    """

    divide: Positive  # 255 puts bytes on a unit scale, 1 leaves them at 0-255
    gcn: Positive | None  # global contrast normalisation: the L2 norm that every image is given
    zca: Positive | None  # ZCA whitening: what is added to the eigenvalues of the training covariance
    mean: Literal["none", "pixel", "channel"]  # the training mean that is subtracted (ZCA subtracts its own)
    gcn_std_bias: Positive | None = None  # instead of gcn: every image is divided by sqrt(its variance + this)
    lcn: bool = False  # local contrast normalisation, with the constants of nin_repro/data/lcn.py


@dataclass(frozen=True)
class Augment:
    """What is drawn afresh for every training image in every epoch, after the preprocessing."""

    pad: Annotated[int, Range(least=0, most=16)]  # zeros put on each side, then a random crop of the old size
    flip: bool  # mirrored left to right with probability 1/2


@dataclass(frozen=True)
class Dataset:
    name: str  # one of DATASETS in nin_repro/data/sources.py
    preprocessing: Preprocessing
    augment: Augment
    resize: Count | None = None  # pixels of each side that an image is scaled to (bilinear), on the device, last of all


Width = Annotated[int, Range(least=1)] | Literal["classes"]


@dataclass(frozen=True)
class Mlpconv:
    """An mlpconv block (section 3.1): a convolution, then 1x1 convolutions, each with bias and ReLU, then pooling."""

    widths: list[Width]  # maps of the convolution and of each 1x1 after it; "classes" is the number of classes
    kernel: Count
    stride: Count
    pad: Whole  # in files and on the command line also `same`: (kernel - 1) / 2, which keeps the size
    std: list[Positive]  # of the normal initial weights, one for each width
    pool: Literal["max", "avg", "none"]
    pool_size: Count
    pool_stride: Count
    pool_ceil: bool  # windows that hang over the edge are kept and clipped, as cuda-convnet and Caffe do
    relu: bool = True  # after the last of its convolutions


@dataclass(frozen=True)
class Nin:
    kind: Literal["nin"]
    blocks: dict[str, Mlpconv]
    # normal: `std` of the blocks; he: normal, sqrt(2 / fan-in); biases 0. xavier: uniform, biases as torch; torch: all
    # uniform in +-1 / sqrt(fan-in), which is what torch's layers have before anybody initialises them
    init: Literal["normal", "he", "xavier", "torch"]
    last_init_factor: Positive  # times the initial weights of the last 1x1
    last_relu: bool  # ReLU after the last 1x1, before the pooling (Eq. 2)


@dataclass(frozen=True)
class ConvPool:
    """A convolution with ReLU, pooling (windows over the edge clipped) and perhaps response normalisation."""

    maps: Count
    kernel: Count
    pad: Whole
    std: Positive  # of the normal initial weights
    pool: Literal["max", "avg"]
    pool_size: Count
    pool_stride: Count
    response_norm: bool


@dataclass(frozen=True)
class ResponseNorm:
    """Division by (1 + alpha * sum of squares over adjacent maps) ** power (Hinton et al. 2012, appendix F)."""

    size: Count  # adjacent maps
    alpha: Positive
    power: Positive
    printed: bool  # alpha as in the printed formula; false: divided by size, as cuda-convnet and PyTorch do


@dataclass(frozen=True)
class Local:
    """A locally connected layer: a convolution whose weights are not shared between places. ReLU after it."""

    maps: Count
    kernel: Count
    pad: Whole
    std: Positive


@dataclass(frozen=True)
class Cnn:
    """The convolutional network of Hinton et al. 2012 (1207.0580, appendix F and G), the baseline of section 4.6."""

    kind: Literal["cnn"]
    blocks: dict[str, ConvPool]
    response_norm: ResponseNorm
    local: Local
    hidden_bias: float  # what the biases of all layers but the head start at


@dataclass(frozen=True)
class MaxoutConv:
    """Several convolutions for each map, their maximum, and max pooling (windows over the edge clipped)."""

    maps: Count
    pieces: Count  # filters of each map
    kernel: Count
    pad: Whole
    pool_size: Count
    pool_stride: Count
    max_norm: Positive  # of every filter, over its inputs and its window
    tied_bias: bool  # one bias for each filter; false: one for each filter and place


@dataclass(frozen=True)
class MaxoutFull:
    """A fully connected layer with several weight vectors for each unit, and their maximum."""

    units: Count
    pieces: Count
    max_norm: Positive  # of every weight vector


@dataclass(frozen=True)
class Maxout:
    """Maxout networks (Goodfellow et al. 2013, 1302.4389, and its published pylearn2 files), cited in Tables 1 to 4."""

    kind: Literal["maxout"]
    blocks: dict[str, MaxoutConv]  # may be empty
    full: dict[str, MaxoutFull]  # after the blocks; may be empty
    input_dropout: Probability  # on the images; what is kept is not rescaled, and testing takes the images as they are
    output_norm: Positive  # of every weight vector of the head
    irange: Positive  # all initial weights, the head's too, are uniform in -irange .. irange; all biases 0


@dataclass(frozen=True)
class Own:
    """Settings of a network that is not built in: a dataclass in that network's own file is derived from this one.

    Its defaults are what `architecture=<kind>` takes. They may change: a recipe leaves none of these fields out.
    """

    kind: str  # one of NETWORKS


Architecture = Nin | Cnn | Maxout | Own

# Where a network's or a head's class is. One that is not built in needs a line here, and no other outside of its file.
NETWORKS = {
    "nin": "nin_repro.models.nin.NetworkInNetwork",
    "cnn": "nin_repro.models.cnn.ConvNet",
    "maxout": "nin_repro.models.maxout.MaxoutNetwork",
}
HEADS = {
    "gap": "nin_repro.models.heads.GlobalAveragePooling",
    "fc": "nin_repro.models.heads.FullyConnected",
}


@dataclass(frozen=True)
class Regularizer:
    dropout: Probability  # on the outputs of all blocks (maxout: and layers) but the last
    head: str  # one of HEADS; gap: global average pooling, fc: a fully connected layer on the last maps
    head_dropout: Probability  # on the inputs of the fully connected layer
    convention: Literal[
        "released", "inverted"
    ]  # released: train x mask, test x (1 - p); inverted: train x mask / (1 - p)
    fc_std: Positive  # of the fully connected layer's initial weights (maxout has `irange`)
    fc_lr_factor: Positive  # times the learning rates of the fully connected layer
    dropout_at: Literal["all", "last"] = "all"  # after all blocks but the last, or only before the last


@dataclass(frozen=True)
class Schedule:
    kind: Literal["drops", "plateau", "linear", "exponential", "parent"]  # parent: rate and momentum stand still
    # where those of the parent stood in the epoch that its weights are of
    epochs: Count  # the length, or the most there can be (plateau)
    drops: list[Count]  # the rate is divided after this many epochs (drops)
    patience: Count  # epochs without a lower training error before the rate is divided or the run ends (plateau)
    plateau_drops: Whole  # how often the rate is divided before the run ends (plateau)
    factor: Annotated[float, Range(above=0, below=1)]  # what the rate is multiplied with at each drop; in
    # all, by epoch `decay_epochs` (linear); at each update (exponential)
    bias_drops: bool  # the rate of the biases drops too
    decay_epochs: Whole = 0  # the epoch in which the rate stops falling (linear)
    floor: Probability = 0.0  # the share of the initial rate under which it does not fall (exponential)
    momentum_final: Probability = 0.0  # what momentum goes to, linearly, from epoch 1 ...
    momentum_epochs: Whole = 0  # ... to this epoch; 0: momentum stands still
    # Updates over which the rates rise linearly from 0 at the start: one number for all, or one for each block and,
    # if there is one, the fully connected head.
    warmup: list[Whole] = field(default_factory=list)
    # What ends a run before its last epoch: nothing; no lower validation error in so many epochs, and the weights of
    # the best are taken; the validation images, trained on by now, as likely as the parent's training images were.
    stop: Literal["never", "validation", "likelihood"] = "never"
    stop_patience: Whole = 0


@dataclass(frozen=True)
class Sgd:
    kind: Literal["sgd"]
    batch_size: Count
    lr: Positive  # of the weights
    bias_lr_factor: Positive  # bias rate over weight rate
    last_layer_factor: Positive  # times the weight rate of the last 1x1
    last_layer_bias_factor: Positive  # times the bias rate of the last 1x1
    momentum: Probability
    weight_decay: NotNegative  # on weights only
    clip_norm: Positive | None  # the global norm that a gradient is cut to; null: the paper's recipe, not clipped
    schedule: Schedule
    conv_lr_factor: Positive = 1.0  # times the rates of convolutions, weights and biases
    # shuffled: a new order each epoch; files: that of the data files, a last small batch after every 10,000 images
    order: Literal["shuffled", "files"] = "shuffled"


@dataclass(frozen=True)
class Budget:
    """How much of the recipe's work is done. All null is the paper's; anything less never fills a paper cell."""

    name: str  # what reduced runs are called in tables; not part of the recipe
    epochs: Count | None  # this many, the schedule in proportion (training/schedule.py)
    train_images: Count | None  # only the first so many training images
    max_steps: Count | None  # stop after this many updates


@dataclass(frozen=True)
class Parent:
    """The run whose weights this one starts from. If it is not done, it is trained first.

    It has the data set's images, the budget and the seed of this run, is under protocol `validate` if this run is, and
    is told what the command line says of restarts and precision; all else is from its experiment file. Layers are
    matched by their place among those with weights of their block.
    """

    experiment: str  # not part of the recipe: `key` is
    fill: NotNegative | Literal["identity", "fresh"]  # weights of layers that the parent lacks: this number, the
    # identity, or as without a parent
    biases: bool  # the parent's too, and 0 for layers that it lacks; false: all as without a parent
    weights: bool = True  # false: nothing is taken over, only its likelihood (optimizer.schedule.stop)
    key: str = ""  # of the parent run, worked out when the configuration is checked
    family: str = ""  # of it, as well; not part of the recipe


@dataclass(frozen=True)
class About:
    """What an experiment file says of itself; shown in describe, records and tables, never part of the recipe."""

    claim: str | None
    assumptions: list[str]
    deviations: list[str]  # in a file each may end in [key]: what sets that key makes it untrue


@dataclass(frozen=True)
class Wandb:
    mode: Literal["offline", "online", "disabled"]
    project: str
    entity: str | None
    group: str | None  # null: the experiment's name
    tags: list[str]
    timeout: Positive  # seconds that the end of a run waits for W&B


@dataclass(frozen=True)
class Config:
    dataset: Dataset
    architecture: Architecture
    regularizer: Regularizer
    optimizer: Sgd
    budget: Budget
    about: About
    seed: Annotated[int, Range(least=0, below=2**31)]
    protocol: Protocol  # final: all training images, test error; validate: without the paper's
    # validation images, error on those, the test images unread
    restarts: Annotated[int, Range(least=0, most=100)]  # fresh starts of a run that is found dead
    device: str  # auto, cpu, cuda, cuda:1 ...
    threads: Count | None  # CPU threads; null: by the size of the network
    data_dir: str
    runs_dir: str
    records_dir: str
    record: Literal["auto", "always", "never"]  # auto: paper-budget runs put their record into records_dir
    wait: bool  # when another process trains this run: wait for it, or say so and leave
    eval_every: Whole  # epochs between evaluations; 0: only at the end. Cannot change the weights
    train_eval_every: Whole  # the same for the evaluated training error
    checkpoint_seconds: NotNegative
    wandb: Wandb
    # What the network computes in; weights, momentum and the head stay fp32. tf32: fp32 with products of 10 bits of
    # mantissa, on a GPU only. bf16: everything between the images and the head.
    precision: Precision = "fp32"
    cuda_graphs: bool = True  # launch an update as a whole on a GPU; false: kernel by kernel, with the same result
    # Mlpconv blocks in bf16 on a GPU by models/fused.py, convolutions in fp32 on a CPU by models/spectral.py; false:
    # torch's own layers, rounded otherwise.
    fused: bool = True
    # Members of a sweep (-m) that this process trains at the same time; on a GPU torch has 32 streams, and capturing
    # may take one.
    together: Annotated[int, Range(least=1, most=31)] = 1
    processes: Count = 1  # members of a sweep (-m) at the same time, each in a process of its own
    parent: Parent | None = None
    select: bool = False  # after a sweep with protocol=validate: train its best choice with protocol=final


def given(settings: Any) -> dict[str, Any]:
    """The fields of one of these objects by name, without those that hold their default: what a recipe keeps of it."""
    found = {f.name: getattr(settings, f.name) for f in fields(settings)}
    if isinstance(settings, Own):
        return found
    return {f.name: found[f.name] for f in fields(settings) if found[f.name] != default(f)}


def default(known: Field[Any]) -> Any:
    """What a field holds if nothing is said of it; MISSING if it must be said."""
    return known.default if known.default_factory is MISSING else known.default_factory()


def idle_in_regularizer(dropout: float, head: str, head_dropout: float) -> list[str]:
    """Which keys of a regularizer do nothing beside these."""
    found = ["head_dropout", "fc_std", "fc_lr_factor"] if head == "gap" else []
    found += [] if dropout else ["dropout_at"]
    return found + ([] if dropout or head_dropout else ["convention"])


# The fields that can change a result by more than rounding, and so make up the recipe (and `seed`, which is in the key
# but not the family).
RECIPE = (
    "dataset",
    "architecture",
    "regularizer",
    "optimizer",
    "budget",
    "protocol",
    "restarts",
    "seed",
    "parent",
    "precision",
)
# Labels inside them that cannot.
LABELS = {"budget": ("name",), "parent": ("experiment", "family")}

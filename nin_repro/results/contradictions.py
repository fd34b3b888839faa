"""Where the sources contradict each other, as data: what each says and which keys decide between them.

Which side an experiment takes is read from its configuration (results/fidelity.py), never written here.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

from nin_repro.results.changes import SCHEDULE, word


@dataclass(frozen=True)
class Side:
    """One reading. `keys` are the values that a configuration has if it takes it; none: this project cannot.

    `words` is what to say on the command line for it, where that is not simply `keys`; "" where nothing is offered.
    """

    what: str
    by: str  # names of fidelity.SOURCES, and others
    keys: Mapping[str, Any] = field(default_factory=dict)
    words: str | None = None

    def holds(self, changes: Iterable[str]) -> bool:
        """Whether these words of `results.changes` are all among its values, or else of a schedule that is its own."""
        values, changed = {word(key, value) for key, value in self.keys.items()}, {*changes}
        schedule = {one for one in values if one.startswith(f"{SCHEDULE}.")}
        if schedule and schedule <= changed:  # numbers of another kind of schedule go with it
            changed = {one for one in changed if not one.startswith(f"{SCHEDULE}.")}
        return values >= changed


@dataclass(frozen=True)
class Contradiction:
    id: str
    title: str
    experiments: tuple[str, ...]  # patterns of those that it is about; none: it is about printed values only
    sides: tuple[Side, ...]
    why: str  # it was decided so

    def concerns(self, experiment: str) -> bool:
        return any(fnmatchcase(experiment, pattern) for pattern in self.experiments)


DECAY = "optimizer.weight_decay"
NIN = ("table[1-4]/nin*", "table5/*", "text/nin*", "extra/caffe")
BLOCK1, BLOCK2, BLOCK3 = (f"architecture.blocks.mlpconv{number}" for number in (1, 2, 3))
PREPROCESSING = "dataset.preprocessing"

CONTRADICTIONS = (
    Contradiction(
        "X1",
        "Pooling after the second block",
        NIN,
        (
            Side("maximum", "PAPER 4.1, MAV, PURINE", {f"{BLOCK2}.pool": "max"}),
            Side("average", "CAFFE and most ports", {f"{BLOCK2}.pool": "avg"}),
        ),
        "The paper's 10.41 was measured with MAV. CAFFE reports 10.4 with the average.",
    ),
    Contradiction(
        "X2",
        "Initial weights, rates and decay for CIFAR-100",
        ("table2/nin*",),
        (
            Side(
                "the setting of CIFAR-10",
                "PAPER 4.3",
                {f"{BLOCK1}.std": [0.05] * 3, "optimizer.lr": 0.1, DECAY: 1e-4},
                "experiment=table2/nin",
            ),
            Side(
                "smaller weights in the first block, rate 0.02 in all layers, decay 5e-4",
                "MAV",
                {f"{BLOCK1}.std": [0.001, 0.01, 0.01], "optimizer.lr": 0.02, DECAY: 5e-4},
                "experiment=table2/nin_released",
            ),
        ),
        "Each is an experiment of its own: nothing tells which of them gave 35.68.",
    ),
    Contradiction(
        "X3",
        "Scale of dropout",
        (*(name for name in NIN if not name.startswith("text")), "extra/fashion_alexnet"),
        (
            Side(
                "mask in training, times 1 - p in testing", "MAV (cuda-convnet)", {"regularizer.convention": "released"}
            ),
            Side("mask and division by 1 - p in training", "CAFFE, D2L", {"regularizer.convention": "inverted"}),
        ),
        "Each experiment follows the code that its number was measured with. With fixed initial weights and rates the "
        "two are different recipes.",
    ),
    Contradiction(
        "X4",
        "When the rate drops and the training ends",
        NIN,
        (
            Side(
                "after 200, 230 and 260 epochs",
                "MAV, README for CIFAR-10",
                {f"{SCHEDULE}.kind": "drops", f"{SCHEDULE}.drops": [200, 230], f"{SCHEDULE}.epochs": 260},
                "optimizer=sgd",
            ),
            Side(
                "when the training accuracy stops improving, twice",
                "PAPER 4.1",
                {f"{SCHEDULE}.kind": "plateau"},
                f"optimizer=sgd_plateau {SCHEDULE}.epochs=260",
            ),
            Side(
                "in proportion to the README's, after 17, 19 and 22 epochs of SVHN",
                "no source",
                {f"{SCHEDULE}.kind": "drops", f"{SCHEDULE}.drops": [17, 19], f"{SCHEDULE}.epochs": 22},
                "",
            ),
            Side(
                "once after 100,000 updates, end after 120,000",
                "CAFFE",
                {f"{SCHEDULE}.kind": "drops", f"{SCHEDULE}.drops": [256], f"{SCHEDULE}.epochs": 307},
            ),
            Side(
                "never, end after 50,000 updates",
                "PURINE",
                {f"{SCHEDULE}.kind": "drops", f"{SCHEDULE}.drops": [], f"{SCHEDULE}.epochs": 128},
            ),
        ),
        "CIFAR-10 and, by the paper's words, CIFAR-100 have the README's numbers, which also name the error at each "
        "drop. For SVHN and MNIST none were published: MNIST has the paper's words, SVHN the README's numbers in "
        "proportion, as the training error of its many images may fall to the end of as many updates.",
    ),
    Contradiction(
        "X5",
        "Rate of the last 1x1's bias",
        NIN,
        (
            Side("0.02, a tenth of the other biases'", "MAV, PURINE", {"optimizer.last_layer_bias_factor": 0.1}),
            Side("0.01", "CAFFE", {"optimizer.last_layer_bias_factor": 0.05}),
            Side("as the other biases', for CIFAR-100", "MAV", {"optimizer.last_layer_bias_factor": 1.0}),
        ),
        "As the code that each number was measured with.",
    ),
    Contradiction(
        "X6",
        "Max pooling after the third block",
        NIN,
        (
            Side("none: global average pooling follows", "MAV, CAFFE, PURINE", {f"{BLOCK3}.pool": "none"}),
            Side("as after the others", "PAPER 4.1", {f"{BLOCK3}.pool": "max"}),
        ),
        "All released code agrees.",
    ),
    Contradiction(
        "X7",
        "Pooling windows",
        NIN,
        (
            Side(
                "3x3 in steps of 2, windows over the edge clipped",
                "MAV, CAFFE, PURINE",
                {f"{BLOCK1}.pool_size": 3, f"{BLOCK2}.pool_size": 3},
            ),
            Side(
                "down-sampling by 2, read as 2x2",
                "PAPER 4.1",
                {f"{BLOCK1}.pool_size": 2, f"{BLOCK2}.pool_size": 2},
            ),
        ),
        "The paper's words leave the window open; the code has it.",
    ),
    Contradiction(
        "X8",
        "Windows of the third block for SVHN and MNIST",
        ("table[34]/nin*",),
        (
            Side("5x5", "MAV", {f"{BLOCK3}.kernel": 5, f"{BLOCK3}.pad": 2}),
            Side("3x3, the structure of CIFAR-10", "PAPER 4.4, 4.5", {f"{BLOCK3}.kernel": 3, f"{BLOCK3}.pad": 1}),
        ),
        "The files have other numbers of maps as well, which the paper mentions without giving them.",
    ),
    Contradiction(
        "X9",
        "Weight decay",
        ("table[134]/nin*", "table2/nin", "table5/*", "text/nin*", "extra/caffe"),
        (
            Side("1e-4", "MAV: 1e-5 over the loss's coefficient 0.1; CAFFE, PURINE", {DECAY: 1e-4}),
            Side(
                "that of Krizhevsky et al. 2012, whose network for ImageNet has 5e-4",
                "PAPER 4.1, without a number",
                {DECAY: 5e-4},
            ),
            Side("1e-5", "ports that read MAV's file without the coefficient", {DECAY: 1e-5}),
        ),
        "cuda-convnet scales the gradient by the coefficient and the decay not. PAPER 4.2 also says that the decay was "
        "tuned, so its reference may be to the method and not to the number.",
    ),
    Contradiction(
        "X10",
        "Values printed for maxout",
        (),
        (
            Side("9.38 on CIFAR-10 with augmentation; 2.47 on SVHN", "tables of MAXOUT, Tables 1 and 3 of PAPER"),
            Side("9.35; 2.45", "text of MAXOUT; README of PYL"),
        ),
        "The tables compare with what the paper prints, and note the other value.",
    ),
    Contradiction(
        "X11",
        "Pooling and response normalisation of the convolutional network",
        ("text/cnn*",),
        (
            Side(
                "maximum, average, average; alpha / 9 as cuda-convnet computes it",
                "HINTON G; CC",
                {"architecture.blocks.conv2.pool": "avg", "architecture.response_norm.printed": False},
            ),
            Side(
                "three maxima; alpha as in the formula",
                "HINTON, main text; HINTON F",
                {
                    "architecture.blocks.conv2.pool": "max",
                    "architecture.blocks.conv3.pool": "max",
                    "architecture.response_norm.printed": True,
                },
            ),
        ),
        "The appendix is the fuller description, and the number was measured with cuda-convnet. The main text also "
        "gives the network without dropout a locally connected layer, the appendix does not; PAPER 4.6 has it in all "
        "three rows. The two keys can be set one by one.",
    ),
    Contradiction(
        "X12",
        "Contrast normalisation of SVHN",
        ("table3/*",),
        (
            Side(
                "divided by sqrt(variance + 10), then local normalisation of each channel",
                "PYL in 2013",
                {f"{PREPROCESSING}.gcn_std_bias": 10.0, f"{PREPROCESSING}.gcn": None},
            ),
            Side(
                "divided by the L2 norm, then local normalisation of the first channel only",
                "PYL since January 2014",
                {f"{PREPROCESSING}.gcn_std_bias": None, f"{PREPROCESSING}.gcn": 1.0},
            ),
        ),
        "The paper is of December 2013. The override changes the division; local normalisation is of each channel in "
        "either case.",
    ),
    Contradiction(
        "X13",
        "Mean of the whitened images",
        ("table[12]/nin*", "table5/*", "text/nin*"),
        (
            Side("nothing more is subtracted", "PYL", {f"{PREPROCESSING}.mean": "none"}),
            Side(
                "the mean of the images before whitening", "MAV, data provider, if its file of means is the stock one"
            ),
        ),
        "Whitened images have mean zero; some 120 less at every pixel cannot be meant. The README of MAV makes the "
        "data without a word of that file.",
    ),
    Contradiction(
        "X14",
        "Scale of MNIST's images",
        ("table4/nin*",),
        (
            Side(
                "0 to 255",
                "no source; the released initial weights, by what they learn",
                {f"{PREPROCESSING}.divide": 1.0},
            ),
            Side("0 to 1", "PAPER 4.1 by way of PYL, mnist.yaml", {f"{PREPROCESSING}.divide": 255.0}),
        ),
        "The released initial weights are those of CIFAR-10 and wider layers: with inputs from 0 to 1 the logits are "
        "too small to learn from for some 1,750 updates. The mean of each pixel is subtracted in either case (MAV, "
        "data provider).",
    ),
    Contradiction(
        "X15",
        "Input of the convolutional network",
        ("text/cnn*",),
        (
            Side(
                "0 to 255 less the mean of each pixel",
                "HINTON F.3, whose network it is (PAPER 4.6)",
                {f"{PREPROCESSING}.gcn": None, f"{PREPROCESSING}.zca": None, f"{PREPROCESSING}.mean": "pixel"},
                "dataset=cifar10_mean",
            ),
            Side(
                "global contrast normalisation and whitening",
                "PAPER 4.1, 4.2, which except no network",
                {f"{PREPROCESSING}.gcn": 55.0, f"{PREPROCESSING}.zca": 0.1, f"{PREPROCESSING}.mean": "none"},
                "dataset=cifar10",
            ),
        ),
        "The nearest rates that were published (CC) are for the former; for whitened images there are none.",
    ),
    Contradiction(
        "X16",
        "Dropout in the second stage of the maxout network for MNIST",
        ("table4/maxout",),
        (
            Side(
                "as in the first",
                "PYL in February 2013",
                {"regularizer.dropout": 0.5, "regularizer.head_dropout": 0.5, "architecture.input_dropout": 0.2},
            ),
            Side(
                "none",
                "PYL since April 2013",
                {"regularizer.dropout": 0.0, "regularizer.head_dropout": 0.0, "architecture.input_dropout": 0.0},
            ),
        ),
        "The 0.45 was published in February 2013. Since April dropout is named in each file, and that of the second "
        "stage does not name it.",
    ),
    Contradiction(
        "X17",
        "Scale of CIFAR-100's images beside the released initial weights",
        ("table2/nin_released",),
        (
            Side(
                "whitened",
                "PAPER 4.1, 4.3",
                {f"{PREPROCESSING}.gcn": 55.0, f"{PREPROCESSING}.zca": 0.1, f"{PREPROCESSING}.mean": "none"},
                "dataset=cifar100",
            ),
            Side(
                "0 to 255 less the mean of each pixel",
                "no source; the released initial weights, by what they learn",
                {f"{PREPROCESSING}.gcn": None, f"{PREPROCESSING}.zca": None, f"{PREPROCESSING}.mean": "pixel"},
            ),
        ),
        "The first block's weights start at 1/50 and 1/5 of CIFAR-10's. Whitened images then tell the logits apart by "
        "some 2e-7, and the biases' first steps, 4e-4, put one class after the other below the last ReLU for good. "
        "The paper's words are kept, so that what comes of them stands in the table.",
    ),
    Contradiction(
        "X18",
        "Weight decay of the convolutional network",
        ("text/cnn*",),
        (
            Side("0.004 in all layers", "CC, of 18 % for the convolutions, of 13 % for the others", {DECAY: 0.004}),
            Side("0.004 but for the convolutions, which have none", "CC, of 13 %"),
            Side("0.004, and 1 in the fully connected layer", "CC, of 18 %"),
        ),
        "None was published for this network. Of 18 % are three convolutions, without a locally connected layer; of 13 "
        "% two, with two of these. One decay is for all layers here.",
    ),
)

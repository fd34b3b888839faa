"""What is claimed, where, and the rule that decides it: the words of the claims page."""

from dataclasses import dataclass
from typing import NamedTuple

from nin_repro.results.tables import FEWEST_RUNS, Verdict

TITLE = "Claims beside the tables"
SAME = 1e-12  # relative; what differs by less in float64 differs by rounding


class Text(NamedTuple):
    title: str
    where: str
    rule: str


@dataclass(frozen=True)
class Claim:
    text: Text
    verdict: Verdict
    tables: tuple[tuple[str, str, list[list[str]]], ...] = ()  # names, alignment, rows, as `render.grid` takes them
    notes: tuple[str, ...] = ()
    commands: tuple[str, ...] = ()  # that make what is missing for a verdict at the paper's budget
    figures: tuple[str, ...] = ()  # file names without their ending


RULE = (
    "Runs are compared that differ in nothing but what a claim is about, and the seed. An arm is all runs of one "
    "recipe (in claims 1 and 2: all of them that were measured). Two arms are judged if both have at least "
    f"{FEWEST_RUNS} living runs. Their difference d counts if it is larger than its limit, t(0.975, m) * sqrt(s1^2 / "
    "n1 + s2^2 / n2): Welch's 95 % interval over seeds, s the standard deviations, m Satterthwaite's degrees of "
    "freedom, rounded down. d is taken so that the claim says d > 0. A comparison supports its claim if d > limit, "
    "speaks against it if d < -limit, and else leaves it open: what is claimed may be true and too small for so few "
    "runs. A claim is supported if every comparison that could be judged supports it, not supported if one speaks "
    "against it, and else undecided. Comparisons at the paper's budget on the data set that the paper says it of "
    "outrank those on its other data sets, and these all others; a verdict that does not rest on the first kind says "
    "so. Limits are two-sided, though claims name a side: where there is no difference, a comparison supports its "
    "claim in 2.5 % of cases, at one look. On 26 November 2026 the word for a claim that no comparison speaks against, "
    "and not all support, was changed from not supported to undecided. By then the results of claim 5, and of claims 3 "
    "and 4 on MNIST, were known, and their verdicts changed with it. Seeds are added, up to five a recipe, while "
    "verdicts are shown already. Runs that died, ended with a dead class or only guess are counted and otherwise left "
    "out. All runs are tested on the same images: the verdicts are about these."
)

TRANSLATION = Text(
    "Global average pooling is more robust to translations of the input than fully connected layers",
    "section 3.2",
    "The same trained networks are tested on images moved by 1, 2, 3 and 4 pixels down, up, right and left. Moved are "
    "the preprocessed images, and zeros come in where nothing is left. These are what the convolutions' own padding "
    "is made of, and so what the network takes for the outside of an image, whatever the preprocessing; an image "
    "moved before whitening would bring in values that depend on all of its pixels. Where a mean image was "
    "subtracted, it moves too. Measured is by how many points the error rises, the mean over the four shifts and four "
    "directions; d is this rise with FC minus that with GAP. FC with dropout before the layer stands beside and does "
    "not decide, as section 3.2 speaks of the layer and not of what it is trained with. The band in the figure is "
    "from the lowest to the highest seed. A network that was trained in bf16 is measured in fp32 where the CPU has no "
    "instructions for bf16; beneath the tables stands how far errors are then from those on record. Of the "
    "convolutional network with FC two of its five seeds were added when those before left this claim undecided for "
    "it (d 0.51, limit 0.66; 28 November 2026).",
)

MAPS = Text(
    "The maps of the last mlpconv layer are confidence maps of the classes",
    "section 3.2, Figure 4",
    "Of each test image's last maps the largest 10 % of all values are kept, as we read Figure 4, whose caption does "
    "not say of what: 10 % of each map would leave something in every one. Measured is the share of their sum that "
    "lies in the map of the true class; by chance it would be 1 / classes. An image for which no map answers has the "
    "share 0. That the true class's map is the strongest nearly follows from a right answer, which is the map with the"
    " largest mean; so we ask for more. The claim is supported by the runs of a recipe if the 95 % interval of their "
    "mean share, mean ± t(0.975, n - 1) * s / sqrt(n), lies over one half, and if in every run, for the images of "
    "every class, the true class's map has a larger share than any other (the least lead is over 0); it is not "
    "supported if the interval lies under one half, or without that lead. What the paper shows is the lead; the half "
    "is this project's bar, set before a network of CIFAR-10 was measured. Shares in percent, also over the images "
    "that the network gets right, and in the class that has the lowest.",
)

GAP_REGULARISES = Text(
    "Global average pooling regularises: a smaller gap between training and test error than with fully connected "
    "layers",
    "section 4.6",
    "Test error minus training error (evaluated without dropout after training), in points; d is this gap with FC "
    "minus that with GAP. In addition GAP's test error must not be higher by more than its own limit: a network "
    "that fits its training images worse has a smaller gap too, and that is not what is claimed. FC with dropout "
    "before the layer stands beside and does not decide: claim 4 is about both. Where no network errs on its training "
    "images, this compares what claim 4 does.",
)

GAP_IS_BEST = Text(
    "With global average pooling the test error is lower than with fully connected layers, dropout or not",
    "section 4.6, Table 5",
    "Networks In Network that differ in the head alone. d is the test error with FC, or with FC and dropout before it, "
    "minus that with GAP, in points.",
)

DROPOUT = Text(
    "Dropout between the mlpconv layers cuts the test error by more than 20 % (relative)",
    "section 4.2, Figure 3",
    "Networks In Network with dropout 0.5 after all blocks but the last, and without it. d is 0.8 times the test "
    "error without minus the test error with dropout, in points, its limit computed with s1 times 0.8: the error "
    "must fall by more than a fifth, and by more than luck beyond it.",
)

ONE_FUNCTION = Text(
    "An mlpconv layer is a convolution followed by 1x1 convolutions, or by cascaded cross-channel parametric pooling",
    "section 3.1",
    "The three mlpconv layers of the CIFAR-10 network with random weights in float64, computed as this program "
    "does (convolution and 1x1 convolutions), as a perceptron that is given every patch in turn, and as a "
    "convolution whose maps are summed with weights pixel by pixel and rectified, twice. Supported if no output "
    f"differs by more than {SAME:.0e} of the largest: rounding. Not a statistical claim, so n is the layers times "
    "the seeds.",
)

CONVEX = Text(
    "A maxout unit can only model convex functions of a patch; a perceptron is not limited so",
    "section 3.1",
    "One maxout unit (the maximum of k linear functions) and one perceptron (a hidden layer of rectifiers and a "
    "linear output) with as many parameters are fitted to functions of two inputs on the square -1 .. 1, in "
    "float64, by the same optimiser from several seeds: a convex one as control, the bowl (x^2 + y^2) / 2; the "
    "cap, which is the bowl upside down, so that a perceptron can represent either as well; and the saddle (1 + x y) / "
    "2. The error is the root mean square as a share of the function's standard deviation: 1 is no better than a "
    "constant. Supported if (a) no fitted maxout unit bulges: on the grid no value lies over the mean of its "
    f"neighbours by more than {SAME:.0e}; (b) on cap and saddle the maxout unit's error is larger than the "
    "perceptron's by more than the limit, and over 0.4 for its best seed; (c) on the control both stay under 0.2, "
    "so that it is not the fitting that fails. A fit shows examples: that a maximum of linear functions is always "
    "convex, and that perceptrons approximate any continuous function, are theorems.",
)

COST = Text(
    "Few parameters, but longer training",
    "said of NIN in unpublished notes, not in the paper",
    "NIN with GAP beside each other network on the same data, augmented or not. A pair supports the claim if NIN has "
    "fewer parameters and takes longer to train, and speaks against it if NIN has not fewer. Time is what an "
    "epoch took on average in a run, the median over runs, times the epochs of the recipe, on the same machine with "
    "the same number of threads and in "
    f"the same precision (fp32 where the machine is named without one), at least {FEWEST_RUNS} runs of each. Where a "
    "recipe leaves the number of epochs open, it is the median of the seconds that whole runs took; what goes on from "
    "a parent takes the parent's time too. Parameters, multiply-adds and the work of the whole training are counted "
    "from the layers; times are from records of whatever budget, without evaluations, and depend on what else ran "
    "on the machine. Where sizes decide, pairs of equal sizes are one.",
)

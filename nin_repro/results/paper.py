"""What the paper reports, as data: Tables 1-5, the numbers that stand only in its text, and other NiN systems.

Source: M. Lin, Q. Chen, S. Yan, "Network In Network", arXiv 1312.4400v3 (4 March 2014). All values are test errors in
percent, rows in the printed order. A cited row keeps its printed value; where this project can re-run its method, the
re-run is named in `experiments` and shown beside it.
"""

from dataclasses import dataclass

CIFAR_TEST = MNIST_TEST = 10_000  # images
SVHN_TEST = 26_032

MAXOUT = "[8] Goodfellow et al. 2013, maxout"
STOCHASTIC = "[11] Zeiler & Fergus 2013"
SPEARMINT = "[14] Snoek et al. 2012"
DROPCONNECT = "[15] Wan et al. 2013"
LEARNED = "[16] Malinowski & Fritz 2013"
TREE = "[17] Srivastava & Salakhutdinov 2013"
RECTIFIER = "[18] Srivastava 2013"
CAFFE = "[Caffe] model zoo, nin-cifar10"
TEXTBOOK = "[d2l.ai] PyTorch edition 0.17.6"
STAGES = "[notes] unpublished"
MULTI_DIGIT = "[19] Goodfellow et al. 2013, multi-digit"


@dataclass(frozen=True)
class Row:
    """One printed value. `experiments` measure it again, in the order to show; `own` means a run of the authors."""

    method: str
    value: float | None  # test error, %; None: nothing was published
    location: str
    reference: str | None = None
    own: bool = False
    experiments: tuple[str, ...] = ()


@dataclass(frozen=True)
class Table:
    """One table of the paper. `id` is "table1" to "table5", "text" or "extra"; `test_set_size` counts images."""

    id: str
    title: str
    dataset: str
    test_set_size: int
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Such as "Table 1", "Text"."""
        return f"Table {self.id.removeprefix('table')}" if self.id.startswith("table") else self.id.capitalize()

    @property
    def heading(self) -> str:
        return f"{self.name}. {self.title}" if self.id.startswith("table") else self.title


def _cited(method: str, value: float | None, location: str, reference: str, *experiments: str) -> Row:
    return Row(method, value, location, reference=reference, experiments=experiments)


def _own(method: str, value: float, location: str, *experiments: str) -> Row:
    return Row(method, value, location, own=True, experiments=experiments)


_T1, _T2, _T3, _T4, _T5 = (
    f"Table {number}, section {section}" for number, section in enumerate(("4.2", "4.3", "4.4", "4.5", "4.6"), 1)
)

TABLES: tuple[Table, ...] = (
    Table(
        "table1",
        "CIFAR-10",
        "CIFAR-10",
        CIFAR_TEST,
        (
            _cited("Stochastic Pooling", 15.13, _T1, STOCHASTIC),
            _cited("CNN + Spearmint", 14.98, _T1, SPEARMINT),
            _cited("Conv. maxout + Dropout", 11.68, _T1, MAXOUT, "table1/maxout"),
            _own("NIN + Dropout", 10.41, _T1, "table1/nin", "table1/nin_unclipped"),
            _cited("CNN + Spearmint + Data Augmentation", 9.50, _T1, SPEARMINT),
            _cited("Conv. maxout + Dropout + Data Augmentation", 9.38, _T1, MAXOUT, "table1/maxout_aug"),
            _cited("DropConnect + 12 networks + Data Augmentation", 9.32, _T1, DROPCONNECT),
            _own("NIN + Dropout + Data Augmentation", 8.81, _T1, "table1/nin_aug"),
        ),
        (
            "Maxout with augmentation: 9.38 in the table of [8], 9.35 in its text.",
            "The schedule of the augmented NIN run was never published.",
        ),
    ),
    Table(
        "table2",
        "CIFAR-100",
        "CIFAR-100",
        CIFAR_TEST,
        (
            _cited("Learned Pooling", 43.71, _T2, LEARNED),
            _cited("Stochastic Pooling", 42.51, _T2, STOCHASTIC),
            _cited("Conv. maxout + Dropout", 38.57, _T2, MAXOUT, "table2/maxout"),
            _cited("Tree based priors", 36.85, _T2, TREE),
            _own("NIN + Dropout", 35.68, _T2, "table2/nin", "table2/nin_released"),
        ),
        (
            "The paper says the setting is CIFAR-10's (table2/nin); the released files differ from it in "
            "initialisation, learning rate and weight decay (table2/nin_released).",
        ),
    ),
    Table(
        "table3",
        "SVHN",
        "SVHN",
        SVHN_TEST,
        (
            _cited("Stochastic Pooling", 2.80, _T3, STOCHASTIC),
            _cited("Rectifier + Dropout", 2.78, _T3, RECTIFIER),
            _cited("Rectifier + Dropout + Synthetic Translation", 2.68, _T3, RECTIFIER),
            _cited("Conv. maxout + Dropout", 2.47, _T3, MAXOUT, "table3/maxout"),
            _own("NIN + Dropout", 2.35, _T3, "table3/nin"),
            _cited("Multi-digit Number Recognition", 2.16, _T3, MULTI_DIGIT),
            _cited("DropConnect", 1.94, _T3, DROPCONNECT),
        ),
        (
            "NIN is third here, although the paper's conclusion counts SVHN among its state-of-the-art results.",
            "DropConnect's 1.94 is, as far as we know, an ensemble trained on augmented data, not one network.",
            "Maxout: 2.47 in [8], 2.45 in the README of its code. NIN's schedule was never published.",
        ),
    ),
    Table(
        "table4",
        "MNIST",
        "MNIST",
        MNIST_TEST,
        (
            _cited("2-Layer CNN + 2-Layer NN", 0.53, _T4, STOCHASTIC),
            _cited("Stochastic Pooling", 0.47, _T4, STOCHASTIC),
            _own("NIN + Dropout", 0.47, _T4, "table4/nin", "table4/nin_unclipped"),
            _cited("Conv. maxout + Dropout", 0.45, _T4, MAXOUT, "table4/maxout"),
        ),
        (
            "The 0.53 is originally Jarrett et al. 2009; the paper cites it through [11].",
            "NIN's schedule was never published. Its preprocessing is that of maxout (section 4.1): a scale of 0 to 1.",
        ),
    ),
    Table(
        "table5",
        "Global average pooling against fully connected layers (CIFAR-10)",
        "CIFAR-10",
        CIFAR_TEST,
        (
            _own("mlpconv + Fully Connected", 11.59, _T5, "table5/fc"),
            _own("mlpconv + Fully Connected + Dropout", 10.88, _T5, "table5/fc_dropout"),
            _own("mlpconv + Global Average Pooling", 10.41, _T5, "table5/gap"),
        ),
        (
            "Global average pooling is the NIN + Dropout of Table 1: the same recipe, so the same runs.",
            "Initialisation and learning rate of the fully connected layer were never published.",
        ),
    ),
    Table(
        "text",
        "Numbers that stand only in the text (CIFAR-10, no augmentation)",
        "CIFAR-10",
        CIFAR_TEST,
        (
            _own("NIN without dropout", 14.51, "section 4.2", "text/nin_no_dropout"),
            _own("CNN + Fully Connected", 17.56, "section 4.6", "text/cnn_fc"),
            _own("CNN + Fully Connected + Dropout", 15.99, "section 4.6", "text/cnn_fc_dropout"),
            _own("CNN + Global Average Pooling", 16.46, "section 4.6", "text/cnn_gap"),
        ),
        (
            "Section 4.2 also claims that dropout reduced the test error by more than 20% (relative); "
            "14.51 to 10.41 is 28%, the curves of Figure 3 at 200 epochs, 18.1 to 14.6, 19.5%.",
            "[5] is Hinton et al. 2012, who report 15.6 with dropout and 16 local maps instead of 10. "
            "Hyper-parameters of these four runs were never published.",
        ),
    ),
    Table(
        "extra",
        "Beyond the paper: other NiN systems",
        "several",
        MNIST_TEST,
        (
            _cited("CIFAR-10, the authors' later model", 10.4, "its readme", CAFFE, "extra/caffe"),
            _cited("Fashion-MNIST at 224x224", 13.3, "section 7.3", TEXTBOOK, "extra/fashion_alexnet"),
            _cited("CIFAR-10 at 224x224", None, "none", "[notes] an example without results", "extra/nin_224"),
            _cited("MNIST in stages, first", 4.81, "stage v0", STAGES, "extra/staged/v0", "extra/staged/identity_v0"),
            _cited("MNIST in stages, second", 4.72, "stage v1", STAGES, "extra/staged/v1", "extra/staged/identity_v1"),
            _cited("MNIST in stages, last", 4.24, "stage v2", STAGES, "extra/staged/v2", "extra/staged/identity_v2"),
            _cited("the last stage's network at once", None, "none", "[ours] for comparison", "extra/staged/scratch"),
        ),
        (
            "Accuracies in their sources, here 100 less the accuracy. The textbook's builds scatter: 11.5 to 90.0 %.",
            "The stages' source averages windows of 14x14 places, which makes 40 outputs for 10 classes; here of all.",
        ),
    ),
)

VALUES = {name: row.value for table in TABLES for row in table.rows for name in row.experiments}  # by experiment
# Of an experiment that is another reading of a row: the first.
FIRST = {name: row.experiments[0] for table in TABLES for row in table.rows for name in row.experiments[1:]}

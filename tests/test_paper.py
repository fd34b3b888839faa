"""The paper's values, against a list typed independently of `paper`: a wrong digit here is a wrong verdict for ever."""

import pytest

from nin_repro.results import paper

PRINTED = {
    "table1": [
        ("Stochastic Pooling", "11", 15.13),
        ("CNN + Spearmint", "14", 14.98),
        ("Conv. maxout + Dropout", "8", 11.68),
        ("NIN + Dropout", None, 10.41),
        ("CNN + Spearmint + Data Augmentation", "14", 9.50),
        ("Conv. maxout + Dropout + Data Augmentation", "8", 9.38),
        ("DropConnect + 12 networks + Data Augmentation", "15", 9.32),
        ("NIN + Dropout + Data Augmentation", None, 8.81),
    ],
    "table2": [
        ("Learned Pooling", "16", 43.71),
        ("Stochastic Pooling", "11", 42.51),
        ("Conv. maxout + Dropout", "8", 38.57),
        ("Tree based priors", "17", 36.85),
        ("NIN + Dropout", None, 35.68),
    ],
    "table3": [
        ("Stochastic Pooling", "11", 2.80),
        ("Rectifier + Dropout", "18", 2.78),
        ("Rectifier + Dropout + Synthetic Translation", "18", 2.68),
        ("Conv. maxout + Dropout", "8", 2.47),
        ("NIN + Dropout", None, 2.35),
        ("Multi-digit Number Recognition", "19", 2.16),
        ("DropConnect", "15", 1.94),
    ],
    "table4": [
        ("2-Layer CNN + 2-Layer NN", "11", 0.53),
        ("Stochastic Pooling", "11", 0.47),
        ("NIN + Dropout", None, 0.47),
        ("Conv. maxout + Dropout", "8", 0.45),
    ],
    "table5": [
        ("mlpconv + Fully Connected", None, 11.59),
        ("mlpconv + Fully Connected + Dropout", None, 10.88),
        ("mlpconv + Global Average Pooling", None, 10.41),
    ],
    "text": [
        ("NIN without dropout", None, 14.51),
        ("CNN + Fully Connected", None, 17.56),
        ("CNN + Fully Connected + Dropout", None, 15.99),
        ("CNN + Global Average Pooling", None, 16.46),
    ],
}

BEYOND = {  # not the paper's
    "extra/caffe": 100 - 89.6,
    "extra/fashion_alexnet": 100 - 86.7,
    "extra/nin_224": None,
    "extra/staged/v0": 100 - 95.19,
    "extra/staged/v1": 100 - 95.28,
    "extra/staged/v2": 100 - 95.76,
    "extra/staged/scratch": None,
}

EXPERIMENTS = {
    ("table1", 11.68): ("table1/maxout",),
    ("table1", 10.41): ("table1/nin", "table1/nin_unclipped"),
    ("table1", 9.38): ("table1/maxout_aug",),
    ("table1", 8.81): ("table1/nin_aug",),
    ("table2", 38.57): ("table2/maxout",),
    ("table2", 35.68): ("table2/nin", "table2/nin_released"),
    ("table3", 2.47): ("table3/maxout",),
    ("table3", 2.35): ("table3/nin",),
    ("table4", 0.45): ("table4/maxout",),
    ("table5", 11.59): ("table5/fc",),
    ("table5", 10.88): ("table5/fc_dropout",),
    ("table5", 10.41): ("table5/gap",),
    ("text", 14.51): ("text/nin_no_dropout",),
    ("text", 17.56): ("text/cnn_fc",),
    ("text", 15.99): ("text/cnn_fc_dropout",),
    ("text", 16.46): ("text/cnn_gap",),
}


def test_the_tables_come_in_the_papers_order() -> None:
    assert [table.id for table in paper.TABLES] == [*PRINTED, "extra"]


def test_the_values_of_other_systems() -> None:
    found = {row.experiments[0]: row.value for row in paper.TABLES[-1].rows}
    assert found == {name: value if value is None else pytest.approx(value) for name, value in BEYOND.items()}


@pytest.mark.parametrize("table", paper.TABLES[:-1], ids=lambda table: table.id)
def test_every_value_stands_in_its_row(table: paper.Table) -> None:
    rows = [(row.method, row.reference and row.reference[1:].split("]")[0], row.value) for row in table.rows]
    assert rows == PRINTED[table.id]
    assert [row.own for row in table.rows] == [reference is None for _, reference, _ in rows]


def test_rows_name_the_experiments_that_measure_them() -> None:
    found = {
        (table.id, row.value): row.experiments for table in paper.TABLES[:-1] for row in table.rows if row.experiments
    }
    mnist = next(row for row in paper.TABLES[3].rows if row.own)  # 0.47 stands there twice
    assert mnist.experiments == ("table4/nin", "table4/nin_unclipped")
    assert found == EXPERIMENTS | {("table4", 0.47): mnist.experiments}


def test_no_experiment_fills_two_rows() -> None:
    names = [name for table in paper.TABLES for row in table.rows for name in row.experiments]
    assert len(names) == len(set(names))


def test_sizes_of_the_test_sets() -> None:
    assert {table.dataset: table.test_set_size for table in paper.TABLES} == {
        "several": 10_000,
        "CIFAR-10": 10_000,
        "CIFAR-100": 10_000,
        "SVHN": 26_032,
        "MNIST": 10_000,
    }


def test_the_footnotes_that_change_how_a_row_reads() -> None:
    notes = {table.id: " ".join(table.notes) for table in paper.TABLES}
    assert "9.35" in notes["table1"]
    assert "third" in notes["table3"] and "ensemble" in notes["table3"]
    assert "Jarrett" in notes["table4"]
    assert "20%" in notes["text"]

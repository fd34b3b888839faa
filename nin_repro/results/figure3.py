"""The four curves of the paper's Figure 3, as numbers.

They are facts read off the vector graphics of arXiv 1312.4400v3: the centres of the markers, scaled by the ticks of
the axes. The printed figure resolves some 0.0012 of the error rate. All curves begin at epoch 0 with 0.9, which is the
error of guessing one of ten classes and not a measurement.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Curve:
    """One printed curve: error rates (0 to 1) at `EPOCHS`; None where the marker is hidden under another one.

    `measure` is the column of a record's curve that is compared: the training error is counted in the training pass
    itself, with dropout active where there is any, as cuda-convnet does, which prints its mean since the last test.
    """

    name: str
    measure: str
    dropout: bool
    rates: tuple[float | None, ...]


EXPERIMENTS = {False: "text/nin_no_dropout", True: "table1/nin"}  # without, with dropout
EPOCHS = tuple(range(0, 201, 8))
# Test errors in percent with dropout by the README of the released code, when the rate drops and at the end.
README = {200: "around 14", 230: "near 10.7", 260: "10.4"}

# fmt: off
CURVES = (
    Curve("training, without dropout", "train_error_running", False, (
        0.9000, 0.2757, 0.1484, 0.1013, 0.0707, 0.0613, 0.0424, 0.0377, 0.0330, 0.0306, 0.0283, 0.0259, 0.0283,
        0.0283, 0.0236, 0.0236, 0.0188, 0.0259, 0.0212, 0.0236, 0.0212, 0.0188, 0.0259, 0.0188, 0.0188, 0.0283)),
    Curve("training, with dropout", "train_error_running", True, (
        0.9000, 0.3487, 0.2639, 0.1720, 0.1366, 0.1154, 0.1013, 0.0942, 0.0872, 0.0848, 0.0801, 0.0777, 0.0730,
        0.0707, 0.0707, 0.0683, 0.0660, 0.0660, 0.0636, None, 0.0636, 0.0613, 0.0636, 0.0613, 0.0589, 0.0589)),
    Curve("testing, without dropout", "test_error", False, (
        0.9000, 0.2992, 0.2450, 0.2356, 0.2309, 0.2521, 0.1979, 0.2003, 0.1861, 0.2191, 0.2215, 0.2073, 0.1955,
        0.2003, 0.1861, 0.2050, 0.1814, 0.1838, 0.1861, 0.1932, 0.1767, 0.1932, 0.1838, 0.1696, 0.1838, 0.1814)),
    Curve("testing, with dropout", "test_error", True, (
        0.9000, 0.3487, 0.2285, 0.2120, 0.1932, 0.1861, 0.1579, 0.1743, 0.1791, 0.1414, 0.1555, 0.1508, 0.1484,
        0.1602, 0.1437, 0.1484, 0.1461, 0.1437, 0.1437, 0.1484, 0.1531, 0.1319, 0.1414, 0.1390, 0.1319, 0.1461)),
)
# fmt: on

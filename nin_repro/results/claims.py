"""What the paper says of NIN beside its tables: each claim with one verdict, by the rules of `claim_texts`.

From records, measurements of trained networks and numbers of single layers; no torch.
"""

import math
import statistics as numbers
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from nin_repro.results import claim_texts as texts
from nin_repro.results.arms import (
    NOT_ENOUGH,
    NOT_SUPPORTED,
    SIGNED,
    SUPPORTED,
    Arm,
    Comparison,
    Judged,
    Sample,
    alike,
    arms_of,
    decide,
    has,
    head_name,
    head_pairs,
    kind,
    label,
    setting,
)
from nin_repro.results.changes import changes, precision
from nin_repro.results.claim_costs import Cost, judge_cost
from nin_repro.results.claim_texts import SAME, Claim
from nin_repro.results.luck import luck_of_pair, t975
from nin_repro.results.measurements import SHIFTS, Measurement
from nin_repro.results.paper import VALUES
from nin_repro.results.records import Record
from nin_repro.results.render import difference, error, link, plain
from nin_repro.results.tables import FEWEST_RUNS, PAPER_BUDGET, Verdict
from nin_repro.words import counted

SHOWN_ON = ("cifar10",)  # where Figures 3 and 4 and sections 4.2 and 4.6 show what they, and section 3.2, claim
SIGNS = {1: "as claimed", 0: "no difference seen", -1: "the opposite"}
CUTS = {1: "as claimed", 0: "whether by more than a fifth, these seeds cannot tell", -1: "less than a fifth"}

# --- the claims ------------------------------------------------------------------------------------------------------


class Page:
    """Everything that the claims are judged by."""

    def __init__(
        self,
        records: Sequence[Record],
        measurements: Sequence[Measurement],
        layers: Mapping[str, Any],
        costs: Sequence[Cost],
        bases: Mapping[str, Mapping[str, Any]],
        problems: Sequence[str],
        folder: Path,
    ) -> None:
        self.records = [one for one in records if one.protocol == "final" and complete(one.recipe)]
        weights = {one.key: one.weights_sha256 for one in records}
        measurements = [one for one in measurements if complete(one.recipe)]
        doubted = [one for one in measurements if weights.get(one.key, one.weights_sha256) != one.weights_sha256]
        self.measurements = [one for one in measurements if one not in doubted]
        self.problems = [
            *problems,
            *(f"{one.path.name}: not used: its record tells of other weights" for one in doubted),
        ]
        self.layers, self.costs, self.bases, self.folder = layers, costs, bases, folder

    def claims(self) -> list[Claim]:
        return [
            self.translation(),
            self.maps(),
            self.gap_regularises(),
            self.gap_is_best(),
            self.dropout(),
            self.one_function(),
            self.convex(),
            judge_cost(self.costs),
        ]

    def moved_arms(self) -> list[Arm]:
        """Arms of translation: the mean increase, then the error at each shift."""
        return arms_of(self.measurements, lambda one: (one.increase, *one.curve), self.records)

    def translation(self) -> Claim:
        arms = self.moved_arms()
        pairs = head_pairs(arms)
        judged, beside, rows = list[Judged](), list[Judged](), []
        for first, second, dropped in pairs:
            found = Comparison(first, second)
            words = f"the error rises by {_by(found, 'less', 'more')} with GAP than with {head_name(first)}"
            (beside if dropped else judged).append(self._judge(found, words, decides=not dropped))
            rows.append(
                [*self._about(second, f"{head_name(first)} - GAP"), *_numbers(found), _seen(found, not dropped)]
            )
        table = []
        for arm in _of(arms, pairs):
            errors = [arm.shown(1 + i) for i in range(len(SHIFTS))]
            shown = [*_counts(arm), *errors, arm.shown(), f"{arm.images:,}", arm.measured_in, self._runs(arm)]
            table.append([*self._about(arm, head_name(arm)), *shown])
        moved = "|".join(f"{shift} px" for shift in SHIFTS)
        names = f"{ABOUT}|Head|n|Dead|{moved}|Mean increase|Images|Measured in|Runs"
        return Claim(
            texts.TRANSLATION,
            decide(judged, SHOWN_ON, beside=beside),
            ((names, "lrllrr" + "r" * (len(SHIFTS) + 2) + "ll", table), _compared(rows)),
            notes=(*self._left_out(arms), *self._measured()),
            commands=(*TRAIN_HEADS, TRAIN_CNN_HEADS, *MEASURE),
            figures=("translation",) if any(pooled.n for _, pooled, _ in pairs) else (),
        )

    def maps(self) -> Claim:
        def values(one: Measurement) -> tuple[float, ...] | None:
            if one.maps is None:
                return None
            shares, rivals = one.maps["class_share"], one.maps["rival_share"]
            lead = min(share - rival for share, rival in zip(shares, rivals, strict=True))
            right = one.maps["share_right"]
            return one.maps["share"], one.maps["share"] if right is None else right, min(shares), lead, len(shares)

        measured = [one for one in self.measurements if _maps_are_classes(one.recipe)]
        arms, judged, rows = arms_of(measured, values, self.records), [], []
        for arm in arms:
            mean, std, lead = arm.mean(), arm.std(), min((one[3] for one in arm.living), default=0.0)
            low = sign = None
            if mean is not None and std is not None and arm.n >= FEWEST_RUNS:
                luck = t975(arm.n - 1) * std / math.sqrt(arm.n)
                low = mean - luck
                sign = -1 if lead <= 0 or mean + luck < 50 else 1 if low > 50 else 0
            chance = f"{100 / arm.living[0][4]:.0f}" if arm.living else ""
            most = "more than in any other, for every class" if lead > 0 else "for some class not the most"
            why = f"{arm.shown()} % of the mass lies in the true map ({most}; chance {chance} %, our threshold 50 %)"
            judged.append(Judged(f"{label(arm, self.bases)}, n={arm.n}", sign, arm.full, why, arm.dataset))
            shown = [arm.shown(i) for i in (0, 1, 2)] + [f"{lead:+.2f}" if arm.n else "", error(low), chance]
            word = NOT_ENOUGH if sign is None else SIGNED[sign]
            rows.append([*self._about(arm), *_counts(arm), *shown, f"{arm.images:,}", word, self._runs(arm)])
        leads = all(one[3] > 0 for arm in arms for one in arm.living)
        shown_too = "the true class's map leads, as the paper shows" * leads
        names = f"{ABOUT}|n|Dead|Share|Of images it gets right|Weakest class|Least lead|95 % low|Chance|Images|"
        return Claim(
            texts.MAPS,
            by_our_threshold(decide(judged, SHOWN_ON), shown_too),
            ((names + "Verdict|Runs", "lrl" + "r" * 9 + "ll", rows), *self._by_class(arms)),
            commands=(TRAIN_HEADS[0], *MEASURE),
            notes=("Pictures of the maps: `python -m nin_repro.figures --run runs/<run directory>`.",),
        )

    def _by_class(self, arms: Sequence[Arm]) -> tuple[tuple[str, str, list[list[str]]], ...]:
        """The mean share of each class, for data sets of few of them."""
        shares = {one.key: one.maps["class_share"] for one in self.measurements if one.maps is not None}
        rows = []
        for arm in arms:
            found = [shares[one.key] for one in arm.samples if one.values is not None]
            if found and len(found[0]) <= 10:
                means = [f"{math.fsum(column) / len(found):.1f}" for column in zip(*found, strict=True)]
                rows.append([plain(label(arm, self.bases)), *means, *[""] * (10 - len(means))])
        return ((f"Share by class|{'|'.join(map(str, range(10)))}", "l" + "r" * 10, rows),)

    def gap_regularises(self) -> Claim:
        def values(one: Record) -> tuple[float, ...] | None:
            if one.test_error is None or one.train_error is None:
                return None
            return one.test_error - one.train_error, one.test_error, one.train_error

        arms = arms_of(self.records, values)
        pairs = head_pairs(arms)
        judged, beside, rows = list[Judged](), list[Judged](), []
        for first, second, dropped in pairs:
            found, tested = Comparison(first, second), Comparison(first, second, which=1)
            worse = tested.sign < 0
            words = f"the gap is {_by(found, 'smaller', 'larger')} with GAP than with {head_name(first)}"
            trained = [arm.mean(2) or 0.0 for arm in (first, second)]
            if worse:
                higher = f"its test error is {error(-(tested.difference or 0))} points higher"
                words += f", {'but' if found.sign >= 0 else 'and'} {higher}"
            elif max(trained) < 0.01:
                words += ", as the test error is: hardly a training image is wrong"
            elif found.sign > 0:
                fit, test = trained[1] - trained[0], tested.difference or 0.0
                words += f": {difference(fit)} as its training error is {'higher' if fit > 0 else 'lower'}, "
                words += f"{difference(test)} as its test error is {'lower' if test > 0 else 'higher'}"
            sign, seen = -1 if worse else found.sign, "test error higher" if worse and found.sign >= 0 else ""
            (beside if dropped else judged).append(self._judge(found, words, sign, decides=not dropped, seen=seen))
            cells = [*self._about(second, f"{head_name(first)} - GAP"), *_numbers(found)]
            rows.append([*cells, seen or _seen(found, not dropped)])
        table = [
            [*self._about(arm, head_name(arm)), *_counts(arm), arm.shown(2), arm.shown(1), arm.shown(), self._runs(arm)]
            for arm in _of(arms, pairs)
        ]
        return Claim(
            texts.GAP_REGULARISES,
            decide(judged, SHOWN_ON, beside=beside),
            (
                (f"{ABOUT}|Head|n|Dead|Train error|Test error|Gap|Runs", "lrllrrrrrl", table),
                _compared(rows),
            ),
            notes=self._left_out(arms),
            commands=(*TRAIN_HEADS, TRAIN_CNN_HEADS),
        )

    def tested(self) -> list[Arm]:
        """Networks In Network by their test errors."""
        arms = arms_of(self.records, lambda one: None if one.test_error is None else (one.test_error,))
        return [arm for arm in arms if arm.recipe["architecture"].get("kind") == "nin"]

    def gap_is_best(self) -> Claim:
        arms, judged, rows = self.tested(), [], []
        for full, pooled, _ in head_pairs(arms):
            found = Comparison(full, pooled)
            words = f"{full.shown()} % with {head_name(full)}, {pooled.shown()} % with GAP{self._beside(found)}"
            judged.append(self._judge(found, words))
            shown = [full.shown(), _both(full), pooled.shown(), _both(pooled), *_numbers(found), _seen(found)]
            runs = f"{self._runs(full)} / {self._runs(pooled)}"
            rows.append([*self._about(pooled, f"{head_name(full)} - GAP"), *shown, runs])
        names = f"{ABOUT}|Compared|FC|n (dead)|GAP|n (dead)|d|Limit|Result|Runs FC / GAP"
        return Claim(
            texts.GAP_IS_BEST,
            decide(judged, SHOWN_ON),
            ((names, "lrllrrrrrrll", rows),),
            commands=TRAIN_HEADS,
        )

    def _beside(self, found: Comparison) -> str:
        """What the paper has of two arms that re-run rows of it, and whether one run of each may differ as its did."""
        first, second = (self._printed(arm) for arm in (found.first, found.second))
        if first is None or second is None:
            return ""
        words = f"; the paper has {error(first)} and {error(second)}"
        if found.enough and found.difference is not None and found.sign == 0:
            stds = [arm.std() or 0.0 for arm in (found.first, found.second)]
            room = luck_of_pair(stds, (found.first.n, found.second.n))
            may = "may" if abs(first - second - found.difference) <= room else "would hardly"
            words += (
                f", and one more run of each {may} differ by so much (prediction {found.difference:+.2f} ± {room:.2f})"
            )
        return words

    def dropout(self) -> Claim:
        nin = self.tested()
        judged, rows = [], []
        for without in (arm for arm in nin if not arm.recipe["regularizer"].get("dropout")):
            for with_ in (arm for arm in nin if has(arm, dropout=0.5)):
                if not alike(without, with_, ("regularizer.dropout",)):
                    continue
                found = Comparison(without, with_, weight=0.8)
                cut = _cut(without, with_)
                judged.append(
                    self._judge(found, f"dropout changes the error by {cut}", also=head_name(with_), signs=CUTS)
                )
                shown = [without.shown(), _both(without), with_.shown(), _both(with_), cut, *_numbers(found)]
                rows.append([*self._about(with_, head_name(with_)), *shown, _seen(found, signs=CUTS)])
                rows[-1].append(f"{self._runs(without)} / {self._runs(with_)}")
        names = f"{ABOUT}|Head|Without|n (dead)|With|n (dead)|Change|d|Limit|Result|Runs without / with"
        return Claim(
            texts.DROPOUT,
            decide(judged, SHOWN_ON),
            ((names, "lrllrrrrrrrll", rows),),
            commands=(
                "python -m nin_repro.train -m experiment=text/nin_no_dropout,table1/nin precision=bf16 seed=0,1,2,3,4",
                "python -m nin_repro.figures",
            ),
        )

    def one_function(self) -> Claim:
        found = self.layers["forms"]
        worst = max(max(one["differences"]) for one in found)
        rows = []
        for one in found:
            layer = [str(one["channels"]), " ".join(map(str, one["widths"])), f"{one['kernel']}x{one['kernel']}"]
            rows.append([*layer, str(one["seed"]), *(f"{difference:.1e}" for difference in one["differences"])])
        verdict = Verdict(
            SUPPORTED if worst < SAME else NOT_SUPPORTED,
            f"the largest of {sum(len(one['differences']) for one in found)} differences is {worst:.1e} of the largest "
            "output; no runs needed",
        )
        names = "Input maps|Widths|Window|Seed|Perceptron|Parametric pooling"
        return Claim(
            texts.ONE_FUNCTION,
            verdict,
            ((names, "rlrrrr", rows),),
        )

    def convex(self) -> Claim:
        fits, rows = self.layers["fits"], []
        beyond = []
        for name, target in fits.items():
            arms = [_fit_arm(target[layer]["errors"]) for layer in ("maxout", "perceptron")]
            found = Comparison(arms[0], arms[1])
            shown = [f"{arm.mean():.3f} ± {arm.std():.3f}" for arm in arms]
            spans = [f"{min(target[layer]['errors']):.3f}" for layer in ("maxout", "perceptron")]
            bulge = f"{target['maxout']['bulge']:.0e}"
            counts = [str(target[layer]["parameters"]) for layer in ("maxout", "perceptron")]
            rows.append([name, str(found.first.n), *counts, *shown, *spans, f"{found.difference:+.3f}"])
            rows[-1] += [f"{found.limit:.3f}", bulge]
            if name != CONTROL:
                beyond.append(found.sign > 0 and min(target["maxout"]["errors"]) > 0.4)
        control = [fits[CONTROL][layer]["errors"] for layer in ("maxout", "perceptron")]
        learned = max(map(numbers.fmean, control)) < 0.2
        convex = all(target["maxout"]["bulge"] < SAME for target in fits.values())
        supported = all(beyond) and learned and convex
        worst = {name: numbers.fmean(target["maxout"]["errors"]) for name, target in fits.items()}
        words = ", ".join(f"{100 * value:.0f} % ({name})" for name, value in worst.items())
        names = "Function|Seeds|Parameters: maxout|perceptron|Error: maxout|perceptron|Best: maxout|perceptron|d|Limit|"
        return Claim(
            texts.CONVEX,
            Verdict(
                SUPPORTED if supported else NOT_SUPPORTED,
                f"the maxout unit errs by {words} of the function's own standard deviation; no runs needed",
            ),
            ((names + "Bulge of maxout", "lrrrrrrrrrr", rows),),
            notes=(
                "This is about one layer. A maxout network of two layers is not limited so: the difference of two "
                "convex functions, which its second layer can form, approximates any continuous function (Goodfellow "
                "et al. 2013, section 4).",
            ),
            figures=("fits",),
        )

    # --- rows --------------------------------------------------------------------------------------------------------

    def _judge(
        self,
        found: Comparison,
        words: str,
        sign: int | None = None,
        also: str = "",
        signs: Mapping[int, str] = SIGNS,
        decides: bool = True,
        seen: str = "",
    ) -> Judged:
        """What a comparison says of its claim. `seen`: in a few words, where its own sign does not say it."""
        arm = found.second
        sides = [head_name(found.first), head_name(arm)]
        if sides[0] == sides[1]:
            sides = ["without", "with"]
        seeds = f"n={found.first.n} ({sides[0]}) and {arm.n} ({sides[1]})"
        long = label(arm, self.bases)
        if found.first.epochs != arm.epochs:
            long = f"{kind(arm, self.bases)}, {found.first.epochs} and {arm.epochs} epochs"
        name = f"{long}{', ' if also else ''}{also}, {seeds}"
        if not found.enough:
            return Judged(name, None, found.full, "", arm.dataset)
        if found.first.measured_in != arm.measured_in:
            words += f", measured in {found.first.measured_in} and {arm.measured_in}"
        limits = f"{words} (d {found.difference:+.2f}, limit {found.limit:.2f}: {_seen(found, decides, signs)})"
        against = f" against {sides[0]}" if sides[0] == head_name(found.first) else ""
        short = (seen or signs[found.sign]) + against
        return Judged(name, found.sign if sign is None else sign, found.full, limits, arm.dataset, short)

    def _measured(self) -> tuple[str, ...]:
        """How near what was measured is to the records, and which measurements were made by modified code."""
        tested = {one.key: one.test_error for one in self.records}
        apart: dict[bool, list[float]] = {False: [], True: []}  # by whether another precision was measured in
        for one in self.measurements:
            if one.alive and one.images >= 10_000 and (record := tested.get(one.key)) is not None:
                apart[one.measured_in != precision(one.recipe)].append(abs(one.curve[0] - record))
        told = [
            f"{counted(len(gaps), 'network')} measured in {'another precision than' if other else 'the precision'} "
            f"trained in: at most {max(gaps):.2f} points"
            for other, gaps in apart.items()
            if gaps
        ]
        modified = [one for one in self.measurements if one.measured_by.get("dirty")]
        links = " ".join(link(one.key, one.path, self.folder) for one in modified)
        notes = [f"How far errors at 0 px are from those on record, of 10,000 images: {'; '.join(told)}."] * bool(told)
        return (*notes, *[f"Measured with uncommitted changes: {links}."] * bool(modified))

    def _left_out(self, arms: Sequence[Arm]) -> tuple[str, ...]:
        """Which pairs of heads are not compared for their precisions alone, and what they are."""
        compared = {(one.family, other.family) for one, other, _ in head_pairs(arms)}
        pairs = [
            (one, other)
            for one, other, _ in head_pairs(arms, "precision")
            if one.n >= FEWEST_RUNS <= other.n and (one.family, other.family) not in compared
        ]

        def named(arm: Arm) -> str:
            return f"{arm.experiment} ({head_name(arm)}, {precision(arm.recipe)}, n={arm.n}: {arm.shown()})"

        told = [f"{named(one)} with {named(other)}" for one, other in pairs]
        return (f"Not compared, as they were trained in different precisions: {plain('; '.join(told))}.",) * bool(told)

    def _printed(self, arm: Arm) -> float | None:
        """What the paper has for an arm that re-runs a row of it as it is."""
        base = self.bases.get(arm.experiment)
        as_is = base is not None and arm.full and not changes(arm.recipe, base)
        return VALUES.get(arm.experiment) if as_is else None

    def _about(self, arm: Arm, *more: str) -> list[str]:
        changed = setting(arm, self.bases)
        reduced = "" if arm.full else " (reduced)" if arm.budget != PAPER_BUDGET else " (not the paper's data)"
        name = plain(f"{arm.experiment} {changed}".strip())
        return [plain(kind(arm, self.bases)), f"{arm.epochs}{reduced}", name, *more]

    def _runs(self, arm: Arm) -> str:
        return " ".join(
            link(one.key, one.path, self.folder) + ("" if one.values is not None else " (dead)") for one in arm.samples
        )


ABOUT = "Network|Epochs|Experiment"
CONTROL = "bowl"
TRAIN_HEADS = (
    "python -m nin_repro.train -m experiment=table5/gap,table5/fc,table5/fc_dropout precision=bf16 seed=0,1,2,3,4",
)
TRAIN_CNN_HEADS = "python -m nin_repro.train -m experiment=text/cnn_gap,text/cnn_fc precision=bf16 seed=0,1,2,3,4"
MEASURE = ("python -m nin_repro.claims --measure runs/cifar10-*-seed*", "python -m nin_repro.claims")


def by_our_threshold(verdict: Verdict, short: str) -> Verdict:
    """Says that a measure of this project decided, where one did, and what belongs to that (`Verdict.short`)."""
    if verdict.word == NOT_ENOUGH:
        return verdict
    return replace(verdict, word=f"{verdict.word} by our threshold", short=short)


def complete(recipe: Mapping[str, Any]) -> bool:
    """Whether a recipe has the keys that runs are told apart by."""
    needed = {"dataset": ["name"], "architecture": ["kind"], "regularizer": ["dropout", "head", "head_dropout"]}
    groups = {name: recipe.get(name) for name in needed}
    return all(isinstance(group, dict) and {*needed[name]} <= {*group} for name, group in groups.items())


def _maps_are_classes(recipe: Mapping[str, Any]) -> bool:
    return recipe["architecture"]["kind"] == "nin" and recipe["regularizer"]["head"] == "gap"


def _seen(found: Comparison, decides: bool = True, signs: Mapping[int, str] = SIGNS) -> str:
    if not found.enough:
        return NOT_ENOUGH
    word = signs[found.sign]
    return word if decides else f"{word} (does not decide)"


def _numbers(found: Comparison) -> list[str]:
    return [difference(found.difference), error(found.limit)]


def _by(found: Comparison, as_claimed: str, else_: str) -> str:
    """Such as "0.71 points less"."""
    points = found.difference or 0.0
    return f"{error(abs(points))} points {as_claimed if points >= 0 else else_}"


def _counts(arm: Arm) -> list[str]:
    return [str(arm.n), str(arm.dead)]


def _both(arm: Arm) -> str:
    return f"{arm.n} ({arm.dead})"


def _cut(without: Arm, with_: Arm) -> str:
    first, second = without.mean(), with_.mean()
    return "" if not first or second is None else f"{100 * (second / first - 1):+.1f} %"


def _compared(rows: list[list[str]]) -> tuple[str, str, list[list[str]]]:
    return f"{ABOUT}|Compared|d, points|Limit|Result", "lrllrrl", rows


def _of(arms: Sequence[Arm], pairs: Iterable[tuple[Arm, Arm, bool]]) -> list[Arm]:
    """The arms that are in any pair, in their order."""
    used = {(arm.family, arm.images) for first, second, _ in pairs for arm in (first, second)}
    return [arm for arm in arms if (arm.family, arm.images) in used]


def _fit_arm(errors: Sequence[float]) -> Arm:
    samples = tuple(Sample("", seed, Path(), (value,)) for seed, value in enumerate(errors))
    return Arm("", "", "", "", {}, 0, samples)

"""The few-label predictor: what it learns, how sure it is, and how architectures become features."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.gaussian_process.kernels import RBF
from sklearn.linear_model import Ridge

from nas.errors import UsageError
from nas.predictors import FewLabelPredictor, SettingsEncoder, SpaceEncoder, cross_validated
from nas.predictors.encoding import EncodedArchitectures
from nas.predictors.regression import REACH, SHARPER, Regression
from nas.scores.rank_statistics import kendall_tau
from search_spaces import get_space


def architectures(count: int, generator: np.random.Generator) -> list[dict[str, object]]:
    """Made-up transformers: a width, and heads and ratios per block, 8 to 10 blocks deep."""
    made: list[dict[str, object]] = []
    for depth in generator.integers(8, 11, count).tolist():
        heads, ratios = generator.choice([3, 4], depth), generator.choice([2.0, 3.0, 4.0], depth)
        width = int(generator.choice([192, 256]))
        made.append({"width": width, "heads": heads.tolist(), "ratios": ratios.tolist()})
    return made


def quality(architecture: dict[str, object], generator: np.random.Generator) -> float:
    """Late ratios and early heads count most; a saturating function of that, with a little noise."""
    heads, ratios = np.array(architecture["heads"]), np.array(architecture["ratios"])
    gain = heads @ np.linspace(1.0, 0.0, len(heads)) + 0.7 * ratios @ np.linspace(0.0, 1.0, len(ratios))
    return float(80.0 - 20.0 * np.exp(-gain / 12.0) + 0.02 * generator.standard_normal())


@pytest.fixture(scope="module")
def problem() -> tuple[list[dict[str, object]], np.ndarray]:
    generator = np.random.default_rng(0)
    settings = architectures(400, generator)
    return settings, np.array([quality(each, generator) for each in settings])


def one_hot(settings: list[dict[str, object]]) -> np.ndarray:
    encoded = SettingsEncoder(settings)(settings)  # groups: single one-hot, single ordinal, one-hot of the sequences
    width_single, width_ordinal, width_places = encoded.widths[:3]
    columns = [
        *range(width_single),
        *range(width_single + width_ordinal, sum((width_single, width_ordinal, width_places))),
    ]
    return encoded.features_nf[:, columns]


def test_fifty_labels_beat_ridge_on_the_one_hot_encoding(problem: tuple[list[dict[str, object]], np.ndarray]) -> None:
    settings, truth = problem
    encoded, plain = SettingsEncoder(settings)(settings), one_hot(settings)
    taus, ridge_taus = [], []
    for draw in range(5):
        order = np.random.default_rng(draw).permutation(len(truth))
        known, rest = order[:50], order[50:]
        mean = FewLabelPredictor().fit(encoded[known], truth[known]).predict(encoded[rest]).mean_n
        taus.append(kendall_tau(mean, truth[rest]))
        ridge_taus.append(kendall_tau(Ridge(1.0).fit(plain[known], truth[known]).predict(plain[rest]), truth[rest]))
    assert np.mean(taus) > 0.85
    assert np.mean(taus) > np.mean(ridge_taus) + 0.05


def test_intervals_hold_what_they_promise(problem: tuple[list[dict[str, object]], np.ndarray]) -> None:
    settings, truth = problem
    encoded = SettingsEncoder(settings)(settings)
    held = []
    for draw in range(8):
        order = np.random.default_rng(draw).permutation(len(truth))
        known, rest = order[:50], order[50:]
        prediction = FewLabelPredictor().fit(encoded[known], truth[known]).predict(encoded[rest])
        low, high = prediction.interval(0.8)
        held.append(np.mean((low <= truth[rest]) & (truth[rest] <= high)))
        assert (prediction.std_n > 0).all()
    assert 0.68 < np.mean(held) < 0.92


def made_up_scores(count: int) -> tuple[EncodedArchitectures, np.ndarray]:
    """Two groups of features, and scores that one group explains and a bump at one place adds to."""
    generator = np.random.default_rng(1)
    features = generator.standard_normal((count, 6))
    bump = 3.0 * np.exp(-0.2 * ((features - features[0]) ** 2).sum(axis=1))
    scores = features[:, :4] @ generator.standard_normal(4) + bump + 0.3 * generator.standard_normal(count)
    return EncodedArchitectures(features, (4, 2)), (scores - scores.mean()) / scores.std()


def test_regression_is_a_gaussian_process() -> None:
    """The same mean and spread as scikit-learn's kernels give in the textbook's equations."""
    encoded, scores = made_up_scores(70)
    regression = Regression(encoded[:40], scores[:40])
    mean, std = regression.predict(encoded[40:])

    features = (encoded.features_nf - encoded.features_nf[:40].mean(axis=0)) * regression.unit_f
    distance = ((features[:40, None] - features[:40]) ** 2).sum(axis=2).mean()
    first, second, wide, narrow = regression.scales_k
    covariance = first * features[:, :4] @ features[:, :4].T + second * features[:, 4:] @ features[:, 4:].T
    covariance += wide * RBF(np.sqrt(REACH * distance))(features)
    covariance += narrow * RBF(np.sqrt(REACH * distance / SHARPER))(features)
    with_noise = covariance[:40, :40] + regression.noise * np.eye(40)
    gain = np.linalg.solve(with_noise, covariance[:40, 40:]).T
    offset = scores[:40].mean()
    variance = np.diag(covariance[40:, 40:] - gain @ covariance[:40, 40:]) + regression.noise
    np.testing.assert_allclose(mean, gain @ (scores[:40] - offset) + offset, atol=1e-6)
    np.testing.assert_allclose(std, np.sqrt(variance), rtol=1e-6)
    assert wide + narrow > 0.1, "the bump is no line"


def test_surprises_are_those_of_leaving_one_out() -> None:
    encoded, scores = made_up_scores(30)
    scores = scores - scores.mean()
    regression = Regression(encoded, scores)
    kernel = regression.covariance(encoded) + regression.noise * np.eye(30)
    for number in (0, 7, 29):
        others = np.arange(30) != number
        gain = np.linalg.solve(kernel[np.ix_(others, others)], kernel[others, number])
        spread = np.sqrt(kernel[number, number] - gain @ kernel[others, number])
        assert regression.surprises_n[number] == pytest.approx((scores[number] - gain @ scores[others]) / spread)


def test_neighbourhoods_are_learned_where_no_line_fits() -> None:
    """Small networks are good and large ones are, and those between are not: no choice is worth anything by itself."""
    space, generator = get_space("elastic-mini"), np.random.default_rng(0)
    shares = generator.random((500, 1))
    genotypes = space.repair(
        (generator.random((500, 16)) < shares).astype(np.int8) * (space.cardinalities - 1).astype(np.int8)
    )
    truth = np.abs((genotypes > 0).mean(axis=1) - 0.5)
    encoded = SpaceEncoder(space)(genotypes)
    mean = FewLabelPredictor().fit(encoded[:100], truth[:100]).predict(encoded[100:]).mean_n
    lines = Ridge(1.0).fit(genotypes[:100], truth[:100]).predict(genotypes[100:])
    assert kendall_tau(mean, truth[100:]) > 0.6
    assert kendall_tau(lines, truth[100:]) < 0.3


def test_only_the_order_of_labels_decides_the_ranking(problem: tuple[list[dict[str, object]], np.ndarray]) -> None:
    settings, truth = problem
    encoded = SettingsEncoder(settings)(settings)
    first = FewLabelPredictor().fit(encoded[:60], truth[:60]).predict(encoded[60:])
    second = FewLabelPredictor().fit(encoded[:60], np.exp(truth[:60] / 3)).predict(encoded[60:])
    assert kendall_tau(first.mean_n, second.mean_n) == pytest.approx(1.0)
    assert truth.min() - 5 < first.mean_n.min() < first.mean_n.max() < truth.max() + 5


def test_labels_with_many_ties_still_give_an_order(problem: tuple[list[dict[str, object]], np.ndarray]) -> None:
    settings, truth = problem
    encoded = SettingsEncoder(settings)(settings)
    rough = (truth > np.median(truth)).astype(float)
    mean = FewLabelPredictor().fit(encoded[:100], rough[:100]).predict(encoded[100:]).mean_n
    assert len(np.unique(mean)) > 290
    assert kendall_tau(mean, truth[100:]) > 0.6


def test_genotypes_of_a_space() -> None:
    space, generator = get_space("elastic-mini"), np.random.default_rng(0)
    encoder, genotypes = SpaceEncoder(space), space.sample(300, generator)
    encoded = encoder(genotypes)
    weights = generator.standard_normal(genotypes.shape[1])
    truth = genotypes @ weights + 0.2 * generator.standard_normal(300)
    predictor = FewLabelPredictor().fit(encoded[:80], truth[:80])
    assert kendall_tau(predictor.predict(encoded[80:]).mean_n, truth[80:]) > 0.6
    alone = predictor.predict(encoder(genotypes[299:]))
    assert alone.mean_n[0] == pytest.approx(predictor.predict(encoded[299:]).mean_n[0])
    assert len(predictor.predict(encoder(genotypes[:0])).mean_n) == 0


def test_more_labels_than_scales_are_learned_on() -> None:
    space, generator = get_space("elastic-mini"), np.random.default_rng(0)
    genotypes = space.sample(700, generator)
    encoded, truth = SpaceEncoder(space)(genotypes), genotypes.sum(axis=1) + generator.standard_normal(700)
    few = FewLabelPredictor().fit(encoded[:50], truth[:50]).predict(encoded[500:]).mean_n
    many = FewLabelPredictor().fit(encoded[:500], truth[:500]).predict(encoded[500:]).mean_n
    assert kendall_tau(many, truth[500:]) > kendall_tau(few, truth[500:])


def test_cross_validation_never_sees_its_own_label(problem: tuple[list[dict[str, object]], np.ndarray]) -> None:
    settings, truth = problem
    encoded = SettingsEncoder(settings[:60])(settings[:60])
    noise = np.random.default_rng(3).standard_normal(60)
    assert abs(kendall_tau(cross_validated(encoded, noise).mean_n, noise)) < 0.3
    assert kendall_tau(cross_validated(encoded, truth[:60]).mean_n, truth[:60]) > 0.7


def test_neighbouring_places_are_close() -> None:
    """The blended groups make networks that differ in neighbouring places more alike than in distant ones."""
    base = [0] * 8
    changed = [[int(place == position) for place in range(8)] for position in (2, 3, 7)]
    settings = [{"heads": each} for each in (base, *changed)]
    encoded = SettingsEncoder(settings)(settings)
    assert encoded.widths == (16, 8, 16, 8)
    blended = encoded.features_nf[:, 24:40]
    second, third, seventh = (row - blended[0] for row in blended[1:])
    assert second @ third / (second @ second) == pytest.approx(np.exp(-0.125), abs=1e-4)
    assert second @ seventh / (second @ second) == pytest.approx(np.exp(-25 / 8), abs=1e-4)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([1.0, 2.0, 3.0, 4.0], "found 4 labels, expected at least 5"),
        ([2.0] * 8, "8 labels that are all 2"),
        ([1.0, 2.0, 3.0, 4.0, float("nan")], "not finite"),
    ],
)
def test_labels_that_teach_nothing(labels: list[float], message: str) -> None:
    settings: list[dict[str, float]] = [{"depth": number} for number in range(len(labels))]
    with pytest.raises(UsageError, match=message):
        FewLabelPredictor().fit(SettingsEncoder(settings)(settings), labels)


def test_architectures_that_are_all_alike() -> None:
    settings = [{"depth": 3}] * 6
    with pytest.raises(UsageError, match="all alike"):
        FewLabelPredictor().fit(SettingsEncoder(settings)(settings), np.arange(6.0))


def test_settings_that_cannot_be_encoded() -> None:
    with pytest.raises(UsageError, match="found no architecture"):
        SettingsEncoder([])
    with pytest.raises(UsageError, match=r"`heads.1`: found 'many', expected a finite number"):
        SettingsEncoder([{"heads": [1, "many"]}])  # type: ignore[list-item]
    with pytest.raises(UsageError, match="`width` is unknown"):
        SettingsEncoder([{"depth": 1}, {"depth": 2}])([{"width": 3}])


def lines_and_labels(count: int) -> tuple[EncodedArchitectures, np.ndarray]:
    """Features of which most go one way and some the other, so that labels come in two crowds; noise alike for all."""
    generator = np.random.default_rng(3)
    features = generator.standard_normal((count, 6)) * 0.3
    features[:, 0] += np.where(generator.random(count) < 0.3, -4.0, 1.0)
    return EncodedArchitectures(features, (6,)), features.sum(axis=1) + 0.1 * generator.standard_normal(count)


def test_distances_between_labels_count_where_that_predicts_better() -> None:
    encoded, labels = lines_and_labels(300)
    errors = {}
    for by_rank in (True, False):
        predictor = FewLabelPredictor(by_rank=by_rank).fit(encoded[:60], labels[:60])
        prediction = predictor.predict(encoded[60:])
        errors[by_rank] = float(np.mean((prediction.mean_n - labels[60:]) ** 2))
        low, high = prediction.interval(0.8)
        assert np.mean((low <= labels[60:]) & (labels[60:] <= high)) > 0.6
    assert len(predictor.scale.knots_k) == 1, "the labels themselves"
    assert errors[False] < 0.5 * errors[True]


def test_ranks_count_where_some_labels_are_failures() -> None:
    encoded, labels = lines_and_labels(300)
    failed = np.random.default_rng(4).random(300) < 0.15
    labels[failed] -= 1000.0 * np.random.default_rng(5).random(int(failed.sum()))
    predictor = FewLabelPredictor(by_rank=False).fit(encoded[:60], labels[:60])
    assert len(predictor.scale.knots_k) > 1
    ranked = FewLabelPredictor().fit(encoded[:60], labels[:60]).predict(encoded[60:])
    assert np.array_equal(predictor.predict(encoded[60:]).mean_n, ranked.mean_n)

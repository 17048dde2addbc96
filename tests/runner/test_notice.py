"""What a report says is to be noticed: each rule on numbers that have the thing and on some that have not."""

import math
from pathlib import Path
from random import Random

import pytest

from genlab.report.notice import (
    RULES,
    diverged,
    jitter,
    mode_collapse,
    not_finite,
    notices,
    ood_reversed,
    overfitting,
    posterior_collapse,
    samples_worsened,
    stages,
    still_improving,
)
from genlab.report.notice import discriminator_won as won
from genlab.report.notice import unfinished as early_end
from genlab.report.run import Point, Run
from genlab.run_folder import RunFolder

STEPS = 10
"""Of an epoch, each with a training loss."""


def run(curves=None, metrics=None, config=None, rows=(), steps=None, error="", path="/nowhere"):
    """A run with these numbers: ``curves`` are values by step (training) or epoch (validation)."""
    points = {}
    for name, values in (curves or {}).items():
        train = name.startswith("train/")  # at each step, the others after each epoch
        at = [(i + 1, i // STEPS) if train else ((i + 1) * STEPS, i + 1) for i in range(len(values))]
        points[name] = [Point(*place, value) for place, value in zip(at, values, strict=True)]
    last = max((p[-1].step for p in points.values()), default=0)
    summary = {"steps": last if steps is None else steps, "epochs": last // STEPS, "metrics": metrics or {}}
    evaluations = {"any": {"rows": rows, "metrics": {}}} if rows else {}
    return Run(RunFolder(Path(path)), summary if steps != -1 else {}, config or {}, points, evaluations, error)


def losses(val, train=None, noise=0.0):
    """Validation after every epoch, and training that falls to its value after each (or is given)."""
    random = Random(0)
    noisy = [value + noise * random.gauss(0, 1) for value in val]
    train = val if train is None else train
    return {"val/loss": noisy, "train/loss": [value for value in train for _ in range(STEPS)]}


def decay(epochs, to=100.0, by=30.0, rate=0.5):
    """A loss that converges."""
    return [to + by * math.exp(-rate * epoch) for epoch in range(epochs)]


HEALTHY = {
    "converged": losses(decay(20)),
    "converged, noisy": losses(decay(30), noise=0.3),
    "negative": losses([value - 900 for value in decay(20)]),
    "nothing to learn": losses([5.0] * 20, noise=0.1),
    "short": losses([3.0, 2.0, 1.0]),
}


@pytest.mark.parametrize("name", HEALTHY)
def test_nothing_is_said_of_a_run_with_nothing_wrong(name):
    noticed, _ = notices(run(HEALTHY[name]))
    assert noticed == []


def test_a_second_stage_that_begins_higher_has_not_diverged():
    first, second = run(losses(decay(12))).curves, run(losses(decay(12, to=500.0))).curves
    curves = {name: [*first[name], *(p._replace(step=p.step + 120) for p in second[name])] for name in first}
    both = Run(RunFolder(Path("/a")), {"steps": 240}, {}, curves, {})
    assert notices(both)[0] == []
    joined = {name: [p._replace(epoch=p.step // STEPS) for p in points] for name, points in curves.items()}
    assert diverged(Run(both.folder, both.summary, {}, joined, {}))  # as one it would have


def test_a_healthy_vae_gan_and_detector_pass_every_rule_that_applies():
    config = {"model": {"latent_dim": 50, "loss": {"name": "non_saturating"}}}
    curves = losses(decay(20)) | {
        "val/kl": [20.0] * 20,
        "posterior/active_units": [18.0] * 20,
        "train/d_real": [0.85] * 200,
        "train/d_fake": [0.12] * 200,
        "fid/cnn": [50.0, 9.0, 10.0],
    }
    rows = [*fid_rows(), {"score": "typicality", "set": "mnist", "AUROC": 0.93, "low": 0.9, "high": 0.95}]
    noticed, passed = notices(run(curves, config=config, rows=rows))
    assert noticed == []
    assert passed == [rule.name for rule in RULES]


def test_serious_findings_come_first_and_rules_without_numbers_say_nothing():
    rows = [{"score": "log_likelihood", "set": "mnist", "AUROC": 0.1, "high": 0.12}]
    noticed, passed = notices(run({"train/loss": [1.0, math.nan]}, rows=rows))
    assert [notice.serious for notice in noticed] == [True, False]
    assert passed == ["an early end"]
    assert notices(run(steps=-1))[1] == []


# ------------------------------------------------------------------ an end before its time


def test_a_run_that_logged_beyond_its_summary_has_not_ended(tmp_path):
    assert early_end(run(losses(decay(5)))) == ""
    said = early_end(run(losses(decay(5)), steps=30, path=tmp_path))
    assert "last step that was logged is 50" in said
    assert f"genlab train resume={tmp_path}" in said
    assert "has not come to its end" in early_end(run(losses(decay(5)), steps=-1))


def test_why_it_broke_off_is_quoted():
    said = early_end(run(losses(decay(5)), steps=-1, error="the term 'kl' is nan at step 51"))
    assert said == "Training broke off after step 50: the term 'kl' is nan at step 51."
    # what a later command broke off by is no matter of a run that had ended
    assert early_end(run(losses(decay(5)), error="no room left on the disk")) == ""


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_the_first_number_that_is_not_finite_is_named(bad):
    said = not_finite(run({"val/loss": [3.0, bad, 2.0], "train/kl": [1.0] * 15 + [bad]}))
    assert f"train/kl was {bad} at step 16 (epoch 1)" in said
    assert said.index("train/kl") < said.index("val/loss")
    assert "likelihood/test/log_prob is" in not_finite(run(metrics={"likelihood/test/log_prob": bad}))
    assert not_finite(run(losses(decay(4)), metrics={"a": 1.0})) == ""
    assert not_finite(run()) is None


# ------------------------------------------------------------------ curves


def test_stages_are_told_apart_by_their_epochs():
    points = [Point(i, epoch, 0.0) for i, epoch in enumerate([0, 0, 1, 0, 1, 2])]
    assert [[point.step for point in part] for part in stages(points)] == [[0, 1, 2], [3, 4, 5]]


def test_jitter_is_that_of_the_noise_whatever_the_trend():
    random = Random(1)
    values = [50 * 0.99**i + 0.2 * random.gauss(0, 1) for i in range(400)]
    assert jitter(values) == pytest.approx(0.2, rel=0.15)  # a median of 400: about 5 % of itself
    assert jitter(decay(40)) < 0.15
    assert jitter([1.0, 2.0]) == 0.0


def test_a_loss_that_ends_above_its_beginning_in_training_too_diverged():
    val = [*decay(8), 140.0, 180.0, 260.0]
    assert "was best after epoch 8" in diverged(run(losses(val)))
    assert diverged(run(losses(val, train=decay(11)))) == ""  # that is overfitting
    assert diverged(run(losses(decay(3)))) is None
    assert diverged(run({"train/loss_generator": [1.0, 9.0] * 50})) is None


def test_overfitting_is_validation_that_rises_while_training_falls():
    val, train = [*decay(8), 101.5, 103.0, 105.0, 107.0], decay(12, rate=0.3)
    said = overfitting(run(losses(val, train)))
    assert "lowest after epoch 8 (100.9) and ended at 107.0" in said
    assert "fell on, from 103.7 to 101.1" in said
    assert overfitting(run(losses(val))) == ""  # training rose too
    assert overfitting(run(losses(val[:-2], train[:-2]))) == ""  # not for long enough
    jumping = [100 + 3 * (i % 2) for i in range(12)]
    assert overfitting(run(losses([110, *jumping], decay(13)))) == ""  # the noise is as large
    assert overfitting(run({"train/loss": [1.0] * 100})) is None


def test_a_run_that_still_falls_is_told_to_go_on_twice_as_long():
    falling = losses([100 - 3.0 * i for i in range(10)])
    said = still_improving(run(falling, config={"trainer": {"epochs": 10}}, path="/a"))
    assert "from 79.750 to 73.000" in said
    assert said.endswith("genlab train resume=/a trainer.epochs=20")
    limited = {"trainer": {"epochs": 10, "max_steps": 100}}
    assert still_improving(run(falling, config=limited)).endswith("trainer.max_steps=200")
    assert still_improving(run(losses(decay(20)))) == ""
    assert still_improving(run(falling, steps=-1)) is None  # it has not ended: that is said elsewhere


# ------------------------------------------------------------------ collapse


@pytest.mark.parametrize(
    ("active", "kl", "said"),
    [
        (0.0, 9.0, "0 of 50 latent dimensions are active"),
        (4.0, 9.0, "4 of 50"),
        (6.0, 9.0, ""),
        (20.0, 0.2, "prior is 0.2 nats in all"),
        (0.0, 1e-4, "and the KL of the posterior to the prior is 0.0001 nats"),
    ],
)
def test_a_posterior_that_tells_nothing_has_collapsed(active, kl, said):
    curves = {"posterior/active_units": [30.0, active], "val/kl": [20.0, kl]}
    found = posterior_collapse(run(curves, config={"model": {"latent_dim": 50}}))
    assert said in found
    assert bool(said) == bool(found)


def test_two_latent_dimensions_of_two_are_no_collapse():
    curves = {"posterior/active_units": [2.0], "val/kl": [5.0]}
    assert posterior_collapse(run(curves, config={"model": {"latent_dim": 2}})) == ""
    assert posterior_collapse(run(losses(decay(5)))) is None


def fid_rows(images=2000, **samples):
    """Rows of ``evaluation=fid``, of a good model but for ``samples``."""
    real = {"images": images, "precision": 0.94, "coverage": 0.95, "modes": 10, "class KL": 0.003}
    found = {"images": images, "precision": 0.8, "coverage": 0.7, "modes": 10, "class KL": 0.02} | samples
    return [{"measure": k, "samples": found[k], "training images": v} for k, v in real.items()]


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (fid_rows(modes=7), "they show 7 of 10 classes"),
        (fid_rows(coverage=0.2), "coverage is 0.20 where training images reach 0.95"),
        (fid_rows(**{"class KL": 0.9}), "0.90 nats from the data's"),
        (fid_rows(modes=1, precision=0.01), "few of them look real, too (precision 0.01)"),
        (fid_rows(), ""),
        (fid_rows(coverage=0.2, precision=0.1), ""),  # poor, not few of kind
        (fid_rows(images=50, modes=9, **{"class KL": 0.3}), ""),  # too few to tell
    ],
)
def test_samples_that_leave_something_out_lack_variety(rows, said):
    found = mode_collapse(run(rows=rows))
    assert said in found
    assert bool(said) == bool(found)


def test_the_classes_that_a_callback_has_measured_count_too():
    curves = {"fid/cnn/class_kl": [0.02, 1.4]}
    assert "1.40 nats" in mode_collapse(run(curves, config={"callbacks": {"fid": {"num_samples": 5000}}}))
    assert mode_collapse(run(curves)) is None


@pytest.mark.parametrize(
    ("loss", "real", "fake", "has_won"),
    [
        ("non_saturating", 0.99, 0.01, True),
        ("non_saturating", 0.9, 0.02, False),
        ("non_saturating", 0.98, 0.2, False),
        ("least_squares", 0.99, 0.01, True),
        ("hinge", 1.2, -1.3, True),
        ("hinge", 0.6, -0.6, False),
        ("wasserstein", 40.0, -40.0, None),
    ],
)
def test_a_discriminator_that_is_never_wrong_has_won(loss, real, fake, has_won):
    curves = {"train/d_real": [0.5] * 180 + [real] * 20, "train/d_fake": [0.5] * 180 + [fake] * 20}
    found = won(run(curves, config={"model": {"loss": {"name": loss}}}))
    assert (None if found is None else bool(found)) is has_won
    if has_won:
        assert f"D(x) is {real:.3f} and D(G(z)) is {fake:.3f}" in found


def test_smoothed_labels_lower_what_a_real_image_can_get():
    curves = {"train/d_real": [0.89] * 20, "train/d_fake": [0.01] * 20}
    model = {"loss": {"name": "minimax", "label_smoothing": 0.1}}
    assert won(run(curves, config={"model": model}))
    assert won(run(curves, config={"model": model | {"loss": {"name": "minimax"}}})) == ""


def test_samples_that_were_better_before_are_named():
    said = samples_worsened(run({"fid/cnn": [80.0, 20.0, 31.0]}))
    assert "fid/cnn was 20.000 after epoch" in said
    assert samples_worsened(run({"fid/cnn": [80.0, 20.0, 29.0]})) == ""
    assert samples_worsened(run({"fid/cnn": [20.0, 80.0]})) is None
    assert samples_worsened(run({"fid/cnn/class_kl": [0.1, 0.2, 9.0]})) is None
    again = {"fid/cnn": [Point(10, 1, 80.0), Point(20, 2, 20.0), Point(30, 3, 22.0), Point(30, 3, 90.0)]}
    of_fewer = Run(RunFolder(Path("/a")), {"steps": 30}, {}, again, {})
    assert samples_worsened(of_fewer) == ""  # the same weights, measured again with fewer samples


@pytest.mark.parametrize(
    ("auroc", "high", "said"), [(0.13, 0.15, True), (0.47, 0.49, False), (0.4, 0.52, False), (0.9, 0.95, False)]
)
def test_a_score_that_prefers_the_other_set_is_the_wrong_way_round(auroc, high, said):
    rows = [{"score": "log_likelihood", "set": "mnist", "AUROC": auroc, "high": high}]
    found = ood_reversed(run(rows=rows))
    assert bool(found) is said
    if said:
        assert "log_likelihood against mnist (0.130)" in found
    assert ood_reversed(run(losses(decay(4)))) is None

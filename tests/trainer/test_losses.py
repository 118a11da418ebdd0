"""The losses, compared with their formulas in plain loops."""

import math
from statistics import correlation, fmean, stdev

import pytest
import torch
from torch import nn

from trainer.evaluate import calibration_error, confusion, fit_temperature, score
from trainer.losses import (
    ENSEMBLES,
    LOSSES,
    Teaching,
    check_loss_args,
    distillation,
    dkd,
    head_targets,
    labels_alone,
    soft_cross_entropy,
    standardized,
)


def softmax(row):
    top = max(row)
    powers = [math.exp(value - top) for value in row]
    return [power / sum(powers) for power in powers]


def divergence(student, teacher):
    return sum(q * math.log(q / p) for p, q in zip(student, teacher, strict=True))


def tempered(logits, temperature):
    return [softmax([value / temperature for value in row]) for row in logits.tolist()]


def kl_by_hand(student, teacher, targets, temperature):
    pairs = zip(tempered(student, temperature), tempered(teacher, temperature), strict=True)
    return temperature**2 * fmean(divergence(s, t) for s, t in pairs)


def hard_by_hand(student, teacher, targets, temperature):
    rows = zip(student.tolist(), teacher.tolist(), strict=True)
    return fmean(-math.log(softmax(s)[t.index(max(t))]) for s, t in rows)


def dkd_by_hand(student, teacher, targets, temperature, alpha=1.0, beta=8.0):
    total = 0.0
    students, teachers = tempered(student, temperature), tempered(teacher, temperature)
    for s, t, labels in zip(students, teachers, targets.tolist(), strict=True):
        y = labels.index(max(labels)) if sum(labels) > 0 else t.index(max(t))
        others = [c for c in range(len(s)) if c != y]
        total += alpha * divergence([s[y], 1 - s[y]], [t[y], 1 - t[y]])
        total += beta * divergence([s[c] / (1 - s[y]) for c in others], [t[c] / (1 - t[y]) for c in others])
    return temperature**2 * total / len(student)


def dist_by_hand(student, teacher, targets, temperature, beta=1.0, gamma=1.0):
    students, teachers = tempered(student, temperature), tempered(teacher, temperature)
    rows = fmean(correlation(s, t) for s, t in zip(students, teachers, strict=True))
    by_class = (zip(*answers, strict=True) for answers in (students, teachers))
    columns = fmean(correlation(list(s), list(t)) for s, t in zip(*by_class, strict=True))
    return temperature**2 * (beta * (1 - rows) + gamma * (1 - columns))


BY_HAND = {"kl": kl_by_hand, "hard": hard_by_hand, "dkd": dkd_by_hand, "dist": dist_by_hand}
CASES = [("kl", {}), ("hard", {}), ("dkd", {}), ("dkd", {"alpha": 0.5, "beta": 2.0}), ("dist", {})]
CASES += [("dist", {"beta": 2.0, "gamma": 0.5})]


def cross_entropy_by_hand(logits, targets):
    rows = zip(logits.tolist(), targets.tolist(), strict=True)
    total = sum(-sum(y * math.log(p) for y, p in zip(t, softmax(r), strict=True)) for r, t in rows)
    return total / sum(sum(row) for row in targets.tolist())


@pytest.fixture
def logits():
    """Six images, two teachers, five classes. The fifth image is half labelled, and the sixth is not labelled."""
    torch.manual_seed(0)
    targets = torch.rand(6, 5, dtype=torch.float64).softmax(-1)
    targets[4] *= 0.5
    targets[5] = 0
    return {
        "student": 3 * torch.randn(6, 3, 5, dtype=torch.float64, requires_grad=True),
        "teachers": 3 * torch.randn(6, 2, 5, dtype=torch.float64),
        "targets": targets,
    }


def taught(**changes):
    return Teaching(
        **{"names": ["conv", "inv"], "weights": [2.0, 3.0], "temperatures": [1.0, 4.0], "label_weight": 0.5} | changes
    )


def test_the_label_term_is_the_mean_over_the_labelled_mass(logits):
    student, targets = logits["student"][:, 0], logits["targets"]
    loss = soft_cross_entropy(student, targets)
    assert loss.item() == pytest.approx(cross_entropy_by_hand(student, targets))
    assert torch.autograd.gradcheck(lambda s: soft_cross_entropy(s, targets), (student,))
    full = nn.functional.cross_entropy(student[:4], targets[:4])
    torch.testing.assert_close(soft_cross_entropy(student[:4], targets[:4]), full)
    torch.testing.assert_close(soft_cross_entropy(student[:5], targets[:5]), loss)


def test_an_unlabelled_image_has_no_gradient_from_the_label_term(logits):
    student, targets = logits["student"], logits["targets"]
    (gradient,) = torch.autograd.grad(soft_cross_entropy(student[:, 0], targets), student)
    assert (gradient.abs().amax((1, 2)) > 0).tolist() == [True] * 5 + [False]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_label_term_is_zero_without_any_label(dtype):
    student = (40 * torch.randn(3, 4, dtype=dtype)).requires_grad_()
    loss = soft_cross_entropy(student, torch.zeros(3, 4, dtype=dtype))
    loss.backward()
    assert loss.item() == 0
    assert student.grad.tolist() == [[0.0] * 4] * 3


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
@pytest.mark.parametrize(("name", "arguments"), CASES)
def test_a_loss_equals_its_formula(logits, name, arguments, temperature):
    student, teacher, targets = logits["student"][:, 1], logits["teachers"][:, 0], logits["targets"]
    value = LOSSES[name](student, teacher, targets, temperature, **arguments)
    assert value.item() == pytest.approx(BY_HAND[name](student, teacher, targets, temperature, **arguments))
    assert torch.autograd.gradcheck(
        lambda s: LOSSES[name](s, teacher, targets, temperature, **arguments), (student.detach().requires_grad_(),)
    )


@pytest.mark.parametrize("name", ["kl", "dkd", "dist"])
def test_a_student_that_equals_its_teacher_has_nothing_to_learn(logits, name):
    same = logits["teachers"][:, 0].clone().requires_grad_()
    loss = LOSSES[name](same, same.detach(), logits["targets"], 2.0)
    (gradient,) = torch.autograd.grad(loss, same)
    assert loss.item() == pytest.approx(0, abs=1e-12)
    assert gradient.abs().max() < 1e-12


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_is_a_mean_over_images(logits, name):
    student, teacher, targets = logits["student"][:, 1], logits["teachers"][:, 0], logits["targets"]
    thrice = LOSSES[name](student.repeat(3, 1), teacher.repeat(3, 1), targets.repeat(3, 1), 2.0)
    torch.testing.assert_close(thrice, LOSSES[name](student, teacher, targets, 2.0))


def test_kl_is_a_special_case_of_decoupled_distillation(logits):
    """The paper shows it: for one image, KL is dkd whose beta is the mass of the teacher outside the target."""
    student, teacher, targets = logits["student"][:1, 1], logits["teachers"][:1, 0], logits["targets"][:1]
    beta = 1 - (teacher / 2).softmax(-1)[0, targets.argmax()].item()
    expected = LOSSES["kl"](student, teacher, targets, 2.0)
    torch.testing.assert_close(dkd(student, teacher, targets, 2.0, beta=beta), expected)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("scale", [0.0, 1e-6, 1e3])
@pytest.mark.parametrize("prepare", [standardized, torch.Tensor.clone])
def test_losses_stay_finite_at_the_extremes(name, scale, prepare):
    """The logits are all equal, almost equal, or so large that probabilities underflow."""
    torch.manual_seed(0)
    student, teacher = (scale * torch.randn(4, 6)).requires_grad_(), scale * torch.randn(4, 6)
    loss = LOSSES[name](prepare(student), prepare(teacher), torch.eye(4, 6), 1.0)
    loss.backward()
    assert loss.isfinite()
    assert student.grad.isfinite().all()


def test_standardized_equals_its_formula(logits):
    teacher = logits["teachers"][:, 0]
    by_hand = [[(z - fmean(row)) / (stdev(row) + 1e-7) for z in row] for row in teacher.tolist()]
    torch.testing.assert_close(standardized(teacher), torch.tensor(by_hand, dtype=torch.float64))
    student = logits["student"][:, 1].detach().requires_grad_()
    assert torch.autograd.gradcheck(standardized, (student,))


@pytest.mark.parametrize("loss", LOSSES)
def test_standardized_losses_do_not_depend_on_shift_and_scale(logits, loss):
    student, teachers, targets = logits["student"], logits["teachers"], logits["targets"]
    teaching = taught(loss=loss, standardize=True)
    expected = distillation(student, targets, teachers, teaching)
    for changed in (
        distillation(torch.cat([student[:, :1], 7 * student[:, 1:] - 3], 1), targets, teachers, teaching),
        distillation(student, targets, 0.2 * teachers + 5, teaching),
    ):
        for name, value in expected.items():
            torch.testing.assert_close(changed[name], value, rtol=1e-5, atol=1e-5)
    plain = distillation(student, targets, teachers, taught(loss=loss))
    assert plain["teacher conv"].item() != pytest.approx(expected["teacher conv"].item())


@pytest.mark.parametrize(("loss", "arguments"), CASES)
def test_each_head_learns_from_its_own_source_only(logits, loss, arguments):
    student, teachers, targets = logits["student"], logits["teachers"], logits["targets"]
    losses = distillation(student, targets, teachers, taught(loss=loss, loss_args=arguments))
    by_hand = BY_HAND[loss]
    expected = {
        "labels": 0.5 * cross_entropy_by_hand(student[:, 0], targets),
        "teacher conv": 2 * by_hand(student[:, 1], teachers[:, 0], targets, 1.0, **arguments),
        "teacher inv": 3 * by_hand(student[:, 2], teachers[:, 1], targets, 4.0, **arguments),
    }
    assert {name: value.item() for name, value in losses.items()} == pytest.approx(expected)
    for head, name in enumerate(losses):
        (gradient,) = torch.autograd.grad(losses[name], student, retain_graph=True)
        touched = gradient.abs().amax((0, 2)) > 0
        assert touched.tolist() == [head == k for k in range(3)]


@pytest.mark.parametrize("heads", [1, 2, 3])
def test_mean_prob_gives_the_mean_of_probabilities_at_the_mean_temperature(logits, heads):
    given = head_targets(logits["teachers"], taught(ensemble="mean-prob"), heads)
    first, second = tempered(logits["teachers"][:, 0], 1.0), tempered(logits["teachers"][:, 1], 4.0)
    mean = [[0.4 * p + 0.6 * q for p, q in zip(*rows, strict=True)] for rows in zip(first, second, strict=True)]
    assert len({target.name for target in given}) == len(given) == heads
    assert sum(target.weight for target in given) == pytest.approx(2.5 * heads)
    for target in given:
        assert (target.weight, target.temperature) == pytest.approx((5 / 2, 0.4 * 1 + 0.6 * 4))
        again = (target.logits / target.temperature).softmax(-1)
        torch.testing.assert_close(again, torch.tensor(mean, dtype=torch.float64))


@pytest.mark.parametrize(("ensemble", "heads"), [("mean-logit", 1), ("mean-logit", 2), ("per-token", 3)])
def test_the_mean_of_logits_is_also_used_for_too_few_teachers(logits, ensemble, heads):
    first, second = logits["teachers"].unbind(1)
    given = head_targets(logits["teachers"], taught(ensemble=ensemble), heads)
    assert len({target.name for target in given}) == len(given) == heads
    for target in given:
        assert (target.weight, target.temperature) == pytest.approx((5 / 2, 0.4 * 1 + 0.6 * 4))
        torch.testing.assert_close(target.logits, 0.4 * first + 0.6 * second)


@pytest.mark.parametrize("ensemble", ENSEMBLES)
def test_a_single_teacher_teaches_every_head(logits, ensemble):
    student, teacher, targets = logits["student"], logits["teachers"][:, 1:], logits["targets"]
    alone = taught(names=["inv"], weights=[3.0], temperatures=[4.0], ensemble=ensemble)
    losses = distillation(student, targets, teacher, alone)
    by_head = [kl_by_hand(student[:, head], teacher[:, 0], targets, 4.0) for head in (1, 2)]
    expected = [0.5 * cross_entropy_by_hand(student[:, 0], targets), *(3 * value for value in by_head)]
    assert [value.item() for value in losses.values()] == pytest.approx(expected)


def test_the_mean_teaches_every_head(logits):
    student, teachers, targets = logits["student"], logits["teachers"], logits["targets"]
    losses = distillation(student, targets, teachers, taught(ensemble="mean-logit", loss="dkd"))
    mean = 0.4 * teachers[:, 0] + 0.6 * teachers[:, 1]
    by_head = [dkd_by_hand(student[:, head], mean, targets, 0.4 * 1 + 0.6 * 4) for head in (1, 2)]
    expected = [0.5 * cross_entropy_by_hand(student[:, 0], targets), *(5 / 2 * value for value in by_head)]
    assert [value.item() for value in losses.values()] == pytest.approx(expected)


def test_more_teachers_than_bias_heads_need_a_mean(logits):
    with pytest.raises(ValueError, match="not 1 for 2"):
        head_targets(logits["teachers"], taught(), 1)


@pytest.mark.parametrize("ensemble", ENSEMBLES)
def test_logits_of_another_number_of_teachers_are_refused(logits, ensemble):
    with pytest.raises(ValueError, match="zip"):
        head_targets(logits["teachers"][:, :1], taught(ensemble=ensemble), 2)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"loss": "dkd", "loss_args": {"beta": 2.0, "gamma": 1.0}},
            "dkd has no argument 'gamma'; it has alpha and beta",
        ),
        ({"loss_args": {"temperature": 2.0}}, "kl has no argument 'temperature'; it has none"),
        ({"loss": "mse"}, "loss is one of kl, hard, dkd, dist, not 'mse'"),
        ({"ensemble": "vote"}, "ensemble is one of per-token, mean-prob, mean-logit, not 'vote'"),
        ({"weights": [1.0]}, "every teacher has"),
        ({"names": ["conv", "conv"]}, "every teacher has"),
        ({"names": [], "weights": [], "temperatures": []}, "every teacher has"),
    ],
)
def test_an_impossible_teaching_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        taught(**changes)


@pytest.mark.parametrize(("name", "arguments"), CASES)
def test_the_arguments_of_a_loss_are_known(name, arguments):
    check_loss_args(name, arguments)


def test_without_teachers_every_head_learns_from_labels(logits):
    student = logits["student"]
    by_head = [cross_entropy_by_hand(student[:, head], logits["targets"]) for head in range(3)]
    assert labels_alone(student, logits["targets"])["labels"].item() == pytest.approx(sum(by_head) / 3)


def test_the_fitted_temperature_is_the_one_by_which_logits_were_multiplied():
    torch.manual_seed(0)
    honest = 2 * torch.randn(20_000, 10)
    labels = torch.distributions.Categorical(logits=honest).sample()
    assert fit_temperature(2.5 * honest, labels) == pytest.approx(2.5, rel=0.03)
    assert fit_temperature(honest / 3, labels) == pytest.approx(1 / 3, rel=0.03)
    before = calibration_error((2.5 * honest).softmax(-1), labels)
    after = calibration_error(honest.softmax(-1), labels)
    assert after < 0.015 < before


def test_a_few_right_answers_do_not_drive_the_temperature_to_zero():
    logits = 2 * torch.eye(4)
    assert 0.5 < fit_temperature(logits, torch.arange(4)) < 0.95


def test_calibration_error_of_known_cases():
    sure = torch.tensor([[1.0, 0.0]] * 4)
    assert calibration_error(sure, torch.tensor([0, 0, 0, 0])) == 0
    assert calibration_error(sure, torch.tensor([0, 0, 1, 1])) == 0.5
    mixed = torch.tensor([[0.9, 0.1], [0.9, 0.1], [0.6, 0.4], [0.6, 0.4]])
    # bin of 0.9: half of the answers are right, gap 0.4; bin of 0.6: all are right, gap 0.4
    assert calibration_error(mixed, torch.tensor([0, 1, 0, 0])) == pytest.approx(0.5 * 0.4 + 0.5 * 0.4)


def test_scores_and_confusion_of_known_answers():
    logits = torch.tensor([[2.0, 0.0, 0.0], [0.0, 2.0, 0.0], [0.0, 2.0, 0.0], [0.0, 0.0, 2.0]])
    labels = torch.tensor([0, 1, 2, 2])
    result = score(logits, labels)
    assert result.images == 4
    assert result.top1 == 0.75
    assert result.nll == pytest.approx(nn.functional.cross_entropy(logits, labels).item())
    assert confusion(logits.argmax(1), labels, 3).tolist() == [[1, 0, 0], [0, 1, 0], [0, 1, 1]]

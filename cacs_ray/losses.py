"""Training objectives.

Every list-wise loss sees one list per row: the creatives of one ad in one request,
padded to a common length, with a mask that says which are real. Padding has no say,
whatever it holds. Weights are impressions that a row stands for; every loss is a
weighted mean, so twice the weight is the same as two equal rows.

    B  lists in the batch, one per (request, ad)
    C  creatives per list, padded
    K  values that a dropout gate decides on
"""

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional


def click_loss(
    logits: Float[Tensor, " B"],
    label: Float[Tensor, " B"],
    weight: Float[Tensor, " B"],
    *,
    negative_weight: float = 1.0,
) -> Float[Tensor, ""]:
    r"""Log loss of clicks, in nats per impression.

    .. math::
        \ell = -\frac{\sum_b w_b (y_b \log \sigma(z_b)
               + \omega (1 - y_b) \log(1 - \sigma(z_b)))}{\sum_b w_b}, \qquad
        z_b = s_b - \log \omega

    Where a click has probability p, the weighted loss is least at
    :math:`\sigma(z) = p / (p + \omega (1 - p))`, whose log-odds are those of p less
    :math:`\log \omega`: with the shift it is least at :math:`\sigma(s) = p`, so a
    model that can hold p is calibrated whatever the weight.

    Args:
        logits: before the sigmoid, position included.
        label: 1 for a click, 0 for none; a rate in between is allowed.
        weight: impressions per row, >= 0.
        negative_weight: omega in (0, 1], what an impression without a click counts.
            Below 1 the value is no log loss of the model, and not to be compared.

    Returns:
        Weighted mean. It is divided by all impressions, those that count less too, so
        that a click pulls no more than a row of log does. 0 when all weights are 0.

    Raises:
        ValueError: ``negative_weight`` is outside (0, 1].

    A model without opinion costs log 2, one that knows the CTR its entropy:

    >>> one = torch.ones(2)
    >>> click_loss(torch.zeros(2), torch.tensor([0.0, 1.0]), one)
    tensor(0.6931)

    A CTR of 1/3 has log-odds -log 2. The loss is flat there, with any weight:

    >>> logit = torch.tensor([-0.6931], requires_grad=True)
    >>> third = torch.tensor([1.0 / 3.0])
    >>> click_loss(logit, third, torch.ones(1), negative_weight=0.1).backward()
    >>> bool(logit.grad.abs() < 1e-4)
    True

    Source: the correction of He et al., "Practical Lessons from Predicting Clicks on
    Ads at Facebook", ADKDD 2014, section 6.3, taken into the loss.
    """
    _check_negative_weight(negative_weight)
    if negative_weight == 1.0:
        loss = functional.binary_cross_entropy_with_logits(
            logits, label, reduction="none"
        )
    else:
        shifted = logits - math.log(negative_weight)
        clicked = label * functional.logsigmoid(shifted)
        not_clicked = (1.0 - label) * functional.logsigmoid(-shifted)
        loss = -clicked - negative_weight * not_clicked
    return _weighted_mean(loss, weight)


def listwise_click_loss(
    logits: Float[Tensor, "B C"],
    shown_index: Int[Tensor, " B"],
    creative_mask: Bool[Tensor, "B C"],
    clicks: Float[Tensor, " B"],
) -> Float[Tensor, ""]:
    r"""Which creative of the ad a click fell on, in nats per click.

    .. math::
        \ell = -\frac{\sum_b k_b \log \mathrm{softmax}(s_b)_{shown}}{\sum_b k_b}

    Under uniform choice inside the ad this is the likelihood of the clicked
    creative given that its list was clicked: whatever belongs to the request or
    the ad cancels, so popular ads and stories teach nothing about creatives.

    Args:
        logits: scores of lists, position left out.
        shown_index: column of the shown creative, a real one.
        creative_mask: True for a real creative.
        clicks: ``k`` >= 0 per row; under another logging policy times the uniform
            probability of the shown creative over its propensity.

    Returns:
        Mean over the clicks on lists of two creatives or more; with none, 0.

    A model without opinion pays ``log(n)`` for a click on a list of ``n``:

    >>> flat, real = torch.zeros(1, 2), torch.tensor([[True, True]])
    >>> listwise_click_loss(flat, torch.tensor([0]), real, torch.ones(1))
    tensor(0.6931)

    Source: after the list-wise ranking loss of Wang et al., "A Hybrid Bandit Model
    with Visual Priors for Creative Ranking in Display Advertising", WWW 2021.
    """
    log_share = _padded_low(logits, creative_mask).log_softmax(-1)
    shown = log_share.gather(1, shown_index.unsqueeze(-1)).squeeze(-1)
    has_choice = creative_mask.sum(-1) >= 2
    return _weighted_mean(-shown, clicks * has_choice)


def listwise_distillation_loss(
    student_logits: Float[Tensor, "B C"],
    teacher_logits: Float[Tensor, "B C"],
    creative_mask: Bool[Tensor, "B C"],
    weight: Float[Tensor, " B"],
    *,
    temperature: float,
) -> Float[Tensor, ""]:
    r"""Cross-entropy between the ranker's soft labels and the selector, per ad.

    The ranker (teacher) has scored every creative of the ad. Within one list

    .. math::
        q = \mathrm{softmax}(t / \tau), \qquad
        \ell = -\sum_c q_c \log \mathrm{softmax}(s)_c

    so only the order and the gaps *inside* an ad are taught, never the level of
    its CTR: adding a constant to one list of either logits changes nothing.

    Args:
        student_logits: selector scores ``s``, before any softmax.
        teacher_logits: ranker scores ``t``; no gradient flows into them.
        creative_mask: True for a real creative, False for padding.
        weight: impressions per list, >= 0.
        temperature: ``tau > 0`` of the teacher; higher makes the soft labels flatter.

    Returns:
        Weighted mean over the lists that hold two creatives or more. A shorter
        list teaches nothing about choice and is left out; with none left, 0.

    Raises:
        ValueError: ``temperature`` is not positive.

    Before training, when every creative scores the same, a list of ``n`` costs
    ``log(n)``, whatever the teacher says:

    >>> flat, taught = torch.zeros(1, 2), torch.tensor([[2.0, 0.0]])
    >>> real, one = torch.tensor([[True, True]]), torch.ones(1)
    >>> listwise_distillation_loss(flat, taught, real, one, temperature=1.0)
    tensor(0.6931)

    Source: after Lin et al., "Joint Optimization of Ad Ranking and Creative
    Selection", SIGIR 2022, "soft label list-wise ranking distillation".
    """
    _check_temperature(temperature)
    teacher = _padded_low(teacher_logits.detach() / temperature, creative_mask)
    soft_labels = teacher.softmax(-1)
    return _cross_entropy(student_logits, soft_labels, creative_mask, weight)


def rank_label_loss(
    student_logits: Float[Tensor, "B C"],
    teacher_logits: Float[Tensor, "B C"],
    creative_mask: Bool[Tensor, "B C"],
    weight: Float[Tensor, " B"],
) -> Float[Tensor, ""]:
    r"""List-wise distillation that keeps the teacher's order and forgets its gaps.

    .. math::
        q_c = \frac{1 / r_c}{\sum_j 1 / r_j}, \qquad
        \ell = -\sum_c q_c \log \mathrm{softmax}(s)_c

    where ``r`` is the teacher's rank inside the list, 1 for the best; of equals the
    first in the list is better.

    Args:
        student_logits: selector scores, before any softmax.
        teacher_logits: ranker scores; only their order matters, no gradient.
        creative_mask: True for a real creative.
        weight: impressions per list, >= 0.

    Returns:
        Weighted mean over lists of two creatives or more; with none left, 0.

    A student without opinion pays ``log(n)`` for a list of ``n``:

    >>> flat, taught = torch.zeros(1, 2), torch.tensor([[2.0, 0.0]])
    >>> rank_label_loss(flat, taught, torch.tensor([[True, True]]), torch.ones(1))
    tensor(0.6931)
    """
    teacher = _padded_low(teacher_logits.detach(), creative_mask)
    best_first = teacher.argsort(dim=-1, descending=True, stable=True)
    rank = best_first.argsort(dim=-1) + 1
    gain = creative_mask / rank
    labels = gain / gain.sum(-1, keepdim=True).clamp(min=1e-12)
    return _cross_entropy(student_logits, labels, creative_mask, weight)


def clid_loss(
    student_logits: Float[Tensor, "B C"],
    teacher_logits: Float[Tensor, "B C"],
    creative_mask: Bool[Tensor, "B C"],
    weight: Float[Tensor, " B"],
) -> Float[Tensor, ""]:
    r"""List-wise distillation over shares of click probability.

    .. math::
        P_c = \frac{\sigma(s_c)}{\sum_j \sigma(s_j)}, \qquad
        Q_c = \frac{\sigma(t_c)}{\sum_j \sigma(t_j)}, \qquad
        \ell = -\sum_c Q_c \log P_c

    It is smallest where the student's probabilities are proportional to the
    teacher's, which a calibrated student satisfies: unlike the softmax form it
    does not fight the click loss over the level of the logits.

    Args:
        student_logits: logits of the click probability, without position.
        teacher_logits: the ranker's, likewise; no gradient.
        creative_mask: True for a real creative.
        weight: impressions per list, >= 0.

    Returns:
        Weighted mean over lists of two creatives or more; with none left, 0.

    A student without opinion pays ``log(n)`` for a list of ``n``:

    >>> flat, taught = torch.zeros(1, 2), torch.tensor([[2.0, 0.0]])
    >>> clid_loss(flat, taught, torch.tensor([[True, True]]), torch.ones(1))
    tensor(0.6931)

    Source: after "Calibration-compatible Listwise Distillation of Privileged
    Features for CTR Prediction", arXiv 2312.08727.
    """
    # softmax(log p) = p / sum p, without dividing by a sum of tiny numbers.
    real_teacher = teacher_logits.detach().masked_fill(~creative_mask, 0.0)
    real_student = student_logits.masked_fill(~creative_mask, 0.0)
    shares = _padded_low(functional.logsigmoid(real_teacher), creative_mask).softmax(-1)
    student = functional.logsigmoid(real_student)
    return _cross_entropy(student, shares, creative_mask, weight)


def pointwise_distillation_loss(
    student_logits: Float[Tensor, "B C"],
    teacher_logits: Float[Tensor, "B C"],
    creative_mask: Bool[Tensor, "B C"],
    weight: Float[Tensor, " B"],
) -> Float[Tensor, ""]:
    r"""Log loss of the student against the teacher's probability of each creative.

    .. math::
        \ell_b = -\frac{1}{n_b} \sum_c \sigma(t_c) \log \sigma(s_c)
                 + (1 - \sigma(t_c)) \log(1 - \sigma(s_c))

    It teaches the level of the CTR as much as the order inside the ad.

    Args:
        student_logits: logits of the click probability, without position.
        teacher_logits: the ranker's, likewise; no gradient.
        creative_mask: True for a real creative.
        weight: impressions per list, >= 0.

    Returns:
        Weighted mean over lists of at least one creative of the mean over their
        creatives; with none left, 0.

    A student without opinion costs log 2:

    >>> flat, taught = torch.zeros(1, 2), torch.tensor([[2.0, 0.0]])
    >>> real = torch.tensor([[True, True]])
    >>> pointwise_distillation_loss(flat, taught, real, torch.ones(1))
    tensor(0.6931)
    """
    target = teacher_logits.detach().masked_fill(~creative_mask, 0.0).sigmoid()
    loss = functional.binary_cross_entropy_with_logits(
        student_logits.masked_fill(~creative_mask, 0.0), target, reduction="none"
    )
    num_real = creative_mask.sum(-1)
    mean = (loss * creative_mask).sum(-1) / num_real.clamp(min=1)
    return _weighted_mean(mean, weight * (num_real > 0))


def gate_kl_loss(
    keep_probability: Float[Tensor, " K"],
    prior_probability: Float[Tensor, " K"],
    weight: Float[Tensor, " K"],
) -> Float[Tensor, ""]:
    r"""What a learnt dropout gate pays for leaving its prior, in nats per value.

    .. math::
        \mathrm{KL}(p \| q) = p \log \frac{p}{q} + (1 - p) \log \frac{1 - p}{1 - q}

    Without it a gate that is trained on clicks learns to keep everything, because
    training data rewards memory.

    Args:
        keep_probability: p, in [0, 1].
        prior_probability: q, in (0, 1); no gradient.
        weight: occurrences of each value, >= 0; 0 for values without an impression:
            nothing to decide there.

    Returns:
        Weighted mean, 0 when all weights are 0 and where p = q.

    >>> half = torch.full((2,), 0.5)
    >>> gate_kl_loss(half, half, torch.ones(2))
    tensor(0.)
    """
    tiny = 1e-6
    p = keep_probability.clamp(tiny, 1 - tiny)
    q = prior_probability.detach().clamp(tiny, 1 - tiny)
    divergence = p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()
    return _weighted_mean(divergence, weight)


def _cross_entropy(
    student_logits: Float[Tensor, "B C"],
    labels: Float[Tensor, "B C"],
    creative_mask: Bool[Tensor, "B C"],
    weight: Float[Tensor, " B"],
) -> Float[Tensor, ""]:
    """Weighted mean of -sum labels * log softmax over lists that hold a choice."""
    student = _padded_low(student_logits, creative_mask)
    per_list = -(labels * student.log_softmax(-1)).sum(-1)
    has_choice = creative_mask.sum(-1) >= 2
    return _weighted_mean(per_list, weight * has_choice)


def _padded_low(
    logits: Float[Tensor, "B C"], creative_mask: Bool[Tensor, "B C"]
) -> Float[Tensor, "B C"]:
    """Give padding the lowest finite score; -inf would make 0 * -inf = NaN."""
    return logits.masked_fill(~creative_mask, torch.finfo(logits.dtype).min)


def _weighted_mean(
    values: Float[Tensor, " N"], weight: Float[Tensor, " N"]
) -> Float[Tensor, ""]:
    total = weight.sum()
    # A row of weight 0 is left out, even where its value is not finite.
    kept = values.masked_fill(weight == 0, 0.0)
    return (kept * weight).sum() / torch.where(total > 0, total, 1.0)


def _check_temperature(temperature: float) -> None:
    if temperature <= 0:
        raise ValueError(f"temperature must be positive, got {temperature}")


def _check_negative_weight(negative_weight: float) -> None:
    if not 0 < negative_weight <= 1:
        raise ValueError(f"negative_weight must be in (0, 1], got {negative_weight}")

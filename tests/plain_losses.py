"""Slow, plain versions of the losses: loops over records and pairs in double precision, from the formulas of the papers.

Tests compare the library with them on small inputs, and `plain_numbers` on many random ones.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

Vector = Sequence[float]
Table = Sequence[Vector]


def listed(x: Any) -> Any:
    """A tensor or an array as nested lists of Python numbers."""
    return x.tolist() if hasattr(x, "tolist") else x


def dot(x: Vector, y: Vector) -> float:
    return math.fsum(float(a) * float(b) for a, b in zip(x, y))


def length(x: Vector) -> float:
    return math.sqrt(dot(x, x))


def cosine(x: Vector, y: Vector) -> float:
    """0 where one of them has no direction."""
    size = length(x) * length(y)
    return dot(x, y) / size if size else 0.0


def log_sum(values: Iterable[float]) -> float:
    """log(sum(exp(v))), whatever the size of the values; -inf of none."""
    every = list(values)
    top = max(every, default=-math.inf)
    return top if math.isinf(top) else top + math.log(math.fsum(math.exp(v - top) for v in every))


def log_sigmoid(x: float) -> float:
    return -math.log1p(math.exp(-x)) if x > 0 else x - math.log1p(math.exp(x))


def mean(values: Iterable[float]) -> float:
    """0 of none."""
    every = list(values)
    return math.fsum(every) / max(len(every), 1)


def huber(d: float) -> float:
    """Smooth L1: d^2 / 2 below 1, |d| - 1/2 above."""
    return d * d / 2 if abs(d) < 1 else abs(d) - 0.5


# ------------------------------------------------------------------------------------------------ ECGs and reports


def same_report(report: Table, words: tuple[Table, float] | None = None) -> list[list[bool]]:
    """Which records have the same report: they agree in any column, or share enough words."""

    def same(i: int, j: int) -> bool:
        if any(a == b for a, b in zip(report[i], report[j])):
            return True
        return words is not None and dot(words[0][i], words[0][j]) >= words[1]

    return [[same(i, j) for j in range(len(report))] for i in range(len(report))]


def info_nce(
    ecg: Table, text: Table, same: Sequence[Sequence[bool]], scale: float, treat: str, form: str, both_ways: bool = True
) -> float:
    """Equations 7 to 9 of CG-DMER, and the form with equal reports as further targets."""
    b = len(ecg)

    def one(anchors: Table, others: Table, i: int, j: int) -> float:
        """L_ij; 0 where nothing is in the denominator."""
        s = [scale * dot(anchors[i], others[k]) for k in range(b)]
        counted = [k for k in range(b) if not (treat == "ignore" and same[i][k] and k != i)]
        if form != "standard":
            counted = [k for k in counted if k != i]
        return log_sum(s[k] for k in counted) - s[j] if counted else 0.0

    total = 0.0
    ways = ((ecg, text), (text, ecg))[: 2 if both_ways else 1]
    for i in range(b):
        for x, y in ways:
            if form == "literal":
                total += sum(one(x, y, i, j) for j in range(b) if not (treat == "ignore" and same[i][j] and i != j))
            elif treat == "positive":
                total += mean(one(x, y, i, j) for j in range(b) if same[i][j])
            else:
                total += one(x, y, i, i)
    return total / (len(ways) * b)


def siglip(ecg: Table, text: Table, same: Sequence[Sequence[bool]], scale: float, bias: float, treat: str) -> float:
    """Equation 6 of CG-DMER, by treatment of equal reports."""
    total = 0.0
    for i in range(len(ecg)):
        for j in range(len(text)):
            twin = same[i][j] and i != j
            if twin and treat == "ignore":
                continue
            y = 1 if i == j or (twin and treat == "positive") else -1
            total -= log_sigmoid(y * (scale * dot(ecg[i], text[j]) + bias))
    return total / len(ecg)


def orthogonality(specific: Table, shared: Table) -> float:
    return mean(cosine(x, y) ** 2 for x, y in zip(specific, shared))


def correlations(first: Table, second: Table) -> list[list[float]]:
    """Pearson's correlation of each column of the one with each of the other; 0 for a constant column."""

    def standard(column: Vector) -> list[float]:
        middle = mean(column)
        spread = math.sqrt(mean((x - middle) ** 2 for x in column))
        return [(x - middle) / spread if spread else 0.0 for x in column]

    one, other = [standard(c) for c in zip(*first)], [standard(c) for c in zip(*second)]
    return [[mean(x * y for x, y in zip(a, b)) for b in other] for a in one]


def token_errors(logits: Sequence[Table], tokens: Sequence[Sequence[int]], masked: Sequence[Sequence[bool]]) -> float:
    """Mean cross-entropy of each report's masked tokens, then over reports."""
    total = 0.0
    for row, ids, hidden in zip(logits, tokens, masked):
        total += mean(log_sum(row[s]) - row[s][ids[s]] for s in range(len(ids)) if hidden[s])
    return total / len(tokens)


def local_similarity(
    statements: Table, beats: Table, attend: float = 4.0, matter: float = 5.0, least: float = 1e-6
) -> float:
    """GLoRIA's similarity of the statements of one report and the beats of one ECG; squared lengths count at least `least`.

    Attended beats that cancel have no direction: their cosine goes to 0.
    """

    def softmax(values: Sequence[float]) -> list[float]:
        total = log_sum(values)
        return [math.exp(v - total) for v in values]

    claims = [softmax([dot(s, b) for s in statements]) for b in beats]
    terms = []
    for m, s in enumerate(statements):
        attention = softmax([attend * claim[m] for claim in claims])
        context = [math.fsum(a * b[d] for a, b in zip(attention, beats)) for d in range(len(s))]
        lengths = math.sqrt(max(dot(s, s), least) * max(dot(context, context), least))
        terms.append(matter * dot(s, context) / lengths)
    return log_sum(terms)


def local_nce(similarity: Table, report: Table, scale: float, treat: str) -> list[float]:
    """Cross-entropies of each record, report to ECG and back, averaged."""
    same, n = same_report(report), len(similarity)
    values = []
    for i in range(n):
        candidates = [j for j in range(n) if not (treat == "ignore" and same[i][j] and j != i)]
        right = [j for j in range(n) if same[i][j]] if treat == "positive" else [i]
        each = 0.0
        for row in (similarity[i], [similarity[j][i] for j in range(n)]):
            each += log_sum(scale * row[j] for j in candidates) - mean(scale * row[j] for j in right)
        values.append(each / 2)
    return values


# ------------------------------------------------------------------------------------------------ masked


def selected_error(
    prediction: Sequence[Vector],
    target: Sequence[Vector],
    counts: Sequence[Sequence[bool]],
    of: Callable[[float], float] = lambda d: d * d,
) -> float:
    """The mean of `of` the difference over the selected elements of each record (flat), then over records."""
    records = [mean(of(x - y) for x, y, counted in zip(*each) if counted) for each in zip(prediction, target, counts)]
    return mean(records)


def instance_discrimination(before: Sequence[Table], after: Sequence[Table], real: Sequence[Sequence[bool]]) -> float:
    """L_IDC of CRT."""
    total = 0.0
    for b in range(len(before)):
        places = [s for s in range(len(real[b])) if real[b][s]]
        pulls = [cosine(before[b][i], after[b][j]) for i in places for j in places if i != j]
        total += log_sum(pulls) if pulls else 0.0
    return total / len(before)


def negative_log_likelihood(error: Table, log_variance: Table, counts: Sequence[Sequence[bool]]) -> float:
    """Of a Gaussian with its own variance at each sample, without the constant; mean per record, then over records."""
    return mean(
        mean((e / math.exp(s) + s) / 2 for e, s, counted in zip(*each) if counted)
        for each in zip(error, log_variance, counts)
    )


# ------------------------------------------------------------------------------------------------ pairs and views


def matching(own: Vector, other: Vector, exists: Sequence[bool]) -> float:
    return mean(
        -(log_sigmoid(a) + log_sigmoid(-b)) / 2 if has_other else -log_sigmoid(a)
        for a, b, has_other in zip(own, other, exists)
    )


def discriminator(first: Vector, second: Vector) -> float:
    return -(mean(log_sigmoid(x) for x in first) + mean(log_sigmoid(-x) for x in second)) / 2


def patient_agreement(predicted: Table, target: Table, patient: Sequence[int]) -> float:
    n = range(len(patient))
    return -mean(mean(cosine(predicted[i], target[j]) for j in n if patient[i] == patient[j]) for i in n)


def forecast(predicted: Sequence[Table], target: Sequence[Table], exists: Sequence[Sequence[bool]]) -> float:
    return -mean(mean(cosine(p, z) for p, z, real in zip(*each) if real) for each in zip(predicted, target, exists))


def nt_xent(a: Table, b: Table, temperature: float) -> float:
    """SimCLR's loss over all 2B views."""
    views, n = [*a, *b], len(a)
    total = 0.0
    for i in range(2 * n):
        s = {k: cosine(views[i], views[k]) / temperature for k in range(2 * n) if k != i}
        total += log_sum(s.values()) - s[(i + n) % (2 * n)]
    return total / (2 * n)


def squared_unit_distance(prediction: Table, target: Table) -> float:
    """BYOL's loss: squared distance of unit vectors."""
    return mean(
        math.fsum((x / length(p) - y / length(z)) ** 2 for x, y in zip(p, z)) for p, z in zip(prediction, target)
    )


def redundancy(correlation: Table, off_diagonal: float) -> float:
    return math.fsum(
        (1 - c) ** 2 if i == j else off_diagonal * c**2 for i, row in enumerate(correlation) for j, c in enumerate(row)
    )


def momentum_nce(query: Table, keys: Table, temperature: float) -> float:
    """MoCo v3's loss, times its factor 2 t."""
    total = 0.0
    for i, q in enumerate(query):
        s = [cosine(q, k) / temperature for k in keys]
        total += log_sum(s) - s[i]
    return 2 * temperature * total / len(query)


# ------------------------------------------------------------------------------------------------ series


def future_contrast(predicted: Sequence[Table], future: Sequence[Table], observed: Sequence[bool]) -> float:
    """TS-TCC's temporal contrasting."""
    b, n_steps = len(future), len(future[0])
    total = 0.0
    for i in range(b):
        if observed[i]:
            for k in range(n_steps):
                s = [dot(predicted[i][k], future[j][k]) for j in range(b)]
                total += (log_sum(s[j] for j in range(b) if observed[j]) - s[i]) / n_steps
    return total / b


def same_patient(
    views: Sequence[Table], observed: Sequence[Sequence[bool]], patient: Sequence[int], tau: float
) -> float:
    """CLOCS's loss; 0 where no two views can be compared."""
    n, n_views = len(views), len(views[0])

    def one(a: int, i: int, b: int, j: int) -> float:
        """-log of the softmax of a_i over all records of view b, at b_j."""
        s = [cosine(views[i][a], views[k][b]) / tau for k in range(n)]
        return log_sum(s[k] for k in range(n) if observed[k][b]) - s[j]

    losses = []
    for a in range(n_views):
        for b in range(a + 1, n_views):
            pairs = [
                (i, j)
                for i in range(n)
                for j in range(n)
                if observed[i][a] and observed[j][b] and patient[i] == patient[j]
            ]
            kinds = [[p for p in pairs if p[0] == p[1]], [p for p in pairs if p[0] != p[1]]]
            means = []
            for kind in filter(None, kinds):
                means.append(mean(one(a, i, b, j) for i, j in kind))
                means.append(mean(one(b, j, a, i) for i, j in kind))
            losses += [mean(means)] if means else []
    return mean(losses)


def same_time_contrast(
    a: Sequence[Table], b: Sequence[Table], present: Sequence[Sequence[bool]], scale: float
) -> float:
    total = 0.0
    for x, y, real in zip(a, b, present):
        times = [k for k in range(len(real)) if real[k]]
        if len(times) < 2:
            continue
        for one, other in ((x, y), (y, x)):
            s = [[scale * cosine(one[k], other[j]) for j in times] for k in times]
            total += mean(log_sum(row) - row[place] for place, row in enumerate(s)) / 2
    return total / len(a)


def predictive_contrast(
    predicted: Sequence[Sequence[Table]],
    latents: Sequence[Table],
    real: Sequence[Sequence[bool]],
    steps: Sequence[int],
    tau: float,
    others: Table,
    is_other: Sequence[Sequence[bool]],
) -> float:
    """CPC's InfoNCE, every prediction by itself."""
    total, b = 0.0, len(latents)
    for i in range(b):
        n = len(latents[i])
        for number, k in enumerate(steps):
            losses = []
            for t in range(n - k):
                if not (real[i][t] and real[i][t + k]):
                    continue
                p = predicted[i][number][t]
                among = [dot(p, latents[i][s]) / tau for s in range(n) if real[i][s]]
                among += [dot(p, others[m]) / tau for m in range(len(others)) if is_other[i][m]]
                losses.append(log_sum(among) - dot(p, latents[i][t + k]) / tau)
            total += mean(losses) / len(steps) / b
    return total


# ------------------------------------------------------------------------------------------------ anchors


def pair_contrast(
    a: Table, b: Table, present: Sequence[bool], scale: float, person: Sequence[int] | None = None
) -> float:
    rows = [i for i in range(len(a)) if present[i]]
    total = 0.0
    for x, y in ((a, b), (b, a)):
        for i in rows:
            others = [j for j in rows if person is None or j == i or person[i] != person[j]]
            total += log_sum(scale * cosine(x[i], y[j]) for j in others) - scale * cosine(x[i], y[i])
    return total / 2 / max(len(rows), 1)


def phenotype_distance(f: Table, i: int, j: int) -> float | None:
    """Squared distance over the phenotypes that both have, scaled up to all; None where there are none."""
    if i == j:
        return 0.0
    both = [(x, y) for x, y in zip(f[i], f[j]) if math.isfinite(x) and math.isfinite(y)]
    return math.fsum((x - y) ** 2 for x, y in both) * len(f[i]) / len(both) if both else None


def relational_contrast(
    a: Table, b: Table, present: Sequence[bool], f: Table, scale: float, temperature: float
) -> float:
    rows = [i for i in range(len(a)) if present[i]]
    total = 0.0
    for i in rows:
        away = {j: phenotype_distance(f, i, j) for j in rows}
        columns = [j for j in rows if away[j] is not None]
        log_p = [-away[j] / temperature for j in columns]
        log_p = [x - log_sum(log_p) for x in log_p]
        for x, y in ((a, b), (b, a)):
            s = [scale * cosine(x[i], y[j]) for j in columns]
            log_q = [v - log_sum(s) for v in s]
            total += math.fsum(math.exp(u) * (u - v) for u, v in zip(log_p, log_q))
    return total / 2 / max(len(rows), 1)


# ------------------------------------------------------------------------------------------------ Gaussians


def gaussian_distances(mu: Table, s: Table, nu: Table, t: Table) -> list[list[float]]:
    """Expected squared distances of two Gaussians with diagonal variances e^s and e^t."""
    return [
        [
            math.fsum((x - y) ** 2 + math.exp(u) + math.exp(v) for x, y, u, v in zip(mu[i], nu[j], s[i], t[j]))
            for j in range(len(nu))
        ]
        for i in range(len(mu))
    ]


def gaussian_matching(
    distance: Table,
    match: Sequence[Sequence[bool]],
    scale: float,
    bias: float,
    balance: str,
    counted: Sequence[Sequence[bool]],
) -> float:
    """PCME++'s cross-entropy over pairs; rows without a counted pair are left out."""
    n = range(len(distance))

    def loss(i: int, j: int) -> float:
        logit = bias - scale * distance[i][j]
        return -log_sigmoid(logit if match[i][j] else -logit)

    rows = []
    for i in n:
        columns = [j for j in n if counted[i][j]]
        if not columns:
            continue
        parts = (
            [columns]
            if balance == "pairs"
            else [[j for j in columns if match[i][j]], [j for j in columns if not match[i][j]]]
        )
        rows.append(sum(mean(loss(i, j) for j in part) for part in parts) / len(parts))
    return mean(rows)


def divergence(mu: Table, s: Table) -> list[float]:
    """KL of N(mu, e^s) from N(0, 1), by record: the textbook formula with the standard deviation."""
    rows = []
    for row, log_variance in zip(mu, s):
        terms = []
        for m, v in zip(row, log_variance):
            deviation = math.exp(v / 2)
            terms.append(-math.log(deviation) + (deviation**2 + m**2) / 2 - 0.5)
        rows.append(math.fsum(terms))
    return rows


# ------------------------------------------------------------------------------------------------ teachers


def unexplained(student: Table, teacher: Table, variance: float) -> float:
    return mean(math.fsum((x - y) ** 2 for x, y in zip(s, t)) / variance for s, t in zip(student, teacher))


def relations(student: Table, teacher: Table, variance: float) -> float:
    n = range(len(student))
    return mean(
        (dot(student[i], student[j]) - dot(teacher[i], teacher[j])) ** 2 / variance for i in n for j in n if i != j
    )

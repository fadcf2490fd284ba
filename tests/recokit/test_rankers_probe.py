"""LinearProbe: the formula, and scikit-learn's logistic regression when it is trained to the end."""

import numpy as np
import pandas as pd
import pytest
import torch
from ranker_oracle import Oracle, frame, spec
from sklearn.linear_model import LogisticRegression

from recokit.errors import ConfigError
from recokit.features import FeatureSpec, Pretrained
from recokit.rankers import FitConfig, LinearProbe, fit
from recokit.rankers.base import to_tensors
from recokit.table import EmbeddingTable

CPU = torch.device("cpu")


pytestmark = pytest.mark.usefixtures("one_thread")


def linear_features() -> list[Pretrained]:
    return [f for f in spec().pretrained if f.unknown != "learned" and f.usage != "init"]


@pytest.mark.parametrize("label", ["clicked", ["clicked", "bought"]])
def test_the_probe_equals_the_formula_row_by_row(label):
    ranker = LinearProbe(spec(pretrained=linear_features(), label=label).fit(frame()))
    assert not any(weight.any() for weight in ranker.penalised())
    with torch.no_grad():
        for position, parameter in enumerate(ranker.parameters()):
            parameter.copy_(torch.sin(torch.arange(parameter.numel()) + position).view_as(parameter))
    rows = frame()
    batch, oracle = ranker.features.batch(rows), Oracle(ranker)
    weights = oracle.weights
    expected = [
        sum(oracle.encode(batch, b)) + weights["linear.weight"] @ batch.dense[b] + weights["bias"]
        for b in range(len(rows))
    ]
    found = ranker(to_tensors(batch, CPU)).detach().numpy().reshape(len(rows), -1)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)


def probed(num_rows: int = 300) -> tuple[EmbeddingTable, pd.DataFrame]:
    random = np.random.default_rng(0)
    vectors = 0.05 * random.standard_normal((num_rows, 3), dtype=np.float32)
    rows = pd.DataFrame({"text": np.arange(num_rows), "length": random.normal(7, 3, num_rows)})
    logits = 30 * vectors[:, 0] - 20 * vectors[:, 1] + 0.3 * (rows["length"] - 7)
    rows["bad"] = random.random(num_rows) < 1 / (1 + np.exp(-logits))
    return EmbeddingTable.from_arrays(rows["text"], vectors, entity="text", version="v1"), rows


def test_the_solution_is_scikit_learns():
    texts, rows = probed()
    probe = LinearProbe(FeatureSpec([Pretrained("text", texts)], dense=["length"], label="bad"), l2=0.02)
    for learning_rate in (0.1, 0.02, 0.002):  # Adam comes to rest as its step does
        fit(probe, rows, None, FitConfig(epochs=100, batch_size=300, learning_rate=learning_rate, weight_decay=0.0))
    rms = np.sqrt(np.mean(texts.vectors.astype(np.float64) ** 2))
    length = (rows["length"] - rows["length"].mean()) / rows["length"].std(ddof=0)
    x = np.column_stack([texts.vectors / rms, length])
    other = LogisticRegression(C=1 / (0.02 * len(rows)), tol=1e-10).fit(x, rows["bad"])
    found = torch.cat([probe.encoder.pretrained[0][1].linear.weight, probe.linear.weight], dim=1).detach().numpy()
    np.testing.assert_allclose(found, other.coef_, rtol=2e-3, atol=2e-4)
    np.testing.assert_allclose(probe.bias.detach(), other.intercept_, rtol=2e-3, atol=2e-4)
    np.testing.assert_allclose(probe.predict(rows), other.predict_proba(x)[:, 1], atol=2e-4)


def test_the_penalty_is_for_training_alone():
    texts, rows = probed()
    features = FeatureSpec([Pretrained("text", texts)], label="bad")
    plain, probe = LinearProbe(features), LinearProbe(features, l2=0.5)
    with torch.no_grad():
        for each in (plain, probe):
            each.encoder.pretrained[0][1].linear.weight.copy_(torch.tensor([[1.0, -2.0, 3.0]]))
    batch = to_tensors(features.batch(rows), CPU)
    logits = plain(batch)
    assert probe.train().loss(logits, batch).item() == pytest.approx(plain.loss(logits, batch).item() + 0.5 / 2 * 14)
    assert probe.eval().loss(logits, batch).item() == plain.loss(logits, batch).item()


def test_what_is_not_linear_is_refused():
    user = spec().pretrained[0]
    with pytest.raises(ConfigError, match="linear in its weights; feature 'user' has trainable vectors"):
        LinearProbe(FeatureSpec([user], label="clicked"))
    tuned = next(f for f in spec().pretrained if f.usage == "init")
    with pytest.raises(ConfigError, match="feature 'tuned' has trainable"):
        LinearProbe(FeatureSpec([Pretrained("item", tuned.table, name="tuned", usage="init")], label="clicked"))
    with pytest.raises(ConfigError, match="feature 'ip' has trainable"):
        LinearProbe(FeatureSpec(hashed=["ip"], label="clicked"))
    for l2 in (-1.0, float("nan")):
        with pytest.raises(ConfigError, match=f"l2 is {l2}"):
            LinearProbe(FeatureSpec(dense=["x"], label="clicked"), l2=l2)

"""Rankers row by row in float64 NumPy, from the formulas and the state dict alone: what the modules must equal."""

import numpy as np
import pandas as pd

from recokit.features import Bag, FeatureSpec, Pretrained
from recokit.table import EmbeddingTable, Mixture, PQTable

LABELS = ["clicked", "bought"]


def tables() -> dict:
    """Tables of every kind, whose numbers are of very different size."""
    rng = np.random.default_rng(1)
    items = EmbeddingTable.from_arrays(
        np.arange(30), 0.02 * rng.standard_normal((30, 4), dtype=np.float32), entity="item", version="v1"
    )
    users = EmbeddingTable.from_arrays(
        [f"u{i}" for i in range(20)], 50 * rng.standard_normal((20, 3), dtype=np.float32), entity="user", version="v1"
    )
    codes = PQTable.from_arrays(
        np.arange(5, 30),
        rng.integers(0, 8, (25, 2), dtype=np.uint8),
        rng.standard_normal((2, 8, 3), dtype=np.float32),
        entity="item",
        version="v1",
    )
    rows = rng.integers(0, 30, (20, 3))
    rows[::2, 2] = -1
    interests = Mixture.from_rows(users.ids, rows, rng.random((20, 3)), components=items, entity="user")
    return {"user": users, "item": items, "codes": codes, "interests": interests}


def spec(**changes) -> FeatureSpec:
    """Every kind of feature that a lookup makes."""
    made = tables()
    settings = {
        "pretrained": [
            Pretrained("user", made["user"], unknown="learned"),
            Pretrained("item", made["item"], unknown="indicator"),
            Pretrained("item", made["codes"], name="coded"),
            Pretrained("user", made["interests"], name="fitting", pooling="attention", target="item", temperature=0.1),
            Pretrained("user", made["interests"], name="interests", unknown="learned"),
            Pretrained("item", made["codes"], name="tuned", usage="init", unknown="learned"),
            Pretrained("user", made["user"], name="added", usage="sum"),
        ],
        "dense": ["age"],
        "categorical": {"user": ["u1", "u2", "u3"], "country": 2, "device": ["a", "b"]},
        "bags": [
            Bag("history", made["codes"], weights="recency"),
            Bag("history", made["interests"].components, name="sums", pooling="sum"),
            Bag("genres", ["x", "y"]),
            Bag("genres", ["x", "y"], name="weighed", weights="shares"),
        ],
        "missing": "indicator",
        "label": LABELS[0],
    }
    return FeatureSpec(**settings | changes)


def frame(num_rows: int = 40, seed: int = 0) -> pd.DataFrame:
    """Rows with unknown and missing ids, empty and unknown lists, weights of 0."""
    rng = np.random.default_rng(seed)
    made = pd.DataFrame(
        {
            "user": [f"u{i}" for i in rng.integers(0, 25, num_rows)],
            "item": rng.integers(0, 40, num_rows),
            "age": rng.normal(40, 10, num_rows),
            "country": rng.choice(["US", "DE", "FR"], num_rows),
            "device": rng.choice(["a", "b", "c"], num_rows),
            "history": [list(rng.integers(0, 40, n % 4)) for n in range(num_rows)],
            "genres": [list("xyz")[: n % 4] for n in range(num_rows)],
            "clicked": rng.integers(0, 2, num_rows),
        }
    )
    made["bought"] = made["clicked"] * rng.integers(0, 2, num_rows)
    made["recency"] = [list(rng.random(len(values))) for values in made["history"]]
    made["shares"] = [[0.0] * len(v) if n % 5 == 0 else [2.0, 0.0, 1.0][: len(v)] for n, v in enumerate(made["genres"])]
    return made.assign(age=made["age"].where(made.index != 3), user=made["user"].where(made.index != 4, None))


class Oracle:
    """A ranker's weights in float64, and what its encoder makes of a row."""

    def __init__(self, ranker) -> None:
        self.spec = ranker.features
        self.weights = {name: tensor.double().numpy() for name, tensor in ranker.state_dict().items()}

    def layers(self, prefix: str, x: np.ndarray) -> np.ndarray:
        """ReLU after each linear layer."""
        number = 0
        while f"{prefix}.{number}.weight" in self.weights:
            x = np.maximum(self.weights[f"{prefix}.{number}.weight"] @ x + self.weights[f"{prefix}.{number}.bias"], 0)
            number += 2  # a ReLU is between
        return x

    def mlp(self, prefix: str, x: np.ndarray) -> np.ndarray:
        """Hidden layers with ReLU, then a linear one."""
        return self.weights[f"{prefix}.1.weight"] @ self.layers(f"{prefix}.0", x)

    def encode(self, batch, b: int) -> list[np.ndarray]:
        """The vectors of row b in the order of ``Encoder.names``."""
        own, summed = [], dict.fromkeys(self.spec.categorical, 0.0)
        for number, feature in enumerate(self.spec.pretrained):
            vector = self._pretrained(number, feature, batch, b)
            if feature.usage == "sum":
                summed[feature.column] = summed[feature.column] + vector
            else:
                own.append(vector)
        for number, name in enumerate(self.spec.categorical):
            own.append(self.weights[f"encoder.categorical.{number}.weight"][batch.categorical[name][b]] + summed[name])
        return own + [self._bag(number, bag, batch, b) for number, bag in enumerate(self.spec.bags)]

    def flat(self, batch, b: int) -> np.ndarray:
        return np.concatenate([*self.encode(batch, b), batch.dense[b].astype(np.float64)])

    def _pretrained(self, number, feature, batch, b) -> np.ndarray:
        row, name = batch.rows[feature.key][b], f"encoder.pretrained.{number}"
        if feature.usage == "init":
            vector = self.weights[f"{name}.0.vectors"][row] if row >= 0 else self.weights[f"{name}.0.unknown"]
            return self._projected(f"{name}.1", vector)
        if feature.target is None:
            vector, projection = _vector(feature.table, row), f"{name}.1"
            unknown = f"{name}.0.unknown"
        else:
            other = next(each for each in self.spec.pretrained if each.key == feature.target)
            vector = _fitting(feature, row, _vector(other.table, batch.rows[other.key][b]))
            projection, unknown = f"{name}.project", f"{name}.mixture.unknown"
        if row < 0 and feature.unknown == "learned":
            vector = self.weights[unknown]
        return self._projected(projection, vector)

    def _bag(self, number, bag, batch, b) -> np.ndarray:
        values, offsets = batch.bags[bag.key]
        places = range(offsets[b], offsets[b + 1])
        weights = {v: float(batch.bag_weights[bag.key][v]) if bag.weights else 1.0 for v in places}
        name = f"encoder.bags.{number}"
        if bag.table is not None:
            found = [(weights[v], _vector(bag.table, values[v])) for v in places if values[v] >= 0]
        else:
            table = self.weights[f"{name}.embedding.weight"]
            found = [(weights[v], table[values[v]]) for v in places if values[v] > 0]
        dim = bag.table.dim if bag.table is not None else table.shape[1]
        total = sum((w * x for w, x in found), np.zeros(dim))
        if bag.pooling == "mean" and sum(w for w, _ in found) > 0:
            total = total / sum(w for w, _ in found)
        return total if bag.table is None else self._projected(f"{name}.project", total)

    def _projected(self, name: str, vector: np.ndarray) -> np.ndarray:
        return self.weights[f"{name}.linear.weight"] @ (self.weights[f"{name}.scale"] * vector)


def _vector(table, row: int) -> np.ndarray:
    """A row of a table of any kind; of a mixture the weighted mean."""
    if row < 0:
        return np.zeros(table.dim)
    if isinstance(table, PQTable):
        return np.concatenate([table.codebook[m, code] for m, code in enumerate(table.codes[row])]).astype(np.float64)
    if isinstance(table, Mixture):
        return sum(w * x for w, x in _components(table, row))
    return table.vectors[row].astype(np.float64)


def _components(mixture: Mixture, row: int) -> list:
    pairs = zip(mixture.component_rows[row], mixture.weights[row].astype(np.float64), strict=True)
    return [(w, mixture.components.vectors[at].astype(np.float64)) for at, w in pairs if at >= 0]


def _fitting(feature: Pretrained, row: int, target: np.ndarray) -> np.ndarray:
    """Attention: components weighed by their weight times exp of their dot product with the target."""
    if row < 0:
        return np.zeros(feature.table.dim)
    shares = [(w * np.exp(x @ target / feature.temperature), x) for w, x in _components(feature.table, row)]
    return sum(a * x for a, x in shares) / sum(a for a, _ in shares)

"""Train with PyKEEN on the CPU and leave the embeddings after some epochs; see ``peers``.

    python run_pykeen.py FOLDER

FOLDER holds task.json (entities, relations, exported: epochs whose embeddings are wanted, seed, agreement: whether its
own evaluator should judge the last ones, settings: model, model_kwargs, inverse, loop, loss, loss_kwargs, optimizer,
lr, regularizer_kwargs, batch_size, loop_kwargs) and train.npy, valid.npy, (E, 3) int64: source, relation, target.
Left behind are epoch-K.npz (vectors, forward, backward; complex numbers with all real parts first) and result.json (the
seconds up to each epoch, all it took, and its own filtered MRR of valid.npy where asked for).

The seconds are those of its training loop less what is spent on writing embeddings here.
"""

import json
import os
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch


def main(folder: Path) -> None:
    began = time.perf_counter()
    os.environ.setdefault("PYSTOW_HOME", str(folder / "pystow"))
    from pykeen.triples import CoreTriplesFactory

    task = json.loads((folder / "task.json").read_text())
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    torch.manual_seed(task["seed"])
    train, valid = (torch.from_numpy(np.load(folder / f"{part}.npy")) for part in ("train", "valid"))
    counts = {"num_entities": task["entities"], "num_relations": task["relations"]}
    factory = CoreTriplesFactory(train, **counts, create_inverse_triples=task["settings"]["inverse"])
    model = make_model(factory, task["settings"], task["seed"])
    seconds = run(model, factory, task, folder)
    result: dict[str, Any] = {"seconds": seconds, "wall_seconds": time.perf_counter() - began}
    if task["agreement"]:
        result["own_mrr"] = own_mrr(model, train, valid)
    result["versions"] = {package: version(package) for package in ("pykeen", "torch", "numpy")}
    (folder / "result.json").write_text(json.dumps(result))


def make_model(factory: Any, settings: dict[str, Any], seed: int) -> Any:
    from pykeen.losses import loss_resolver
    from pykeen.models import model_resolver

    return model_resolver.make(
        settings["model"],
        settings.get("model_kwargs", {}),
        triples_factory=factory,
        loss=loss_resolver.make(settings["loss"], settings.get("loss_kwargs", {})),
        random_seed=seed,
    )


def run(model: Any, factory: Any, task: dict[str, Any], folder: Path) -> dict[str, float]:
    """Train to the last exported epoch and return the seconds up to each of them."""
    from pykeen.optimizers import optimizer_resolver
    from pykeen.training import TrainingCallback, training_loop_resolver

    class Watch(TrainingCallback):
        """Write the embeddings of the asked epochs and leave that time out."""

        def post_epoch(self, epoch: int, epoch_loss: float, **_: Any) -> None:
            nonlocal away
            now = time.perf_counter()
            if epoch in task["exported"]:
                spent[str(epoch)] = now - started - away
                np.savez(folder / f"epoch-{epoch}.npz", **embeddings(model, inverse=task["settings"]["inverse"]))
            away += time.perf_counter() - now

    settings = task["settings"]
    optimizer = optimizer_resolver.make(settings["optimizer"], params=model.get_grad_params(), lr=settings["lr"])
    loop = training_loop_resolver.make(
        settings["loop"],
        settings.get("loop_kwargs", {}),
        model=model,
        triples_factory=factory,
        optimizer=optimizer,
    )
    spent: dict[str, float] = {}
    started, away = time.perf_counter(), 0.0
    loop.train(
        factory,
        num_epochs=max(task["exported"]),
        batch_size=settings["batch_size"],
        use_tqdm=False,
        callbacks=Watch,
        pin_memory=False,
    )
    return spent


def embeddings(model: Any, *, inverse: bool) -> dict[str, np.ndarray]:
    """Return the vectors (N, D) and what moves the given ends of questions for targets and for sources (R, D)."""
    with torch.no_grad():
        vectors, moves = (
            real(part[0](indices=None).detach())
            for part in (model.entity_representations, model.relation_representations)
        )
    if not inverse:
        return {"vectors": vectors, "forward": moves}
    return {"vectors": vectors, "forward": moves[0::2], "backward": moves[1::2]}


def real(numbers: torch.Tensor) -> np.ndarray:
    """Lay complex numbers out with all real parts before all imaginary ones."""
    if numbers.is_complex():
        numbers = torch.cat([numbers.real, numbers.imag], dim=-1)
    return numbers.numpy().copy()


def own_mrr(model: Any, train: torch.Tensor, valid: torch.Tensor) -> float:
    """Return the filtered MRR of both sides, mean ranks for ties, by PyKEEN's own evaluator."""
    from pykeen.evaluation import RankBasedEvaluator

    result = RankBasedEvaluator(filtered=True).evaluate(
        model=model, mapped_triples=valid, additional_filter_triples=[train], batch_size=256, use_tqdm=False
    )
    return float(result.get_metric("both.realistic.inverse_harmonic_mean_rank"))


if __name__ == "__main__":
    main(Path(sys.argv[1]))

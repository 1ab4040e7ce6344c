"""Proposition 1: do images hide among others with like gradients? (arXiv 2503.11514, Sec. III, Table II and Fig. 4.)"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import normalize

from claims.changes import in_state
from claims.factors import cell_of, table
from claims.reported import REPORTED
from claims.scales import Scale
from gia.experiment import Measurement, Protocol, Round, prepared
from gia.federated import Observation
from gia.harness.blocks.block import Block
from gia.harness.decide import verdicts
from gia.harness.decide.table import Table
from gia.harness.decide.verdicts import Look, Verdict
from gia.harness.plugin.claims import Claims
from gia.theory import as_rows, cosines, neighbours, sample_gradients

STATES = ("untrained", "half-trained", "trained")

#: Two unit vectors at this distance have the cosine .5; neighbours are counted among this many images of the data.
EPSILON, POOL = 1.0, 120


def rows_and_labels(shared: list[Observation]) -> tuple[Tensor, Tensor]:
    """The gradients (N, parameters) of single images, and their labels (N,)."""
    labels = [observation.labels for observation in shared if observation.labels is not None]
    return as_rows(shared).double(), torch.cat(labels)


def single_against_batch(protocol: Protocol, block: Block, *, cache: Path | None) -> Measurement:
    """Cosine of the gradient of one image with that of its batch of four, over the images of the repeated label.

    "others" is that of the batch's other images. In eval mode a batch shares the mean of its images' gradients, so the
    mean cosine of a batch's images, weighted by their gradients' norms, is never negative.
    """
    _, shared = prepared(protocol, block, cache=cache)
    equal = protocol.batch.pattern
    assert isinstance(equal, int)
    seen: dict[str, list[float]] = {"cosine": [], "others": []}
    rows, labels = rows_and_labels(shared)
    for batch, of in zip(torch.split(rows, 4), torch.split(labels, 4), strict=True):
        repeated = (of[:, None] == of).sum(1).eq(equal).tolist()
        for along, repeats in zip(cosines(batch, batch.mean(0, keepdim=True))[:, 0].tolist(), repeated, strict=True):
            seen["cosine" if repeats else "others"].append(along)
    return Measurement({name: float(np.mean(values)) if values else None for name, values in seen.items()})


def between_samples(protocol: Protocol, block: Block, *, cache: Path | None) -> Measurement:
    """Mean cosine of the gradients of two images: of all pairs, of those of one label, of those of two."""
    _, shared = prepared(protocol, block, cache=cache)
    rows, labels = rows_and_labels(shared)
    pairs = torch.triu(torch.ones(len(rows), len(rows), dtype=torch.bool), diagonal=1)
    same = labels[:, None] == labels
    chosen = {"cosine": pairs, "same_label": pairs & same, "other_label": pairs & ~same}
    values = {name: float(cosines(rows)[where].mean()) for name, where in chosen.items()}
    return Measurement(values | {"gradient_norm": float(rows.norm(dim=1).median())})


def among_neighbours(protocol: Protocol, block: Block, *, cache: Path | None) -> Measurement:
    """How many images of a pool have gradients within epsilon of the attacked ones'.

    "absolute" counts them as Proposition 1 does, between the gradients as they are; "neighbours" between gradients of
    length one, which is all that a cosine sees.
    """
    model, shared = prepared(protocol, block, cache=cache)
    data = Round(protocol, block).data
    chosen = data.take(torch.randperm(len(data), generator=block.generator("pool"))[:POOL])
    rows, pool = as_rows(shared).double().cpu(), sample_gradients(model, chosen.images, chosen.labels).double().cpu()
    near = neighbours(normalize(rows), normalize(pool), epsilon=EPSILON).double().mean()
    absolute = neighbours(rows, pool, epsilon=EPSILON).double().mean()
    return Measurement({"neighbours": float(near), "absolute": float(absolute)})


@pytest.mark.claim("prop1.table2")
def test_the_batch_gradient_turns_to_that_of_the_repeated_label(claims: Claims, scale: Scale) -> None:
    """With each equal label the batch gradient turns more to that of one image; the paper's cosines: -.03 to .95."""
    row = scale.ROWS["prop1.table2"]
    claims.trend(
        "prop1.table2",
        row.protocol,
        levels=tuple(row.levels),
        change=row.change,
        measure=single_against_batch,
        reported=REPORTED["prop1.table2"],
    )


@pytest.mark.claim("prop1.trained_similar/2")
def test_gradients_are_more_alike_on_a_trained_network(claims: Claims, scale: Scale) -> None:
    """The mean cosine between the gradients of two images rises when the net is trained; Fig. 4 is drawn with it.

    The verdict says direction and size apart: a rise that is certain may be smaller than the margin.
    """
    claim, row = claims.claim("prop1.trained_similar/2"), scale.ROWS["prop1.trained_similar/2"]

    def measured(blocks: int) -> Table:
        return claims.table(
            claim.id,
            row.protocol,
            levels=tuple(row.levels),
            change=row.change,
            measure=between_samples,
            blocks=blocks,
        )

    def decide(table: Table, look: Look) -> Verdict:
        untrained, trained, _ = table.values("cosine").T
        return verdicts.paired(claim, untrained, trained, void=table.void, look=look, tries=claims.tries(claim.id))

    verdict, seen = claims.look(measured, decide)
    drawn = {state: cast(Protocol, seen.experiment.levels[state]) for state in ("untrained", "trained")}
    picture = figure4(claims.images / f"{claim.file}.png", drawn, seen.results[0].block, cache=claims.cache)
    claims.record(verdict, tables=[seen], pictures=[picture])


@pytest.mark.claim("prop1.ordering/2")
def test_more_neighbours_go_with_worse_reconstructions(claims: Claims, scale: Scale) -> None:
    """Of one net before, in and after training, the state with more neighbours of the attacked images leaks less.

    Proposition 1 compares weights on the same samples, so the levels are a block's three states, from the fewest
    neighbours to the most; two states with the same number cannot be ordered. The attacks are those of
    `op.training_state`, on the same blocks: counting is all that is added.
    """
    claim = claims.claim("prop1.ordering/2")
    gradients = cell_of(scale, "op", "training_state").protocol.with_({"scoring.control": None})

    def measured(blocks: int) -> tuple[Table, Table]:
        attacked = table(claims, scale, "op", "training_state", in_state, blocks).of(*STATES)
        counted = claims.table(
            "op.training_state", gradients, levels=STATES, change=in_state, measure=among_neighbours, blocks=blocks
        )
        return attacked, counted

    def decide(tables: tuple[Table, Table], look: Look) -> Verdict:
        attacked, counted = tables
        counts = counted.values("absolute")[[result.valid for result in attacked.results]]
        ordered = by_neighbours(attacked.values("psnr"), counts)
        tries = claims.tries(claim.id)
        return verdicts.trend(claim, range(len(STATES)), ordered, void=attacked.void, look=look, tries=tries)

    verdict, tables = claims.look(measured, decide)
    claims.record(verdict, tables=tables)


def by_neighbours(psnr: NDArray[np.float64], counts: NDArray[np.float64]) -> NDArray[np.float64]:
    """PSNR (blocks, states), each block's in the order of its counts; equal counts share the mean of theirs."""
    equal = counts[:, :, None] == counts[:, None, :]
    shared = (equal * psnr[:, None, :]).sum(axis=2) / equal.sum(axis=2)
    return np.take_along_axis(shared, counts.argsort(axis=1), axis=1)


def figure4(path: Path, protocols: Mapping[str, Protocol], block: Block, *, cache: Path | None) -> Path:
    """The paper's Fig. 4: t-SNE of the gradients of single images, each of length one, coloured by label."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from sklearn.manifold import TSNE

    figure = Figure(figsize=(9, 4), layout="constrained")
    FigureCanvasAgg(figure)
    for axis, (state, protocol) in zip(figure.subplots(1, len(protocols)), protocols.items(), strict=True):
        _, shared = prepared(protocol, block, cache=cache)
        rows = normalize(as_rows(shared)).double().cpu().numpy()
        labels = [int(label) for label in rows_and_labels(shared)[1]]
        places = TSNE(perplexity=15, init="pca", random_state=0).fit_transform(rows)
        axis.scatter(*places.T, c=labels, cmap="tab10", s=14)
        axis.set(title=state, xticks=[], yticks=[])
    figure.savefig(path, dpi=110)
    return path

"""Row-wise training of the fused embedding table: a step costs what it touches.

A step gathers the rows that its batch names, trains them as a small dense tensor and
writes them back. Nothing is swept: neither the gradient nor the optimizer nor the
decay of rows that were not touched costs anything until they are, so that the price
of a row of log does not grow with the vocabulary.

    R  rows of the fused table   U  distinct rows of a batch   D  embedding width
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from cacs_ray.features.batch import Batch
from cacs_ray.models.embeddings import (
    SMALL_VOCABULARY,
    EmbeddingTables,
    Gathered,
)
from cacs_ray.training.exchange import Exchange

_ROWS_AT_ONCE = 100_000


@dataclass(frozen=True, slots=True)
class TableRule:
    """How rows learn and how they forget."""

    learning_rate: float
    """Of a row without doubt: its first step, in root mean square over its numbers."""
    doubt: float
    """What the squares of a row start from, in squared gradients."""
    forgetting: float
    """Nats of decay a step at the full learning rate, touched or not."""


class TableTrainer:
    r"""Row-wise Adagrad with exact lazy decay for one fused table.

    .. math::
        G_r \leftarrow G_r + \mathrm{mean}_d\, g_{rd}^2, \qquad
        w_r \leftarrow w_r e^{-\lambda \Delta_r} - \frac{\eta}{\sqrt{G_r}} g_r

    where :math:`\Delta_r` counts the (schedule-weighted) steps since the row was last
    touched: the same numbers as if every row decayed in every step from the first one
    that it learnt from.

    Args:
        tables: trained in place.
        rule: rates.
        exchange: sums over workers.

    Source: Duchi et al., "Adaptive Subgradient Methods", JMLR 2011; one accumulator a
    row after Mudigere et al., "Software-Hardware Co-design for Fast and Scalable
    Training of Deep Learning Recommendation Models", ISCA 2022, section 4.1.
    """

    def __init__(
        self,
        tables: EmbeddingTables,
        rule: TableRule,
        exchange: Exchange,
    ) -> None:
        self.tables, self.rule, self.exchange = tables, rule, exchange
        num_rows, device = len(tables.weight), tables.weight.device
        self.memory = torch.zeros(num_rows, 2, device=device)
        """By row: sum of mean squared gradients, and the clock of its last decay. Side
        by side, because reading two far places costs twice as much as one."""
        self.memory[:, 0] = rule.doubt
        # As the memory holds it, which has fewer digits.
        self._doubt = float(torch.tensor(rule.doubt))
        self.clock = torch.zeros((), dtype=torch.float64, device=device)
        """Nats of decay since training began."""
        spans = tables.spans.values()
        small = [s for s in spans if s.size <= SMALL_VOCABULARY]
        self._small = np.concatenate(
            [np.array([], np.int64)]
            + [np.arange(s.start + 1, s.start + s.size) for s in small]
        )
        self._marked = tuple(
            field
            for field in tables.fields
            if tables.span(field).size > SMALL_VOCABULARY
        )
        # Places of the rows of a batch; only those of the batch at hand are valid.
        self._places = torch.zeros(num_rows, dtype=torch.int32, device=device)
        self._marks = np.zeros(num_rows, np.int32)
        self._rows = torch.zeros(0, dtype=torch.int64)
        self._remembered = torch.zeros(0, 2)
        self._values = torch.zeros(0, tables.dim)

    def named_rows(self, batch: Batch) -> Tensor:
        """Return the distinct rows that a batch names, int64 [U].

        May run in another thread than `open` and `step`, but in one at a time.
        """
        named = [np.array([], np.int64)]
        for field in self._marked:
            start = self.tables.span(field).start
            for features in (batch.context, batch.creatives):
                if field.key in features:
                    flat = features[field.key].numpy().ravel()
                    named.append(flat[flat > 0] + start)
        every = np.concatenate(named)
        # Of equal rows the last one written stands: it is the one that is kept.
        order = np.arange(len(every), dtype=np.int32)
        self._marks[every] = order
        distinct = every[self._marks[every] == order]
        return torch.from_numpy(np.concatenate([self._small, distinct]))

    @contextmanager
    def open(self, rows: Tensor) -> Iterator[None]:
        """Let lookups of the block read and train some rows.

        Args:
            rows: all that the block looks up, from `named_rows`.
        """
        places = self._places
        self._rows = rows = rows.to(places.device)
        places[rows] = torch.arange(
            1, len(rows) + 1, dtype=places.dtype, device=places.device
        )
        blank = torch.zeros(1, self.tables.dim, device=places.device)
        with torch.no_grad():
            self._remembered = self.memory.index_select(0, rows)
            values = torch.cat([blank, self._current(rows, self._remembered)])
        self._values = values.requires_grad_()
        self.tables.gathered = Gathered(self._values, places)
        try:
            yield
        finally:
            self.tables.gathered = None

    def _current(self, rows: Tensor, remembered: Tensor) -> Tensor:
        """Return rows as they are now, all decay included."""
        waited = (self.clock - remembered[:, 1].double()).float()
        waited.masked_fill_(remembered[:, 0] == self._doubt, 0.0)
        kept = self.tables.weight.index_select(0, rows).float()
        return kept.mul_((-waited).exp().unsqueeze(-1))

    @torch.no_grad()
    def step(self, factor: float) -> None:
        """Learn from the gradient of the open block's rows.

        Args:
            factor: of the learning rate, from the schedule.
        """
        gradient = self._values.grad
        assert gradient is not None
        rows, values, remembered = self._rows, self._values[1:], self._remembered
        gradient = gradient[1:]
        if self.exchange.num_workers > 1:
            rows, gradient = self.exchange.mean_rows(rows, gradient)
            remembered = self.memory.index_select(0, rows)
            values = self._current(rows, remembered)
        squares = remembered[:, 0] + gradient.square().mean(-1)
        rate = self.rule.learning_rate * factor * squares.clamp(min=1e-30).rsqrt()
        learnt = values - rate.unsqueeze(-1) * gradient
        weight = self.tables.weight
        weight.index_copy_(0, rows, _rounded(learnt, weight.dtype))
        now = self.clock.float().expand_as(squares)
        self.memory.index_copy_(0, rows, torch.stack([squares, now], dim=-1))
        self.clock += self.rule.forgetting * factor

    @torch.no_grad()
    def settle(self) -> None:
        """Bring every row up to date, so that the weights can be read."""
        if not self.rule.forgetting:
            return
        weight = self.tables.weight
        learnt = torch.nonzero(self.memory[:, 0] != self._doubt).squeeze(-1)
        for rows in torch.split(learnt, _ROWS_AT_ONCE):
            current = self._current(rows, self.memory.index_select(0, rows))
            weight.index_copy_(0, rows, _rounded(current, weight.dtype))
        self.memory[:, 1].index_fill_(0, learnt, self.clock.item())

    def state(self) -> dict[str, Tensor]:
        """Return what a resumed run needs, beside the weights."""
        return {"memory": self.memory, "clock": self.clock}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Put back what `state` returned."""
        for name, mine in self.state().items():
            mine.copy_(state[name])


def _rounded(values: Tensor, kept_as: torch.dtype) -> Tensor:
    """Round to what the table keeps: to 16 bits at random, right on average.

    To the nearest, a step of less than 1/256 of a number would never arrive.
    """
    if kept_as == torch.float32:
        return values
    noise = torch.randint(
        0, 1 << 16, values.shape, dtype=torch.int32, device=values.device
    )
    bits = (values.view(torch.int32) + noise) & ~0xFFFF
    return bits.view(torch.float32).to(kept_as)


def embedding_tables(step: nn.Module) -> dict[str, EmbeddingTables]:
    """Return the tables of a module that are trained, by name."""
    return {
        name: module
        for name, module in step.named_modules()
        if isinstance(module, EmbeddingTables)
        and module.weight.requires_grad
        and len(module.weight)
    }


def dense_parameters(step: nn.Module) -> dict[str, nn.Parameter]:
    """Return what is trained beside the tables, by name."""
    tables = {id(table.weight) for table in embedding_tables(step).values()}
    return {
        name: parameter
        for name, parameter in step.named_parameters()
        if parameter.requires_grad and id(parameter) not in tables
    }

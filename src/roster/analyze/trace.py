"""`Trace`: which expert got which weight, for each token at each routed site.

Covers storing the routes of forward calls, joining the steps of one generation, and answering questions about
them. It attaches nothing to a model (the mixture calls `begin` and `record`) and draws nothing (see
`heatmap.py`).

A forward call is a *step*. Steps that continue one another (a prefill and its decode steps) form a *segment*,
joined along S. Rows are numbered through all segments: a batch of two followed by a batch of three gives rows
0 to 4.

Shape legend: B batch, S positions, E experts, T tokens (B and S flattened), L layers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor

from roster.analyze.layers import group_by_layer
from roster.analyze.statistics import Tally, empty, tally
from roster.analyze.steps import Step, batch_of, fit_mask, to_cpu
from roster.analyze.terminal import print_trace
from roster.analyze.texts import token_texts
from roster.errors import RosterError, nearest

Values = Literal["load", "weight", "counts"]
By = Literal["site", "layer"]


class Load(NamedTuple):
    """How much one site gave each expert."""

    weight_E: Tensor
    """Summed weight."""
    fraction_E: Tensor
    """Share of the site's summed weight; sums to one, or is all zeros where nothing was routed."""


class Table(NamedTuple):
    """Numbers with the names of their rows and columns."""

    rows: list[str]
    columns: list[str]
    values: Tensor


class Trace:
    """The routes of every forward call made while it listens, in float32 on the CPU.

    Recording copies each site's gates to the CPU, which waits for the device: a trace is for looking, not for
    measuring speed.

    Args:
        experts: their names; index i names gate column i.
        tokenizer: anything with transformers' `decode`, to show tokens as text; None shows ids.

    Raises:
        RosterError: no experts, or a name given twice.
    """

    def __init__(self, experts: Sequence[str], tokenizer: Any = None):
        self.experts = list(experts)
        if not self.experts:
            raise RosterError("a trace needs at least one expert")
        if len(set(self.experts)) != len(self.experts):
            raise RosterError(f"a trace needs different names for its experts, got {self.experts}")
        self.tokenizer = tokenizer
        self._segments: list[list[Step]] = []
        self._open: Step | None = None
        self._sites: dict[str, None] = {}

    # ---- recording -----------------------------------------------------------------------------------------

    def begin(self, input_ids: Tensor | None = None, mask: Tensor | None = None, *, continues: bool = False) -> None:
        """Announce a forward call; to be called once before its `record` calls.

        Args:
            input_ids: [B, S]; None when the model was given embeddings.
            mask: [B, S], nonzero for real tokens. A longer one ([B, past + S], as in cached decoding) is read
                from its end.
            continues: this call extends the previous one (a decode step). It does so only when the batch
                sizes agree; otherwise a new segment starts. Fill tokens that `generate` feeds to rows that
                have finished (the tokenizer's pad id in a one-token step) are treated as pads.

        Raises:
            RosterError: a shape is wrong.
        """
        for name, tensor in (("input_ids", input_ids), ("mask", mask)):
            if tensor is not None and tensor.ndim != 2:
                raise RosterError(f"trace: {name} must be [B, S], got {tuple(tensor.shape)}")
        self._open = Step(to_cpu(input_ids), to_cpu(mask), continues)
        if input_ids is not None:
            self._place(self._open, (input_ids.shape[0], input_ids.shape[1]))

    def record(
        self,
        site: str,
        gates_BSE: Tensor,
        mask_BS: Tensor | None = None,
        tokens: Tensor | None = None,
        dropped_E: Tensor | None = None,
    ) -> None:
        """Store the gates of one site in the forward call that `begin` announced.

        Args:
            site: the routed module's name.
            gates_BSE: combine weights, in any floating type, on any device.
            mask_BS: nonzero for real tokens; pads lose their gates, whatever these were. Adds to `begin`'s
                mask.
            tokens: input ids [B, S], used when `begin` had none.
            dropped_E: pairs (token, expert) that a capacity dropped, by expert; None where there is no capacity.

        Raises:
            RosterError: `begin` was not called, the site was already recorded in this call, a shape
                disagrees, or a real token's weight is not finite.
        """
        step = self._open
        if step is None:
            raise RosterError(f"trace: record({site!r}) came before any begin()")
        if site in step.gates:
            raise RosterError(f"trace: site {site!r} was recorded twice in one forward call; was begin() left out?")
        if gates_BSE.ndim != 3 or gates_BSE.shape[-1] != len(self.experts):
            wanted = f"[B, S, {len(self.experts)}]"
            raise RosterError(f"trace: gates of {site!r} must be {wanted}, got {tuple(gates_BSE.shape)}")
        shape = (gates_BSE.shape[0], gates_BSE.shape[1])
        if step.shape is None:
            step.ids_BS = to_cpu(tokens)
            if step.mask is None:
                step.mask = to_cpu(mask_BS)
            self._place(step, shape)
        if step.shape != shape:
            raise RosterError(f"trace: gates of {site!r} are for {shape} tokens, this call has {step.shape}")
        keep_BS = step.keep_BS()
        if mask_BS is not None:
            keep_BS = step.mask = keep_BS & fit_mask(to_cpu(mask_BS), shape)
        # `where`, not a product: the softmax over a pad's scores may be nan, and nan times zero is nan.
        on_cpu_BSE = gates_BSE.detach().to("cpu", torch.float32)
        kept_BSE = torch.where(keep_BS[..., None], on_cpu_BSE, torch.zeros(()))
        if not bool(kept_BSE.isfinite().all()):
            raise RosterError(f"trace: site {site!r} gave a weight that is not finite")
        step.gates[site] = kept_BSE
        if dropped_E is not None:
            step.dropped[site] = dropped_E.detach().to("cpu", copy=True)  # the caller may reuse its buffer
        self._sites.setdefault(site)

    def _place(self, step: Step, shape: tuple[int, int]) -> None:
        """Settle a step's shape and mask, and put it into the segment it belongs to."""
        if step.ids_BS is not None and tuple(step.ids_BS.shape) != shape:
            raise RosterError(f"trace: tokens are {tuple(step.ids_BS.shape)}, gates are for {shape}")
        step.shape = shape
        if step.mask is not None:
            step.mask = fit_mask(step.mask, shape)
        pad = getattr(self.tokenizer, "pad_token_id", None)
        if step.continues and shape[1] == 1 and step.ids_BS is not None and pad is not None:
            step.mask = step.keep_BS() & (step.ids_BS != pad)
        before = self._segments[-1][-1].shape if self._segments else None
        if step.continues and before is not None and before[0] == shape[0]:
            self._segments[-1].append(step)
        else:
            self._segments.append([step])

    # ---- one row -------------------------------------------------------------------------------------------

    @property
    def sites(self) -> list[str]:
        """Names of the routed sites, in the order in which the model reached them."""
        return list(self._sites)

    @property
    def rows(self) -> int:
        """Number of rows, over all segments."""
        return sum(batch_of(steps) for steps in self._segments)

    def gates(self, site: str | None = None, row: int = 0) -> Tensor:
        """The weights of one row.

        Args:
            site: which site; None for the mean over the sites.
            row: which row.

        Returns:
            [S, E]: every position that the model saw, prefill and decode joined; pads are zeros (`mask` tells
            them from real tokens that no expert took).

        Raises:
            RosterError: there is no such site or row.
        """
        if site is not None and site not in self._sites:
            raise RosterError(f"trace: no site {site!r}; {nearest(site, self._sites)}")
        steps, index = self._find(row)
        count = len(self.experts)
        picked = [step.mean_BSE(count) if site is None else step.site_BSE(site, count) for step in steps]
        return torch.cat([each_BSE[index] for each_BSE in picked])

    def mask(self, row: int = 0) -> Tensor:
        """[S], bool: true for the row's real tokens."""
        steps, index = self._find(row)
        return torch.cat([step.keep_BS()[index] for step in steps])

    def ids(self, row: int = 0) -> Tensor:
        """[S], int64: the row's token ids; -1 where the model was given none."""
        steps, index = self._find(row)
        unknown = [torch.full(step.shape or (0, 0), -1) for step in steps]
        known = [step.ids_BS if step.ids_BS is not None else u for step, u in zip(steps, unknown, strict=True)]
        return torch.cat([ids_BS[index].to(torch.int64) for ids_BS in known])

    def texts(self, row: int = 0) -> list[str]:
        """The row's real tokens as text, pads left out: as many as `mask(row)` has true."""
        return token_texts(self.ids(row)[self.mask(row)].tolist(), self.tokenizer)

    def layer_gates(self, row: int = 0) -> tuple[list[str], Tensor]:
        """Layer names and the row's weights [L, S, E], each layer the mean over its sites; pads are zeros."""
        grouped = group_by_layer(self.sites)
        layers = [torch.stack([self.gates(site, row) for site in sites]).mean(0) for sites in grouped.values()]
        return list(grouped), torch.stack(layers) if layers else torch.zeros(0, len(self.mask(row)), len(self.experts))

    # ---- statistics over all rows --------------------------------------------------------------------------

    @property
    def max_entropy(self) -> float:
        """The entropy of a token shared equally by all experts, ln E, in nats."""
        return math.log(len(self.experts))

    def counts(self) -> dict[str, Tensor]:
        """Per site, [E] int64: the tokens for which the expert's weight is above zero."""
        return {site: each.counts_E for site, each in self._tallies().items()}

    def dropped(self) -> dict[str, Tensor]:
        """Per site that has a capacity, [E] int64: the pairs (token, expert) that it dropped."""
        found: dict[str, Tensor] = {}
        for step in (step for steps in self._segments for step in steps):
            for site, dropped_E in step.dropped.items():
                found[site] = found.get(site, 0) + dropped_E
        return found

    def load(self) -> dict[str, Load]:
        """Per site: the summed weight [E] and its fractions [E], float32."""
        tallies = self._tallies().items()
        return {site: Load(each.weight_E.float(), each.fraction_E.float()) for site, each in tallies}

    def entropy(self) -> dict[str, float]:
        """Per site: mean route entropy in nats over the tokens that have an expert, at most `max_entropy`.

        0 is one expert per token; nan is a site where no token has an expert.
        """
        return {site: each.mean_entropy for site, each in self._tallies().items()}

    def table(self, values: Values = "load", by: By = "site") -> Table:
        """The expert-by-site or expert-by-layer table.

        Args:
            values: "load" (fractions of each row's weight), "weight" (summed), or "counts" (tokens).
            by: one row per site, or per layer index read from the site names (its sites' sums).

        Returns:
            Row names, expert names, and float32 values [rows, E].

        Raises:
            RosterError: `values` or `by` is none of these.
        """
        for name, given, known in (("values", values, get_args(Values)), ("by", by, get_args(By))):
            if given not in known:
                raise RosterError(f"trace.table: {name}={given!r}; {nearest(str(given), known)}")
        tallies = self._tallies() if by == "site" else self.layer_tallies()
        pick = {
            "load": lambda t: t.fraction_E,
            "weight": lambda t: t.weight_E,
            "counts": lambda t: t.counts_E,
        }
        picked = [pick[values](each).float() for each in tallies.values()]
        return Table(list(tallies), list(self.experts), torch.stack(picked) if picked else self._no_rows())

    def layer_tallies(self) -> dict[str, Tally]:
        """Per layer: the sums over its sites, in the order of the model."""
        tallies = self._tallies()
        grouped = group_by_layer(self.sites)
        return {layer: sum((tallies[s] for s in sites), empty(len(self.experts))) for layer, sites in grouped.items()}

    def _tallies(self) -> dict[str, Tally]:
        found = {site: empty(len(self.experts)) for site in self._sites}
        for steps in self._segments:
            for site in found:
                parts = [step.gates[site].flatten(0, 1) for step in steps if site in step.gates]
                if parts:
                    found[site] = found[site] + tally(torch.cat(parts))
        return found

    # ---- showing -------------------------------------------------------------------------------------------

    def to_json(self) -> dict[str, Any]:
        """Everything counted, and each row's tokens with their mean weights, as plain JSON-able values.

        Pads are left out; a nan entropy becomes None.
        """
        tallies, dropped = self._tallies(), self.dropped()
        rows = []
        for row in range(self.rows):
            keep_S = self.mask(row)
            gates = [[round(w, 6) for w in token] for token in self.gates(None, row)[keep_S].tolist()]
            rows.append({"ids": self.ids(row)[keep_S].tolist(), "tokens": self.texts(row), "gates": gates})
        return {"experts": self.experts, "max_entropy": self.max_entropy} | {
            "sites": {
                site: {
                    "counts": each.counts_E.tolist(),
                    "weight": each.weight_E.tolist(),
                    "fraction": each.fraction_E.tolist(),
                    "entropy": each.mean_entropy if each.routed else None,
                    "tokens": each.routed,
                    **({"dropped": dropped[site].tolist()} if site in dropped else {}),
                }
                for site, each in tallies.items()
            },
            "rows": rows,
        }

    def print(self, console: Any = None) -> None:
        """Print the share of each expert in each layer, and the entropy, as a table.

        Args:
            console: a `rich.console.Console`; None for one on standard output.
        """
        print_trace(self, console)

    def __repr__(self) -> str:
        return f"Trace(experts={len(self.experts)}, sites={len(self._sites)}, rows={self.rows})"

    # ---- inside --------------------------------------------------------------------------------------------

    def _find(self, row: int) -> tuple[list[Step], int]:
        """The segment that holds a row, and the row's place in its batch."""
        first = 0
        for steps in self._segments:
            if 0 <= row - first < batch_of(steps):
                return steps, row - first
            first += batch_of(steps)
        raise RosterError(f"trace: no row {row}; it holds {self.rows} rows" + (", counted from 0" if first else ""))

    def _no_rows(self) -> Tensor:
        return torch.zeros(0, len(self.experts))

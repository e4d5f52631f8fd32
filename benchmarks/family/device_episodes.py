"""Tasks of the rule family, drawn and checked in batches on the device that trains.

The distribution is that of :mod:`etrm.data.rules`, with one exception: a task is left out if its black cells fit more
than one transform, even where the colours would tell.

Shapes: n candidates, s side of the grids, D demonstrations, Q = D + 1 grids of a task, C = 10 colours.
"""

from __future__ import annotations

import hashlib
import itertools
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from etrm.data.rules import (
    COMBINATIONS,
    CONDITIONS,
    DEMOS,
    FILLED,
    HELD_OUT,
    KINDS,
    PALETTE,
    SHIFTS,
    TaskRule,
)
from etrm.data.rules import list_places as places

COLOURS = 10
NAMES = tuple("+".join(kind for kind in KINDS if kind in parts) for parts in COMBINATIONS)
"""The combinations of parts, in the order of :data:`etrm.data.rules.COMBINATIONS`."""
MOVED = tuple(shift for shift in SHIFTS if shift != (0, 0))
RECOLOURINGS = tuple(itertools.product(CONDITIONS, range(1, COLOURS)))
COLUMNS: tuple[TaskRule, ...] = (
    TaskRule(),
    *(TaskRule(dihedral=number) for number in range(1, 8)),
    *(TaskRule(shift=shift) for shift in MOVED),
    *(TaskRule(recolour=pair) for pair in RECOLOURINGS),
)
"""What a colour map can be combined with: nothing, or one other part."""


@dataclass(frozen=True)
class HeldOut:
    """Which rules are held out.

    Attributes:
        keys: (M,) int64, ascending: the colour maps, each as the sum of to * 10^(from - 1).
        maps: (M, 70) bool, whether a map with each of :data:`COLUMNS` is held out.
        others: (8, 9, 55) bool, the same of rules without a map, by transform, shift and recolouring (0: none).
    """

    keys: Tensor
    maps: Tensor
    others: Tensor

    @classmethod
    def load(cls, arrays: dict[str, npt.NDArray[np.generic]], device: torch.device) -> HeldOut:
        """Read what :func:`find_held_out` returned, with its bits packed."""
        bits = np.unpackbits(arrays["bits"].astype(np.uint8), axis=1, count=len(COLUMNS)).astype(bool)
        others = np.zeros((8, len(SHIFTS), 1 + len(RECOLOURINGS)), dtype=bool)
        for (d, number), (s, shift), (r, pair) in itertools.product(
            enumerate(range(8)), enumerate(SHIFTS), enumerate((None, *RECOLOURINGS))
        ):
            others[d, s, r] = TaskRule(dihedral=number, shift=shift, recolour=pair).held_out
        found = (
            torch.from_numpy(arrays["keys"].astype(np.int64)),
            torch.from_numpy(bits),
            torch.from_numpy(others),
        )
        return cls(*(tensor.to(device) for tensor in found))


def find_held_out(colours: int = COLOURS) -> dict[str, npt.NDArray[np.generic]]:
    """Return ``keys`` (M,) and packed ``bits`` of :attr:`HeldOut.maps`, of all maps of colours below ``colours``.

    It takes 19 million hashes, half a minute; :attr:`etrm.data.rules.TaskRule.held_out` is the same for one rule.
    """
    before = [(rule.id + "+").encode() for rule in COLUMNS if rule.dihedral or rule.shift != (0, 0)]
    after = [("+" + rule.id).encode() for rule in COLUMNS if rule.recolour is not None]
    rows = []
    for size in range(PALETTE[0], PALETTE[1] + 1):
        for given in itertools.combinations(range(1, colours), size):
            for became in itertools.permutations(range(1, colours), size):
                if not any(a == b for a, b in zip(given, became, strict=True)):
                    pairs = tuple(zip(given, became, strict=True))
                    name = TaskRule(colours=pairs).id.encode()
                    names = [name, *(text + name for text in before), *(name + text for text in after)]
                    held = [hashlib.sha256(text).digest()[0] % HELD_OUT == 0 for text in names]
                    rows.append((sum(b * 10 ** (a - 1) for a, b in pairs), held))
    rows.sort()
    keys = np.array([key for key, _ in rows], dtype=np.int64)
    return {"keys": keys, "bits": np.packbits(np.array([held for _, held in rows]), axis=1)}


@dataclass(frozen=True)
class DrawnTasks:
    """Tasks of one side.

    Attributes:
        inputs, outputs: (n, Q, s, s) int64 colours; the last grid is the query.
        kinds: (n,) int64 index of :data:`NAMES`.
        rules: (n, 12) int64 the rule: transform, shift, recolouring (0: none), and what the colours 1 to 9 become,
            0 for those that the task does not have; all 0 where it is not known.
    """

    inputs: Tensor
    outputs: Tensor
    kinds: Tensor
    rules: Tensor

    def __len__(self) -> int:
        return len(self.kinds)

    def rows(self, chosen: Tensor | slice) -> DrawnTasks:
        """Return some of the tasks."""
        return DrawnTasks(self.inputs[chosen], self.outputs[chosen], self.kinds[chosen], self.rules[chosen])


class DeviceEpisodes:
    """Draws training tasks of one side at a time.

    Args:
        held: the rules that are never drawn.
        generator: the source of all random numbers, on the device.
    """

    def __init__(self, held: HeldOut, generator: torch.Generator) -> None:
        self.held, self.generator = held, generator
        self.device = generator.device
        has = [[kind in parts for kind in KINDS] for parts in COMBINATIONS]
        self._has = torch.tensor(has, device=self.device)
        self._powers = torch.tensor([10**c for c in range(COLOURS - 1)], device=self.device)
        self._places = {s: torch.from_numpy(places(s).astype(np.int64)).to(self.device) for s in range(3, 7)}

    def draw(self, count: int, side: int, weights: Tensor) -> tuple[DrawnTasks, Tensor]:
        """Draw candidates and keep the tasks among them.

        Args:
            count: the number of candidates n.
            side: the side s of the grids.
            weights: (10,) positive float32, how often a combination of parts is drawn.

        Returns:
            the tasks, about half of the candidates, and (10,) float32 the share of kept candidates by combination.
        """
        kinds = torch.multinomial(weights, count, replacement=True, generator=self.generator)
        dihedral_on, shift_on, map_on, recolour_on = self._has[kinds].unbind(1)
        assert KINDS == ("dihedral", "shift", "colours", "recolour")
        palette, became, used = self._palettes(count)
        dihedral = torch.where(dihedral_on, self._integers(1, 8, count), 0)
        moved = self._integers(0, len(MOVED), count)
        shift = torch.where(shift_on, moved + (moved >= SHIFTS.index((0, 0))), SHIFTS.index((0, 0)))
        recolouring = torch.where(recolour_on, self._integers(1, 1 + len(RECOLOURINGS), count), 0)

        grids = self._grids(palette, used.sum(1), side)
        table = torch.arange(COLOURS, device=self.device).repeat(count, 1)
        changed = torch.where(used & map_on[:, None], became, palette)
        table.scatter_(1, palette, changed)
        geometry = len(SHIFTS) * dihedral + shift
        images = self._move(grids, geometry, side)
        outputs = table.gather(1, images.flatten(1)).view_as(images)
        condition, colour = (recolouring - 1).clamp(min=0) // 9, (recolouring - 1) % 9 + 1
        hit = (
            _conditions(outputs)[condition, torch.arange(count, device=self.device)]
            & recolour_on[:, None, None, None]
        )
        outputs = torch.where(hit, colour[:, None, None, None], outputs)

        kept = ~(map_on & ((palette == became) & used).any(1))
        kept &= (outputs[:, -1] != grids[:, -1]).flatten(1).any(1)
        kept &= ~self._is_held_out(palette, became, used, map_on, dihedral, shift, recolouring)
        kept &= ~map_on | self._all_shown(palette, used, images, hit)
        kept &= self._fits_one_geometry(grids, outputs, side)
        chosen = kept.nonzero().squeeze(1)
        single = self._count_explanations(
            images[chosen, :DEMOS], outputs[chosen, :DEMOS], dihedral_on[chosen], shift_on[chosen]
        )
        chosen = chosen[single == 1]
        counts = torch.bincount(kinds, minlength=len(NAMES))
        share = torch.bincount(kinds[chosen], minlength=len(NAMES)) / counts.clamp(min=1)
        becomes = torch.zeros_like(table).scatter(1, palette, torch.where(used, changed, 0))[:, 1:]
        rules = torch.cat((torch.stack((dihedral, shift, recolouring), 1), becomes), 1)
        return DrawnTasks(grids, outputs, kinds, rules).rows(chosen), share

    def _integers(self, low: int, high: int, count: int) -> Tensor:
        return torch.randint(low, high, (count,), generator=self.generator, device=self.device)

    def _palettes(self, count: int) -> tuple[Tensor, Tensor, Tensor]:
        """Draw (n, 9) colours in random orders, what they become, and which of them a task uses."""
        palette, became = (
            torch.rand(count, COLOURS - 1, generator=self.generator, device=self.device).argsort(1) + 1
            for _ in range(2)
        )
        sizes = self._integers(PALETTE[0], PALETTE[1] + 1, count)
        return palette, became, torch.arange(COLOURS - 1, device=self.device) < sizes[:, None]

    def _grids(self, palette: Tensor, sizes: Tensor, side: int) -> Tensor:
        shape = (len(palette), (DEMOS + 1) * side * side)
        filled, which = (torch.rand(shape, generator=self.generator, device=self.device) for _ in range(2))
        cells = palette.gather(1, (which * sizes[:, None]).long())
        return torch.where(filled < FILLED, cells, 0).view(-1, DEMOS + 1, side, side)

    def _move(self, grids: Tensor, geometry: Tensor, side: int) -> Tensor:
        cells = torch.nn.functional.pad(grids.flatten(2), (1, 0))
        index = self._places[side][geometry][:, None].expand(-1, grids.shape[1], -1)
        return cells.gather(2, index).view_as(grids)

    def _is_held_out(
        self,
        palette: Tensor,
        became: Tensor,
        used: Tensor,
        map_on: Tensor,
        dihedral: Tensor,
        shift: Tensor,
        recolouring: Tensor,
    ) -> Tensor:
        keys = (torch.where(used, became, 0) * self._powers[palette - 1]).sum(1)
        rows = torch.searchsorted(self.held.keys, keys).clamp(max=len(self.held.keys) - 1)
        nothing = SHIFTS.index((0, 0))
        moved = torch.where(shift == nothing, 0, 8 + shift - (shift > nothing).long())
        column = dihedral + moved + torch.where(recolouring > 0, 15 + recolouring, 0)
        alone = self.held.others[dihedral, shift, recolouring]
        return torch.where(map_on, self.held.maps[rows, column.clamp(max=len(COLUMNS) - 1)], alone)

    def _all_shown(self, palette: Tensor, used: Tensor, images: Tensor, hit: Tensor) -> Tensor:
        """Whether the demonstrations show what every colour of the palette becomes."""
        visible = torch.where(hit, 0, images)[:, :DEMOS].flatten(1)
        shown = torch.zeros(len(palette), COLOURS, dtype=torch.bool, device=self.device)
        shown.scatter_(1, visible, True)
        return (shown.gather(1, palette) | ~used).all(1)

    def _fits_one_geometry(self, grids: Tensor, outputs: Tensor, side: int) -> Tensor:
        given = torch.nn.functional.pad((grids[:, :DEMOS] != 0).flatten(2), (1, 0))
        wanted = (outputs[:, :DEMOS] != 0).flatten(2)
        fits = (given[:, :, self._places[side]] == wanted[:, :, None]).all(3).all(1)
        return fits.sum(1) == 1

    def _count_explanations(
        self, images: Tensor, wanted: Tensor, dihedral_on: Tensor, shift_on: Tensor
    ) -> Tensor:
        """Count the rules with the true transform and shift that explain moved demonstrations (n, D, s, s)."""
        count = len(images)
        hidden = torch.cat((torch.zeros_like(images[None], dtype=torch.bool), _conditions(images)))
        a = torch.where(hidden, 0, images).flatten(2).view(-1, images[0].numel())  # (7 n, cells)
        b = torch.where(hidden, 0, wanted).flatten(2).view_as(a)
        fixed = ((a == b) & (a != 0)).any(1)
        identity = (a == b).all(1)
        lowest = torch.full((len(a), COLOURS), COLOURS, device=self.device).scatter_reduce(1, a, b, "amin")
        highest = torch.full((len(a), COLOURS), -1, device=self.device).scatter_reduce(1, a, b, "amax")
        before = highest >= 0
        function = ((lowest == highest) | ~before)[:, 1:].all(1)
        after = torch.zeros(len(a), COLOURS, dtype=torch.bool, device=self.device).scatter(1, b, True)
        injective = before[:, 1:].sum(1) == after[:, 1:].sum(1)
        possible = (identity | (function & injective & ~fixed)).view(-1, count)
        became = torch.where(hidden, wanted, -1).flatten(2)
        least = torch.where(hidden, wanted, COLOURS).flatten(2).amin(2)
        most = became.amax(2)
        ways = torch.where(most < 0, COLOURS - 1, (least == most).long())
        ways[0] = 1
        parts = dihedral_on.long() + shift_on.long() + (~identity).view(-1, count).long()
        parts[1:] += 1
        return (ways * (possible & (parts >= 1) & (parts <= 2))).sum(0)


def _conditions(grids: Tensor) -> Tensor:
    """Return (6, n, k, s, s) bool: which cells that are not black meet each condition of (n, k, s, s) grids."""
    filled = grids != 0
    edge = torch.ones_like(filled)
    edge[..., 1:-1, 1:-1] = False
    framed = torch.nn.functional.pad(grids, (1, 1, 1, 1))
    above, below = framed[..., :-2, 1:-1], framed[..., 2:, 1:-1]
    left, right = framed[..., 1:-1, :-2], framed[..., 1:-1, 2:]
    touching = (above == grids) | (below == grids) | (left == grids) | (right == grids)
    covered = above != 0
    found = {
        "edge": edge,
        "inner": ~edge,
        "touching": touching,
        "alone": ~touching,
        "covered": covered,
        "open": ~covered,
    }
    return torch.stack([found[name] for name in CONDITIONS]) & filled

"""Which object an event is about: (address, generation) as one dense number.

An allocation starts a new object, its free ends it. Three things disturb that, and each
is counted: frees that no event shows (kfree_rcu, bulk frees) are implied when the
address is handed out again or its page goes back; frees of objects allocated before
tracing began are unknown; and two events of one address can be swapped by clocks that
differ between CPUs, which is mended where the history of the address allows one reading
only.

Works on blocks of rows; what is alive is carried from block to block in a `Live`.
Design: docs/design/06-lab.md, "Trace".
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from uslub.lab.trace.batch import COLUMNS, Array, Batch, Origin
from uslub.lab.trace.live import Live

#: Two events of one address on two CPUs, this near, may stand in the wrong order. The
#: clocks of CPUs agree to well below a microsecond; text rounds to one.
SKEW_NS = 5_000

#: The `cache` of an object of whole pages, inside the import.
LARGE = -2


@dataclass
class Identified:
    """Object numbers of a block's rows, and the frees that had no row."""

    object: Array  # int64, per row; -1 where the row is about no object
    known: Array  # bool: a free whose allocation was seen
    cache: Array  # int32: of frees, the cache of what they free (-1 unknown)
    implied_before: Array  # row before which an implied free belongs
    implied_object: Array
    implied_cache: Array
    implied_pointer: Array
    implied_by_page: Array  # bool: because its page was freed


class Identity:
    """Gives object numbers to the rows of one trace."""

    def __init__(self, origin: Origin) -> None:
        self.origin = origin
        self.objects = 0  # numbers given so far
        self.live = Live(object=np.int64, cache=np.int32)

    def block(
        self,
        batch: Batch,
        alloc: Array,
        free: Array,
        cache: Array,
        page_rows: Array,
        page_start: Array,
        page_stop: Array,
    ) -> Identified:
        """Number the objects of one block.

        Args:
            batch: Raw rows; rows that stand in the wrong order are swapped in place.
            alloc, free: Which rows allocate and which free, as bools.
            cache: Cache of each row, -1 unknown, LARGE; swapped along.
            page_rows: Rows that free pages.
            page_start, page_stop: The addresses each of them frees.
        """
        self._mend_order(batch, alloc, free, cache)
        rows = np.flatnonzero(alloc | free)
        order = rows[np.argsort(batch.pointer[rows], kind="stable")]
        pointer, is_alloc = batch.pointer[order], alloc[order]
        first = _first_of_group(pointer)
        last = np.roll(first, -1)
        place, carried = self.live.find(pointer)
        carried &= first
        before_live = carried.copy()
        before_live[1:] |= ~first[1:] & is_alloc[:-1]

        # Objects whose page was freed have ended, whether or not the address is seen
        # again; they are told before rows look for what their address held.
        ended, ended_row, gone, gone_row = self._ended_by_pages(
            order, pointer, is_alloc, last, page_rows, page_start, page_stop
        )
        after_page = np.zeros(len(order), bool)
        after_page[1:] = ended[:-1] & ~first[1:]
        dropped = np.zeros(len(self.live), bool)
        dropped[gone] = True
        after_page |= carried & dropped[place] if len(dropped) else False
        before_live &= ~after_page

        number = self._numbers(batch, order, is_alloc, before_live)
        previous = np.full(len(order), -1, np.int64)
        previous[1:] = number[:-1]
        previous_cache = np.full(len(order), -1, np.int32)
        previous_cache[1:] = cache[order][:-1]
        if len(self.live):
            previous = np.where(carried, self.live.columns["object"][place], previous)
            previous_cache = np.where(
                carried, self.live.columns["cache"][place], previous_cache
            )
        freed = ~is_alloc & before_live
        number[freed] = previous[freed]
        reused = is_alloc & before_live
        result = self._result(
            batch, order, number, freed, cache, previous, previous_cache, reused
        )
        self._add_page_frees(
            result, cache, order, pointer, number, ended, ended_row, gone, gone_row
        )
        self._remember(
            pointer, is_alloc, first, last, ended, number, cache[order], gone
        )
        return result

    # Swap neighbours in an address's history that clocks have turned round:
    # (live) A F F is A over a live object, then a free too many: F A F was meant.
    # (free) F A A is a free of nothing, then A over a live object: A F A was meant.
    def _mend_order(
        self, batch: Batch, alloc: Array, free: Array, cache: Array
    ) -> None:
        rows = np.flatnonzero(alloc | free)
        order = rows[np.argsort(batch.pointer[rows], kind="stable")]
        if len(order) < 3:
            return
        pointer, is_alloc, cpu = batch.pointer[order], alloc[order], batch.cpu[order]
        first = _first_of_group(pointer)
        live = self.live.find(pointer)[1] & first
        live[1:] |= ~first[1:] & is_alloc[:-1]
        near = (np.diff(batch.time[order]) <= SKEW_NS) & (cpu[1:] != cpu[:-1])
        same = ~first[1:]
        pair = np.zeros(len(order), bool)
        pair[:-1] = near & same & (is_alloc[1:] != is_alloc[:-1])
        wrong = pair & (is_alloc == live)
        follows = np.zeros(
            len(order), bool
        )  # the next but one makes it the only reading
        follows[:-2] = same[1:] & (is_alloc[2:] != is_alloc[:-2]) | ~same[1:]
        follows[:-2] &= same[1:] & (is_alloc[2:] == is_alloc[1:-1])
        wrong &= follows
        wrong[1:] &= ~wrong[:-1]
        swapped = np.flatnonzero(wrong)
        if not len(swapped):
            return
        one, two = order[swapped], order[swapped + 1]
        for name in COLUMNS:
            if name != "time":
                column = getattr(batch, name)
                column[one], column[two] = column[two].copy(), column[one].copy()
        for column in (alloc, free, cache):
            column[one], column[two] = column[two].copy(), column[one].copy()
        self.origin.note("order inversions mended", len(swapped))

    # Which intervals of life inside this block (by place in `order`), and which objects
    # carried into it, end because their page is freed; with the row that frees it.
    def _ended_by_pages(
        self,
        order: Array,
        pointer: Array,
        is_alloc: Array,
        last: Array,
        page_rows: Array,
        page_start: Array,
        page_stop: Array,
    ) -> tuple[Array, Array, Array, Array]:
        ended = np.zeros(len(order), bool)
        ended_row = np.zeros(len(order), np.int64)
        nothing = np.zeros(0, np.int64)
        if not len(page_rows):
            return ended, ended_row, nothing, nothing
        # Objects that were alive when the block began, and are not touched before.
        place, of_page = self.live.between(page_start, page_stop)
        place, one = np.unique(place, return_index=True)  # the first page free counts
        gone, gone_row = place, page_rows[of_page[one]]
        if len(pointer) and len(gone):
            touched = np.searchsorted(pointer, self.live.keys[gone])
            touched = np.minimum(touched, len(pointer) - 1)
            seen = pointer[touched] == self.live.keys[gone]
            # Touched first by a row of this block: by an allocation after the page was
            # freed it stays ours; otherwise the rows say what happened.
            ours = ~seen | ((order[touched] > gone_row) & is_alloc[touched])
            gone, gone_row = gone[ours], gone_row[ours]
        # Objects born in this block: each pair of a freed page and a row inside it.
        low = np.searchsorted(pointer, page_start)
        counts = np.searchsorted(pointer, page_stop) - low
        page = np.repeat(np.arange(len(counts)), counts)
        inside = np.arange(len(page)) - np.repeat(np.cumsum(counts) - counts, counts)
        inside += low[page]
        row = page_rows[page]
        following = np.append(order[1:], 0)[inside]
        then_alloc = np.append(is_alloc[1:], False)[inside]
        hit = is_alloc[inside] & (order[inside] < row)
        hit &= last[inside] | ((following > row) & then_alloc)
        inside, row = inside[hit], row[hit]
        inside, one = np.unique(inside, return_index=True)
        ended[inside], ended_row[inside] = True, row[one]
        return ended, ended_row, gone, gone_row

    # New numbers, in the order of rows, for allocations and for unknown frees.
    def _numbers(
        self, batch: Batch, order: Array, is_alloc: Array, before_live: Array
    ) -> Array:
        new = is_alloc | ~before_live
        numbered = np.full(len(batch), -1, np.int64)
        rows = np.sort(order[new])
        numbered[rows] = self.objects + np.arange(len(rows))
        self.objects += len(rows)
        return numbered[order]

    def _result(
        self,
        batch: Batch,
        order: Array,
        number: Array,
        freed: Array,
        cache: Array,
        previous: Array,
        previous_cache: Array,
        reused: Array,
    ) -> Identified:
        objects = np.full(len(batch), -1, np.int64)
        objects[order] = number
        known = np.zeros(len(batch), bool)
        known[order] = freed
        of_free = cache.copy()
        # An allocation that no event named leaves the name to its free.
        told = freed & (previous_cache != -1)
        of_free[order[told]] = previous_cache[told]
        return Identified(
            object=objects,
            known=known,
            cache=of_free,
            implied_before=order[reused],
            implied_object=previous[reused],
            implied_cache=previous_cache[reused],
            implied_pointer=batch.pointer[order[reused]],
            implied_by_page=np.zeros(int(reused.sum()), bool),
        )

    def _add_page_frees(
        self,
        result: Identified,
        cache: Array,
        order: Array,
        pointer: Array,
        number: Array,
        ended: Array,
        ended_row: Array,
        gone: Array,
        gone_row: Array,
    ) -> None:
        objects, caches = self.live.columns["object"], self.live.columns["cache"]
        added = (
            np.concatenate([ended_row[ended], gone_row]),
            np.concatenate([number[ended], objects[gone]]),
            np.concatenate([cache[order][ended], caches[gone]]),
            np.concatenate([pointer[ended], self.live.keys[gone]]),
        )
        result.implied_before = np.concatenate([result.implied_before, added[0]])
        result.implied_object = np.concatenate([result.implied_object, added[1]])
        result.implied_cache = np.concatenate([result.implied_cache, added[2]])
        result.implied_pointer = np.concatenate([result.implied_pointer, added[3]])
        by_page = np.ones(len(added[0]), bool)
        result.implied_by_page = np.concatenate([result.implied_by_page, by_page])

    def _remember(
        self,
        pointer: Array,
        is_alloc: Array,
        first: Array,
        last: Array,
        ended: Array,
        number: Array,
        cache: Array,
        gone: Array,
    ) -> None:
        place, there = self.live.find(pointer[first])
        drop = np.concatenate([place[there], gone])
        stays = last & is_alloc & ~ended
        self.live.change(drop, pointer[stays], object=number[stays], cache=cache[stays])


def _first_of_group(values: Array) -> Array:
    first = np.ones(len(values), bool)
    first[1:] = values[1:] != values[:-1]
    return first

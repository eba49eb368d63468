"""Twins of the engine, each with one guard less: relacy must object to every one."""

from __future__ import annotations

from typing import NamedTuple


class Twin(NamedTuple):
    """One file of the engine, changed: each `old` stands in it exactly once."""

    model: str
    name: str
    path: str
    changes: tuple[tuple[str, str], ...]


ATOMIC = "base/atomic.h"
COMMIT = "arena/commit.c"
MENDER, PAGEMEND = "cache/mend.c", "arena/mend.c"
PAGES = "arena/pages.c"
CHANNELS, HOLD = "share/channel.c", "cache/hold.c"
NODE, STRAYS_AT = "cache/node.c", "cache/stray.c"
ALLOC, FREE, CPU = "cache/alloc.c", "cache/free.c", "cache/cpu.c"


def one(model: str, name: str, path: str, old: str, new: str) -> Twin:
    return Twin(model, name, path, ((old, new),))


#: The double-word swap as the checker sees it, with other orders.
def swap(model: str, order: str) -> Twin:
    old = "desired, false, __ATOMIC_ACQ_REL,\n"
    new = f"desired, false, __ATOMIC_{order},\n"
    failure = "                                       __ATOMIC_ACQUIRE);\n#elif"
    relaxed = "                                       __ATOMIC_RELAXED);\n#elif"
    changes = ((old, new), (failure, relaxed))
    return Twin(model, f"the swap of a pair is {order.lower()}", ATOMIC, changes)


POP = """\
    old.hi = us_load_acquire64(&c->freelist.hi);
    old.lo = us_load_acquire64(&c->freelist.lo);
    active = us_load_acquire64(&c->active);
    if (US_UNLIKELY("""
POP_LATE = """\
    active = us_load_acquire64(&c->active);
    old.hi = us_load_acquire64(&c->freelist.hi);
    old.lo = us_load_acquire64(&c->freelist.lo);
    if (US_UNLIKELY("""
PUSH, PUSH_LATE = (text.replace("US_UNLIKELY(", "!us_") for text in (POP, POP_LATE))

STRAYS = """\
        (void)us_exchange_acq_rel32(&n->strays, 0);
        each_stray(s, t, n, list_stray, &pile);
"""

SLOT = (
    swap("slot", "RELAXED"),
    swap("slot", "ACQUIRE"),
    one("slot", "detach does not unpublish first", CPU,
        "    us_store_release64(&c->active, 0);\n    do {", "    do {"),
    one("slot", "detach keeps the tid", CPU,
        "new.lo = 0;\n        new.hi = us_next_tid(old.hi);",
        "new.lo = 0;\n        new.hi = old.hi;"),
    Twin("slot", "install publishes first", CPU, (
        ("    us_store_release64(&c->active, us_active_pack(active));\n}", "}"),
        ("    struct us_pair old, new;\n\n    do {",
         "    struct us_pair old, new;\n\n"
         "    us_store_release64(&c->active, us_active_pack(active));\n    do {"))),
    one("slot", "push looks at the slab first", FREE, PUSH, PUSH_LATE),
    one("slot", "push reads the tid without acquire", FREE, PUSH,
        PUSH.replace("us_load_acquire64(&c->f", "us_load_relaxed64(&c->f")),
)  # fmt: skip

PAIR = (
    one("pair", "the tid stands still", "cache/cache.h",
        "return tid + US_TID_STEP;", "return tid;"),
    one("pair", "pop reads freelist and tid without acquire", ALLOC, POP,
        POP.replace("us_load_acquire64(&c->f", "us_load_relaxed64(&c->f")),
    swap("pair", "ACQUIRE"),
)  # fmt: skip

UNCOMMIT = (
    one("uncommit", "pop does not look again", ALLOC,
        "if (US_UNLIKELY(us_load_relaxed64(&c->freelist.lo) != old.lo)) {",
        "if (false) {"),
    one("uncommit", "the intent has no barrier behind it", "arena/arena.h",
        "us_store_release64(&t->intent, ((uint64_t)op << US_OP_SHIFT) | offset);\n"
        "    us_compiler_barrier();",
        "us_store_release64(&t->intent, ((uint64_t)op << US_OP_SHIFT) | offset);"),
    one("uncommit", "no fence in every thread", COMMIT,
        "!us_fence_everywhere() ||", "false ||"),
    one("uncommit", "intents are read before the fence", COMMIT,
        "!us_fence_everywhere() ||\n"
        "        anybody_looks(a, offset, offset + bytes)) {",
        "anybody_looks(a, offset, offset + bytes) ||\n"
        "        !us_fence_everywhere()) {"),
    one("uncommit", "intents are not read", COMMIT,
        "anybody_looks(a, offset, offset + bytes)) {", "false) {"),
)  # fmt: skip

LOCK = (
    one("lock", "an unlock that forgets who waits", "arena/lock.c",
        "if (us_exchange_acq_rel32(word, 0) & WAITERS) {",
        "if (us_exchange_acq_rel32(word, 0) == WAITERS) {"),
    one("lock", "whoever slept takes the lock without the bit", "arena/lock.c",
        "us_cas_acq_rel32(word, &seen, me | WAITERS)",
        "us_cas_acq_rel32(word, &seen, me)"),
    one("lock", "the swap of 32 bits is relaxed", ATOMIC,
        "return __atomic_compare_exchange_n(p, expected, v, false, __ATOMIC_ACQ_REL,",
        "return __atomic_compare_exchange_n(p, expected, v, false, __ATOMIC_RELAXED,"),
    one("lock", "the exchange is relaxed", ATOMIC,
        "return __atomic_exchange_n(p, v, __ATOMIC_ACQ_REL);",
        "return __atomic_exchange_n(p, v, __ATOMIC_RELAXED);"),
)  # fmt: skip

STRAY = (
    one("stray", "no fence between the lock and the look", STRAYS_AT,
        "    us_fence();\n    for (int round", "    for (int round"),
    one("stray", "no look after the lock was let go", NODE,
        "    us_unlock(t, &n->list_lock);\n    us_settle_strays(s, t, n);\n",
        "    us_unlock(t, &n->list_lock);\n    (void)s;\n"),
    one("stray", "looks for strays, then forgets them", STRAYS_AT, STRAYS,
        "        each_stray(s, t, n, list_stray, &pile);\n"
        "        (void)us_exchange_acq_rel32(&n->strays, 0);\n"),
    one("stray", "forgotten by a store", STRAYS_AT,
        "(void)us_exchange_acq_rel32(&n->strays, 0);",
        "us_store_release32(&n->strays, 0);"),
    one("stray", "said by a store", STRAYS_AT,
        "(void)us_exchange_acq_rel32(&n->strays, 1);",
        "us_store_release32(&n->strays, 1);"),
    one("stray", "a reaper does not look after it let go", MENDER,
        "us_list_unlock(s, t, us_node(s, count - cpus));",
        "us_unlock(t, lock_word(s, count));"),
    one("stray", "a marker does not try the lock", STRAYS_AT,
        "(void)us_exchange_acq_rel32(&n->strays, 1);\n    us_settle_strays(s, t, n);",
        "(void)us_exchange_acq_rel32(&n->strays, 1);\n    (void)t;"),
    one("stray", "a marker does not say so", STRAYS_AT,
        "(void)us_exchange_acq_rel32(&n->strays, 1);", ";"),
)  # fmt: skip

INTENTS = """\
    read_intents(m, page, objects);
    read_tags(m, page, objects);
    read_intents(m, page, objects);
"""

MEND = (
    one("mend", "intents are not read before the tags", MENDER, INTENTS,
        INTENTS.split("\n", 1)[1]),
    one("mend", "intents are not read after the tags", MENDER, INTENTS,
        INTENTS.rsplit("\n", 2)[0] + "\n"),
    one("mend", "no doubt about what a living thread names", MENDER,
        "*maybe = *maybe || (known & MAYBE);", ";"),
    one("mend", "whatever was freed meanwhile", MENDER,
        "if (!us_cas_pair(&p->slab, taken, us_slab_pack(taken, word))) {",
        "if (!us_slab_swap(p, us_slab_load(p), word)) {"),
    one("mend", "a named object is free all the same", MENDER,
        "if ((known & NAMED) && !(known & LISTED)) {", "if (false) {"),
    one("mend", "the intent ends without release", "arena/arena.h",
        "us_store_release64(&t->intent, 0);", "us_store_relaxed64(&t->intent, 0);"),
    one("mend", "a free unmarks without release", FREE,
        "us_tag_set(tag, 0);\n    us_link_set(s, object, old.lo);",
        "us_store_relaxed16(tag, 0);\n    us_link_set(s, object, old.lo);"),
    one("mend", "a free has no intent", FREE,
        "us_intent_begin(t, US_OP_FREE, object);\n    us_tag_set(tag, 0);",
        "us_tag_set(tag, 0);"),
    one("mend", "an allocation has no intent", ALLOC,
        "us_intent_begin(t, US_OP_ALLOC, old.lo + s->offset);", ";"),
)  # fmt: skip

BUDDY = (
    one("buddy", "bits are set without order", ATOMIC,
        "return __atomic_fetch_or(p, v, __ATOMIC_ACQ_REL);",
        "return __atomic_fetch_or(p, v, __ATOMIC_RELAXED);"),
    one("buddy", "a set bit is not looked at again", PAGES,
        "            index_set(a, node, order, page);\n"
        "            if (word_is(a, page, US_BLOCK_FREE, order, &raw)) {",
        "            index_set(a, node, order, page);\n            if (true) {"),
    one("buddy", "a cleared bit is not looked at again", PAGES,
        "            index_clear(a, node, order, page);\n"
        "            if (!word_is(a, page, US_BLOCK_FREE, order, &raw)) {",
        "            index_clear(a, node, order, page);\n            if (true) {"),
    one("buddy", "a failed merge does not look again", PAGES,
        "            continue; /* the right one may be free again by now",
        "            return; /* the right one may be free again by now"),
)  # fmt: skip

CENSUS = (
    one("census", "pages are given back without order", PAGES,
        "us_fetch_add_acq_rel64(&us_node_pages(a, node)->free_pages, 1ULL << order);",
        "us_fetch_add_relaxed64(&us_node_pages(a, node)->free_pages, 1ULL << order);"),
    one("census", "pages are taken without order", PAGES,
        "us_fetch_add_acq_rel64(&n->free_pages, -pages);",
        "us_fetch_add_relaxed64(&n->free_pages, -pages);"),
    one("census", "an end is not counted", PAGES,
        "us_fetch_add_acq_rel64(&us_node_pages(a, node)->ended, 1);", "(void)node;"),
    one("census", "nobody says that he changes pages", PAGES,
        "us_store_release32(&t->changing, us_load_relaxed32(&t->changing) + 1);", ";"),
    one("census", "nobody looks who changes pages afterwards", PAGEMEND,
        "if (somebody_changes_pages(a) || us_load_acquire64(&n->ended) != ended) {",
        "if (us_load_acquire64(&n->ended) != ended) {"),
)  # fmt: skip

WAKE = """\
        us_cas_acq_rel32(word, &seen, seen & ~WAITERS)) {
        (void)futex_wake(word, INT32_MAX);
"""

CHANNEL = (
    swap("channel", "RELAXED"),
    one("channel", "clears the bit and wakes nobody", CHANNELS, WAKE,
        WAKE.replace("(void)futex_wake(word, INT32_MAX);", "")),
    one("channel", "looks first and reads the word then", CHANNELS,
        "        uint32_t seen = us_load_acquire32(what->word);\n"
        "        uint64_t now = now_ns();\n\n"
        "        err = what->once(ch, t, what->arg);\n",
        "        uint64_t now = now_ns();\n\n"
        "        err = what->once(ch, t, what->arg);\n"
        "        uint32_t seen = us_load_acquire32(what->word);\n"),
    one("channel", "reads the word without acquire", CHANNELS,
        "uint32_t seen = us_load_acquire32(what->word);",
        "uint32_t seen = us_load_relaxed32(what->word);"),
    one("channel", "goes to sleep and does not say so", CHANNELS,
        "syscall(SYS_futex, word, FUTEX_WAIT, seen | WAITERS,",
        "syscall(SYS_futex, word, FUTEX_WAIT, us_load_relaxed32(word),"),
    one("channel", "a cell keeps its turn", CHANNELS,
        "struct us_pair next = {.lo = 0, .hi = TURN(head + ch->capacity)};",
        "struct us_pair next = {.lo = 0, .hi = TURN(head)};"),
)  # fmt: skip

SHARE = (
    swap("share", "RELAXED"),
    swap("share", "ACQUIRE"),
    one("share", "two last drops both get it", HOLD,
        "*last = us_holders_none(h) && us_cas_acq_rel16(spot->tag, &shared, us_me(a));",
        "*last = us_holders_none(h);\n        (void)shared;"),
    one("share", "a join revives what nobody holds", HOLD,
        "us_load_acquire16(spot->tag) != US_TAG_SHARED || us_holders_none(h) ||\n"
        "            us_spot_incarnation(spot, h) != incarnation) {",
        "false) {"),
    one("share", "a record is received twice", "share/ticket.c",
        "return record != NULL && us_cas_pair(record, full, free);",
        "return record != NULL && us_load_acquire64(&record->lo) == full.lo &&\n"
        "           (us_cas_pair(record, full, free), true);"),
)  # fmt: skip

TWINS = (
    *SLOT,
    *PAIR,
    *UNCOMMIT,
    *LOCK,
    *STRAY,
    *MEND,
    *BUDDY,
    *CENSUS,
    *CHANNEL,
    *SHARE,
)

#: What a model needs to be small: file, text, what stands there instead.
FITTED: dict[str, tuple[tuple[str, str, str], ...]] = {
    "mend": (("arena/lock.c", "#define SPINS   200", "#define SPINS   1"),),
    "stray": (("arena/lock.c", "#define SPINS   200", "#define SPINS   1"),),
    "buddy": (("arena/pages.c", "#define LOOKS_MAX 2000", "#define LOOKS_MAX 3"),),
    "census": (
        ("arena/pages.c", "#define LOOKS_MAX 2000", "#define LOOKS_MAX 3"),
        ("arena/mend.c", "#define TRIES_MAX 200", "#define TRIES_MAX 3"),
    ),
    "lock": (("arena/lock.c", "#define SPINS   200", "#define SPINS   1"),),
}

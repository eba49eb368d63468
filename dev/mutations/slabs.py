"""Breakages of the allocator and of its recovery: each loses, doubles or hangs something
for one schedule of two actors, or for one death.

With those of the specification's resilience notes (section 10) among them: no intent,
intent too late or too early, tag after the push, no version in the swap, lists trusted,
no second reading, a slot reused too soon, buddies published in the wrong order. What it takes three switches
or a weak memory to notice (a tid that stands still, a merge or a bit that is not looked
at again, strays that nobody tries to list) is among the twins of tests/order.
"""

from __future__ import annotations

from mutations import Mutant

ALLOC, FREE, BULK, CPU = "cache/alloc.c", "cache/free.c", "cache/bulk.c", "cache/cpu.c"
NODE, MEND, REGISTRY = "cache/node.c", "cache/mend.c", "cache/registry.c"
PAGES, PAGES_MEND, LOCK = "arena/pages.c", "arena/mend.c", "arena/lock.c"
CACHE, SLAB, KMALLOC = "cache/cache.c", "slab/slab.c", "cache/kmalloc.c"
REAP, WRECK, PROCESS = "share/reap.c", "share/wreck.c", "arena/process.c"

MUTANTS = (
    # -- the fast paths
    Mutant(
        "an allocation names nothing",
        ALLOC,
        "us_intent_begin(t, US_OP_ALLOC, old.lo + s->offset);",
        ";",
    ),
    Mutant(
        "an allocation clears its intent before the tag",
        ALLOC,
        "    us_tag_set(tag, us_load_relaxed16(&s->self->owner));\n"
        "    us_intent_end(t);",
        "    us_intent_end(t);\n"
        "    us_tag_set(tag, us_load_relaxed16(&s->self->owner));",
    ),
    Mutant(
        "a free names nothing",
        FREE,
        "    us_intent_begin(t, US_OP_FREE, object);\n    us_tag_set(tag, 0);\n"
        "    us_link_set(s, object, old.lo);",
        "    us_tag_set(tag, 0);\n    us_link_set(s, object, old.lo);",
    ),
    Mutant(
        "a free into any slab names nothing",
        FREE,
        "    us_intent_begin(t, US_OP_FREE, object);\n"
        "    us_tag_set(us_tag(s, object), 0);",
        "    us_tag_set(us_tag(s, object), 0);",
    ),
    Mutant(
        "a free clears the tag after the push",
        FREE,
        "    us_intent_end(t);\n    us_stat_add(c, US_STAT_FREE_FASTPATH, 1);\n"
        "    return US_OK;\n}\n\nus_err us_free_one",
        "    us_tag_set(tag, us_load_relaxed16(&s->self->owner));\n"
        "    us_tag_set(tag, 0);\n"
        "    us_intent_end(t);\n    us_stat_add(c, US_STAT_FREE_FASTPATH, 1);\n"
        "    return US_OK;\n}\n\nus_err us_free_one",
    ),
    Mutant(
        "a push that failed is pushed onto another slab's list",
        FREE,
        "if (us_load_acquire64(&c->active) != active) {",
        "if (false) {",
    ),
    Mutant(
        "detaching steps no tid",
        CPU,
        "        new.lo = 0;\n        new.hi = us_next_tid(old.hi);",
        "        new.lo = 0;\n        new.hi = old.hi;",
    ),
    Mutant(
        "detaching leaves the slab published",
        CPU,
        "    us_store_release64(&c->active, 0);\n    do {",
        "    do {",
    ),
    Mutant(
        "a slab is published before its freelist",
        CPU,
        "    struct us_pair old, new;\n\n    do {\n"
        "        old.hi = us_load_acquire64(&c->freelist.hi);\n"
        "        old.lo = us_load_acquire64(&c->freelist.lo);\n"
        "        new.lo = freelist;",
        "    struct us_pair old, new;\n\n"
        "    us_store_release64(&c->active, us_active_pack(active));\n    do {\n"
        "        old.hi = us_load_acquire64(&c->freelist.hi);\n"
        "        old.lo = us_load_acquire64(&c->freelist.lo);\n"
        "        new.lo = freelist;",
    ),
    # -- slabs on their way
    Mutant(
        "a slab without free objects stays frozen",
        CPU,
        "word.frozen = word.freelist != 0;",
        "word.frozen = true;",
    ),
    Mutant(
        "a full slab goes to the chain unfrozen",
        FREE,
        "word->frozen = err == US_OK;",
        "word->frozen = false;",
    ),
    Mutant(
        "a slab that was full is listed nowhere",
        FREE,
        "bool was_full = was.freelist == 0;",
        "bool was_full = false;",
    ),
    Mutant(
        "a slab leaves the list without its lock",
        FREE,
        "        done = us_slab_swap(p, old, word);",
        "        if (hold == HOLD_LIST) {\n            us_unlock(t, &n->list_lock);\n        }\n"
        "        done = us_slab_swap(p, old, word);\n        if (hold == HOLD_LIST) {\n"
        "            (void)us_lock(s->arena, t, &n->list_lock);\n        }",
    ),
    Mutant(
        "a discarded slab becomes a block after the lock is gone",
        CPU,
        "    if (us_unfreeze(s, n, page, &fails)) {\n        us_slab_unpublish(s, t, page);",
        "    if (us_unfreeze(s, n, page, &fails)) {",
    ),
    Mutant(
        "a new slab is published before the lock is had",
        ALLOC,
        "    err = lock_settled(r);\n    if (err != US_OK) {\n"
        "        us_pages_free(r->s->arena, r->t, fresh.run.page);\n"
        "        return err;\n    }\n    word.inuse = fresh.objects;\n"
        "    us_slab_publish(r->s, &fresh, word);",
        "    word.inuse = fresh.objects;\n    us_slab_publish(r->s, &fresh, word);\n"
        "    err = lock_settled(r);\n    if (err != US_OK) {\n        return err;\n    }",
    ),
    # -- detours
    Mutant(
        "a lock is waited for as long as it takes",
        LOCK,
        "|| slept == sleeps ||\n            all == SLEEPS_MOST) {",
        "|| all == UINT32_MAX) {",
    ),
    Mutant(
        "a stray is not marked",
        FREE,
        "        word->mark = US_MARK_STRAY;\n        return HOLD_STRAY;",
        "        return HOLD_STRAY;",
    ),
    Mutant(
        "nobody looks for strays after a list lock",
        NODE,
        "    us_unlock(t, &n->list_lock);\n    us_settle_strays(s, t, n);",
        "    us_unlock(t, &n->list_lock);",
    ),
    Mutant(
        "what is popped off a listed slab leaves a full slab listed",
        NODE,
        "            if (word.freelist == 0) {\n                us_err removed",
        "            if (false) {\n                us_err removed",
    ),
    # -- the repair of a cache
    Mutant(
        "the repair does not read intents before the tags",
        MEND,
        "    read_intents(m, page, objects);\n    read_tags(m, page, objects);",
        "    read_tags(m, page, objects);",
    ),
    Mutant(
        "the repair does not read intents after the tags",
        MEND,
        "    read_tags(m, page, objects);\n    read_intents(m, page, objects);",
        "    read_tags(m, page, objects);",
    ),
    Mutant(
        "the repair does not look whether somebody freed meanwhile",
        MEND,
        "    if (!us_cas_pair(&p->slab, taken, us_slab_pack(taken, word))) {\n"
        "        return false;\n    }",
        "    us_store_relaxed64(&p->slab.lo, us_slab_pack(taken, word).lo);\n"
        "    us_store_release64(&p->slab.hi, us_slab_pack(taken, word).hi);",
    ),
    Mutant(
        "the repair has no doubts",
        MEND,
        "m->in_doubt = m->in_doubt || maybe;",
        "(void)maybe;",
    ),
    Mutant(
        "the repair takes a bulk intent for one object",
        MEND,
        "for (uint32_t i = 0; bulk && i < objects; i++) {",
        "for (uint32_t i = 0; false && i < objects; i++) {",
    ),
    Mutant(
        "the repair believes what the dead said they would do",
        MEND,
        "place / m->s->size >= objects || t == m->t || us_thread_dead(a, slot)) {",
        "place / m->s->size >= objects || t == m->t) {",
    ),
    Mutant(
        "the repair takes no list locks",
        MEND,
        "    uint32_t count = s->arena->cpus + s->arena->nodes;\n\n    for",
        "    uint32_t count = s->arena->cpus;\n\n    for",
    ),
    Mutant(
        "the repair leaves the locks of the dead",
        LOCK,
        "    if (err != US_EOWNERDEAD) {\n        return err;\n    }\n    count_lock(t, 1);",
        "    if (true) {\n        return err;\n    }\n    count_lock(t, 1);",
    ),
    Mutant(
        "the repair leaves CPU slabs to their CPUs",
        MEND,
        "m->cpus[cpu].freelist = us_cpu_detach(c);",
        "m->cpus[cpu].freelist = us_load_acquire64(&c->freelist.lo);",
    ),
    Mutant(
        "the repair leaves the chains",
        MEND,
        "us_store_release32(&c->partial, 0);",
        ";",
    ),
    Mutant(
        "the repair leaves the heads of lists",
        MEND,
        "us_store_relaxed32(&n->head, 0);",
        ";",
    ),
    Mutant(
        "the repair leaves nr_partial",
        MEND,
        "us_store_relaxed32(&n->nr_partial, 0);",
        ";",
    ),
    Mutant(
        "the repair counts no slabs",
        MEND,
        "us_fetch_add_acq_rel64(&n->nr_slabs, m->slabs[node] - m->had_slabs[node]);",
        ";",
    ),
    Mutant(
        "the repair trusts the freelist and not the tags",
        MEND,
        "        if (tag == 0) {\n            m->objects[i] |= FREE;",
        "        if (tag == 0 && (m->objects[i] & LISTED)) {\n"
        "            m->objects[i] |= FREE;",
    ),
    Mutant(
        "the repair lists a full slab",
        MEND,
        "} else if (word.freelist != 0) {\n        (void)us_add_partial",
        "} else {\n        (void)us_add_partial",
    ),
    # -- who is mended, and when
    Mutant(
        "the object of a dead thread puts no cache in doubt",
        WRECK,
        "    if (us_id_valid(a, id)) {\n        us_store_release32",
        "    if (false) {\n        us_store_release32",
    ),
    Mutant(
        "a lock of the dead puts no cache in doubt",
        MEND,
        "        if (holder != 0 && us_thread_dead(a, holder - 1)) {\n            return true;",
        "        if (holder != 0 && us_thread_dead(a, holder - 1)) {\n            return false;",
    ),
    Mutant(
        "names are not mended",
        WRECK,
        "    mended = us_mend_registry(a, t);",
        "    mended = true;",
    ),
    Mutant(
        "a slot is free before everything is mended",
        REAP,
        "e->incomplete || !mended) {",
        "e->incomplete) {",
    ),
    Mutant(
        "what the dead had is not cleaned",
        REAP,
        "    clean(a, spot);\n    if (spot->cache != NULL) {",
        "    (void)clean;\n    if (spot->cache != NULL) {",
    ),
    Mutant(
        "a batch of the dead's objects is forgotten",
        REAP,
        "        each_object(a, take_over, e);\n        free_batch(a, e);",
        "        each_object(a, take_over, e);\n        e->batched = 0;",
    ),
    # -- pages
    Mutant(
        "a block is split before its upper half is there",
        PAGES,
        "        us_make_free(a, node, upper, from);\n        us_store_release64(\n"
        "            word, us_page_word_next(us_load_relaxed64(word), US_BLOCK_SPLIT, from, me));",
        "        us_store_release64(\n"
        "            word, us_page_word_next(us_load_relaxed64(word), US_BLOCK_SPLIT, from, me));\n"
        "        us_make_free(a, node, upper, from);",
    ),
    Mutant(
        "two buddies merge without claiming the left one",
        PAGES,
        "        if (!us_cas_acq_rel64(&a->pages[left].word, &left_raw,\n",
        "        if (!us_page_at(a, left) || !us_cas_acq_rel64(&left_raw, &left_raw,\n",
    ),
    Mutant(
        "the blocks of the dead stay theirs",
        PAGES_MEND,
        "    order = order_now(a, page, word);",
        "    return;\n    order = order_now(a, page, word);",
    ),
    Mutant(
        "a half-split block is taken for a whole one",
        PAGES_MEND,
        "    if (tail && us_block_fits(a, page, half + 1)) {",
        "    if (us_block_fits(a, page, half + 1)) {",
    ),
    Mutant(
        "a merged block is taken for its left half",
        PAGES_MEND,
        "    if (tail && us_block_fits(a, page, half + 1)) {",
        "    if (tail && word.state == US_BLOCK_SPLIT) {",
    ),
    Mutant(
        "free blocks that a death left apart stay apart",
        PAGES_MEND,
        "        us_merge(a, us_thread_slot(a, t) + 1, us_page_node(a, page), page, word.order);",
        "        (void)t;",
    ),
    Mutant(
        "pages are not counted again",
        PAGES_MEND,
        "us_fetch_add_relaxed64(&n->free_pages, census.free_pages - counted);",
        ";",
    ),
    Mutant(
        "pages are counted while somebody changes them",
        PAGES_MEND,
        "            !us_thread_dead(a, slot)) {\n            return true;",
        "            !us_thread_dead(a, slot)) {\n            return false;",
    ),
    Mutant(
        "a large object is untagged before its block is ours",
        KMALLOC,
        "    us_pages_unpublish(a, t, page); /* from here on it is a block of this thread's */\n"
        "    us_store_release16(us_large_tag(a, page), 0);",
        "    us_store_release16(us_large_tag(a, page), 0);\n"
        "    us_pages_unpublish(a, t, page);",
    ),
    # -- names
    Mutant(
        "a half-made cache keeps its name",
        REGISTRY,
        "        } else {\n            us_store_relaxed32(&name->cache, 0);",
        "        } else {\n            ;",
    ),
    Mutant(
        "a destruction that was under way goes on for ever",
        REGISTRY,
        "            us_store_release32(&s->state, US_CACHE_LIVE);",
        "            ;",
    ),
    Mutant(
        "the list of caches is left as it is",
        REGISTRY,
        "    mend_list(a, born);\n    free_orphans",
        "    (void)mend_list;\n    free_orphans",
    ),
    Mutant(
        "tables of caches that are gone stay",
        REGISTRY,
        "    free_orphans(a, t);\n",
        "    (void)free_orphans;\n    (void)t;\n",
    ),
)

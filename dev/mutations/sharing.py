"""Breakages of sharing: holders, tickets, channels, and what a reaper does to them."""

from __future__ import annotations

from mutations import Mutant

HOLD, REAP = "cache/hold.c", "share/reap.c"
TICKET, CHANNEL, ARENA = "share/ticket.c", "share/channel.c", "arena/arena.c"

MUTANTS = (
    Mutant(
        "two who commit one page, and one comes late",
        "arena/commit.c",
        "if (stop == page) {",
        "if (false) {",
    ),
    Mutant("send counts no transit", HOLD, "h.transits++;", ";"),
    Mutant("take leaves the transit", HOLD, "h.transits--;", ";"),
    Mutant(
        "the last bit frees though a transit is left",
        HOLD,
        "*last = us_holders_none(h) &&",
        "*last = h.processes == 0 &&",
    ),
    Mutant("a drop leaves the bit", HOLD, "h.processes &= ~bits;", ";"),
    Mutant(
        "a drop does not take the tag",
        HOLD,
        "us_cas_acq_rel16(spot->tag, &shared, us_me(a));\n        return US_OK;",
        "shared != 0;\n        return US_OK;",
    ),
    Mutant("a join adds no bit", HOLD, "h->processes |= us_holder_bit(a);", ";"),
    Mutant(
        "a join revives what nobody holds",
        HOLD,
        "|| us_holders_none(h) ||",
        "||",
    ),
    Mutant(
        "a join does not ask which object",
        HOLD,
        "us_spot_incarnation(spot, h) != incarnation",
        "false",
    ),
    Mutant("sharing makes no new incarnation", HOLD, "h.incarnation++;", ";"),
    Mutant(
        "what is on its way becomes exclusive",
        HOLD,
        "h.transits != 0 || h.channel ||",
        "h.channel ||",
    ),
    Mutant(
        "a receiver does not say what it takes",
        TICKET,
        "us_intent_begin(t, US_OP_TAKE, spot.offset);",
        ";",
    ),
    Mutant(
        "a sender does not say what it sends",
        TICKET,
        "us_intent_begin(t, US_OP_SEND, spot.offset);",
        ";",
    ),
    Mutant(
        "a ticket is punched by whoever shows it",
        TICKET,
        "return record != NULL && us_cas_pair(record, full, free);",
        "(void)free;\n    return record != NULL && record->lo == full.lo;",
    ),
    Mutant(
        "a channel's sender does not say what it sends",
        CHANNEL,
        "us_intent_begin(t, US_OP_SEND, s->spot.offset);",
        ";",
    ),
    Mutant(
        "a channel's receiver does not say what it takes",
        CHANNEL,
        "us_intent_begin(t, US_OP_TAKE, look.was.lo & US_OFFSET_MASK);",
        ";",
    ),
    Mutant(
        "two receivers take one message",
        CHANNEL,
        "if (us_cas_pair(look.cell, look.was, next)) {",
        "if (us_cas_pair(look.cell, look.was, next) || look.was.lo != 0) {",
    ),
    Mutant(
        "two senders fill one cell",
        CHANNEL,
        "if (us_cas_pair(look.cell, look.was, message)) {",
        "us_store_relaxed64(&look.cell->lo, message.lo);\n"
        "            us_store_relaxed64(&look.cell->hi, message.hi);\n"
        "            if (true) {",
    ),
    Mutant(
        "nobody helps a sender that stopped before the tail",
        CHANNEL,
        "/* Full already, or received again: its sender has not come to say so. */\n"
        "            (void)us_cas_acq_rel64(&ch->block->tail, &tail, tail + 1);",
        "return US_ETIMEDOUT;",
    ),
    Mutant(
        "nobody helps a sender whose message was received before the tail moved",
        CHANNEL,
        "look.was.hi == TURN(tail + ch->capacity)) {",
        "false) {",
    ),
    Mutant(
        "nobody helps a receiver that stopped before the head",
        CHANNEL,
        "(void)us_cas_acq_rel64(&ch->block->head, &head, head + 1);\n"
        "        } else if (look.was.hi & US_CELL_FULL) {",
        "return US_ETIMEDOUT;\n        } else if (look.was.hi & US_CELL_FULL) {",
    ),
    Mutant(
        "a full channel keeps the transit of what did not fit",
        CHANNEL,
        "(void)us_hold_remove(a, &s->spot, 0, 1, &last);",
        "(void)last;",
    ),
    Mutant(
        "a dropped channel keeps its messages",
        HOLD,
        "us_channel_drain(a, t, object);",
        "(void)t;",
    ),
    Mutant(
        "a dead one's channel keeps its messages",
        REAP,
        "us_channel_drain(a, e->t, spot->offset);",
        ";",
    ),
    Mutant("a channel stays on the list", CHANNEL, "    delist(a, offset);\n}", "}"),
    Mutant(
        "the reaper leaves the dead one's bits",
        REAP,
        "us_hold_remove(a, spot, 1ULL << e->slot, 0, &last);",
        "0;",
    ),
    Mutant(
        "the reaper leaves the dead one's own objects",
        REAP,
        "last = us_cas_acq_rel16(spot->tag, &tag, us_me(a));",
        "last = false;",
    ),
    Mutant(
        "the reaper leaves the outbox",
        REAP,
        "    empty_outbox(a, e);\n",
        "    (void)empty_outbox;\n",
    ),
    Mutant(
        "the reaper gives a ticket back that somebody has just received",
        REAP,
        "if (us_cas_pair(record, full, free) &&\n",
        "if ((us_cas_pair(record, full, free) || true) &&\n",
    ),
    Mutant(
        "the reaper does not count again",
        REAP,
        "           recount(a, e, intent & US_OFFSET_MASK);",
        "           e != NULL;",
    ),
    Mutant(
        "counting again does not look what the living are doing",
        REAP,
        "== offset && !us_thread_dead(a, i)) {\n            return true;",
        "== offset && !us_thread_dead(a, i)) {\n            return false;",
    ),
    Mutant(
        "counting again forgets the channels",
        REAP,
        "bool channels = us_committed(a, a->at.channels);",
        "bool channels = false;",
    ),
    Mutant(
        "counting again forgets the outboxes",
        REAP,
        "count += names(us_load_acquire64(&record->lo), offset);",
        ";",
    ),
    Mutant(
        "a fork forgets what is shared already",
        REAP,
        "h.processes |= bit;",
        ";",
    ),
    Mutant(
        "a fork forgets what is the parent's alone",
        REAP,
        "if (tag == us_me(a) && us_hold_share(a, spot) == US_ENOMEM) {",
        "if (false) {",
    ),
    Mutant(
        "the life lock lives as long as the mapping",
        ARENA,
        "return fresh_description(a);",
        "(void)fresh_description;\n    return US_OK;",
    ),
)

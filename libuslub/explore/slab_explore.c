/* SPDX-License-Identifier: MIT */
/*
 * slab_explore.c - the allocator itself under every pair of operations, with a switch,
 * a stop and a death at every step, recovery interrupted at every step, and a second
 * recoverer.
 *
 *   slab_explore                what `make test` runs
 *   slab_explore deep           every pair in every variant, more steps (make check)
 *   slab_explore NAME           one pair, as deep
 *   slab_explore NAME A:17 B A! ...    one schedule again
 *
 * NAME is VARIANT/OP/OP/THIRD: what A, B and C do, see slab_explore_ops.h; as the name
 * of a pair each part may be left out. With "alive" as the last word nobody dies; with
 * "trace" after a schedule every step is shown; with "sites" the first schedule at each
 * site is.
 */
#include "explore/slab_explore_check.h"

/* Where every site must have been left, and died at. */
static const char *const files[] = {
    "arena/commit.c",
    "arena/lock.c",
    "arena/mend.c",
    "arena/page_word.h",
    "arena/pages.c",
    "arena/pages.h",
    "arena/process.c",
    "cache/alloc.c",
    "cache/bulk.c",
    "cache/cache.c",
    "cache/cache.h",
    "cache/cpu.c",
    "cache/free.c",
    "cache/handle.c",
    "cache/kmalloc.c",
    "cache/mend.c",
    "cache/names.c",
    "cache/node.c",
    "cache/registry.c",
    "cache/stray.c",
    "share/wreck.c",
    "slab/slab.c",
    "slab/slab.h",
    "slab/slab_word.h",
    NULL,
};
#define DAMAGED "only in a damaged arena"
#define LOOKS   "looks, and writes nothing"
static struct exemption excused[] = {
    {"arena/mend.c", "correct_index", DAMAGED, true, false},
    {"arena/mend.c", "count_node", DAMAGED, true, false},
    {"arena/pages.c", "trim", "only beyond 2 MiB of kept pages", true, false},
    {"arena/pages.c", "us_pages_stat", LOOKS, true, false},
    {"arena/process.c", "us_process_register", "without membarrier", true, false},
    {"arena/process.c", "us_process_reserve", "fork(): in sharing", true, false},
    {"arena/process.c", "drop_held", "a thread of many ends", true, false},
    {"arena/process.c", "claim_slot", "more threads than ever: all are", true, false},
    {"arena/process.c", "hold_slot", "no private memory", true, false},
    {"arena/process.c", "us_arena_processes", LOOKS, true, false},
    {"cache/alloc.c", "claim_failed", DAMAGED, true, false},
    {"cache/alloc.c", "alloc_any", DAMAGED, true, false},
    {"cache/alloc.c", "withdraw", "needs three switches at the right steps", true,
     false},
    {"cache/bulk.c", "us_free_detached", DAMAGED, true, false},
    {"cache/bulk.c", "mark_all", "an object that is not ours", true, false},
    {"cache/cpu.c", "us_free_pile", DAMAGED, true, false},
    {"cache/free.c", "us_slab_free", DAMAGED, true, false},
    {"cache/free.c", "us_find_object", "an object of another cache", true, false},
    {"cache/handle.c", "us_cache_handle", "two threads of a process", true, false},
    {"cache/mend.c", "read_tags", DAMAGED, true, false},
    {"cache/mend.c", "poison_slab", DAMAGED, true, false},
    {"cache/names.c", "us_cache_brief", LOOKS, true, false},
    {"cache/node.c", "take_listed", DAMAGED, true, false},
    {"cache/node.c", "neighbour", DAMAGED, true, false},
    {"cache/node.c", "pop_listed", DAMAGED, true, false},
    {"cache/stray.c", "us_pop_stray", DAMAGED, true, false},
    {"share/wreck.c", "stop_all", DAMAGED, true, false},
    {"slab/slab.c", "us_chain_measure", DAMAGED, true, false},
    {"slab/slab.c", "us_slab_at", DAMAGED, true, false},
    {NULL, NULL, NULL, false, false},
};

static bool deep, brief, mortal = true;

struct pair {
    const struct op *x, *y, *third;
    char name[80];
};

/* Pairs that reach what others rarely do: closely in `make test`, too. */
static const char *const closely[] = {
    "chains/large/large/leave",               /* a death while pages are counted */
    "full/alloc-reserve/alloc-reserve/leave", /* slabs of the reserve on a list */
    "chains/alloc-list/flush/leave",          /* a death while a stray is published */
    NULL,
};
/* Pairs of which one repairs what the other left while a third works; see meet(). */
static const char *const meetings[] = {
    "chains/alloc-cpu/alloc-cpu/leave",
    "chains/alloc-cpu/free-cpu/leave",
    "chains/free-cpu/free-full/leave",
    "chains/alloc-cpu/free-listed/leave",
    NULL,
};

static bool is_one_of(const struct pair *pair, const char *const *names)
{
    while (*names != NULL && strcmp(pair->name, *names) != 0) {
        names++;
    }
    return *names != NULL;
}

static void begin_again(const struct pair *pair)
{
    put_back();
    memcpy(things, things_kept, sizeof(things[0]) * (size_t)thing_count_kept);
    thing_count = thing_count_kept;
    trouble[0] = '\0';
    actors[0].work = pair->x->work;
    actors[1].work = pair->y->work;
    actors[2].work = pair->third->work;
    actors[REAPER].work = reaps;
    if ((pair->x->needs | pair->y->needs) & DEAD_C) {
        die(2);
    }
}

static void play_and_check(const void *of, const struct schedule *s)
{
    const struct pair *pair = of;

    begin_again(pair);
    now_playing = s;
    play(s);
    check(s);
}

static void try_turns(const struct pair *pair, const struct turn_of *turns, int count)
{
    struct schedule s = {.name = pair->name, .count = count};

    memcpy(s.turns, turns, (size_t)count * sizeof(*turns));
    explore_from(play_and_check, pair, &s, 0);
}

#define TRY(...)                                                                       \
    try_turns(pair, (struct turn_of[]){__VA_ARGS__},                                   \
              sizeof((struct turn_of[]){__VA_ARGS__}) / sizeof(struct turn_of))

/* Steps of one actor alone, from the state that the others' turns leave. */
static uint64_t steps_of(const struct pair *pair, int who, struct turn_of before)
{
    begin_again(pair);
    if (before.steps == DEATH) {
        die(before.actor);
    } else if (before.steps != 0) {
        turn(before.actor, before.steps);
        die(before.actor);
    }
    (void)turn_through(who, PATIENCE);
    return actors[who].steps;
}

/* ---- all schedules of one pair ---- */

static uint64_t chance; /* the same at every run */

static uint64_t below(uint64_t limit)
{
    chance = chance * 6364136223846793005ULL + 1442695040888963407ULL;
    return limit == 0 ? 0 : (chance >> 33) % limit;
}

/* Some of y's steps; every other time as many as it takes when locks cannot be had. */
static uint64_t some_of(uint64_t ys)
{
    return below(2) == 0 ? below(ys + 1) : THROUGH | below(ys + 700);
}

/* `x` is interrupted after k steps, by `y` and perhaps C. */
static void interrupt(const struct pair *pair, int x, int y, uint64_t k, uint64_t ys)
{
    uint64_t j = some_of(ys);

    TRY({x, k}, {y, ALL}, {x, ALL}, {y, ALL});
    TRY({x, k}, {y, END}, {2, END}, {x, END});
    TRY({x, k}, {y, j}, {x, ALL}, {y, ALL});
    TRY({x, k}, {y, j}, {2, END}, {x, ALL}, {y, ALL});
    TRY({x, k}, {y, j}, {x, below(100)}, {y, END}, {x, END});
}

static void kill_at(const struct pair *pair, int x, int y, uint64_t k, uint64_t ys)
{
    uint64_t j = some_of(ys), rs = steps_of(pair, REAPER, (struct turn_of){x, k});
    uint64_t r = below(rs + 1), c = below(500);

    TRY({x, k}, {x, DEATH}, {y, END});
    TRY({x, k}, {x, DEATH}, {REAPER, END}, {y, END});
    TRY({x, k}, {y, j}, {x, DEATH}, {y, END}, {2, END});
    TRY({x, k}, {y, j}, {x, DEATH}, {REAPER, END}, {y, END});
    TRY({x, k}, {y, j}, {x, DEATH}, {y, DEATH}, {2, END});
    TRY({x, k}, {y, END}, {2, END}, {x, DEATH}); /* stopped for good */
    TRY({x, k}, {x, DEATH}, {REAPER, r}, {REAPER, DEATH}, {y, END}, {2, END});
    TRY({x, k}, {x, DEATH}, {REAPER, r}, {y, END}, {2, END}, {REAPER, END});
    TRY({x, k}, {y, j}, {x, DEATH}, {REAPER, r}, {y, END}, {REAPER, END});
    TRY({x, k}, {y, j}, {y, DEATH}, {x, END}, {REAPER, END});
    TRY({x, k}, {x, DEATH}, {REAPER, r}, {2, c}, {2, DEATH}, {REAPER, END}, {y, END});
}

/*
 * A repair that meets somebody: x has died late in its operation, the reaper and y, who
 * lives, are both somewhere in theirs, and go on in either order.
 */
static void meet(const struct pair *pair, int x, int y, uint64_t step)
{
    uint64_t xs = steps_of(pair, x, (struct turn_of){y, 0});
    uint64_t ys = steps_of(pair, y, (struct turn_of){x, 0});

    for (uint64_t k = 0; k < xs; k++) { /* y had begun before x died */
        for (uint64_t j = 0; j < ys; j++) {
            TRY({y, j}, {x, k}, {x, DEATH}, {REAPER, END}, {y, END});
        }
    }
    for (uint64_t k = xs - xs / 4; k + 1 < xs; k += xs / 8 + 1) {
        uint64_t rs = steps_of(pair, REAPER, (struct turn_of){x, k});

        for (uint64_t r = 0; r < rs; r += step) {
            for (uint64_t j = r / step % step; j < ys; j += step) {
                TRY({x, k}, {x, DEATH}, {y, j}, {REAPER, r}, {y, END}, {REAPER, END});
                TRY({x, k}, {x, DEATH}, {REAPER, r}, {y, j}, {REAPER, END}, {y, END});
            }
        }
    }
}

static void explore_side(const struct pair *pair, int x, int y, uint64_t points_wanted,
                         uint64_t phase)
{
    uint64_t xs = steps_of(pair, x, (struct turn_of){y, 0});
    uint64_t ys = steps_of(pair, y, (struct turn_of){x, 0});
    uint64_t stride = xs / points_wanted + 1;

    TRY({x, END}, {y, END}, {2, END});
    for (uint64_t k = phase % stride; k < xs; k += stride) {
        interrupt(pair, x, y, k, ys);
        if (mortal) {
            kill_at(pair, x, y, k, ys);
        }
    }
}

static void prepare(const struct pair *pair)
{
    unsigned needs[ACTORS] = {pair->x->needs, pair->y->needs, pair->third->needs, 0};

    thing_count = 0;
    memset(things, 0, sizeof(things));
    crowd(false);
    trouble[0] = '\0';
    set_up(needs);
    EXPECT(now_playing, trouble[0] == '\0', "%s", trouble);
    memcpy(things_kept, things, sizeof(things));
    thing_count_kept = thing_count;
    copy_arena(&snapshots[1]);
}

struct task {
    const struct pair *pair;
    uint64_t points_wanted, phase;
};

static void *explore_pair(void *arg)
{
    const struct task *task = arg;

    snapshot = &snapshots[0];
    for (int who = 0; who < ACTORS; who++) {
        actors[who].moved = true; /* in the last pair, perhaps */
    }
    put_back();
    prepare(task->pair);
    chance = task->phase;
    explore_side(task->pair, 0, 1, task->points_wanted, task->phase);
    if (task->pair->x != task->pair->y) {
        explore_side(task->pair, 1, 0, task->points_wanted, task->phase + 1);
    }
    if (mortal && is_one_of(task->pair, meetings)) {
        meet(task->pair, 0, 1, deep ? 1 : 3);
        meet(task->pair, 1, 0, deep ? 1 : 3);
    }
    put_back(); /* with what the last ones held of this thread's mutexes */
    return NULL;
}

/* In a thread of its own: the records of threads that actors register go with it. */
static void explore_apart(const struct pair *pair, uint64_t points_wanted,
                          uint64_t phase)
{
    struct task task = {pair, points_wanted, phase};
    pthread_t thread;
    int failed = pthread_create(&thread, NULL, explore_pair, &task);

    assert(failed == 0);
    failed = pthread_join(thread, NULL);
    assert(failed == 0);
    (void)failed;
}

static void replay(const struct pair *pair, char **words, int count)
{
    struct schedule s = {.name = pair->name};

    talks = true;
    put_back();
    prepare(pair);
    read_turns(&s, words, count);
    play_and_check(pair, &s);
    (void)printf("explore: %s: sound\n", text_of(&s));
}

/* ---- which pairs ---- */

static void name_pair(struct pair *pair)
{
    (void)snprintf(pair->name, sizeof(pair->name), "%s/%s/%s/%s", variant->name,
                   pair->x->name, pair->y->name, pair->third->name);
}

/* Is the part of the pattern before its first slash `name`, or nothing? */
static bool part_is(const char **pattern, const char *name)
{
    size_t length = strcspn(*pattern, "/");
    bool is =
        length == 0 || (strlen(name) == length && strncmp(*pattern, name, length) == 0);

    *pattern += length + ((*pattern)[length] == '/');
    return is;
}

static bool wanted_pair(const struct pair *pair, const char *pattern)
{
    return part_is(&pattern, variant->name) && part_is(&pattern, pair->x->name) &&
           part_is(&pattern, pair->y->name) && part_is(&pattern, pair->third->name);
}

/* Is it the one of its operations' pairs that is explored in this variant? */
static bool has_its_turn(const struct pair *pair, size_t v, size_t number)
{
    return is_one_of(pair, closely) || is_one_of(pair, meetings) ||
           (pair->third == &thirds[(number + v) % THIRDS] &&
            (deep || number % VARIANTS == v));
}

/*
 * Every pair in every variant; without `deep` each in one of them only, and with few
 * steps. C's operation is another one for each pair.
 */
static void explore_variant(size_t v, const char *pattern, int count, char **words)
{
    uint64_t points_wanted = deep || (pattern != NULL && !brief) ? 40 : 3;
    size_t number = 0;

    open_world(&variants[v]);
    copy_arena(&snapshots[0]);
    for (size_t x = 0; x < OPS; x++) {
        for (size_t y = x; y < OPS; y++, number++) {
            for (size_t t = 0; t < THIRDS; t++) {
                struct pair pair = {.x = &ops[x], .y = &ops[y], .third = &thirds[t]};

                name_pair(&pair);
                if (pattern == NULL ? !has_its_turn(&pair, v, number)
                                    : !wanted_pair(&pair, pattern)) {
                    continue;
                }
                if (count == 0) {
                    explore_apart(&pair, is_one_of(&pair, closely) ? 40 : points_wanted,
                                  number);
                } else {
                    replay(&pair, words, count);
                }
            }
        }
    }
    (void)close(crowd_file);
    close_actors();
}

int main(int argc, char **argv)
{
    const char *pattern = NULL;

    start(argv);
    if (argc > 1 && strcmp(argv[argc - 1], "alive") == 0) {
        mortal = false;
        argc--;
    }
    if (argc > 1 && strcmp(argv[argc - 1], "brief") == 0) {
        brief = true;
        argc--;
    }
    if (argc > 1 && strcmp(argv[argc - 1], "sites") == 0) {
        names_sites = true;
        argc--;
    }
    if (argc > 1 && strcmp(argv[argc - 1], "trace") == 0) {
        traces = true;
        argc--;
    }
    wants_deaths = mortal;
    deep = argc > 1 && strcmp(argv[1], "deep") == 0;
    if (argc > 1 && !deep) {
        pattern = argv[1];
    }
    for (size_t v = 0; v < VARIANTS; v++) {
        explore_variant(v, pattern, argc > 2 ? argc - 2 : 0, argv + 2);
    }
    (void)printf("explore: %llu schedules, %llu steps\n", (unsigned long long)schedules,
                 (unsigned long long)points);
    if (pattern == NULL) {
        return sites_missed(files, excused, mortal, !deep) == 0 ? 0 : 2;
    }
    return schedules == 0;
}

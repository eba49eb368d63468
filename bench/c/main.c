/* SPDX-License-Identifier: MIT */
/*
 * main.c - workloads KIND WORKLOAD [KEY=VALUE...]: measures, prints one JSON object.
 */
#include <dlfcn.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>

#include "bench.h"

us_arena *arena;
void *(*heap_new)(void);
void *(*heap_malloc)(void *heap, size_t size);

static int options_count;
static char **options;

void die(const char *format, ...)
{
    va_list args;

    va_start(args, format);
    fputs("workloads: ", stderr);
    vfprintf(stderr, format, args);
    fputc('\n', stderr);
    va_end(args);
    exit(1);
}

static const char *option_text(const char *key)
{
    size_t length = strlen(key);

    for (int i = 0; i < options_count; i++) {
        if (strncmp(options[i], key, length) == 0 && options[i][length] == '=') {
            return options[i] + length + 1;
        }
    }
    return NULL;
}

uint64_t option(const char *key, uint64_t otherwise)
{
    const char *text = option_text(key);

    return text ? strtoull(text, NULL, 0) : otherwise;
}

bool option_is(const char *key, const char *value)
{
    const char *text = option_text(key);

    return text != NULL && strcmp(text, value) == 0;
}

void samples_add(struct samples *s, uint64_t ns, uint64_t operations)
{
    if (s->count == s->room) {
        s->room = s->room ? 2 * s->room : 1024;
        s->ns = realloc(s->ns, s->room * sizeof(*s->ns));
        if (s->ns == NULL) {
            die("no memory for samples");
        }
    }
    s->ns[s->count++] = (double)ns / (double)operations;
}

void samples_print(const char *name, const struct samples *s)
{
    printf("\"%s\": [", name);
    for (size_t i = 0; i < s->count; i++) {
        printf("%s%.3f", i ? ", " : "", s->ns[i]);
    }
    printf("], ");
}

void arena_open(enum kind kind, uint64_t size, uint64_t keep)
{
    struct us_arena_config config = {.size = size, .keep = keep};

    if (kind == USLUB && us_arena_create(NULL, &config, &arena) != US_OK) {
        die("%s", us_last_error());
    }
    if (kind == HEAP) {
        *(void **)&heap_new = dlsym(RTLD_DEFAULT, "mi_heap_new");
        *(void **)&heap_malloc = dlsym(RTLD_DEFAULT, "mi_heap_malloc");
        if (heap_new == NULL || heap_malloc == NULL) {
            die("no mimalloc is loaded; set LD_PRELOAD");
        }
    }
}

void pool_open(enum kind kind, struct pool *p, size_t size, unsigned number)
{
    struct us_cache_config config = US_CACHE_CONFIG_INIT;
    char name[32];

    p->size = size;
    if (kind == USLUB) {
        config.object_size = size;
        snprintf(name, sizeof(name), "bench-%u", number);
        if (us_cache_create(arena, name, &config, &p->cache) != US_OK) {
            die("%s", us_last_error());
        }
    } else if (kind == LOCKED) {
        p->list = aligned_alloc(64, (sizeof(*p->list) + 63) & ~(size_t)63);
        pthread_mutex_init(&p->list->mutex, NULL);
        p->list->head = NULL;
        p->list->size = size;
    } else if (kind == HEAP) {
        p->heap = heap_new();
    }
}

void *locked_list_grow(struct locked_list *list)
{
    size_t count = 4096 / list->size ? 4096 / list->size : 1;
    char *block = malloc(count * list->size);

    for (size_t i = 1; i < count; i++) {
        *(void **)(block + i * list->size) = list->head;
        list->head = block + i * list->size;
    }
    return block;
}

static enum kind kind_of(const char *text)
{
    static const char *const names[] = {"malloc", "uslub", "locked", "heap"};

    for (unsigned i = 0; i < sizeof(names) / sizeof(*names); i++) {
        if (strcmp(text, names[i]) == 0) {
            return (enum kind)i;
        }
    }
    die("no such allocator: %s", text);
}

int main(int argc, char **argv)
{
    static const struct {
        const char *name;
        void (*run)(enum kind kind);
    } workloads[] = {
        {"pair", workload_pair},         {"live", workload_live},
        {"caches", workload_caches},     {"large", workload_large},
        {"memory", workload_memory},     {"handoff", workload_handoff},
        {"recovery", workload_recovery},
    };
    struct rusage usage;

    if (argc < 3) {
        die("usage: workloads {malloc,uslub,locked,heap} WORKLOAD [KEY=VALUE...]");
    }
    options = argv + 3;
    options_count = argc - 3;
    for (unsigned i = 0; i < sizeof(workloads) / sizeof(*workloads); i++) {
        if (strcmp(argv[2], workloads[i].name) == 0) {
            uint64_t start = now_ns();

            printf("{");
            workloads[i].run(kind_of(argv[1]));
            getrusage(RUSAGE_SELF, &usage);
            printf("\"wall_ms\": %.1f, \"switched_out\": %ld}\n",
                   (double)(now_ns() - start) / 1e6, usage.ru_nivcsw);
            return 0;
        }
    }
    die("no such workload: %s", argv[2]);
}

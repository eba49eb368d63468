/* SPDX-License-Identifier: MIT */
/*
 * site.h - the explorer's build only: every shared access in the source is a site, and
 * tells the explorer so before it happens.
 *
 * The functions of atomic.h take a site first in this build; the macros below give each
 * call one of its own, in a section where explore/sites.h finds them all. Copies of one
 * line, by inlining or in several units, are told to be one by file and line.
 */
#ifndef US_BASE_SITE_H
#define US_BASE_SITE_H

#ifndef US_EXPLORE
#error "base/site.h is for the explorer's build"
#endif

#define US_HERE                                                                        \
    __extension__({                                                                    \
        static struct us_site us_site_here                                             \
            __attribute__((section("us_sites"), aligned(8))) = {                       \
                .file = __FILE__, .func = __func__, .line = __LINE__};                 \
        &us_site_here;                                                                 \
    })

#define us_load_relaxed16(...)      us_load_relaxed16(US_HERE, __VA_ARGS__)
#define us_load_relaxed32(...)      us_load_relaxed32(US_HERE, __VA_ARGS__)
#define us_load_relaxed64(...)      us_load_relaxed64(US_HERE, __VA_ARGS__)
#define us_load_acquire16(...)      us_load_acquire16(US_HERE, __VA_ARGS__)
#define us_load_acquire32(...)      us_load_acquire32(US_HERE, __VA_ARGS__)
#define us_load_acquire64(...)      us_load_acquire64(US_HERE, __VA_ARGS__)
#define us_store_relaxed16(...)     us_store_relaxed16(US_HERE, __VA_ARGS__)
#define us_store_relaxed32(...)     us_store_relaxed32(US_HERE, __VA_ARGS__)
#define us_store_relaxed64(...)     us_store_relaxed64(US_HERE, __VA_ARGS__)
#define us_store_release16(...)     us_store_release16(US_HERE, __VA_ARGS__)
#define us_store_release32(...)     us_store_release32(US_HERE, __VA_ARGS__)
#define us_store_release64(...)     us_store_release64(US_HERE, __VA_ARGS__)
#define us_cas_acq_rel16(...)       us_cas_acq_rel16(US_HERE, __VA_ARGS__)
#define us_cas_acq_rel32(...)       us_cas_acq_rel32(US_HERE, __VA_ARGS__)
#define us_cas_acq_rel64(...)       us_cas_acq_rel64(US_HERE, __VA_ARGS__)
#define us_fetch_add_relaxed16(...) us_fetch_add_relaxed16(US_HERE, __VA_ARGS__)
#define us_fetch_add_relaxed32(...) us_fetch_add_relaxed32(US_HERE, __VA_ARGS__)
#define us_fetch_add_relaxed64(...) us_fetch_add_relaxed64(US_HERE, __VA_ARGS__)
#define us_fetch_add_acq_rel16(...) us_fetch_add_acq_rel16(US_HERE, __VA_ARGS__)
#define us_fetch_add_acq_rel32(...) us_fetch_add_acq_rel32(US_HERE, __VA_ARGS__)
#define us_fetch_add_acq_rel64(...) us_fetch_add_acq_rel64(US_HERE, __VA_ARGS__)
#define us_exchange_acq_rel16(...)  us_exchange_acq_rel16(US_HERE, __VA_ARGS__)
#define us_exchange_acq_rel32(...)  us_exchange_acq_rel32(US_HERE, __VA_ARGS__)
#define us_exchange_acq_rel64(...)  us_exchange_acq_rel64(US_HERE, __VA_ARGS__)
#define us_fetch_or_acq_rel64(...)  us_fetch_or_acq_rel64(US_HERE, __VA_ARGS__)
#define us_fetch_and_acq_rel64(...) us_fetch_and_acq_rel64(US_HERE, __VA_ARGS__)
#define us_cas_pair(...)            us_cas_pair(US_HERE, __VA_ARGS__)
#define us_load_speculative64(...)  us_load_speculative64(US_HERE, __VA_ARGS__)

#endif

"""`uslub explain`: nineteen live answers, at 80 columns, also for programs."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest

from uslub.tools import explain
from uslub.tools.explain_draw import cells, draw
from uslub.tools.explain_lines import count
from uslub.tools.explain_page import learn_page
from uslub.tools.explain_queues import Queues, slab_limits
from uslub.tools.explain_sample import excerpt, read_sample
from uslub.tools.explain_story import TOPICS, Done, Shown, small_cache

REPOSITORY = Path(__file__).resolve().parents[2]


def run(*words: str) -> int:
    parser = argparse.ArgumentParser()
    explain.add_arguments(parser)
    return explain.run(parser.parse_args(words))


def test_the_nineteen_questions_are_all_there() -> None:
    assert sorted(topic.number for topic in TOPICS.values()) == list(range(1, 20))


@pytest.mark.parametrize("name", TOPICS)
def test_each_answer_fits_80_columns_and_is_a_run(name: str) -> None:
    topic = TOPICS[name]
    text = explain.story_text(topic)
    assert max(map(len, text.splitlines())) <= 80
    assert "…" not in text  # nothing was cut
    parts = topic.story().parts
    assert any(not isinstance(part, explain.Said) for part in parts)


def test_most_answers_change_a_cache_and_say_by_which_functions() -> None:
    done = {
        name: [p for p in topic.story().parts if isinstance(p, Done)]
        for name, topic in TOPICS.items()
    }
    without = {name for name, parts in done.items() if not parts}
    assert without == {"tid", "interrupts", "bouncing", "kmalloc", "queues"}
    for parts in done.values():
        for part in parts:
            assert part.steps, part.what
            assert all(step.why for step in part.steps)


def test_the_five_sources_come_from_five_functions() -> None:
    parts = [p for p in TOPICS["sources"].story().parts if isinstance(p, Done)]
    assert [part.steps[-1].function for part in parts] == [
        "slab_alloc",
        "get_freelist",
        "freeze_slab",
        "freeze_slab",
        "new_slab",
    ]
    assert [part.steps[-2].function for part in parts[2:4]] == [
        "pop_chain",
        "get_partial_node",
    ]


def test_the_four_outcomes_of_deactivation_are_shown() -> None:
    parts = [p for p in TOPICS["deactivate"].story().parts if isinstance(p, Done)]
    counted = [set(part.counted) for part in parts]
    for name, seen in zip(
        ("to_head", "to_tail", "full", "empty"), counted, strict=True
    ):
        assert f"deactivate_{name}" in seen


def test_topics_are_found_by_name_and_number(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run("--no-color", "8") == 0
    by_number = capsys.readouterr().out
    assert run("--no-color", "sources") == 0
    assert capsys.readouterr().out == by_number
    assert "source 5, the page allocator" in by_number


@pytest.mark.parametrize(
    ("word", "near"),
    [("souces", "sources"), ("preemption", "tid"), ("Frozn", "frozen")],
)
def test_unknown_topics_suggest_near_ones(
    word: str, near: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(word) == 2
    assert f"did you mean {near}" in capsys.readouterr().err


def test_a_topic_like_nothing_points_to_the_list(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run("xyzzy") == 2
    error = capsys.readouterr().err
    assert "no topic 'xyzzy': see uslub explain --list" in error


def test_the_list_names_every_topic(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--list") == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in TOPICS)
    assert run("--list", "--json") == 0
    assert len(json.loads(capsys.readouterr().out)["topics"]) == 19


def test_json_has_the_states_on_both_sides(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--json", "remote", "tid") == 0
    stories = json.loads(capsys.readouterr().out)["stories"]
    assert [story["topic"] for story in stories] == ["remote", "tid"]
    done = [part for part in stories[0]["parts"] if part["kind"] == "done"]
    assert done[0]["before"] != done[0]["after"]
    assert done[0]["steps"][0]["function"] == "slab_free_slow"


def test_stepping_without_a_terminal_does_not_wait(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run("--step", "--no-color", "birth") == 0
    assert "freed again" in capsys.readouterr().out


def test_the_learners_page_is_what_the_runs_say_now() -> None:
    page = (REPOSITORY / "docs" / "learn.md").read_text(encoding="utf-8")
    assert page == learn_page(), "run: python -m uslub.tools.explain_page"


def test_objects_are_drawn_by_where_they_are() -> None:
    cache = small_cache()
    held = cache.alloc_bulk(4, 0)
    cache.free(held[0], 1)
    cache.free(held[1], 0)
    assert cells(cache, cache.slabs[0]) == ".c##cccc"
    assert draw(cache)["cpu 0"].plain == "cpu 0  slab s0  freelist 1>4>5>6>7  chain -"


def test_sheaves_are_drawn_as_stacks() -> None:
    cache = small_cache(design="6.18", sheaf_capacity=4)
    cache.alloc()
    lines = [line.plain for line in draw(cache).values()]
    assert lines[0].startswith("cpu 0  main (3) 0.2>0.1>0.0  spare none")
    assert "s0  cpu 0   sss#cccc" in lines[-1]


def test_private_work_moves_no_lines_in_slub_and_many_with_one_list() -> None:
    for load in ("each CPU its own, in turn", "each CPU its own, interleaved"):
        slub, operations = count(load, "SLUB")
        shared, _ = count(load, "one list")
        assert slub["object"] == 0
        assert sum(slub.values()) <= 1
        assert sum(shared.values()) > operations / 2


def test_remote_frees_move_fewer_lines_than_one_list() -> None:
    slub, _ = count("CPU 0 allocates, CPU 1 frees", "SLUB")
    shared, _ = count("CPU 0 allocates, CPU 1 frees", "one list")
    assert slub["slab"] > 0
    assert sum(slub.values()) < sum(shared.values())


def test_slabs_arrays_refill_and_flush_in_batches() -> None:
    assert [slab_limits(n) for n in (64, 256, 257, 1025, 4097)] == [
        (120, 60),
        (120, 60),
        (54, 27),
        (24, 12),
        (8, 4),
    ]
    queue = Queues(64)
    queue.alloc(0)
    assert queue.arrays[0] == 15  # an array that was never touched gets 16
    for _ in range(120):
        queue.free(0)
    assert (queue.arrays[0], queue.shared) == (75, 60)
    queue.alloc(1)
    assert queue.shared == 44  # taken from the shared array first


def test_the_sample_is_whole_and_says_where_it_is_from() -> None:
    sample = read_sample()
    assert len(sample.events) == 12_000
    assert {event.cpu for event in sample.events} == {0, 1, 2, 3}
    assert sum(sample.kmalloc.values()) == 165_959
    live: set[int] = set()
    for event in sample.events:
        if event.cache is None:
            live.remove(event.object)
        else:
            live.add(event.object)


def test_an_excerpt_is_made_from_lines_of_a_trace(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("uslub.tools.explain_sample.WINDOW_START", 0)
    trace = [
        " a-1 [002] ..... 6.5: kmalloc: call_site=f+0x1/0x2 ptr=ff10 bytes_req=70"
        " bytes_alloc=96 gfp_flags=GFP_KERNEL node=-1 accounted=false",
        " a-1 [001] ..... 6.5: kmem_cache_alloc: call_site=f ptr=ff20 name=dentry"
        " bytes_req=190 bytes_alloc=192 gfp_flags=GFP_KERNEL node=-1 accounted=true",
        " a-1 [003] ..... 6.6: kmem_cache_free: call_site=f ptr=ff20 name=dentry",
        " a-1 [003] ..... 6.6: kmem_cache_free: call_site=f ptr=ff99 name=dentry",
    ]
    lines = [line for line in excerpt(trace) if not line.startswith("#")]
    assert lines == ["K 70 1", "C 0 192 dentry", "A 1 0 0", "F 3 0"]


def test_states_are_shown_without_changes_marked() -> None:
    story = TOPICS["birth"].story()
    shown = [part for part in story.parts if isinstance(part, Shown)]
    assert all(
        not line.plain.startswith("  >") for part in shown for line in part.lines
    )

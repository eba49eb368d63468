"""The page of `uslub compare`: whole in one file, and what it shows is what was found.

The tests in a browser are for `make check`; they need Chromium and say so.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from lab import chromium, invented
from uslub.lab.compare import Comparison, page

NAMES = (*invented.NAMES, *(f"size-{size}" for size in range(8, 400, 8)))

LEGEND = "#memory svg.marks .role-legend-label text"


@pytest.fixture(scope="module")
def comparison() -> Comparison:
    return invented.comparison("cpu_partial=default,0", "design=6.18,7.1", names=NAMES)


@pytest.fixture(scope="module")
def text(comparison: Comparison) -> str:
    return page(comparison)


def test_a_page_names_nothing_outside_of_itself(text: str) -> None:
    markup = re.sub(
        r"(<script[^>]*>).*?</script>", r"\1</script>", text, flags=re.DOTALL
    )
    assert re.findall(r"<[a-z]+[^>]*\s(?:src|href)=", markup) == []
    assert len(markup) < 50_000  # nothing but scripts was taken out
    assert "sourceMappingURL" not in text
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', text)
    assert policy is not None
    assert policy[1].startswith("default-src 'none';")
    assert "unsafe-eval" not in policy[1]


def test_the_same_comparison_makes_the_same_page(
    comparison: Comparison, text: str
) -> None:
    assert page(comparison) == text


def test_the_data_of_a_page_is_whole(comparison: Comparison, text: str) -> None:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', text)
    assert found is not None
    data = json.loads(found[1])
    assert data["base"] == "cpu_partial=default design=6.18"
    assert len(data["caches"]["rows"]) == 4 * len(NAMES)
    assert sorted(data["charts"]) == ["changes", "memory", "trade"]
    place = data["caches"]["columns"].index("cache")
    assert invented.HOSTILE in {row[place] for row in data["caches"]["rows"]}


@pytest.fixture(scope="module")
def shown(
    text: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Any, chromium.Seen]]:
    pytest.importorskip("playwright.sync_api", reason="requirements/test.txt")
    try:
        chromium.provide()
    except LookupError as error:
        pytest.skip(str(error))
    path = tmp_path_factory.mktemp("page") / "page.html"
    path.write_text(text, encoding="utf-8")
    with chromium.opened(path) as opened:
        yield opened


def cells(shown_page: Any, table: str, field: str) -> list[str]:
    """Texts of the visible cells of one column."""
    place = f"#{table} .tabulator-row .tabulator-cell[tabulator-field='{field}']"
    return [text.strip() for text in shown_page.locator(place).all_inner_texts()]


def enter(shown_page: Any, table: str, field: str, words: str) -> None:
    """Type into the filter of a column, in place of what stood there."""
    box = f"#{table} .tabulator-col[tabulator-field='{field}'] input"
    shown_page.locator(box).click()
    shown_page.keyboard.press("Control+A")
    shown_page.keyboard.press("Delete")
    shown_page.keyboard.type(words)


@pytest.mark.check
def test_the_page_draws_itself_without_a_network(shown: Any) -> None:
    opened, seen = shown
    assert opened.evaluate("document.body.dataset.ready") == "yes"
    assert seen.messages == []
    assert [url[:5] for url in seen.requests] == ["file:"]
    for chart in ("memory", "trade", "changes"):
        assert opened.locator(f"#{chart} svg.marks").count() == 1
        assert opened.locator(f"#{chart} svg.marks path").count() > 5


@pytest.mark.check
def test_the_legend_names_every_point(shown: Any, comparison: Comparison) -> None:
    opened, _ = shown
    legend = opened.locator(LEGEND).all_text_contents()
    assert legend == [one.point.label for one in comparison.outcomes]


@pytest.mark.check
def test_a_click_in_the_legend_lets_the_others_step_back(shown: Any) -> None:
    opened, _ = shown
    lines = "#memory svg.marks .mark-line path"
    assert opened.locator(lines).count() == 4
    assert opened.locator(f"{lines}[opacity='0.12']").count() == 0
    opened.locator(LEGEND).first.click()
    opened.locator(f"{lines}[opacity='0.12']").nth(2).wait_for(state="attached")
    assert opened.locator(f"{lines}[opacity='0.12']").count() == 3


@pytest.mark.check
def test_the_table_of_points_measures_against_the_base(shown: Any) -> None:
    opened, _ = shown
    assert cells(opened, "points", "list_lock") == [
        "1,000",
        "900 -10.0%",
        "800 -20.0%",
        "700 -30.0%",
    ]
    assert cells(opened, "points", "cpu_partial") == ["default", "default", "0", "0"]


@pytest.mark.check
def test_the_cache_table_sorts(shown: Any) -> None:
    opened, _ = shown
    head = "#caches .tabulator-col[tabulator-field='live'] .tabulator-col-title"
    opened.locator(head).click()
    most = [int(text.replace(",", "")) for text in cells(opened, "caches", "live")]
    assert most == sorted(most, reverse=True) and len(set(most)) > 1
    opened.locator(head).click()
    least = [int(text.replace(",", "")) for text in cells(opened, "caches", "live")]
    assert least == sorted(least) and least[0] < most[-1]


@pytest.mark.check
def test_the_cache_table_filters_by_name_and_by_number(shown: Any) -> None:
    opened, _ = shown
    count = opened.locator("#count")
    enter(opened, "caches", "cache", "DENTRY")
    count.filter(has_text=f"4 of {4 * len(NAMES)} rows").wait_for()
    assert set(cells(opened, "caches", "cache")) == {"dentry"}
    enter(opened, "caches", "live", ">12")
    count.filter(has_text=f"2 of {4 * len(NAMES)} rows").wait_for()
    assert sorted(cells(opened, "caches", "live")) == ["14", "16"]
    enter(opened, "caches", "live", "")
    enter(opened, "caches", "cache", "")
    count.filter(has_text=f"{4 * len(NAMES)} of").wait_for()


@pytest.mark.check
def test_any_figure_can_be_seen_cache_by_cache(shown: Any) -> None:
    from playwright.sync_api import expect

    opened, _ = shown
    opened.locator("#figure").select_option("slabs")
    enter(opened, "across", "cache", "dentry")
    expect(opened.locator("#across .tabulator-row")).to_have_count(1)
    row = opened.locator("#across .tabulator-row .tabulator-cell").all_inner_texts()
    assert [text.strip() for text in row] == ["dentry", "21", "23", "25", "27", "6"]


@pytest.mark.check
def test_a_hostile_name_stays_text(shown: Any) -> None:
    opened, seen = shown
    enter(opened, "caches", "cache", "onerror")
    opened.locator("#count").filter(has_text="4 of").wait_for()
    assert set(cells(opened, "caches", "cache")) == {invented.HOSTILE}
    assert opened.locator("img").count() == 0
    assert not any("dialog" in message for message in seen.messages)

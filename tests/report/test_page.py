"""The page as a person meets it, in headless Chromium: wide and narrow, light and dark, by mouse and by keyboard."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from convmixer.report import write_report
from convmixer.report.records import StudyRecord

pytestmark = pytest.mark.slow
SIZES = {"desk": (1280, 900), "phone": (360, 740)}


@pytest.fixture(scope="module")
def address(study_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("page") / "report.html"
    write_report(study_folder, path)
    return path.as_uri()


@pytest.fixture(params=[(size, scheme) for size in SIZES for scheme in ("light", "dark")], ids="-".join)
def page(request: pytest.FixtureRequest, browser: Any, address: str) -> Iterator[Any]:
    """The loaded page; at the end, whatever a test did, nothing was complained about and nothing asked for."""
    size, scheme = request.param
    width, height = SIZES[size]
    context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
    tab = context.new_page()
    complaints: list[str] = []
    requests: list[str] = []
    tab.on("console", lambda message: complaints.append(message.text))
    tab.on("pageerror", lambda error: complaints.append(str(error)))
    tab.on("request", lambda asked: requests.append(asked.url))
    tab.goto(address)
    yield tab
    context.close()
    assert complaints == []
    assert [url for url in requests if not url.startswith("data:")] == [address]


def column(page: Any, name: str) -> list[str]:
    """The texts of a column of the runs, of the rows that are shown."""
    headers = page.locator("table.runs thead th").all_inner_texts()
    index = [header.strip() for header in headers].index(name) + 1
    cells = page.locator(f"table.runs tbody tr:not([hidden]) > :nth-child({index})")
    return [text.strip() for text in cells.all_inner_texts()]


def test_it_fits_and_can_be_read(page: Any) -> None:
    wide, shown = page.evaluate("[document.documentElement.scrollWidth, window.innerWidth]")
    assert wide <= shown  # wide tables scroll by themselves
    sizes = page.evaluate(
        "[...document.querySelectorAll('p, td, th, li, dd')].map(e => parseFloat(getComputedStyle(e).fontSize))"
    )
    assert min(sizes) >= 12


def test_accuracies_stay_in_their_column(page: Any) -> None:
    beyond = """[...document.querySelectorAll('.pinned td:nth-child(2)')].filter(cell => {
        const text = document.createRange();
        cell.textContent = '85.60 ± 10.65%';
        text.selectNodeContents(cell);
        return text.getBoundingClientRect().right > cell.getBoundingClientRect().right;
    }).length"""
    assert page.locator(".pinned td:nth-child(2)").count() > 5
    assert page.evaluate(beyond) == 0


def test_texts_stand_out_from_their_ground(page: Any) -> None:
    """WCAG's contrast, at least 4.5 to 1, of ink and muted text on the paper, in either scheme."""
    contrast = """name => {
        const channels = text => text.match(/[\\d.]+/g).slice(0, 3).map(v => v / 255)
            .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
        const luminance = ([r, g, b]) => 0.2126 * r + 0.7152 * g + 0.0722 * b;
        const probe = document.body.appendChild(document.createElement('i'));
        const of = variable => {
            probe.style.color = `var(${variable})`;
            return luminance(channels(getComputedStyle(probe).color));
        };
        const [a, b] = [of(name), of('--paper')].sort((x, y) => y - x);
        probe.remove();
        return (a + 0.05) / (b + 0.05);
    }"""
    for name in ("--ink", "--muted", "--link"):
        assert page.evaluate(contrast, name) >= 4.5, name
    for i in range(6):
        assert page.evaluate(contrast, f"--series-{i}") >= 3.0, i  # WCAG's for what is drawn


def test_the_scheme_is_the_readers(page: Any) -> None:
    dark = page.evaluate("matchMedia('(prefers-color-scheme: dark)').matches")
    red = page.evaluate("parseInt(getComputedStyle(document.body).backgroundColor.match(/\\d+/)[0])")
    assert (red < 80) == dark


def test_columns_sort_by_value_with_what_is_missing_last(page: Any, record: StudyRecord) -> None:
    known = sorted(f"{100 * run.test_accuracy:.2f}" for run in record.runs if run.test_accuracy is not None)
    button = page.locator("table.runs thead button", has_text="Test")
    for direction, want in (("ascending", known), ("descending", known[::-1])):
        button.click()
        header = page.locator("table.runs thead th", has=page.locator("button", has_text="Test"))
        assert header.get_attribute("aria-sort") == direction
        got = column(page, "Test")
        assert [text.split("%")[0] for text in got[: len(known)]] == want
        assert set(got[len(known) :]) == {"–"}


def test_words_and_status_filter(page: Any, record: StudyRecord) -> None:
    assert page.locator("form.filter output").inner_text() == f"{len(record.runs)} runs"
    page.get_by_label("Filter").fill("wide-  RUNS/")
    assert column(page, "Run") == ["wide-0", "wide-1"]
    assert page.locator("form.filter output").inner_text() == f"2 of {len(record.runs)} runs"
    page.get_by_label("Filter").fill("")
    page.get_by_label("Status").select_option("unreadable")
    assert column(page, "Run") == ["unreadable"]
    page.get_by_label("Status").select_option("")
    assert len(column(page, "Run")) == len(record.runs)


def test_a_link_to_a_run_that_is_filtered_out_shows_it(page: Any) -> None:
    page.get_by_label("Filter").fill("nothing has this")
    assert column(page, "Run") == []
    page.locator("details summary").first.click()
    page.locator("details[open] a").first.click()
    assert "base-0" in column(page, "Run")
    assert page.evaluate("location.hash") == "#run-runs-base-0"


def test_everything_can_be_reached_and_used_by_keyboard(page: Any) -> None:
    reached: list[str] = []
    for _ in range(200):
        page.keyboard.press("Tab")
        here = page.evaluate(
            "(e => e.tagName + ':' + (e.id || e.getAttribute('aria-label') || e.textContent.trim()).slice(0, 24))"
            "(document.activeElement)"
        )
        if here.startswith("BODY"):
            break
        reached.append(here)
    assert reached[0] == "A:Skip to the results"
    for part in ("INPUT:filter", "SELECT:status", "BUTTON:Test", "SUMMARY:All metrics and their ru", "DIV:All runs"):
        assert part in reached
    page.locator("table.runs thead button", has_text="Seed").focus()
    page.keyboard.press("Enter")
    seeds = [text for text in column(page, "Seed") if text != "–"]
    assert seeds == sorted(seeds)


def test_name_and_accuracy_stay_in_sight(page: Any) -> None:
    table = page.locator("div.scroll", has=page.locator("table.runs"))
    table.evaluate("box => { box.scrollLeft = 1e6; }")
    scrolled, left, right = table.evaluate(
        "box => [box.scrollLeft, box.getBoundingClientRect().left, box.getBoundingClientRect().right]"
    )
    assert scrolled > 0
    for column in (1, 2):
        cell = page.locator(f"table.runs tbody tr:first-child > :nth-child({column})")
        edges = cell.evaluate("e => [e.getBoundingClientRect().left, e.getBoundingClientRect().right]")
        assert left - 1 <= edges[0] < edges[1] <= right


def test_points_show_their_values_by_pointer_and_by_keyboard(page: Any) -> None:
    chart = page.locator("figure svg").first
    tip = page.locator("#tip")
    assert not tip.is_visible()
    points = chart.locator(".tip")
    texts = [points.nth(i).get_attribute("data-tip") for i in range(points.count())]
    assert any(text.startswith("base: ") for text in texts)
    points.first.scroll_into_view_if_needed()
    box = points.first.bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    assert tip.inner_text() in texts
    page.mouse.move(0, 0)
    assert not tip.is_visible()
    chart.focus()
    page.keyboard.press("ArrowRight")
    assert tip.inner_text() == texts[0]
    page.keyboard.press("End")
    assert tip.inner_text() == texts[-1]
    page.keyboard.press("Escape")
    assert not tip.is_visible()


def test_nothing_is_cut_on_paper(page: Any) -> None:
    """A4 less its margins is 688 pixels wide."""
    page.set_viewport_size({"width": 688, "height": 1000})
    page.emulate_media(media="print")
    page.evaluate("window.dispatchEvent(new Event('beforeprint'))")
    wide = page.evaluate(
        "[...document.querySelectorAll('table, figure svg')].map(e => e.getBoundingClientRect().right)"
    )
    assert max(wide) <= 689
    lines = """([column, word]) => [...document.querySelectorAll(`.runs td:nth-child(${column})`)].map(cell => {
        const text = document.createRange();
        cell.textContent = word;
        text.selectNodeContents(cell);
        return text.getClientRects().length;
    })"""
    for column_and_word in ([5, "finished"], [7, "digits"], [8, "convmixer"]):
        assert set(page.evaluate(lines, column_and_word)) == {1}, column_and_word


def test_pictures_are_named_in_the_tree_that_screen_readers_use(page: Any) -> None:
    pictures = page.get_by_role("img")
    assert pictures.count() >= 8
    names = [
        pictures.nth(i).get_attribute("aria-label") or pictures.nth(i).get_attribute("alt")
        for i in range(pictures.count())
    ]
    assert all(names)


def test_it_prints_with_everything_open(page: Any, tmp_path: Path) -> None:
    page.pdf(path=tmp_path / "report.pdf", format="A4")
    assert (tmp_path / "report.pdf").read_bytes().startswith(b"%PDF")
    page.emulate_media(media="print")
    page.evaluate("window.dispatchEvent(new Event('beforeprint'))")
    assert page.locator("details:not([open])").count() == 0
    assert not page.locator("form.filter").is_visible()

"""The page in Chromium: what people see and do. The tour of everything is slow; one walk through it is not."""

import shutil
import time

import numpy as np
import pytest
from page_data import ATTACK, make_version, reports, vectors

from recokit import EmbeddingTable, ExactIndex, RelationParameters, write_version
from recokit.page import write_page

pytest.importorskip("jinja2")
pytest.importorskip("plotly")
pytest.importorskip("sklearn")
webdriver = pytest.importorskip("selenium.webdriver")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "google-chrome", "chromium-browser"))), None)
pytestmark = pytest.mark.skipif(
    CHROMIUM is None or shutil.which("chromedriver") is None,
    reason="there is no Chromium, or no chromedriver, to open the page in",
)


class Page:
    """A page that is open."""

    def __init__(self, driver):
        self.driver = driver

    def open(self, path, hash_="", *, size=(1280, 900), dark=False):
        phone = size[0] < 600
        metrics = {"width": size[0], "height": size[1], "deviceScaleFactor": 1, "mobile": phone}
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        still = {"name": "prefers-reduced-motion", "value": "reduce"}
        self.driver.get("about:blank")  # so that another hash is a page opened anew
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        self.driver.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": phone})
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme, still]})
        self.driver.get(path.as_uri() + hash_)
        self.wait("document.documentElement.dataset.explorer === 'ready'")
        return self

    def js(self, script, *arguments):
        return self.driver.execute_script(f"return {script}", *arguments)

    def wait(self, condition, seconds=20):
        end = time.monotonic() + seconds
        while not self.js(condition):
            assert time.monotonic() < end, f"{condition} did not come true; console: {self.console()}"
            time.sleep(0.02)

    def console(self):
        return [entry["message"] for entry in self.driver.get_log("browser")]

    def keys(self, *keys):
        webdriver.ActionChains(self.driver).send_keys(*keys).perform()

    def click(self, selector):
        self.js("arguments[0].scrollIntoView({block: 'center'})", self.find(selector))
        self.find(selector).click()

    def find(self, selector):
        return self.driver.find_element("css selector", selector)

    def search(self, text, key="\ue007"):
        box = self.find("#query")
        box.clear()
        box.send_keys(text, key)

    @property
    def shown(self):
        """Table and id of the entity that the explorer shows."""
        return tuple(
            self.js("[document.getElementById('entity').dataset.table, document.getElementById('entity').dataset.id]")
        )

    def listed(self, number=0):
        """The ids of a list, and the scores as they are shown."""
        return self.js(
            "[...document.querySelectorAll('#entity .list')][arguments[0]].querySelectorAll('li').values()"
            ".map((li) => [li.dataset.id, li.querySelector('.score').textContent]).toArray()",
            number,
        )


@pytest.fixture(scope="module")
def chromium():
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
    yield Page(driver)
    driver.quit()


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """A page of a small version, and the version."""
    folder = tmp_path_factory.mktemp("browser")
    old = make_version(folder / "v1", seed=5)
    new = make_version(folder / "v2", parent="v1", reports=reports())
    names = {"item": {"i07": "Seven Samurai", ATTACK: ATTACK}}
    labels = {"item": {f"i{at:02d}": ATTACK if at % 2 else "even" for at in range(40)}}
    path = folder / "report.html"
    return write_page(new, path, previous=old, names=names, labels=labels, map_sample=41, k=5), new


def exact(version, table, id_, k=5):
    """Ids and scores of the nearest others, as the page shows them."""
    opened = version.table(table)
    row = int(opened.rows([id_])[0])
    rows, scores = ExactIndex.build(opened).search(opened.vectors[[row]], k + 1)
    pairs = [(r, s) for r, s in zip(rows[0], scores[0], strict=True) if r != row][:k]
    ids = opened.ids_at(np.array([r for r, _ in pairs])).to_pylist()
    return [
        [str(i), f"{s:.3f}".replace("-", "−") if abs(s) < 10 else f"{s:.1f}"]
        for i, (_, s) in zip(ids, pairs, strict=True)
    ]


def test_the_explorer_finds_walks_and_keeps_hostile_ids_inert(chromium, report):
    path, version = report
    page = chromium.open(path)
    page.search("i07")
    page.wait("document.getElementById('entity').dataset.id === 'i07'")
    assert page.listed() == exact(version, "item", "i07")
    assert page.js("location.hash") == "#explore/item/i07"
    assert page.js("document.querySelector('#entity h3').textContent") == "Seven Samurai"
    neighbour = page.listed()[0][0]
    page.js("document.querySelector('#entity .list a').focus()")
    page.keys("\ue007")
    page.wait(f"document.getElementById('entity').dataset.id === {neighbour!r}")
    page.search(ATTACK)
    page.wait("document.getElementById('entity').dataset.id.startsWith('<')")
    assert page.shown == ("item", ATTACK)
    for id_ in ("i38", "I38"):  # to the letter, where case alone tells ids apart
        page.search(id_)
        page.wait(f"document.getElementById('entity').dataset.id === '{id_}'")
    page.search("nobody")
    assert (
        "No entity of this page is called “nobody”. It lists the 71 most connected of 71" in page.find("#status").text
    )
    page.js("document.getElementById('map').scrollIntoView()")
    page.wait("document.documentElement.dataset.map === 'drawn'")
    page.wait("document.querySelectorAll('.plot[data-drawn] .main-svg').length > 0")
    assert page.js("[window.attacked, document.images.length]") == [None, 0]
    assert page.js("page.brief('2026-06-01' + 'x'.repeat(300) + '<b>')") == "2026-06-01xxxxxxx…xxxxx&lt;b&gt;"
    assert page.console() == []


@pytest.mark.slow
class TestTour:
    def test_every_figure_is_drawn_in_both_themes_and_survives_print(self, chromium, report):
        page = chromium.open(report[0])
        plots = page.js("document.querySelectorAll('.plot[data-section]').length")
        assert plots == 2 + 2 + 1 + 4
        page.js("document.querySelectorAll('.plot').forEach((plot) => plot.scrollIntoView())")
        for at in range(plots):
            page.js("document.querySelectorAll('.plot[data-section]')[arguments[0]].scrollIntoView()", at)
            page.wait(f"document.querySelectorAll('.plot[data-section]')[{at}].dataset.drawn")
        light = page.js("getComputedStyle(document.body).backgroundColor")
        page.js("scrollTo(0, 0)")
        page.click("#theme")
        assert page.js("getComputedStyle(document.body).backgroundColor") != light
        page.js("dispatchEvent(new Event('beforeprint'))")
        assert page.js("getComputedStyle(document.body).backgroundColor") == light
        assert page.js("[...document.querySelectorAll('details:not(.list)')].every((each) => each.open)")
        page.js("dispatchEvent(new Event('afterprint'))")
        assert page.js("getComputedStyle(document.body).backgroundColor") != light
        assert page.console() == []

    def test_dark_follows_the_system(self, chromium, report):
        colours = []
        for dark in (False, True):
            page = chromium.open(report[0], dark=dark)
            page.js("localStorage.clear()")
            page = chromium.open(report[0], dark=dark)
            colours.append(
                page.js("[getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color]")
            )
        assert colours == [["rgb(251, 250, 248)", "rgb(28, 32, 36)"], ["rgb(18, 21, 24)", "rgb(233, 235, 237)"]]

    @pytest.mark.parametrize("dark", [False, True])
    def test_text_stands_out_from_what_is_behind_it(self, chromium, report, dark):
        page = chromium.open(report[0], dark=dark)
        pairs = page.js(
            "['soft', 'ink', 'accent', 'better', 'worse'].flatMap((text) => ['paper', 'raised', 'accent-soft']"
            ".map((behind) => [text, page.colour(text), page.colour(behind)]))"
        )
        for name, text, behind in pairs:
            assert contrast(text, behind) >= 4.5, (name, text, behind)

    def test_a_phone_scrolls_down_only(self, chromium, report):
        page = chromium.open(report[0], size=(390, 844))
        page.js("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
        page.js("document.getElementById('map').scrollIntoView()")
        page.wait("document.documentElement.dataset.map === 'drawn'")
        assert page.js("document.documentElement.scrollWidth") == 390
        small = page.js(
            "[...document.querySelectorAll('form button, form input, form select, #theme')]"
            ".map((each) => each.getBoundingClientRect().height).filter((height) => height < 40)"
        )
        assert small == []
        page.search("i07")
        page.wait("document.getElementById('entity').dataset.id === 'i07'")
        assert page.console() == []

    def test_the_keyboard_alone_will_do(self, chromium, report):
        page = chromium.open(report[0])
        page.keys("\ue004")
        assert page.js("document.activeElement.className") == "skip"
        page.find("#query").send_keys("i0")
        assert page.js("document.getElementById('query').getAttribute('aria-expanded')") == "true"
        options = page.js("[...document.querySelectorAll('#suggestions li')].map((each) => each.textContent)")
        assert [option.removesuffix("item") for option in options[:3]] == [
            "i09",
            "i08",
            "Seven Samuraii07",
        ]  # by degree
        page.keys("\ue015", "\ue015")  # down, down
        chosen = page.js("document.getElementById('query').getAttribute('aria-activedescendant')")
        assert chosen == "option-1"
        page.keys("\ue007")
        page.wait("document.getElementById('entity').dataset.id === 'i08'")
        assert page.js("document.activeElement.tagName") == "H3"
        page.keys("\ue004", "\ue004", "\ue007")  # past the list's head, to its first entry
        page.wait("document.getElementById('entity').dataset.id !== 'i08'")
        page.driver.back()
        page.wait("document.getElementById('entity').dataset.id === 'i08'")
        page.find("#query").send_keys("i0", "\ue00c")  # escape
        assert page.js("document.getElementById('suggestions').hidden")

    def test_the_address_keeps_the_place_and_what_is_not_there_is_said(self, chromium, report):
        path, version = report
        page = chromium.open(path, "#explore/user/27")
        assert page.shown == ("user", "27")
        user = version.table("user")
        clicks = version.relations["clicks"].apply(user.vectors[user.rows([27])])
        rows, _ = ExactIndex.build(version.table("item")).search(clicks, 5)
        assert [id_ for id_, _ in page.listed(1)] == version.table("item").ids_at(rows[0]).to_pylist()
        assert page.js("document.getElementById('explore').getBoundingClientRect().top") < 300
        page = chromium.open(path, "#explore/user/28")
        assert "called “28”" in page.find("#status").text
        page = chromium.open(path, "#explore/" + "%E0%A4%A/x")  # no address of ours
        assert page.shown == ("user", "0")
        page.search("seven")
        assert "choose one of the list" in page.find("#status").text
        page.search("seven samurai")
        page.wait("document.getElementById('entity').dataset.id === 'i07'")
        page.js("document.getElementById('type').value = '0'")
        page.search("i07")
        assert "lists the 30 most connected of 30" in page.find("#status").text
        assert page.console() == []

    def test_an_address_ends_at_the_explorer_whatever_grows_above_it(self, chromium, report):
        page = chromium.open(report[0], "#explore/item/i07")
        for plot in range(page.js("document.querySelectorAll('.plot[data-section]').length")):
            page.js("document.querySelectorAll('.plot[data-section]')[arguments[0]].style.minHeight = '400px'", plot)
        page.wait("Math.abs(document.getElementById('explore').getBoundingClientRect().top) < 60")
        page.wait("document.querySelector('nav a[aria-current]')?.hash === '#explore'")
        page.keys("\ue008")  # somebody moves on
        page.js("scrollTo(0, 0)")
        page.js("document.querySelector('.plot[data-section]').style.minHeight = '700px'")
        time.sleep(0.2)
        assert page.js("scrollY") == 0

    def test_a_logarithmic_axis_has_labels_however_narrow(self, chromium, report):
        page = chromium.open(report[0])
        assert page.js("page.ticks(0.0557, 0.0669)") == [0.056, 0.058, 0.06, 0.062, 0.064, 0.066]
        assert page.js("page.ticks(0.31, 0.33)") == [0.31, 0.32, 0.33]
        assert page.js("page.ticks(1, 1000)") == [1, 10, 100, 1000]
        assert page.js("page.ticks(3, 40)") == [5, 10, 20]
        assert page.js("page.ticks(0.05, 0.05)") == [0.05]
        assert all(
            3 <= len(page.js("page.ticks(arguments[0], arguments[1])", low, low * wide)) <= 8
            for low in (3e-5, 0.07, 1, 42.5)
            for wide in (1.01, 1.2, 1.9, 3, 8, 30, 900, 1e5)
        )
        page.js("document.getElementById('drift').scrollIntoView()")
        page.wait("document.querySelectorAll('#drift .ytick').length >= 3")

    def test_tables_sort_by_value_and_by_text(self, chromium, report):
        page = chromium.open(report[0])
        column = (
            "[...document.querySelector('#overview table').tBodies[0].rows]"
            ".map((row) => row.cells[arguments[0]].textContent)"
        )
        page.js("document.querySelectorAll('#overview thead button')[2].click()")
        assert [cell.split()[0] for cell in page.js(column, 2)] == ["41", "30"]
        page.js("document.querySelectorAll('#overview thead button')[2].click()")
        assert [cell.split()[0] for cell in page.js(column, 2)] == ["30", "41"]
        page.js("document.querySelectorAll('#overview thead button')[0].click()")
        assert page.js(column, 0) == ["item", "user"]
        assert page.js("document.querySelector('#overview th').getAttribute('aria-sort')") == "ascending"

    def test_missing_numbers_sort_as_the_least(self, chromium, report):
        page = chromium.open(report[0])
        sorted_by_random = (
            "(() => { const table = document.querySelector('#benchmarks table');"
            " const at = [...table.tHead.rows[0].cells].findIndex((cell) => cell.textContent === 'random');"
            " table.tHead.rows[0].cells[at].firstElementChild.click();"
            " return [...table.tBodies[0].rows].map((row) => row.cells[at].textContent); })()"
        )
        first, second = page.js(sorted_by_random), page.js(sorted_by_random)
        assert [cell.split()[0] for cell in first] == ["0.5000", "–"]
        assert second == first[::-1]

    def test_the_map_answers_to_hover_legend_and_click(self, chromium, report):
        page = chromium.open(report[0])
        page.js("document.getElementById('map').scrollIntoView()")
        page.wait("document.documentElement.dataset.map === 'drawn'")
        assert [button.text for button in page.driver.find_elements("css selector", "#planes button")] == [
            "item by label",
            "All types",
        ]
        assert page.js("document.querySelectorAll('#plane .point').length") == 41 + 0
        assert "t-SNE with perplexity" in page.find("#method").text
        point = page.js("document.querySelector('#plane .point').getBoundingClientRect().toJSON()")
        middle = int(point["x"] + point["width"] / 2), int(point["y"] + point["height"] / 2)
        mouse = webdriver.ActionChains(page.driver)
        mouse.w3c_actions.pointer_action.move_to_location(*middle)
        mouse.perform()
        page.wait("document.querySelector('#plane .hovertext')")
        hovered = page.js("document.querySelector('#plane .hovertext').textContent")
        legend = page.js("[...document.querySelectorAll('#plane .legendtext')].map((each) => each.textContent)")
        assert f"{ATTACK[:17]}…{ATTACK[-8:]} (19)" in legend
        mouse = webdriver.ActionChains(page.driver)
        mouse.w3c_actions.pointer_action.click()
        mouse.perform()
        page.wait("location.hash.startsWith('#explore/item/')")
        assert f"item {page.shown[1]}" in hovered
        page.js("document.getElementById('map').scrollIntoView()")
        page.click("#planes button:nth-child(2)")
        page.wait("document.querySelectorAll('#plane .point').length >= 41")
        assert page.js("window.attacked") is None
        assert page.console() == []

    def test_nothing_is_asked_of_a_network(self, chromium, report):
        chromium.driver.execute_cdp_cmd("Network.enable", {})
        offline = {"offline": True, "latency": 0, "downloadThroughput": 0, "uploadThroughput": 0}
        chromium.driver.execute_cdp_cmd("Network.emulateNetworkConditions", offline)
        try:
            page = chromium.open(report[0])
            page.js("document.getElementById('map').scrollIntoView()")
            page.wait("document.documentElement.dataset.map === 'drawn'")
            asked = page.js("performance.getEntriesByType('resource').map((entry) => entry.name)")
            assert [name for name in asked if not name.startswith(("data:", "blob:"))] == []
            refused = page.driver.execute_async_script(
                "fetch('https://example.org').then(() => arguments[0]('sent'), (e) => arguments[0](String(e)))"
            )
            assert refused != "sent"
        finally:
            online = {**offline, "offline": False, "downloadThroughput": -1, "uploadThroughput": -1}
            chromium.driver.execute_cdp_cmd("Network.emulateNetworkConditions", online)
        assert all("Content Security Policy" in message for message in page.console())

    def test_twenty_thousand_entities_stay_quick(self, chromium, tmp_path):
        count = 20_000
        ids = [f"user-{number * 7:06d}" for number in range(count)]
        table = EmbeddingTable.from_arrays(ids, vectors(count, 16), entity="user", version="v", comparator="cos")
        follows = RelationParameters("follows", "user", "user", "translation", vectors(1, 16, 1)[0])
        version = write_version(tmp_path / "v", {"user": table}, relations=[follows])
        names = {"user": {id_: f"Person {number}" for number, id_ in enumerate(ids)}}
        page = chromium.open(write_page(version, tmp_path / "p.html", names=names, map_sample=0))
        page.find("#query").send_keys("person")
        took = page.driver.execute_script(
            "const started = performance.now();"
            "document.getElementById('query').dispatchEvent(new Event('input'));"
            "return performance.now() - started"
        )
        assert took < 1000  # some 10 ms; the bound is for a machine that does much else
        assert page.js("document.querySelectorAll('#suggestions li').length") == 12
        page.search("Person 19999")
        page.wait(f"document.getElementById('entity').dataset.id === {ids[-1]!r}")
        assert page.listed() == exact(version, "user", ids[-1], 10)
        assert page.console() == []


def contrast(one, two):
    """The ratio of WCAG 2, of two colours as #rrggbb."""

    def luminance(colour):
        channels = np.array([int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)])
        linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
        return linear @ [0.2126, 0.7152, 0.0722] + 0.05

    light, dark = sorted(map(luminance, (one, two)), reverse=True)
    return light / dark

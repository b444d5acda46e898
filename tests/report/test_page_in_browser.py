"""The page in a real browser: what it shows, how it is used, and that it needs no network."""

import http.server
import io
import json
import shutil
import threading
from contextlib import ExitStack, closing, contextmanager

import pytest

from distributed_maddpg.report.page import page_of, report_data, write_report
from distributed_maddpg.run.folder import RunFolder
from distributed_maddpg.run.progress import Progress
from distributed_maddpg.run.training import train_run, train_seeds
from tests.support.browser import find_chromium, open_browser
from tests.support.serial_runs import tiny

SHORT = {"pacing": {"total_env_steps": 800}, "evaluation": {"episodes": 3, "final_episodes": 20}}
PLOTS = ".plot .main-svg"
MOVED = ".stage:not([data-frame='0'])"
MINUS = "\N{MINUS SIGN}"


def trained(folder, env_id="simple_adversary", **changes):
    train_run(tiny(env_id, **SHORT, **changes), folder, Progress(io.StringIO()))
    return folder


@pytest.fixture(scope="session")
def run_dir(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("pages") / "run")


@pytest.fixture(scope="module")
def browser():
    # Not for the whole session: Playwright's event loop runs in this thread as long as the browser does.
    with open_browser() as opened:
        yield opened


@contextmanager
def opened(browser, place, problems, width=1400, **options):
    """Open a page by its path or address; add to `problems` what it reports and whom else it asks."""
    address = place if isinstance(place, str) else place.as_uri()
    options = {"reduced_motion": "reduce", "color_scheme": "light", **options}
    with closing(browser.new_context(viewport={"width": width, "height": 900}, **options)) as context:
        page = context.new_page()
        page.set_default_timeout(20_000)
        page.on("console", lambda message: problems.append(message.text))
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("request", lambda request: problems.extend(foreign(request.url, address)))
        page.goto(address)
        yield page


def foreign(url, address):
    own = (
        url == address or url.startswith("data:") or (address.startswith("http") and url == f"{address}data")
    )
    return [] if own else [f"asked for {url}"]


@pytest.fixture
def visit(browser):
    """Return a function that opens a page, and check at the end that it reported nothing and asked nobody."""
    problems = []
    with ExitStack() as stack:

        def open_page(place, wait_for=".pill", **options):
            page = stack.enter_context(opened(browser, place, problems, **options))
            page.wait_for_selector(wait_for)
            return page

        yield open_page
    assert problems == []


@pytest.fixture(scope="module")
def shared(browser, run_dir):
    """The page of the run, opened once; inflating and compiling Plotly takes a second."""
    problems = []
    with opened(browser, run_dir / "report.html", problems) as page:
        wait_for_plots(page)
        yield page
    assert problems == []


def wait_for_plots(page):
    """Scroll to the first charts, which are drawn when they come near the window."""
    page.evaluate("document.getElementById('results').scrollIntoView()")
    page.wait_for_selector(PLOTS)


@pytest.fixture
def page(shared):
    """The shared page as a reader finds it."""
    for name in ("episode", "view"):
        shared.select_option(f"#{name}", index=0)
    shared.select_option("#pace", "1")
    shared.check("#loop")
    shared.locator("#scrub").fill("0")  # which pauses
    shared.evaluate("scrollTo(0, 0)")
    return shared


def texts(page, selector):
    return [element.inner_text() for element in page.query_selector_all(selector)]


def frame_of(page):
    return [int(element.get_attribute("data-frame")) for element in page.query_selector_all(".stage")]


def picture_of(page, index=-1):
    """Return what a canvas shows."""
    return page.evaluate("at => [...document.querySelectorAll('.stage canvas')].at(at).toDataURL()", index)


def is_playing(page):
    return page.get_attribute("#play", "aria-label") == "Pause"


def test_the_page_that_train_leaves_shows_the_runs_results(run_dir, page):
    summary = json.loads((run_dir / "summary.json").read_text())
    values = [text.replace("\n", "") for text in texts(page, ".result .value")]
    assert values == [f"{rate:.1f}%" for rate in summary["evaluation"]["success"].values()]
    returns = [text.replace(MINUS, "-") for text in texts(page, ".rows b")]
    assert returns == [f"{own:+.2f}" for own in summary["evaluation"]["agent_episode_returns_mean"].values()]
    facts = dict(zip(texts(page, ".facts dt"), texts(page, ".facts dd"), strict=True))
    assert facts["Env steps"] == "800" and facts["Weights digest"].startswith(summary["weights_digest"][:8])
    assert texts(page, ".pill") == ["Finished"]
    assert "bottleneck was" in page.inner_text("#speed .callout")
    assert not page.is_visible("#plain")


def test_curves_are_those_of_the_tables(run_dir, page):
    data = report_data([run_dir])
    charts = (
        "[...document.querySelectorAll('.plot')].map(p => p.data.filter(t => t.name).map(t => [t.x, t.y]))"
    )
    page.set_viewport_size({"width": 1400, "height": 6000})
    page.wait_for_selector("#speed .chart:last-child .main-svg")
    shown = page.evaluate(charts)
    page.set_viewport_size({"width": 1400, "height": 900})
    expected = [[[data["xs"][own["x"]], own["y"]] for own in chart["series"]] for chart in data["charts"]]
    assert shown == expected and len(shown) >= 9


def test_smoothing_averages_and_a_legends_button_hides(page):
    first = "document.querySelector('.plot').data.filter(t => t.name)"
    raw = page.evaluate(f"{first}[0].y")
    smoothing = page.locator(".smoothing").first
    smoothing.fill("3")
    expected = [sum(raw[max(0, k - 2) : k + 1]) / len(raw[max(0, k - 2) : k + 1]) for k in range(len(raw))]
    assert page.evaluate(f"{first}[0].y") == pytest.approx(expected)
    assert set(texts(page, ".width")) == {"mean of 3"}
    page.click(".chart .keys button >> nth=0")
    assert page.evaluate(f"{first}.map(t => t.name)") == ["adversary", "coverage"]
    page.click(".chart .keys button >> nth=0")
    smoothing.fill("1")
    assert page.evaluate(f"{first}[0].y") == raw


def test_stages_stand_side_by_side_and_start_alike(page):
    assert texts(page, ".stage figcaption b") == ["Start", "10 %", "30 %", "End"]
    assert frame_of(page) == [0, 0, 0, 0]
    pictures = {picture_of(page, index) for index in range(4)}
    page.press("#stages", "End")
    assert len(pictures) == 1 and len({picture_of(page, index) for index in range(4)}) > 1


def test_the_player_is_used_by_mouse(page):
    before = picture_of(page)
    page.click("#forward", click_count=2)  # in MPE nobody has moved after the first step
    assert frame_of(page) == [2] * 4 and picture_of(page) != before
    page.click("#back", click_count=2)
    assert frame_of(page) == [0] * 4 and picture_of(page) == before
    page.click("#play")
    page.wait_for_selector(MOVED)
    assert is_playing(page)
    page.click("#play")
    frame = frame_of(page)
    assert not is_playing(page) and frame[0] >= 1
    page.locator("#scrub").fill("7")
    assert frame_of(page) == [7] * 4 and page.inner_text("#step") == "step 7 / 10"


def test_without_a_loop_the_episode_ends(page):
    page.uncheck("#loop")
    page.select_option("#pace", "4")
    page.press("#play", "Enter")
    page.wait_for_selector("#play[aria-label='Play']")
    assert frame_of(page) == [10] * 4


def test_the_player_is_used_by_keyboard(page):
    page.focus("#forward")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowLeft")
    assert frame_of(page) == [1] * 4
    page.keyboard.press("End")
    assert frame_of(page) == [10] * 4
    page.keyboard.press("Home")
    page.focus("#scrub")
    page.keyboard.press(" ")
    assert is_playing(page) and frame_of(page)[0] < 10
    page.keyboard.press(" ")
    assert not is_playing(page)


def test_everything_can_be_reached_with_the_tab_key_and_shows_where_it_is(page):
    reached = set()
    focused = "(own => [own.id || own.tagName, getComputedStyle(own).outlineStyle])(document.activeElement)"
    for _ in range(60):
        page.keyboard.press("Tab")
        name, outline = page.evaluate(focused)
        reached.add(name)
        assert outline != "none" or name == "BODY"  # after the last one
    assert reached >= {"theme", "back", "play", "forward", "scrub", "episode", "view", "pace", "loop"}


def test_episodes_and_policies_can_be_chosen(page):
    first = picture_of(page)
    page.select_option("#episode", "1")
    assert picture_of(page) != first and "was not chosen" in page.inner_text("#said")
    page.select_option("#view", label="Start (0 env steps)")
    assert texts(page, ".stage figcaption b") == ["Start"]
    page.select_option("#view", index=0)
    assert len(frame_of(page)) == 4


def test_numbers_beside_the_replay_are_those_of_the_episode(run_dir, page):
    world = report_data([run_dir])["replay"]["worlds"][0]
    played = world["episodes"][0]["played"][-1]
    page.locator("#scrub").fill("4")
    row = texts(page, ".stage >> nth=3 >> tbody tr:nth-child(1) td")
    [goal] = world["episodes"][0]["goals"]
    place = [value / 1000 for value in played["positions"][4 * 6 : 4 * 6 + 2]]
    mark = [value / 1000 for value in played["landmarks"][2 * goal : 2 * goal + 2]]
    distance = ((place[0] - mark[0]) ** 2 + (place[1] - mark[1]) ** 2) ** 0.5
    assert float(row[1]) == pytest.approx(distance, abs=0.006)
    assert float(row[2].replace(MINUS, "-")) == pytest.approx(played["rewards"][9] / 1000, abs=0.006)
    total = sum(played["rewards"][0:12:3]) / 1000
    assert float(row[3].replace(MINUS, "-")) == pytest.approx(total, abs=0.06)


def test_motion_starts_by_itself_unless_the_reader_prefers_none(run_dir, visit, page):
    assert not is_playing(page)
    moving = visit(run_dir / "report.html", reduced_motion="no-preference")
    moving.locator("#replay").scroll_into_view_if_needed()
    moving.wait_for_selector(MOVED)
    assert is_playing(moving)


def test_the_theme_follows_the_system_and_the_button_and_is_remembered(run_dir, visit):
    page = visit(run_dir / "report.html", color_scheme="dark")
    colour = "getComputedStyle(document.body).backgroundColor"
    dark = page.evaluate(colour)
    page.click("#theme")
    light = page.evaluate(colour)
    assert dark != light
    page.reload()
    assert page.evaluate(colour) == light


def test_nothing_is_wider_than_a_phone(run_dir, visit):
    page = visit(run_dir / "report.html", width=390, is_mobile=True, has_touch=True)
    wait_for_plots(page)
    page.evaluate("for (const own of document.querySelectorAll('details')) own.open = true")
    assert page.evaluate("document.scrollingElement.scrollWidth") <= 390
    assert page.evaluate("[...document.querySelectorAll('.plot')].every(p => p.scrollWidth <= innerWidth)")


def test_settings_are_searched_and_filtered(page):
    page.fill("#search", "tau")
    shown = [own for own in page.query_selector_all("#settings tbody tr") if own.is_visible()]
    assert [own.get_attribute("data-name") for own in shown] == ["algorithm.tau"]
    page.fill("#search", "nothing of the kind")
    assert page.is_visible("#nothing")
    page.fill("#search", "")
    page.check("#changed")
    changed = [
        own.get_attribute("data-name")
        for own in page.query_selector_all("#settings tbody tr")
        if own.is_visible()
    ]
    page.uncheck("#changed")
    assert "pacing.total_env_steps" in changed and "algorithm.tau" not in changed


def test_without_javascript_the_summary_is_there(run_dir, visit):
    page = visit(run_dir / "report.html", "#plain", java_script_enabled=False)
    assert "need JavaScript" in page.inner_text("#plain") and "800" in page.inner_text("#plain table")
    assert not page.is_visible("#page")


def test_runs_are_compared_with_a_hostile_name_and_several_seeds(run_dir, visit, tmp_path):
    hostile = trained(tmp_path / "</script><img src=x onerror=alert(1)>", seed=7)
    seeds = tmp_path / "three"
    train_seeds(tiny(**SHORT), 2, seeds, Progress(io.StringIO()))
    page = visit(write_report([run_dir, hostile, seeds], tmp_path / "compared.html"))
    wait_for_plots(page)
    assert [text.splitlines()[0] for text in texts(page, ".run h3")] == ["run", hostile.name, "three"]
    differing = texts(page, "#overview .settings tbody th")
    assert differing == ["seed"]
    assert texts(page, ".stage figcaption b")[-1] == "three seed_1, end"
    series = page.evaluate("document.querySelector('.plot').data.filter(t => t.name).map(t => t.name)")
    assert series == ["run", hostile.name, "three"]
    page.set_viewport_size({"width": 390, "height": 800})
    assert page.evaluate("document.scrollingElement.scrollWidth") <= 390


def test_what_agents_say_is_written_beside_them(visit, tmp_path):
    page = visit(trained(tmp_path / "run", "simple_reference") / "report.html")
    page.press("#stages", "End")
    assert " says " in page.inner_text(".stage tbody")


def test_other_environments_say_why_there_is_no_replay(visit, tmp_path):
    env = {"id": "tests.support.scored:parallel_env"}
    page = visit(trained(tmp_path / "run", env["id"]) / "report.html")
    assert "only the scenarios of MPE2" in page.inner_text("#replay")


class Server:
    """Serves a page and its data on loopback."""

    def __init__(self):
        self.data = {}
        server = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                is_data = self.path == "/data"
                body = json.dumps(server.data) if is_data else page_of(server.data, "/data")
                self.send_response(200)
                self.send_header(
                    "Content-Type", "application/json" if is_data else "text/html; charset=utf-8"
                )
                self.end_headers()
                self.wfile.write(body.encode())

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()


def test_a_live_page_shows_new_data_in_place_and_the_end(run_dir, visit):
    with closing(Server()) as server:
        server.data = {**report_data([run_dir]), "live": True}
        page = visit(server.url)
        wait_for_plots(page)
        page.evaluate("document.documentElement.dataset.theme = 'dark'")
        page.locator("#scrub").fill("6")
        page.evaluate("document.querySelector('#settings details:not([open])').open = true; scrollTo(0, 500)")
        opened = page.locator("#settings details[open]").count()
        newer = json.loads(json.dumps(server.data))
        newer["groups"][0]["results"][0]["value"] = "12.3"
        newer["charts"][0]["series"][0]["y"] = [1.0] * len(newer["charts"][0]["series"][0]["y"])
        newer["live"] = False
        server.data = newer
        page.wait_for_selector("#live[data-state='ended']")
        assert page.inner_text(".result .value").startswith("12.3")
        assert set(page.evaluate("document.querySelector('.plot').data.filter(t => t.name)[0].y")) == {1}
        assert frame_of(page) == [6] * 4 and page.evaluate("scrollY") == 500
        assert page.locator("#settings details[open]").count() == opened
        assert page.evaluate("document.documentElement.dataset.theme") == "dark"


def test_a_live_page_says_that_the_server_is_gone(run_dir, visit, browser):
    with closing(Server()) as server:
        server.data = {**report_data([run_dir]), "live": True}
        context = browser.new_context()
        page = context.new_page()
        page.goto(server.url)
        page.wait_for_selector("#live[data-state='live']")
    page.wait_for_selector("#live[data-state='lost']")
    assert page.inner_text("#live").startswith("connection lost")
    context.close()


def test_a_run_that_has_just_started_has_a_page(visit, tmp_path):
    with closing(RunFolder(tmp_path)) as folder:
        folder.open_tables(None, 0)
        path = tmp_path / "page.html"
        path.write_text(page_of(report_data([tmp_path])))
        page = visit(path)
        assert texts(page, ".pill") == ["Starting"]


def test_without_chromium_these_tests_are_skipped_but_fail_in_ci(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match="needs Chromium: apt-get install chromium"):
        find_chromium()
    monkeypatch.setenv("CI", "1")
    with pytest.raises(pytest.fail.Exception, match="needs Chromium"):
        find_chromium()

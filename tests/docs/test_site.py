"""The documentation site: every module has a place in it, and it builds without a warning or the network."""

from __future__ import annotations

import dataclasses
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from distributed_maddpg import MADDPG, MADDPGConfig
from distributed_maddpg.config import sections
from distributed_maddpg.envs import VectorEnv

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "distributed_maddpg"


def test_every_module_is_on_one_page_of_the_reference() -> None:
    lists = [
        line.split()
        for page in (ROOT / "docs" / "api").glob("*.md")
        for line in re.findall(r"^<!-- modules: (.+) -->$", page.read_text(encoding="utf-8"), re.MULTILINE)
    ]
    # A page may name first what shall come first, and then the whole folder.
    files = [file for names in lists for file in {file for name in names for file in files_of(name)}]
    expected = set(PACKAGE.rglob("*.py")) - {PACKAGE / "__init__.py", PACKAGE / "_version.py"}
    assert Counter(files) == Counter(expected), "name a new module in docs/api/"


def files_of(name: str) -> list[Path]:
    place = PACKAGE / name
    return list(place.rglob("*.py")) if name.endswith("/") else [place.with_suffix(".py")]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the site as `make docs` does."""
    out = tmp_path_factory.mktemp("site")
    [line] = re.findall(r"-m (sphinx .+)$", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    *options, _ = line.split()
    # Elsewhere than here, so that the tests of a checkout do not meet in a folder.
    command = [sys.executable, "-m", *options, str(out / "html"), "-d", str(out / "doctrees")]
    # Without the network: a proxy at which nobody listens.
    offline = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9")
    environment = {**os.environ, **offline, "PYTHONPATH": str(ROOT)}
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=900)
    assert result.returncode == 0, result.stderr[-5000:]
    assert result.stderr == ""
    return out / "html"


# A minute and a half: it imports every module and writes ninety pages.
@pytest.mark.slow
def test_the_reference_has_the_public_names_and_every_setting(site: Path) -> None:
    def anchors(page: str) -> set[str]:
        return set(re.findall(r' id="(distributed_maddpg\.[\w.]+)"', read(site, f"docs/api/{page}.html")))

    methods = [name for name in vars(MADDPG) if not name.startswith("_")]
    assert {f"distributed_maddpg.trainer.MADDPG.{name}" for name in methods} <= anchors("public")
    assert "distributed_maddpg.tune.MADDPGTrainable" in anchors("public")
    config = MADDPGConfig()
    settings = {
        f"distributed_maddpg.config.{type(section).__module__.rpartition('.')[2]}.{type(section).__name__}.{each.name}"
        for section in (getattr(config, each.name) for each in dataclasses.fields(config))
        if isinstance(section, sections.Section)
        for each in dataclasses.fields(section)
    }
    assert len(settings) > 50
    assert settings <= anchors("settings")
    interface = [name for name in vars(VectorEnv) if not name.startswith("_")]
    assert {f"distributed_maddpg.envs.base.VectorEnv.{name}" for name in interface} <= anchors("environments")


@pytest.mark.slow
def test_help_texts_are_whole(site: Path) -> None:
    text = re.sub(r"<[^>]+>", "", read(site, "docs/api/settings.html"))
    assert "auto: compiled if the environment is. vectorized: compiled, or an error if it is not." in text
    assert "Environment copies per worker, stepped together." in text


@pytest.mark.slow
def test_formulas_are_mathml(site: Path) -> None:
    page = read(site, "docs/tutorial.html")
    assert page.count('<math xmlns="http://www.w3.org/1998/Math/MathML" display="block">') >= 7
    assert "\\nabla" not in page


@pytest.mark.slow
def test_nothing_is_loaded_from_the_network(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert len(pages) > 60
    for page in pages:
        text = page.read_text(encoding="utf-8")
        assert not re.search(r"<(script|link|img)\b[^>]*\b(src|href)=\"(https?:)?//", text), page
    for style in site.rglob("*.css"):
        assert not re.search(r"url\([\"']?(https?:)?//", style.read_text(encoding="utf-8")), style


@pytest.mark.slow
def test_it_begins_at_its_root(site: Path) -> None:
    [target] = re.findall(r"url=([^\"]+)", read(site, "index.html"))
    assert (site / target).exists()
    start = read(site, target)
    for page in ("README", "tutorial", "running", "architecture", "api/public", "decisions/README"):
        assert f"{page}.html" in start, page


def read(site: Path, name: str) -> str:
    return (site / name).read_text(encoding="utf-8")

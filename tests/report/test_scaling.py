from __future__ import annotations

import re

from distributed_maddpg.report.scaling import scaling_page
from tests.benchmarks.test_tables import job, result


def test_the_page_holds_rates_efficiency_and_time_and_needs_no_network() -> None:
    page = scaling_page(result(benchmark="scaling", points=[job(1), job(2, "push")]))
    assert not re.findall(r"<(?:script|link|img)[^>]+(?:src|href)=[\"']https?:", page)
    for title in ("Environment steps per second", "Efficiency against ideal", "Where the time goes"):
        assert title in page
    assert re.search(
        r'"name":"collecting alone, 64 envs per worker","x":\[1,2\],"y":\[1000\.0,2000\.0\]', page
    )
    assert re.search(r'"name":"with learning, 64 envs per worker","x":\[1,2\],"y":\[25\.0,25\.0\]', page)
    assert '"barmode":"stack"' in page
    assert "<th>2 x 64</th><td>push</td>" in page
    assert page.count("<html") == 1


def test_a_command_is_escaped() -> None:
    page = scaling_page(result(command="<x>", points=[job(1)]))
    assert "<code>&lt;x&gt;</code>" in page

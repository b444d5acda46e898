"""A real head, for the tests of one file."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.support.head import Head


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    """Start a head with the command of cluster/README.md; stop it after the file's last test."""
    from tests.support.head import running_head  # loads Ray, which the tests of files do without

    with running_head() as started:
        yield started

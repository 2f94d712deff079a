"""Browsers and servers for the tests of the page."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.dashboard.browser import WHY_NOT, Browser
from tests.dashboard.page_server import PageServer
from tests.dashboard.sample import Sample


@pytest.fixture(scope="package")
def window(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """A Chromium that all tests here share."""
    if WHY_NOT:
        pytest.skip(WHY_NOT)
    opened = Browser(tmp_path_factory.mktemp("profile"))
    yield opened
    opened.close()


@pytest.fixture
def browser(window: Browser) -> Iterator[Browser]:
    """It, as a light window on a desk with nothing in it."""
    window.open("about:blank")
    window.size(1280, 900)
    window.prefer("prefers-color-scheme", "light")
    window.forget()
    yield window
    window.open("about:blank")


@pytest.fixture
def sample() -> Sample:
    """A job's values, which a test may change before the page is opened or while it is."""
    return Sample()


@pytest.fixture
def server(sample: Sample) -> Iterator[PageServer]:
    """Serves the page and the sample."""
    served = PageServer(sample)
    yield served
    served.close()

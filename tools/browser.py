"""A real Chromium without a window, for the tests of the page and for its pictures."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
import shutil
import tempfile

from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service

SWITCHES = ('--headless', '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run',
            '--disable-background-networking', '--disable-component-update', '--disable-sync',
            '--disable-dev-shm-usage', '--hide-scrollbars')


def missing() -> str:
    """Return what must be installed to have a browser, '' where nothing is missing."""
    wanted = {'chromium': 'chromium', 'chromedriver': 'chromium-driver'}
    return ' '.join(package for program, package in wanted.items() if not shutil.which(program))


@contextmanager
def browser(*, width: int = 1000, height: int = 760, language: str = 'en',
            scale: float = 1) -> Iterator[Chrome]:
    """Give a browser with nothing in its memory; it ends with the context."""
    options = ChromeOptions()
    options.binary_location = shutil.which('chromium') or ''
    for switch in SWITCHES:
        options.add_argument(switch)
    options.add_argument(f'--window-size={width},{height}')
    options.add_argument(f'--lang={language}')
    options.add_experimental_option('prefs', {'intl.accept_languages': language})
    options.set_capability('goog:loggingPrefs', {'browser': 'ALL'})
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        options.add_argument(f'--user-data-dir={profile}')
        driver = Chrome(options, Service(shutil.which('chromedriver')))
        try:
            resize(driver, width, height, scale)
            yield driver
        finally:
            driver.quit()


def resize(driver: Chrome, width: int, height: int, scale: float = 1) -> None:
    """Give the page a size in CSS pixels; a window cannot be narrower than 500."""
    driver.execute_cdp_cmd('Emulation.setDeviceMetricsOverride', {
        'width': width, 'height': height, 'deviceScaleFactor': scale, 'mobile': width < 500})


def set_dark(driver: Chrome, is_dark: bool) -> None:
    """Have the page believe that the system is dark, or light."""
    driver.execute_cdp_cmd('Emulation.setEmulatedMedia', {'features': [
        {'name': 'prefers-color-scheme', 'value': 'dark' if is_dark else 'light'}]})


def save_picture(driver: Chrome, path: Path) -> None:
    """Save what the page shows as PNG."""
    driver.save_screenshot(str(path))

"""A real browser, Debian's Chromium, driven through its own driver; tests are skipped where there is none."""

import shutil

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import Select, WebDriverWait

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
needs_browser = pytest.mark.skipif(
    not (CHROMIUM and DRIVER), reason="NO BROWSER: nobody looked at the pages; apt-get install chromium chromium-driver"
)


class Browser:
    """A browser with a profile of its own in `folder`, for use in a `with` block."""

    def __init__(self, folder):
        options = webdriver.ChromeOptions()
        options.binary_location = CHROMIUM
        for argument in (
            *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
            *("--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage"),
            *(f"--user-data-dir={folder}", "--window-size=1280,900"),
        ):
            options.add_argument(argument)
        self.driver = webdriver.Chrome(options=options, service=Service(DRIVER))

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.driver.quit()

    def open(self, url):
        self.driver.get(url)

    def fill(self, name, text):
        """Replace what stands in a field."""
        field = self.driver.find_element(By.NAME, name)
        field.clear()
        field.send_keys(text)

    def choose(self, name, label):
        Select(self.driver.find_element(By.NAME, name)).select_by_visible_text(label)

    def press(self, selector, expected):
        """Press what `selector` (CSS) finds, and wait for a new page that has the text `expected`."""
        self._leave(self.driver.find_element(By.CSS_SELECTOR, selector), expected)

    def follow(self, link, expected):
        """Follow a link by its text, and wait as `press` does."""
        self._leave(self.driver.find_element(By.PARTIAL_LINK_TEXT, link), expected)

    def texts(self, selector):
        return [element.text for element in self.driver.find_elements(By.CSS_SELECTOR, selector)]

    def tick(self, selector):
        self.driver.find_element(By.CSS_SELECTOR, selector).click()

    def _leave(self, element, expected):
        self.driver.execute_script("window.isOld = true")
        element.click()

        def has_come(driver):
            return driver.execute_script(
                "return !window.isOld && document.readyState == 'complete' && document.body.innerText.includes(arguments[0])",
                expected,
            )

        WebDriverWait(self.driver, 60, ignored_exceptions=[Exception]).until(has_come, f"no page with {expected!r}")

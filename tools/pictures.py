"""
Write the pictures of the page in docs/images, from a real run with the default model.

Needs Chromium and its driver, and a font with Chinese characters (Debian: fonts-noto-cjk).
"""

import argparse
from collections.abc import Sequence
import os
from pathlib import Path
import re
import secrets
import subprocess
import sys
import tempfile
import time

from browser import browser, missing, resize, save_picture, set_dark
from demo import BIN, build_model, running
from selenium.webdriver import Chrome
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

IMAGES = Path(__file__).resolve().parents[1] / 'docs' / 'images'
DEADLINE_S = 120
PROMPTS = ('What is a robot? Answer in two sentences.',
           'Write a Python function that returns the larger of two numbers.',
           'How do robots see the world?')
LONG_PROMPT = 'Give me five ideas for a rainy day, as a numbered list.'


def wait_for(driver: Chrome, script: str) -> None:
    """Wait until an expression is true on the page."""
    WebDriverWait(driver, DEADLINE_S, 0.05).until(
        lambda _: driver.execute_script(f'return {script}'))


def ask(driver: Chrome, prompt: str) -> None:
    driver.find_element('id', 'prompt').send_keys(prompt, Keys.ENTER)
    wait_for(driver, "document.querySelector('.turn:last-child').dataset.phase === 'answering'")


def wait_until_idle(driver: Chrome) -> None:
    wait_for(driver, "document.body.dataset.state === 'idle'")


def address(web_log: Path) -> str:
    """Return what the web node prints when it serves."""
    deadline = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline:
        if found := re.search(r'open (http\S+)', web_log.read_text()):
            return found[1]
        time.sleep(0.1)
    raise SystemExit(f'the page was not served within {DEADLINE_S} s: {web_log.read_text()}')


def take(driver: Chrome, url: str, folder: Path) -> None:
    """Hold a conversation and take a picture at each of its stages."""
    set_dark(driver, False)
    driver.get(url)
    wait_until_idle(driver)
    save_picture(driver, folder / 'page-empty.png')
    for prompt in PROMPTS[:2]:
        ask(driver, prompt)
        wait_until_idle(driver)
    ask(driver, PROMPTS[2])
    wait_for(driver, "document.querySelector('.turn:last-child .answer').textContent.length > 150")
    save_picture(driver, folder / 'page-answering.png')
    wait_until_idle(driver)
    driver.find_element('id', 'reset').click()
    wait_for(driver, "document.querySelector('.items > .mark')")
    ask(driver, LONG_PROMPT)
    wait_until_idle(driver)
    wait_for(driver, "Number(document.getElementById('gauge').ariaValueNow) > 100")
    set_dark(driver, True)
    save_picture(driver, folder / 'page-dark.png')
    resize(driver, 360, 720, 2)
    driver.find_element('id', 'language').click()
    time.sleep(0.5)  # until what moves has come to rest
    save_picture(driver, folder / 'page-phone.png')


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--folder', type=Path, default=IMAGES,
                        help='where to write (default: %(default)s)')
    folder = parser.parse_args(argv).folder
    if missing():
        print(f'pictures: apt-get install {missing()}', file=sys.stderr)
        return 1
    folder.mkdir(parents=True, exist_ok=True)
    space = f'/pictures_{secrets.token_hex(4)}'  # no other node takes part
    options = ['--ros-args', '-r', f'__ns:={space}']
    os.environ['ROS_AUTOMATIC_DISCOVERY_RANGE'] = 'LOCALHOST'
    model = [str(BIN / 'tinyllama_node'), *options, '-p', f'model:={build_model()}',
             '-p', 'sampling.seed:=1', '-p', 'max_tokens:=220']
    web = [str(BIN / 'tinyllama_web'), *options, '-p', f'model_node:={space}/tinyllama',
           '-p', 'port:=0']
    with tempfile.TemporaryDirectory() as scratch:
        log = Path(scratch) / 'web.log'
        with log.open('wb') as file, running(model, subprocess.DEVNULL), running(web, file):
            with browser(width=1100, height=760, scale=1) as driver:
                take(driver, address(log), folder)
    return 0


if __name__ == '__main__':
    sys.exit(main())

"""The page in a real Chromium, beside the real nodes; only the model is a parrot."""

import json
import re
import signal
import time

import pytest
from support.paths import ROOT

rclpy = pytest.importorskip('rclpy', reason='no ROS 2 is sourced or installed')
pytest.importorskip('selenium', reason="pip install -e '.[test]'")


from browser import browser, missing, resize, set_dark  # noqa: E402
from selenium.common.exceptions import TimeoutException  # noqa: E402
from selenium.webdriver import ActionChains  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402
from selenium.webdriver.support.ui import WebDriverWait  # noqa: E402
from support.robot import PARROT, Robots  # noqa: E402

pytestmark = pytest.mark.skipif(bool(missing()), reason=f'apt-get install {missing()}')

WEB = 'import sys; from tinyllama_ros.web.node import main; sys.exit(main())'
AXE = ROOT / 'node_modules' / 'axe-core' / 'axe.min.js'
DEADLINE_S = 20
TURNS = """return [...document.querySelectorAll('.turn')].map(turn => ({
    prompt: turn.querySelector('.prompt').textContent, phase: turn.dataset.phase,
    answer: turn.querySelector('.answer').textContent,
    note: turn.querySelector('.note').textContent}));"""
MARKS = "return [...document.querySelectorAll('.items > .mark')].map(mark => mark.textContent)"
NOT_OURS = """return performance.getEntriesByType('resource')
    .map(entry => entry.name).filter(name => !name.startsWith(location.origin + '/'))"""


class Site:
    """A language model's node and a web node, each of which may be stopped and started again."""

    def __init__(self, robots):
        self._robots = robots
        self._namespace = robots.new_namespace()
        self.target = f'{self._namespace}/tinyllama'
        self.ear = robots.listen(self._namespace)
        self.url = ''
        self.start_model()
        self.start_web()

    def start_model(self):
        self.model = self._robots.start(namespace=self._namespace, program=PARROT)
        self.ear.connect()
        self.ear.wait_for_subscriber()

    def start_web(self):
        """Start the web node, at the port that it had before."""
        port = int(re.search(r':(\d+)/', self.url)[1]) if self.url else 0
        self.web = self._robots.start(namespace=self._namespace, program=WEB, parameters={
            'model_node': self.target, 'port': port, 'requests_per_second': 1000.0})
        found = None
        deadline = time.monotonic() + DEADLINE_S
        while found is None:
            assert self.web.is_running() and time.monotonic() < deadline, self.web.log
            found = re.search(r'open (http://\S+) in a browser', self.web.log)
        self.url = found[1]

    def stop(self):
        assert self.web.stop() == 0, self.web.log
        assert self.model.stop() == 0, self.model.log
        assert 'Traceback' not in self.web.log + self.model.log


class Person:
    """Who sits in front of a browser."""

    def __init__(self, driver, site):
        self.driver = driver
        self._site = site

    def open(self):
        self.driver.get(self._site.url)
        self.wait_for_state('idle')

    def find(self, name):
        return self.driver.find_element('id', name)

    def say(self, text):
        self.find('prompt').send_keys(text, Keys.ENTER)

    def ask(self, text):
        """Return the turn of a prompt when it is answered."""
        self.say(text)
        return self.wait_for_turn(text, 'answered')

    def turns(self, prompt):
        return [turn for turn in self.driver.execute_script(TURNS) if turn['prompt'] == prompt]

    def conversation(self):
        return self.driver.execute_script(TURNS), self.marks()

    def marks(self):
        return self.driver.execute_script(MARKS)

    def wait_for_turn(self, prompt, *phases):
        self.wait(lambda: any(turn['phase'] in phases for turn in self.turns(prompt)),
                  f'{prompt!r} in {phases}')
        return self.turns(prompt)[-1]

    def wait_for_state(self, *states):
        self.wait(lambda: self.driver.execute_script(
            'return document.body.dataset.state') in states, f'state in {states}')

    def wait(self, condition, what):
        try:
            WebDriverWait(self.driver, DEADLINE_S, 0.02).until(lambda _: condition())
        except TimeoutException:
            shown = self.driver.find_element('tag name', 'body').text
            raise AssertionError(f'no {what}; the page shows:\n{shown}') from None


@pytest.fixture(scope='module')
def robots(tmp_path_factory):
    robots = Robots(tmp_path_factory.mktemp('web'))
    yield robots
    robots.close()


@pytest.fixture(scope='module')
def site(robots):
    site = Site(robots)
    yield site
    site.stop()


@pytest.fixture(scope='module')
def driver():
    with browser() as driver:
        yield driver


@pytest.fixture
def person(driver, site):
    """Give somebody in front of a page just opened, who remembers no settings."""
    resize(driver, 1000, 760)
    set_dark(driver, False)
    person = Person(driver, site)
    driver.get(site.url)
    driver.execute_script('localStorage.clear()')
    person.open()
    driver.get_log('browser')
    yield person
    if person.find('stop').is_displayed():
        person.find('stop').click()
        person.wait_for_state('idle')


def test_answer_streams_and_stops_on_demand(person):
    person.say('go on for ever, one')
    person.wait_for_turn('go on for ever, one', 'answering')
    length = len(person.turns('go on for ever, one')[0]['answer'])
    person.wait(lambda: len(person.turns('go on for ever, one')[0]['answer']) > length,
                'longer answer')
    person.find('stop').click()
    turn = person.wait_for_turn('go on for ever, one', 'stopped')
    person.wait_for_state('idle')
    assert turn['note'] == 'Stopped'
    assert not person.find('stop').is_displayed()


def test_answer_is_what_the_model_said(person):
    assert person.ask('the quick brown fox')['answer'] == 'the quick brown fox'


def test_markdown_becomes_elements(person):
    person.find('prompt').send_keys('**bold** and `code`', Keys.ENTER)
    person.wait_for_turn('**bold** and `code`', 'answered')
    answer = person.driver.find_elements('css selector', '.answer')[-1]
    assert answer.find_element('tag name', 'strong').text == 'bold'
    assert answer.find_element('tag name', 'code').text == 'code'


@pytest.mark.parametrize('text', [
    '2*3*4', 'a*b*c = (a)*(b)*(c)', 'x**2 + y**2 = r**2', '2*(3+4)*5 and 6*7*8',
    r'\( a \) and \( b_1 * c_2 * d \)', r'\[ a_{1} * b * c \\ \{d\} \]',
    '$a*b*c$ and $$x_1 *y* z_2$$', r'an open \( a', 'it costs $5 or $6',
    '\\[\n- a\n+ b\n= c * d * e\n\\]', '$$\n# x\n> 1*2*3\n$$'], ids=lambda text: text[:12])
def test_formula_or_product_is_shown_as_it_was_written(person, text):
    person.find('prompt').send_keys(text.replace('\n', Keys.SHIFT + Keys.ENTER + Keys.SHIFT),
                                    Keys.ENTER)
    person.wait_for_turn(text, 'answered')
    answer = person.driver.find_elements('css selector', '.answer')[-1]
    assert answer.text == text
    assert answer.find_elements('css selector', 'em, strong, ul, ol, h3, blockquote') == []


@pytest.mark.parametrize(('text', 'emphasis'), [
    ('a *b* c', ['b']), ('**Note**s', ['Note']), ('中文**粗体**中文', ['粗体']), ('(*a*)', ['a']),
    ('2*3*4 is *more* than 2**3', ['more'])])
def test_emphasis_that_is_no_product_stays(person, text, emphasis):
    person.ask(text)
    answer = person.driver.find_elements('css selector', '.answer')[-1]
    assert [each.text for each in answer.find_elements('css selector', 'em, strong')] == emphasis


TABLE = """| Operator | Description | Uppercase example | Result of it |
| :-- | --- | --- | --: |
| upper | makes uppercase letters | `text.upper()` | ABCDEFGHIJKL |
| lower | makes lowercase letters | `text.lower()` | abcdefghijkl |"""


def test_table_on_a_narrow_screen_scrolls_sideways_and_breaks_no_word(person):
    resize(person.driver, 360, 740)
    person.open()
    prompt = person.find('prompt')
    person.driver.execute_script('arguments[0].value = arguments[1]', prompt, TABLE)
    prompt.send_keys(Keys.ENTER)
    person.wait_for_turn(TABLE, 'answered')
    frame = person.driver.find_elements('css selector', '.answer .table')[-1]
    assert len(frame.find_elements('tag name', 'tr')) == 3
    assert person.driver.execute_script(
        'return [arguments[0].scrollWidth > arguments[0].clientWidth, '
        'document.documentElement.scrollWidth, document.getElementById("log").scrollWidth]',
        frame) == [True, 360, 360]
    # A word that is broken has a rectangle on each of its lines
    assert person.driver.execute_script(BROKEN_WORDS, frame) == []


BROKEN_WORDS = """
    const broken = [], walker = document.createTreeWalker(arguments[0], NodeFilter.SHOW_TEXT);
    while (walker.nextNode()) {
        for (const word of walker.currentNode.data.matchAll(/\\S+/g)) {
            const range = document.createRange();
            range.setStart(walker.currentNode, word.index);
            range.setEnd(walker.currentNode, word.index + word[0].length);
            if (range.getClientRects().length > 1) broken.push(word[0]);
        }
    }
    return broken;"""


@pytest.mark.parametrize('text', [
    "<script>document.title='taken'</script>",
    "<img src=x onerror=document.title='taken'>",
    '![picture](http://127.0.0.1:9/x.png)',
    "[here](javascript:document.title='taken')"], ids=['script', 'handler', 'picture', 'link'])
def test_script_in_prompt_and_answer_stays_text(person, text):
    turn = person.ask(text)
    last = person.driver.find_elements('css selector', '.turn')[-1]
    assert turn['prompt'] == text
    assert '<' not in text or turn['answer'] == text
    assert last.find_elements('css selector', 'script, img, [onerror], a[href^=javascript]') == []
    assert person.driver.title == 'tinyllama'
    assert person.driver.execute_script(NOT_OURS) == []


def test_reset_leaves_a_mark_and_empties_the_gauge(person):
    person.ask('remember me')
    person.wait(lambda: int(person.find('gauge').get_attribute('aria-valuenow')) > 0, 'fill')
    before = len(person.marks())
    person.find('reset').click()
    person.wait(lambda: len(person.marks()) == before + 1, 'mark')
    assert person.marks()[-1] == 'New chat: the model has forgotten what is above'
    person.wait(lambda: person.find('gauge').get_attribute('aria-valuenow') == '0', 'empty gauge')


def test_gauge_and_speed_are_those_of_the_node(person, site):
    person.ask('seven words are more than enough here')
    fill = site.ear.diagnostics()['fill (slots)']
    person.wait(lambda: person.find('gauge-text').text == f'{fill} / 1024', f'fill of {fill}')
    person.wait(lambda: person.find('speed').text == '10 tokens/s', 'speed of the node')


def test_full_memory_is_marked_within_the_answer(person):
    person.ask('before it is full and after')
    last = person.driver.find_elements('css selector', '.turn')[-1]
    assert last.find_element('css selector', '.answer .mark').text == (
        'The memory was full and was cleared; the model goes on with the newest part')


def test_prompt_of_another_publisher_is_shown(person, site):
    site.ear.say('from a robot')
    assert person.wait_for_turn('from a robot', 'answered')['answer'] == 'from a robot'


def test_refused_prompt_says_why(person, site):
    site.ear.say(*[f'go on for ever, {i}' for i in range(18)])
    turn = person.wait_for_turn('go on for ever, 17', 'refused')
    assert '16 prompts are waiting already' in turn['note']
    while person.find('stop').is_displayed() or site.ear.texts('state')[-1] != 'idle':
        site.ear.call('cancel')


def test_failed_answer_says_why_and_the_state_is_an_error(person):
    person.say('break down')
    turn = person.wait_for_turn('break down', 'failed')
    assert turn['note'] == 'The answer failed: the parrot broke down'
    person.wait_for_state('error')
    person.wait(lambda: 'the parrot broke down' in person.find('notice').text, 'notice')
    assert person.ask('and up again')['answer'] == 'and up again'


def test_two_browsers_share_one_conversation(person, site):
    with browser() as other_driver:
        other = Person(other_driver, site)
        other.open()
        assert other.conversation() == person.conversation()
        person.ask('from the first')
        other.wait_for_turn('from the first', 'answered')
        other.ask('from the second')
        person.wait_for_turn('from the second', 'answered')
        assert other.conversation() == person.conversation()


def test_page_comes_back_after_the_web_node_was_restarted(person, site):
    person.ask('before the restart')
    assert site.web.stop() == 0
    person.wait_for_state('connecting')
    person.say('said meanwhile on the page')
    site.ear.ask('said meanwhile by a robot')
    site.start_web()
    for prompt in ('before the restart', 'said meanwhile on the page',
                   'said meanwhile by a robot'):
        turn = person.wait_for_turn(prompt, 'answered')
        assert turn['answer'] == prompt
    person.driver.refresh()
    person.wait_for_turn('said meanwhile on the page', 'answered')
    assert [len(person.turns(prompt)) for prompt in (
        'before the restart', 'said meanwhile on the page', 'said meanwhile by a robot')
    ] == [1, 1, 1]


def test_answer_under_way_survives_a_restart_of_the_web_node(person, site):
    person.say('go on for ever, two')
    person.wait_for_turn('go on for ever, two', 'answering')
    site.web.stop(signal.SIGKILL)
    person.wait_for_state('connecting')
    site.start_web()
    person.wait_for_state('answering')
    person.find('stop').click()
    turn = person.wait_for_turn('go on for ever, two', 'stopped')
    assert turn['answer'] == site.ear.wait_for_texts('response', 1)[-1]
    assert len(person.turns('go on for ever, two')) == 1


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGKILL], ids=['stopped', 'killed'])
def test_page_goes_on_after_the_model_was_restarted(person, site, number):
    first, second = f'before {number.name}', f'said meanwhile, {number.name}'
    person.ask(first)
    site.model.stop(number)
    person.wait_for_state('offline')
    person.say(second)
    assert person.wait_for_turn(second, 'waiting')['note'] == 'Waiting…'
    site.start_model()
    assert person.wait_for_turn(second, 'answered')['answer'] == second
    assert len(person.turns(second)) == 1
    assert person.marks()[-1] == 'The model was restarted and has forgotten what is above'


def test_chinese_is_spoken_and_understood(person):
    person.find('language').click()
    assert person.driver.execute_script('return document.documentElement.lang') == 'zh-CN'
    assert person.find('state-text').text == '就绪'
    assert person.find('prompt').get_attribute('placeholder') == '写点什么'
    assert person.ask('你好，机器人！')['answer'] == '你好，机器人！'
    person.open()
    assert person.find('state-text').text == '就绪'


def test_chinese_browser_gets_a_chinese_page(site):
    with browser(language='zh-CN') as driver:
        person = Person(driver, site)
        person.open()
        assert person.find('state-text').text == '就绪'


def test_both_languages_say_everything(person):
    keys = person.driver.execute_async_script("""
        const done = arguments[0];
        import('/static/text.js').then(({LANGUAGES}) => done(
            Object.values(LANGUAGES).map(words => Object.keys(words).sort())));""")
    assert len(keys) == 2
    assert keys[0] == keys[1]


def test_enter_that_ends_the_choice_of_a_character_does_not_send(person):
    prompt = person.find('prompt')
    prompt.send_keys('ni hao')
    person.driver.execute_script("""arguments[0].dispatchEvent(new KeyboardEvent('keydown',
        {key: 'Enter', bubbles: true, cancelable: true, isComposing: true}))""", prompt)
    assert prompt.get_attribute('value') == 'ni hao'


def test_keyboard_is_enough(person):
    def focused():
        return person.driver.switch_to.active_element

    def press(*keys):
        ActionChains(person.driver).send_keys(*keys).perform()

    assert focused().get_attribute('id') == 'prompt'
    press('two')
    ActionChains(person.driver).key_down(Keys.SHIFT).send_keys(Keys.ENTER).key_up(
        Keys.SHIFT).perform()
    press('lines', Keys.ENTER)
    person.wait_for_turn('two\nlines', 'answered')
    press('go on for ever, three', Keys.ENTER)
    person.wait_for_turn('go on for ever, three', 'answering')
    press(Keys.ESCAPE)
    person.wait_for_turn('go on for ever, three', 'stopped')
    person.wait_for_state('idle')
    seen = set()
    while focused().get_attribute('id') not in seen:
        seen.add(focused().get_attribute('id'))
        press(Keys.TAB)
    assert {'reset', 'language', 'theme', 'log', 'prompt'} <= seen
    before = len(person.marks())
    while focused().get_attribute('id') != 'reset':
        press(Keys.TAB)
    press(Keys.ENTER)
    person.wait(lambda: len(person.marks()) == before + 1, 'mark')
    assert focused().get_attribute('id') == 'prompt'


@pytest.mark.parametrize('language', ['en', 'zh'])
def test_narrow_screen_shows_all_and_scrolls_only_down(person, language):
    resize(person.driver, 360, 640)
    person.open()
    if language == 'zh':
        person.find('language').click()
    person.ask('w' * 200)
    person.ask('`' + 'code ' * 40 + '`')
    assert person.driver.execute_script(
        'return [document.documentElement, document.getElementById("log")]'
        '.map(node => node.scrollWidth)') == [360, 360]
    for name in ('reset', 'language', 'theme', 'send', 'gauge', 'prompt', 'state'):
        box = person.find(name).rect
        assert person.find(name).is_displayed(), name
        assert 0 <= box['x'] and box['x'] + box['width'] <= 360, name
        assert 0 <= box['y'] and box['y'] + box['height'] <= 640, name
    for name in ('reset', 'language', 'theme', 'send'):
        assert min(person.find(name).size.values()) >= 40, name


def colours(driver):
    return driver.execute_script("""const style = getComputedStyle(document.body);
        return [style.backgroundColor, style.color]""")


def test_light_and_dark_follow_the_system_and_the_button(person):
    light = colours(person.driver)
    set_dark(person.driver, True)
    dark = colours(person.driver)
    assert light != dark
    person.find('theme').click()
    assert colours(person.driver) == light
    person.open()
    assert colours(person.driver) == light


@pytest.mark.parametrize('is_empty', [False, True], ids=['talk', 'empty'])
def test_axe_finds_no_violation(person, is_empty):
    if not AXE.is_file():
        pytest.skip('axe-core is not installed: npm ci')
    if is_empty:  # what else is on the page is the others' talk
        person.driver.execute_script("""document.getElementById('items').replaceChildren();
            document.getElementById('empty').hidden = false""")
    else:
        person.find('reset').click()
        person.ask('# Title `code`')
        person.ask('full of [links](http://localhost/)')
        person.find('prompt').send_keys('draft')
    person.driver.execute_script(AXE.read_text(encoding='utf-8'))
    for is_dark in (False, True):
        set_dark(person.driver, is_dark)
        for width in (1000, 360):
            resize(person.driver, width, 700)
            found = person.driver.execute_async_script("""
                const done = arguments[0];
                axe.run().then(result => done(result.violations), error => done(String(error)))""")
            assert found == [], (is_dark, width, json.dumps(found, indent=1))


def test_page_asks_nobody_else_and_breaks_no_rule(person):
    person.ask('hello')
    assert person.driver.execute_script(NOT_OURS) == []
    assert person.driver.get_log('browser') == []

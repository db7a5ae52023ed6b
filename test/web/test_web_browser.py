"""The chat page in a real Chromium, beside the real nodes; the model repeats the prompt."""

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
from support.robot import ECHO_NODE, Robots  # noqa: E402

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


class NodePair:
    """A language model's node and a web node, each of which may be stopped and started again."""

    def __init__(self, robots):
        self._robots = robots
        self._namespace = robots.new_namespace()
        self.target = f'{self._namespace}/tinyllama'
        self.recorder = robots.connect(self._namespace)
        self.url = ''
        self.start_model()
        self.start_web()

    def start_model(self):
        self.model = self._robots.start(namespace=self._namespace, program=ECHO_NODE)
        self.recorder.connect()
        self.recorder.wait_for_subscriber()

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


class PageUser:
    """Uses the chat page in a browser."""

    def __init__(self, driver, nodes):
        self.driver = driver
        self._site = nodes

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
def nodes(robots):
    nodes = NodePair(robots)
    yield nodes
    nodes.stop()


@pytest.fixture(scope='module')
def driver():
    with browser() as driver:
        yield driver


@pytest.fixture
def user(driver, nodes):
    """Return a user of a page that was just opened, without stored settings."""
    resize(driver, 1000, 760)
    set_dark(driver, False)
    user = PageUser(driver, nodes)
    driver.get(nodes.url)
    driver.execute_script('localStorage.clear()')
    user.open()
    driver.get_log('browser')
    yield user
    if user.find('stop').is_displayed():
        user.find('stop').click()
        user.wait_for_state('idle')


def test_answer_streams_and_stops_on_demand(user):
    user.say('go on for ever, one')
    user.wait_for_turn('go on for ever, one', 'answering')
    length = len(user.turns('go on for ever, one')[0]['answer'])
    user.wait(lambda: len(user.turns('go on for ever, one')[0]['answer']) > length,
                'longer answer')
    user.find('stop').click()
    turn = user.wait_for_turn('go on for ever, one', 'stopped')
    user.wait_for_state('idle')
    assert turn['note'] == 'Stopped'
    assert not user.find('stop').is_displayed()


def test_answer_is_what_the_model_said(user):
    assert user.ask('the quick brown fox')['answer'] == 'the quick brown fox'


def test_markdown_becomes_elements(user):
    user.find('prompt').send_keys('**bold** and `code`', Keys.ENTER)
    user.wait_for_turn('**bold** and `code`', 'answered')
    answer = user.driver.find_elements('css selector', '.answer')[-1]
    assert answer.find_element('tag name', 'strong').text == 'bold'
    assert answer.find_element('tag name', 'code').text == 'code'


@pytest.mark.parametrize('text', [
    '2*3*4', 'a*b*c = (a)*(b)*(c)', 'x**2 + y**2 = r**2', '2*(3+4)*5 and 6*7*8',
    r'\( a \) and \( b_1 * c_2 * d \)', r'\[ a_{1} * b * c \\ \{d\} \]',
    '$a*b*c$ and $$x_1 *y* z_2$$', r'an open \( a', 'it costs $5 or $6',
    '\\[\n- a\n+ b\n= c * d * e\n\\]', '$$\n# x\n> 1*2*3\n$$'], ids=lambda text: text[:12])
def test_formula_or_product_is_shown_as_it_was_written(user, text):
    user.find('prompt').send_keys(text.replace('\n', Keys.SHIFT + Keys.ENTER + Keys.SHIFT),
                                    Keys.ENTER)
    user.wait_for_turn(text, 'answered')
    answer = user.driver.find_elements('css selector', '.answer')[-1]
    assert answer.text == text
    assert answer.find_elements('css selector', 'em, strong, ul, ol, h3, blockquote') == []


@pytest.mark.parametrize(('text', 'emphasis'), [
    ('a *b* c', ['b']), ('**Note**s', ['Note']), ('中文**粗体**中文', ['粗体']), ('(*a*)', ['a']),
    ('2*3*4 is *more* than 2**3', ['more'])])
def test_emphasis_that_is_no_product_stays(user, text, emphasis):
    user.ask(text)
    answer = user.driver.find_elements('css selector', '.answer')[-1]
    assert [each.text for each in answer.find_elements('css selector', 'em, strong')] == emphasis


TABLE = """| Operator | Description | Uppercase example | Result of it |
| :-- | --- | --- | --: |
| upper | makes uppercase letters | `text.upper()` | ABCDEFGHIJKL |
| lower | makes lowercase letters | `text.lower()` | abcdefghijkl |"""


def test_table_on_a_narrow_screen_scrolls_sideways_and_breaks_no_word(user):
    resize(user.driver, 360, 740)
    user.open()
    prompt = user.find('prompt')
    user.driver.execute_script('arguments[0].value = arguments[1]', prompt, TABLE)
    prompt.send_keys(Keys.ENTER)
    user.wait_for_turn(TABLE, 'answered')
    frame = user.driver.find_elements('css selector', '.answer .table')[-1]
    assert len(frame.find_elements('tag name', 'tr')) == 3
    assert user.driver.execute_script(
        'return [arguments[0].scrollWidth > arguments[0].clientWidth, '
        'document.documentElement.scrollWidth, document.getElementById("log").scrollWidth]',
        frame) == [True, 360, 360]
    # A word that is broken has a rectangle on each of its lines
    assert user.driver.execute_script(BROKEN_WORDS, frame) == []


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
def test_script_in_prompt_and_answer_stays_text(user, text):
    turn = user.ask(text)
    last = user.driver.find_elements('css selector', '.turn')[-1]
    assert turn['prompt'] == text
    assert '<' not in text or turn['answer'] == text
    assert last.find_elements('css selector', 'script, img, [onerror], a[href^=javascript]') == []
    assert user.driver.title == 'tinyllama'
    assert user.driver.execute_script(NOT_OURS) == []


def test_reset_leaves_a_mark_and_empties_the_gauge(user):
    user.ask('remember me')
    user.wait(lambda: int(user.find('gauge').get_attribute('aria-valuenow')) > 0, 'fill')
    before = len(user.marks())
    user.find('reset').click()
    user.wait(lambda: len(user.marks()) == before + 1, 'mark')
    assert user.marks()[-1] == 'New chat: the model has forgotten what is above'
    user.wait(lambda: user.find('gauge').get_attribute('aria-valuenow') == '0', 'empty gauge')


def test_gauge_and_speed_are_those_of_the_node(user, nodes):
    user.ask('seven words are more than enough here')
    fill = nodes.recorder.diagnostics()['fill (slots)']
    user.wait(lambda: user.find('gauge-text').text == f'{fill} / 1024', f'fill of {fill}')
    user.wait(lambda: user.find('speed').text == '10 tokens/s', 'speed of the node')


def test_full_memory_is_marked_within_the_answer(user):
    user.ask('before it is full and after')
    last = user.driver.find_elements('css selector', '.turn')[-1]
    assert last.find_element('css selector', '.answer .mark').text == (
        'The memory was full and was cleared; the model continues with the newest part')


def test_prompt_of_another_publisher_is_shown(user, nodes):
    nodes.recorder.say('from a robot')
    assert user.wait_for_turn('from a robot', 'answered')['answer'] == 'from a robot'


def test_refused_prompt_says_why(user, nodes):
    nodes.recorder.say(*[f'go on for ever, {i}' for i in range(18)])
    turn = user.wait_for_turn('go on for ever, 17', 'refused')
    assert '16 prompts are waiting already' in turn['note']
    while user.find('stop').is_displayed() or nodes.recorder.texts('state')[-1] != 'idle':
        nodes.recorder.request('cancel')


def test_failed_answer_says_why_and_the_state_is_an_error(user):
    user.say('break down')
    turn = user.wait_for_turn('break down', 'failed')
    assert turn['note'] == 'The answer failed: the model broke down'
    user.wait_for_state('error')
    user.wait(lambda: 'the model broke down' in user.find('notice').text, 'notice')
    assert user.ask('and up again')['answer'] == 'and up again'


def test_two_browsers_share_one_conversation(user, nodes):
    with browser() as other_driver:
        other = PageUser(other_driver, nodes)
        other.open()
        assert other.conversation() == user.conversation()
        user.ask('from the first')
        other.wait_for_turn('from the first', 'answered')
        other.ask('from the second')
        user.wait_for_turn('from the second', 'answered')
        assert other.conversation() == user.conversation()


def test_page_comes_back_after_the_web_node_was_restarted(user, nodes):
    user.ask('before the restart')
    assert nodes.web.stop() == 0
    user.wait_for_state('connecting')
    user.say('said meanwhile on the page')
    nodes.recorder.ask('said meanwhile by a robot')
    nodes.start_web()
    for prompt in ('before the restart', 'said meanwhile on the page',
                   'said meanwhile by a robot'):
        turn = user.wait_for_turn(prompt, 'answered')
        assert turn['answer'] == prompt
    user.driver.refresh()
    user.wait_for_turn('said meanwhile on the page', 'answered')
    assert [len(user.turns(prompt)) for prompt in (
        'before the restart', 'said meanwhile on the page', 'said meanwhile by a robot')
    ] == [1, 1, 1]


def test_answer_under_way_survives_a_restart_of_the_web_node(user, nodes):
    user.say('go on for ever, two')
    user.wait_for_turn('go on for ever, two', 'answering')
    nodes.web.stop(signal.SIGKILL)
    user.wait_for_state('connecting')
    nodes.start_web()
    user.wait_for_state('answering')
    user.find('stop').click()
    turn = user.wait_for_turn('go on for ever, two', 'stopped')
    assert turn['answer'] == nodes.recorder.wait_for_texts('response', 1)[-1]
    assert len(user.turns('go on for ever, two')) == 1


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGKILL], ids=['stopped', 'killed'])
def test_page_goes_on_after_the_model_was_restarted(user, nodes, number):
    first, second = f'before {number.name}', f'said meanwhile, {number.name}'
    user.ask(first)
    nodes.model.stop(number)
    user.wait_for_state('offline')
    user.say(second)
    assert user.wait_for_turn(second, 'waiting')['note'] == 'Waiting…'
    nodes.start_model()
    assert user.wait_for_turn(second, 'answered')['answer'] == second
    assert len(user.turns(second)) == 1
    assert user.marks()[-1] == 'The model was restarted and has forgotten what is above'


def test_chinese_is_spoken_and_understood(user):
    user.find('language').click()
    assert user.driver.execute_script('return document.documentElement.lang') == 'zh-CN'
    assert user.find('state-text').text == '就绪'
    assert user.find('prompt').get_attribute('placeholder') == '写点什么'
    assert user.ask('你好，机器人！')['answer'] == '你好，机器人！'
    user.open()
    assert user.find('state-text').text == '就绪'


def test_chinese_browser_gets_a_chinese_page(nodes):
    with browser(language='zh-CN') as driver:
        user = PageUser(driver, nodes)
        user.open()
        assert user.find('state-text').text == '就绪'


def test_both_languages_say_everything(user):
    keys = user.driver.execute_async_script("""
        const done = arguments[0];
        import('/static/text.js').then(({LANGUAGES}) => done(
            Object.values(LANGUAGES).map(words => Object.keys(words).sort())));""")
    assert len(keys) == 2
    assert keys[0] == keys[1]


def test_enter_that_ends_the_choice_of_a_character_does_not_send(user):
    prompt = user.find('prompt')
    prompt.send_keys('ni hao')
    user.driver.execute_script("""arguments[0].dispatchEvent(new KeyboardEvent('keydown',
        {key: 'Enter', bubbles: true, cancelable: true, isComposing: true}))""", prompt)
    assert prompt.get_attribute('value') == 'ni hao'


def test_keyboard_is_enough(user):
    def focused():
        return user.driver.switch_to.active_element

    def press(*keys):
        ActionChains(user.driver).send_keys(*keys).perform()

    assert focused().get_attribute('id') == 'prompt'
    press('two')
    ActionChains(user.driver).key_down(Keys.SHIFT).send_keys(Keys.ENTER).key_up(
        Keys.SHIFT).perform()
    press('lines', Keys.ENTER)
    user.wait_for_turn('two\nlines', 'answered')
    press('go on for ever, three', Keys.ENTER)
    user.wait_for_turn('go on for ever, three', 'answering')
    press(Keys.ESCAPE)
    user.wait_for_turn('go on for ever, three', 'stopped')
    user.wait_for_state('idle')
    seen = set()
    while focused().get_attribute('id') not in seen:
        seen.add(focused().get_attribute('id'))
        press(Keys.TAB)
    assert {'reset', 'language', 'theme', 'log', 'prompt'} <= seen
    before = len(user.marks())
    while focused().get_attribute('id') != 'reset':
        press(Keys.TAB)
    press(Keys.ENTER)
    user.wait(lambda: len(user.marks()) == before + 1, 'mark')
    assert focused().get_attribute('id') == 'prompt'


@pytest.mark.parametrize('language', ['en', 'zh'])
def test_narrow_screen_shows_all_and_scrolls_only_down(user, language):
    resize(user.driver, 360, 640)
    user.open()
    if language == 'zh':
        user.find('language').click()
    user.ask('w' * 200)
    user.ask('`' + 'code ' * 40 + '`')
    assert user.driver.execute_script(
        'return [document.documentElement, document.getElementById("log")]'
        '.map(node => node.scrollWidth)') == [360, 360]
    for name in ('reset', 'language', 'theme', 'send', 'gauge', 'prompt', 'state'):
        box = user.find(name).rect
        assert user.find(name).is_displayed(), name
        assert 0 <= box['x'] and box['x'] + box['width'] <= 360, name
        assert 0 <= box['y'] and box['y'] + box['height'] <= 640, name
    for name in ('reset', 'language', 'theme', 'send'):
        assert min(user.find(name).size.values()) >= 40, name


def colours(driver):
    return driver.execute_script("""const style = getComputedStyle(document.body);
        return [style.backgroundColor, style.color]""")


def test_light_and_dark_follow_the_system_and_the_button(user):
    light = colours(user.driver)
    set_dark(user.driver, True)
    dark = colours(user.driver)
    assert light != dark
    user.find('theme').click()
    assert colours(user.driver) == light
    user.open()
    assert colours(user.driver) == light


@pytest.mark.parametrize('is_empty', [False, True], ids=['talk', 'empty'])
def test_axe_finds_no_violation(user, is_empty):
    if not AXE.is_file():
        pytest.skip('axe-core is not installed: npm ci')
    if is_empty:  # what else is on the page is the others' talk
        user.driver.execute_script("""document.getElementById('items').replaceChildren();
            document.getElementById('empty').hidden = false""")
    else:
        user.find('reset').click()
        user.ask('# Title `code`')
        user.ask('full of [links](http://localhost/)')
        user.find('prompt').send_keys('draft')
    user.driver.execute_script(AXE.read_text(encoding='utf-8'))
    for is_dark in (False, True):
        set_dark(user.driver, is_dark)
        for width in (1000, 360):
            resize(user.driver, width, 700)
            found = user.driver.execute_async_script("""
                const done = arguments[0];
                axe.run().then(result => done(result.violations), error => done(String(error)))""")
            assert found == [], (is_dark, width, json.dumps(found, indent=1))


def test_page_asks_nobody_else_and_breaks_no_rule(user):
    user.ask('hello')
    assert user.driver.execute_script(NOT_OURS) == []
    assert user.driver.get_log('browser') == []

from contextlib import contextmanager, nullcontext
import io
import os
from queue import Queue
import re
import signal
from threading import Event as ThreadEvent, Thread
from types import SimpleNamespace
import unicodedata

from diagnostic_msgs.msg import DiagnosticStatus, KeyValue
from hypothesis import given, strategies
import pytest
import rclpy
from rclpy.executors import SingleThreadedExecutor

from tinyllama_ros.chat.notices import beginning, TurnNotice
from tinyllama_ros.ros import client as client_module
from tinyllama_ros.ros.client import ConversationEvent, NodeError, open_client
from tinyllama_ros.ros.interface import ENDPOINTS, endpoints
from tinyllama_ros.ros.notice_publisher import NoticePublisher
from tinyllama_ros.terminal import cli, conversation
from tinyllama_ros.terminal.conversation import COMMANDS, Conversation
from tinyllama_ros.terminal.keyboard import Keyboard
from tinyllama_ros.terminal.screen import printable, Screen


class FakeNode:
    """Speaks the node's topics; `answers` says what each prompt brings."""

    def __init__(self, context, name='/fake', state='idle', is_configured=True):
        self.node = rclpy.create_node(name[1:], context=context)
        self.answers = {}
        self.prompts = []
        self.calls = []
        self.heard = ThreadEvent()
        self.publisher = NoticePublisher(self.node)
        if is_configured:
            prompt = ENDPOINTS['~/prompt']
            self.node.create_subscription(prompt.type, '~/prompt', self.on_prompt, prompt.qos)
        for service, endpoint in endpoints('service').items():
            self.node.create_service(endpoint.type, service, lambda _, reply, name=service[2:]:
                                     self.on_call(name, reply))
        diagnostics = ENDPOINTS['/diagnostics']
        self.diagnostics = self.node.create_publisher(diagnostics.type, '/diagnostics',
                                                      diagnostics.qos)
        self.publisher.begin_run()
        self.say('state', state)

    def diagnose(self, values_by_status):
        message = ENDPOINTS['/diagnostics'].type(status=[
            DiagnosticStatus(name=name, values=[
                KeyValue(key=key, value=value) for key, value in values.items()])
            for name, values in values_by_status.items()])
        self.node.create_timer(0.05, lambda: self.diagnostics.publish(message))

    def say(self, kind, text, why=''):
        if kind == 'state':
            self.publisher.tell_state(text)
        else:
            self.publisher.tell(TurnNotice(len(self.prompts), kind, text, why))

    def on_prompt(self, message):
        self.prompts.append(message.data)
        for event in self.answers[message.data]:
            self.say(*event)
        self.heard.set()

    def on_call(self, service, reply):
        self.calls.append(service)
        if service == 'cancel':
            self.say('stopped', 'One')
            self.say('state', 'idle')
        reply.success, reply.message = True, f'{service} done'
        return reply


@pytest.fixture(autouse=True)
def interruptible():
    """Let Ctrl-C end the tests, which the program ignores at its end."""
    yield
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def context():
    context = rclpy.Context()
    rclpy.init(context=context)
    yield context
    context.try_shutdown()


@pytest.fixture
def make_fake(context):
    executor = SingleThreadedExecutor(context=context)
    thread = Thread(target=executor.spin, daemon=True)
    nodes = []

    def make(**options):
        fake = FakeNode(context, **options)
        nodes.append(fake.node)
        executor.add_node(fake.node)
        if not thread.is_alive():
            thread.start()
        return fake

    yield make
    executor.shutdown()
    if thread.is_alive():
        thread.join()
    for node in nodes:
        node.destroy_node()


@pytest.fixture
def fake(make_fake):
    fake = make_fake()
    fake.answers = {
        'Hi': [('asked', 'Hi'), ('token', 'Hel'), ('token', 'lo.'), ('answered', 'Hello.')],
        'lost': [('asked', 'lost'), ('token', 'Good'), ('answered', 'Good bye.')],
        'full': [('asked', 'full'), ('token', 'a'), ('reset', 'full'), ('token', 'b'),
                 ('answered', 'ab')],
        'bad': [('refused', 'bad', 'the prompt is empty; type a text')],
        'broken': [('asked', 'broken'), ('state', 'answering'), ('token', 'x'),
                   ('failed', 'x', 'out of memory'), ('state', 'idle')],
        'failing': [('asked', 'failing'), ('state', 'reading'), ('failed', '', 'out of memory'),
                    ('state', 'error')],
        'count': [('asked', 'count'), ('state', 'answering'), ('token', 'One')],
    }
    return fake


def chat(*arguments):
    return cli.main(['--node', '/fake', '--wait', '10', *arguments])


class FakeClient:
    """A client to a node that has said beforehand what it will say; None is a pause."""

    target, state = '/fake', 'idle'

    def __init__(self, *events):
        self.cancels = []
        self.published = []
        self.events = Queue()
        self._later = events

    def is_alive(self):
        return True

    def publish(self, name, text):
        self.published.append((name, text))
        for seq, event in enumerate(self._later, 100):
            self.events.put(event_of(seq, *event))

    def trigger(self, service, reply):
        self.cancels.append(service)


def event_of(seq, turn, kind, text='', why=''):
    return ConversationEvent('run', turn, seq, 0, kind, text, why)


def talk(client, answers, notes=None):
    return Conversation(client, client.events, Screen(answers, notes or io.StringIO()),
                        Keyboard(io.StringIO(), []))


@contextmanager
def connected(make=open_client):
    events = Queue()
    with make('terminal', '/fake', on_event=events.put) as client:
        client.events = events
        yield client


def pipe(monkeypatch, text):
    monkeypatch.setattr('sys.stdin', io.StringIO(text))


@pytest.mark.parametrize(('prompt', 'answer', 'notes'), [
    ('Hi', 'Hello.\n', ''),
    ('lost', 'Good bye.\n', ''),
    ('full', 'ab\n', '[the memory was cleared: full]\n'),
], ids=['in order', 'token lost', 'reset inside'])
def test_once_prints_the_answer_alone_on_stdout(fake, capsys, prompt, answer, notes):
    assert chat('--once', prompt) == 0
    assert fake.prompts == [prompt]
    assert capsys.readouterr() == (answer, notes)


@pytest.mark.parametrize(('prompt', 'answer', 'error'), [
    ('bad', '', '[error: the prompt is empty; type a text]\n'),
    ('broken', 'x\n', '[error: out of memory]\n'),
])
def test_failed_prompt_is_an_error_and_a_status(fake, capsys, prompt, answer, error):
    assert chat('--once', prompt) == 1
    assert capsys.readouterr() == (answer, error)


@pytest.mark.parametrize('kept', [str, beginning], ids=['live', 'of the history'])
def test_own_prompt_is_recognised_by_its_beginning(kept):
    prompt = 'Hi ' * 20_000
    client = FakeClient((1, 'asked', kept(f'{prompt}!')), (2, 'asked', kept(prompt.strip())),
                        (3, 'asked', kept(prompt)), (3, 'token', 'b'), (3, 'answered', 'b'))
    answers = io.StringIO()
    assert talk(client, answers).ask(prompt)
    assert answers.getvalue() == 'b\n'


def test_answer_to_somebody_else_is_not_shown():
    client = FakeClient((1, 'token', 'a'), (1, 'answered', 'a'), (2, 'asked', 'Hi'),
                        (3, 'refused', 'Hello', 'full'), (2, 'token', 'b'), (2, 'answered', 'b'))
    answers, notes = io.StringIO(), io.StringIO()
    assert talk(client, answers, notes).ask('Hi')
    assert answers.getvalue() == 'b\n'
    assert 'error' not in notes.getvalue()


def test_prompt_is_sent_as_ros_can_carry_it_and_known_again():
    client = FakeClient((1, 'asked', 'a\N{REPLACEMENT CHARACTER}b?'), (1, 'answered', 'yes'))
    assert talk(client, io.StringIO()).ask('a\0b\ud800')
    assert client.published == [('~/prompt', 'a\N{REPLACEMENT CHARACTER}b?')]


def test_piped_lines_are_prompts_in_order(fake, capsys, monkeypatch):
    pipe(monkeypatch, 'Hi\n\n  lost \n/quit\nHi\n')
    assert chat() == 0
    assert fake.prompts == ['Hi', 'lost']
    assert capsys.readouterr().out == ('> Hi\nHello.\n> \n>   lost\nGood bye.\n> /quit\n')


def test_refused_prompt_does_not_shift_the_answers(fake, capsys, monkeypatch):
    pipe(monkeypatch, 'broken\nbad\nHi\n')
    assert chat() == 0
    assert capsys.readouterr().out == '> broken\nx\n> bad\n> Hi\nHello.\n'


def test_reset_calls_the_service_and_shows_its_word(fake, capsys, monkeypatch):
    pipe(monkeypatch, '/reset\n')
    assert chat() == 0
    assert fake.calls == ['reset']
    assert capsys.readouterr().err == '[reset done]\n'


def test_stop_between_answers_stops_whatever_the_robot_says(fake, capsys, monkeypatch):
    pipe(monkeypatch, '/stop\n')
    assert chat() == 0
    assert fake.calls == ['cancel']
    assert capsys.readouterr().err == '[cancel done]\n'


def test_stats_shows_the_diagnostics_of_this_node_in_columns(fake, capsys, monkeypatch):
    pipe(monkeypatch, '/stats\n')
    fake.diagnose({'/fake: language model': {'fill (slots)': '7', 'answers': '12'},
                   '/other: language model': {'fill (slots)': '9'}})
    assert chat() == 0
    assert capsys.readouterr().err == 'fill (slots)  7\nanswers       12\n'


def test_stats_of_a_node_without_diagnostics_is_an_error(fake, capsys, monkeypatch):
    monkeypatch.setattr(client_module, 'REPLY_S', 0.2)
    pipe(monkeypatch, '/stats\n')
    assert chat() == 1
    assert '/fake said nothing on /diagnostics within' in capsys.readouterr().err


def test_help_lists_every_command(fake, capsys, monkeypatch):
    pipe(monkeypatch, '/help\n')
    assert chat() == 0
    assert re.findall('^/[a-z]+', capsys.readouterr().err, re.MULTILINE) == list(COMMANDS)


def test_unknown_command_is_no_prompt_and_a_path_is_one(fake, capsys, monkeypatch):
    fake.answers['/etc/motd'] = [('asked', '/etc/motd'), ('answered', 'A file.')]
    pipe(monkeypatch, '/rest\n/etc/motd\n')
    assert chat() == 0
    assert fake.prompts == ['/etc/motd']
    assert capsys.readouterr().err == '[there is no command /rest; /help lists the commands]\n'


def test_stop_waits_until_the_node_answers_the_prompt():
    client, stopped_at = FakeClient((1, 'token', 'x'), (2, 'asked', 'Hi'), (2, 'token', 'y'),
                                    (2, 'stopped', 'y')), []
    keys = iter([True, False, False, False, False])
    client.trigger = lambda service, reply: stopped_at.append(client.events.qsize())
    keyboard = SimpleNamespace(catching_stop=nullcontext, wants_stop=lambda: next(keys))
    Conversation(client, client.events, Screen(io.StringIO(), io.StringIO()), keyboard).ask('Hi')
    assert stopped_at == [2]


def test_resets_since_the_last_turn_are_shown_and_no_more():
    client, notes = FakeClient((2, 'asked', 'Hi'), (2, 'answered', 'x')), io.StringIO()
    for seq, event in enumerate([(1, 'asked', 'other'), (1, 'token', 'a'), (1, 'failed', '', 'no'),
                                 (0, 'reset', 'requested')]):
        client.events.put(event_of(seq, *event))
    talk(client, io.StringIO(), notes).ask('Hi')
    assert notes.getvalue() == '[the memory was cleared: requested]\n'


def test_node_that_begins_anew_did_not_answer():
    client = FakeClient((1, 'asked', 'Hi'), (0, 'begun'))
    with pytest.raises(NodeError, match='/fake went away before it answered'):
        talk(client, io.StringIO()).ask('Hi')


def test_node_that_began_before_the_prompt_answers_it():
    client = FakeClient((0, 'begun'), (1, 'asked', 'Hi'), (1, 'answered', 'yes'))
    assert talk(client, io.StringIO()).ask('Hi'), '~/history may come after the prompt was sent'


def test_interrupt_stops_the_answer_not_the_conversation(fake, capsys, monkeypatch):
    pipe(monkeypatch, 'count\n')

    def press() -> None:
        fake.heard.wait(10)
        os.kill(os.getpid(), signal.SIGINT)

    Thread(target=press, daemon=True).start()
    assert chat() == 0
    assert fake.calls == ['cancel']
    assert capsys.readouterr().out == '> count\nOne\n'


def test_no_node_says_what_to_start(capsys):
    assert cli.main(['--node', '/nobody', '--wait', '0.2']) == 1
    assert 'no node answers on /nobody/state within 0.2 s; start it' in capsys.readouterr().err


def test_loading_node_is_not_mistaken_for_none(make_fake):
    make_fake(state='loading')
    with connected() as client:
        with pytest.raises(NodeError, match='/fake is still loading after 1 s; wait longer'):
            client.wait_until_ready(1)


def test_node_that_cannot_be_configured_is_reported_at_once(make_fake, monkeypatch):
    monkeypatch.setattr(client_module, 'DISCOVERY_S', 0.2)
    make_fake(state='error', is_configured=False)
    with connected() as client:
        with pytest.raises(NodeError,
                           match='/fake is in state error and takes no prompts: its log'):
            client.wait_until_ready(60)


def test_node_that_was_shut_down_is_reported_at_once(make_fake, monkeypatch):
    monkeypatch.setattr(client_module, 'DISCOVERY_S', 0.2)
    make_fake(state='finalized')
    with connected() as client:
        with pytest.raises(NodeError, match='/fake was shut down; start it again'):
            client.wait_until_ready(60)


@pytest.mark.parametrize('name', ['fake', '/fake/', 'fake/'])
def test_node_that_is_named_without_its_slash_is_found(fake, capsys, name):
    assert cli.main(['--node', name, '--wait', '10', '--once', 'Hi']) == 0
    assert capsys.readouterr().out == 'Hello.\n'


def test_name_that_is_none_is_refused_at_once(capsys):
    assert cli.main(['--node', 'my robot', '--once', 'Hi']) == 1
    assert "'my robot' is not a valid node name" in capsys.readouterr().err


def test_conversation_goes_on_after_a_failed_answer(fake, capsys, monkeypatch):
    pipe(monkeypatch, 'failing\nHi\n')
    assert chat() == 0
    assert fake.prompts == ['failing', 'Hi']
    assert capsys.readouterr() == ('> failing\n> Hi\nHello.\n', '[error: out of memory]\n')


def test_conversation_begins_with_a_node_whose_last_answer_failed(fake, capsys):
    fake.say('state', 'error')
    assert chat('--once', 'Hi') == 0
    assert capsys.readouterr().out == 'Hello.\n'


@given(strategies.text())
def test_nothing_that_is_printed_controls_the_terminal(text):
    shown = printable(text)
    assert len(shown) == len(text)
    for character, original in zip(shown, text, strict=True):
        is_control = unicodedata.category(original) == 'Cc' and original not in '\n\t'
        assert character == ('\ufffd' if is_control else original)


def test_controls_are_shown_as_replaced_in_answers_and_notes(fake, capsys):
    fake.answers['ring'] = [('asked', 'ring'), ('token', '\x1b[2J'),
                            ('failed', '\x1b[2J\r\n!', 'b\x07\x9b\x7fd\t!')]
    assert chat('--once', 'ring') == 1
    assert capsys.readouterr() == ('\ufffd[2J\ufffd\n!\n',
                                   '[error: b\ufffd\ufffd\ufffdd\t!]\n')


def test_silent_node_is_noticed(fake, monkeypatch):
    monkeypatch.setattr(conversation, 'ACCEPT_S', 0.3)
    fake.answers['deaf'] = []
    with connected() as client:
        client.wait_until_ready(10)
        with pytest.raises(NodeError, match='/fake is idle and did not accept the prompt'):
            talk(client, io.StringIO()).ask('deaf')


def test_node_that_dies_in_its_answer_is_noticed(fake):
    fake.answers['die'] = [('asked', 'die'), ('state', 'answering'), ('token', 'x')]
    Thread(target=lambda: fake.heard.wait(10) and fake.node.destroy_node(), daemon=True).start()
    with connected() as client:
        client.wait_until_ready(10)
        with pytest.raises(NodeError, match='/fake went away before it answered'):
            talk(client, io.StringIO()).ask('die')


def test_reader_that_has_seen_enough_ends_the_talk(fake, monkeypatch):
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, 'w') as stdout:
        monkeypatch.setattr('sys.stdout', stdout)
        assert chat('--once', 'Hi') == 141


def test_piped_bytes_that_are_no_text_are_replaced(fake, monkeypatch):
    fake.answers['a\ufffd'] = [('asked', 'a\ufffd'), ('answered', 'b')]
    monkeypatch.setattr('sys.stdin', io.TextIOWrapper(io.BytesIO(b'a\xff\n'), 'utf-8'))
    assert chat() == 0
    assert fake.prompts == ['a\ufffd']


@pytest.mark.parametrize('is_terminal', [True, False], ids=['typed', 'piped'])
def test_node_that_stays_away_ends_only_a_piped_conversation(is_terminal, monkeypatch):
    def wait_until_ready(timeout_s):
        raise NodeError('no node answers')

    shown = io.StringIO()
    client = SimpleNamespace(target='/fake', wait_until_ready=wait_until_ready)
    keyboard = SimpleNamespace(is_terminal=is_terminal,
                               lines=lambda: iter(['Hi', '/help']))
    with nullcontext() if is_terminal else pytest.raises(NodeError, match='no node answers'):
        Conversation(client, Queue(), Screen(io.StringIO(), shown), keyboard).converse(1)
    assert shown.getvalue().startswith('[error: no node answers]\n/reset') == is_terminal

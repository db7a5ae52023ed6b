import runpy
from xml.etree import ElementTree

import pytest
from support.paths import ROOT

READ, ANSWERED = 'reading', 'answering'


@pytest.fixture(scope='module')
def tool():
    return runpy.run_path(str(ROOT / 'tools' / 'cache_picture.py'))


def texts(picture):
    return [each.text for each in ElementTree.fromstring(picture).iter()
            if each.tag.endswith('text')]


def test_captions_tell_the_slots_of_the_reset(tool):
    passes = [(0, 16, READ), (16, 1, ANSWERED), (17, 1, ANSWERED), (4, 8, READ), (12, 1, ANSWERED)]
    run = tool['Run'](32, passes, turns=[0], resets=[3])
    shown = ' '.join(texts(tool['draw'](run)))
    for part in ('1 turns, 5 forward passes', 'before: 18 slots', 'back to 4,',
                 'a chunk of 16 written at slot 4', '12 slots filled'):
        assert part in shown


def test_run_without_a_reset_is_not_drawn(tool):
    with pytest.raises(ValueError, match='the conversation met no reset'):
        tool['draw'](tool['Run'](32, [(0, 16, READ)], turns=[0]))


def test_picture_that_is_kept_is_drawn_by_this_script(tool):
    kept = texts(tool['PICTURE'].read_text())
    assert kept[0].endswith('forward passes of one static graph')
    assert 'reset: full' in kept
    assert any('back to' in text for text in kept)

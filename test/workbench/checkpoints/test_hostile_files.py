"""
Thousands of damaged files are taken or refused in one line, in bounded time and memory.

What is damaged, and how, is in test/support/hostile_files.py and mutations.py.
"""

import pytest
from support.fuzz import check


@pytest.mark.parametrize('reader', [
    'config', 'tokenizer_json', 'tokenizer_config', 'tokenizer_model', 'safetensors', 'index',
    'gguf', 'metadata'])
def test_damaged_files_are_refused_in_one_line(reader):
    check(f'support.hostile_files:{reader}')


@pytest.mark.parametrize(('fault', 'report'), [
    ('hangs', 'TooSlow'), ('raises', "KeyError\\('x'\\)"), ('fills_memory', 'MemoryError'),
    ('says_two_lines', 'message TinyLlamaError'), ('dies', '')])
def test_fault_of_a_reader_is_found(fault, report):
    with pytest.raises(AssertionError, match=report):
        check(f'support.faulty_readers:{fault}')

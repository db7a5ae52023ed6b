"""Small vocabularies of both kinds, trained in memory, and the templates that go with them."""

from functools import cache
import io
import json

from sentencepiece import SentencePieceTrainer
from tokenizers import models, pre_tokenizers, Tokenizer as BpeModel, trainers

from tinyllama_ros.artifact.tokenizer_settings import TokenizerSettings

CORPUS = [
    'the user asks and the assistant answers; the system says how, in 123 words or 45',
    'You are a robot. What is a robot? A machine that does what a user, a system says.',
    'Where can people find books about the sea? Nobody knows whether morning brings good weather.',
    '<|user|> <|system|> <|assistant|> [INST] [/INST] <<SYS>> im_start im_end USER: ASSISTANT:',
] * 20
CHATML = (  # SmolLM2's form
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content']"
    " + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}")
ZEPHYR = (  # TinyLlama's, to the letter
    "{% for message in messages %}\n{% if message['role'] == 'user' %}\n"
    "{{ '<|user|>\n' + message['content'] + eos_token }}\n"
    "{% elif message['role'] == 'system' %}\n"
    "{{ '<|system|>\n' + message['content'] + eos_token }}\n"
    "{% elif message['role'] == 'assistant' %}\n"
    "{{ '<|assistant|>\n'  + message['content'] + eos_token }}\n{% endif %}\n"
    "{% if loop.last and add_generation_prompt %}\n{{ '<|assistant|>' }}\n{% endif %}\n"
    '{% endfor %}')
BPE = TokenizerSettings('bpe', CHATML, '<|im_start|>', '<|im_end|>', False,
                        {'<|endoftext|>': 0, '<|im_start|>': 1, '<|im_end|>': 2})
SENTENCEPIECE = TokenizerSettings('sentencepiece', ZEPHYR, '<s>', '</s>', True,
                                  {'<unk>': 0, '<s>': 1, '</s>': 2})


@cache
def bpe_file() -> bytes:
    """Return a tokenizer.json as the workbench writes it: control tokens are in no list."""
    model = BpeModel(models.BPE())
    model.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Digits(individual_digits=True),
        pre_tokenizers.ByteLevel(add_prefix_space=False)])
    model.train_from_iterator(CORPUS, trainers.BpeTrainer(
        vocab_size=400, special_tokens=list(BPE.control_tokens), show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    return json.dumps(json.loads(model.to_str()) | {'added_tokens': []}).encode()


@cache
def sentencepiece_file(user_defined: tuple[str, ...] = (), byte_fallback: bool = True) -> bytes:
    """Return a tokenizer.model with Llama's options."""
    file = io.BytesIO()
    SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS), model_writer=file, model_type='bpe', vocab_size=400,
        hard_vocab_limit=False, byte_fallback=byte_fallback, character_coverage=1.0,
        split_digits=True, normalization_rule_name='identity', remove_extra_whitespaces=False,
        allow_whitespace_only_pieces=True, user_defined_symbols=list(user_defined),
        minloglevel=2)
    return file.getvalue()

"""An artifact is compiled with the very command that was promised, or a failure is explained."""

import os
from pathlib import Path

import pytest
from support.ascend_manifest import manifest, REFERENCE
from support.fake_toolkit import make_toolkit
from support.npu_smi import ORANGE_PI

from tinyllama_ros.artifact.disk import locked
from tinyllama_ros.artifact.folder import Artifact, new_artifact
from tinyllama_ros.artifact.manifest import CompiledGraph, GRAPH, OM, WEIGHTS
from tinyllama_ros.cann import atc, compiling
from tinyllama_ros.cann.atc import convert, plan_conversion
from tinyllama_ros.commands.cli import main
from tinyllama_ros.errors import ArtifactError, ConfigError, ConversionError

BOARD, WORKSTATION = 8_000_000_000, 64_000_000_000
WRITES = 'printf compiled-graph-compiled-graph > tiny-llama.om; echo ATC run success'


@pytest.fixture(autouse=True)
def bare_machine(tmp_path, monkeypatch):
    """Leave of this machine its usual tools, and no toolkit."""
    for name in (*atc.ONE_AT_A_TIME, 'ASCEND_TOOLKIT_HOME', 'ASCEND_HOME_PATH',
                 'ASCEND_OPP_PATH', 'ASCEND_CUSTOM_OPP_PATH'):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / 'bin').mkdir()
    monkeypatch.setenv('PATH', f'{tmp_path / "bin"}:/usr/bin:/bin')
    monkeypatch.setenv('HOME', str(tmp_path))
    monkeypatch.setenv('TINYLLAMA_ROS_CACHE', str(tmp_path))


@pytest.fixture
def tool(tmp_path):
    """Return a function that puts a shell script on PATH."""
    def tool(name, script):
        path = tmp_path / 'bin' / name
        path.write_text(f'#!/bin/sh\n{script}\n')
        path.chmod(0o755)
        return path
    return tool


@pytest.fixture
def artifact(tmp_path):
    """Return an artifact whose graph no real ATC would take."""
    with new_artifact(tmp_path / 'model', manifest()) as partial:
        for name in (GRAPH, WEIGHTS, 'tokenizer.json'):
            (partial / name).write_text(f'what {name} holds')
    return Artifact.open(tmp_path / 'model')


@pytest.fixture
def compile_with(artifact, tool):
    """Return a function that compiles the artifact with a shell script in ATC's place."""
    def compile_with(script, conversion=None, **options):
        tool('atc', script)
        return convert(artifact, conversion or plan_conversion(artifact.manifest), **options)
    return compile_with


def log_of(artifact):
    return artifact.folder.with_name('model.atc.log')


def beside(artifact):
    """Return what lies beside the artifact, bar the tools."""
    return {path.name for path in artifact.folder.parent.iterdir()} - {'bin', 'model', 'seen'}


def test_tinyllama_is_compiled_with_the_reference_command():
    shape = manifest('tinyllama-1.1b', kv_length=1024)
    assert plan_conversion(shape).shell_line == REFERENCE


def test_one_longer_chunk_is_a_static_shape():
    command = plan_conversion(manifest(chunk_sizes=(16,))).command
    assert ('--input_shape=input_ids:1,16;attention_mask:1,528;position_ids:1,16;'
            'past_key_values:2,2,1,2,512,16') in command
    assert not any('dynamic' in each for each in command)


def test_several_chunks_are_gears():
    command = plan_conversion(manifest(chunk_sizes=(1, 16))).command
    assert ('--input_shape=input_ids:1,-1;attention_mask:1,-1;position_ids:1,-1;'
            'past_key_values:2,2,1,2,512,16') in command
    assert '--dynamic_dims=1,513,1;16,528,16' in command


@pytest.mark.parametrize(('memory', 'options', 'settings'), [
    (BOARD, {}, {'TE_PARALLEL_COMPILER': '1', 'MAX_COMPILE_CORE_NUMBER': '1'}),
    (WORKSTATION, {}, {}),
    (BOARD, {'jobs': 4}, {'TE_PARALLEL_COMPILER': '4', 'MAX_COMPILE_CORE_NUMBER': '4'}),
    (WORKSTATION, {'log': 'info'}, {'ASCEND_SLOG_PRINT_TO_STDOUT': '1'}),
])
def test_machine_with_little_memory_compiles_one_operator_at_a_time(memory, options, settings):
    assert plan_conversion(manifest(), memory=memory, **options).settings == settings


def test_what_the_user_has_set_is_left(monkeypatch):
    monkeypatch.setenv('TE_PARALLEL_COMPILER', '2')
    settings = plan_conversion(manifest(), memory=BOARD).settings
    assert settings == {'MAX_COMPILE_CORE_NUMBER': '1'}


@pytest.mark.parametrize(('changes', 'options', 'message'), [
    ({'dialect': 'cpu'}, {}, 'tiny holds a graph in the cpu dialect; ATC converts the ascend'),
    ({}, {'soc_version': '310B4'}, "soc_version is '310B4'; it must be Ascend and the name"),
    ({}, {'soc_version': 'Ascend310B4 --x'}, 'soc_version is'),
    ({}, {'jobs': 0}, 'jobs is 0; it must be within 1 to 32'),
    ({}, {'jobs': 33}, 'jobs is 33'),
    ({'chunk_sizes': tuple(range(1, 102))}, {}, '101 chunk lengths; ATC takes at most 100'),
])
def test_what_atc_would_not_take_is_refused(changes, options, message):
    with pytest.raises(ConfigError, match=message):
        plan_conversion(manifest(**changes), **options)


def test_compiled_graph_is_in_the_artifact_and_recorded(compile_with, artifact, tmp_path,
                                                           monkeypatch):
    monkeypatch.setenv('ASCEND_HOME_PATH', str(make_toolkit(tmp_path / 'toolkit')))
    conversion = plan_conversion(artifact.manifest, 'Ascend310B1')
    compile_with(WRITES, conversion)
    opened = Artifact.open(artifact.folder)
    assert opened.om.read_text() == 'compiled-graph-compiled-graph'
    assert opened.manifest.files[OM].size == 29
    assert opened.manifest.om == CompiledGraph('Ascend310B1', conversion.command, '8.1.RC1')
    assert beside(artifact) == {'toolkit'}


def test_atc_is_given_the_command_and_a_folder_with_the_graph_and_its_weights(
        compile_with, artifact, tmp_path):
    conversion = plan_conversion(artifact.manifest, memory=BOARD)
    compile_with(f'exec > {tmp_path}/seen; for each; do echo "$each"; done; '
                 'echo $TE_PARALLEL_COMPILER$MAX_COMPILE_CORE_NUMBER; '
                 f'cat *; mkdir kernel_meta; {WRITES}', conversion)
    seen = (tmp_path / 'seen').read_text()
    assert seen == '\n'.join([*conversion.command[1:], '11']) + (
        f'\nwhat {WEIGHTS} holdswhat {GRAPH} holdsATC run success\n')
    assert {path.name for path in artifact.folder.iterdir()} == {
        GRAPH, WEIGHTS, OM, 'manifest.json', 'tokenizer.json'}


def test_disk_without_hard_links_will_do(compile_with, artifact, monkeypatch):
    def refuse(link, path):
        raise PermissionError(1, 'Operation not permitted')
    monkeypatch.setattr(Path, 'hardlink_to', refuse)
    compile_with(f'cat {WEIGHTS} > /dev/null && {WRITES}')
    assert artifact.om.exists()


def test_graph_is_compiled_again_in_place_of_the_first(compile_with, artifact):
    compile_with(WRITES)
    compile_with(WRITES.replace('graph', 'again'))
    assert Artifact.open(artifact.folder).om.read_text() == 'compiled-again-compiled-again'


def test_left_overs_of_a_killed_conversion_are_cleared(compile_with, artifact):
    scratch = artifact.folder.with_name('.model.atc')
    (scratch / 'kernel_meta').mkdir(parents=True)
    (scratch / 'tiny-llama.om').write_text('half')
    compile_with(f'[ ! -e tiny-llama.om ] && [ ! -e kernel_meta ] && {WRITES}')
    assert not scratch.exists()


def test_two_conversions_of_one_artifact_do_not_meet(compile_with, artifact):
    scratch = artifact.folder.with_name('.model.atc')
    scratch.mkdir()
    with locked(scratch), pytest.raises(ArtifactError, match=r'writing .*model\.atc; wait'):
        compile_with(WRITES)
    assert not artifact.om.exists()


@pytest.mark.parametrize('name', [GRAPH, WEIGHTS])
def test_graph_that_is_gone_cannot_be_compiled_again(compile_with, artifact, name):
    compile_with(WRITES)
    (artifact.folder / name).unlink()
    with pytest.raises(ArtifactError, match=f'{name} is missing'):
        convert(Artifact.open(artifact.folder), plan_conversion(artifact.manifest))


@pytest.mark.parametrize(('printed', 'message'), [
    ('E16002: No ONNX parser is registered for optype ai.onnx::13::MatMulInteger.',
     r'status 1: E16002: No .*MatMulInteger; ATC does not know that operator yet: run custom_op'),
    ('E16002: No ONNX parser is registered for optype ai.onnx::13::Gelu.',
     r'Gelu; this CANN does not have that operator, or the environment mixes'),
    ('E19010: No parser is registered for Op [a, optype [ai.onnx::13::MatMulInteger]].',
     'ATC does not know that operator yet: run custom_op/install.sh'),
    ('EZ3003: No supported Ops kernel and engine are found for [x], optype [BatchMatMulV2].',
     'no kernel of that operator for this chip'),
    ('EC0010: Failed to import Python module [x]', "pip install 'numpy<2' attrs"),
    ('AttributeError: `np.float_` was removed in the NumPy 2.0 release.',
     "takes no NumPy 2: python3 -m pip install 'numpy<2'; ATC"),
    ('atc.bin: error while loading shared libraries: libascend_hal.so: cannot open shared object '
     'file', r'LD_LIBRARY_PATH:\$ASCEND_HOME_PATH/\$\(uname -m\)-linux/devlib'),
    ('E10501: IR for Op x with optype Gelu is not registered.',
     'this CANN does not have that operator'),
    ('E16005: The model has 2 --domain_version fields', 'imports more than one operator set'),
    ('E10001: Value Ascend999 for parameter --soc_version is invalid. Reason: x.',
     'give --soc-version Ascend and the name that npu-smi info shows'),
    ('E10007: --framework is required.', 'this CANN refuses that option'),
    ('E10049: Dimension count 3 configured', 'options that this program gave do not match'),
    ('E10035: --dynamic_dims has 1 profiles', 'the gears are not what ATC takes'),
    ('E13003: Failed to read file decoder.onnx.data.', 'could not be read; build the artifact'),
    ('E13023: Model weights has a size of 4294967298 bytes', 'the model is too large'),
    ('E40001: failed to load libpython3.9.so.1.0: cannot open shared object file',
     'install the one that the message names .*, or add its'),
    ('E40021: Failed to compile Op [BatchMatMulV2].',
     'with one chunk length, as it is by default; if that does not help, with --quant fp16'),
    ('E20001: The subgraph cannot be compiled', 'with one chunk length'),
    ('Traceback: task_distribute.py, in run\nEOFError', 'of swap: compile one operator at a time'),
    ('TBE Subprocess: main process disappeared', 'of swap: compile one operator at a time'),
    ('compiler process died\nE40021: Failed to compile Op [x].', 'compile one operator at a time'),
    ('E40020: x', r"run: python3 -m pip install 'numpy<2' attrs"),
    ("ModuleNotFoundError: No module named 'decorator'", "pip install 'numpy<2' attrs"),
    ('atc: error while loading shared libraries: libge.so', 'source its set_env.sh'),
    ('[ERROR] OSError: No space left on device', 'free some space'),
    ('Process 12 exit abnormally', 'of swap: compile one operator at a time with --jobs 1'),
    ('first\n\nEZ9999: Inner Error!\nlast', "status 1: EZ9999: Inner Error!; ATC's whole"),
    ('what nobody has seen before', "status 1: what nobody has seen before; ATC's whole output"),
    ('', 'status 1: it printed nothing'),
])
def test_failure_is_explained(compile_with, artifact, tmp_path, printed, message):
    (tmp_path / 'seen').write_text(printed)
    with pytest.raises(ConversionError, match=message) as failure:
        compile_with(f'cat {tmp_path}/seen; exit 1')
    assert f'output is in {log_of(artifact)}' in str(failure.value)
    assert beside(artifact) == {'model.atc.log'}
    assert not artifact.om.exists()


def test_log_of_a_failure_is_kept_until_atc_succeeds(compile_with, artifact):
    with pytest.raises(ConversionError):
        compile_with('echo whole output; exit 3')
    assert log_of(artifact).read_text() == 'whole output\n'
    compile_with(WRITES)
    assert not log_of(artifact).exists()


@pytest.mark.parametrize('script', ['kill -9 $$', 'exit 137'])
def test_killed_atc_is_told_how_to_get_by_with_less_memory(compile_with, artifact, script):
    with pytest.raises(ConversionError, match=r'killed, most likely for lack of memory; this '
                       r'machine has \d+\.\d GB and \d+\.\d GB of swap: compile one operator'):
        compile_with(f'echo half > tiny-llama.om; {script}')
    assert not artifact.om.exists()


def test_success_without_a_file_is_a_failure(compile_with):
    with pytest.raises(ConversionError, match=r'status 0 but wrote no tiny-llama\.om: ATC run'):
        compile_with('echo ATC run success')


def test_graph_that_was_cut_short_is_refused(compile_with, artifact):
    with pytest.raises(ConversionError, match='of 3 bytes for 28 bytes of weights, so it was'):
        compile_with('printf abc > tiny-llama.om')
    assert not artifact.om.exists()


def test_failure_leaves_the_graph_that_was_compiled_before(compile_with, artifact):
    compile_with(WRITES)
    with pytest.raises(ConversionError):
        compile_with('printf abc > tiny-llama.om; exit 1')
    assert Artifact.open(artifact.folder).om.read_text() == 'compiled-graph-compiled-graph'


def test_missing_atc_says_how_to_get_one(artifact):
    with pytest.raises(ConversionError, match=r'no CANN toolkit is on this machine; install'):
        convert(artifact, plan_conversion(artifact.manifest))


def test_missing_atc_says_what_to_source_where_there_is_a_toolkit(artifact, tmp_path):
    make_toolkit(tmp_path / 'Ascend' / 'cann')
    with pytest.raises(ConversionError, match=r'is in .*/Ascend/cann; run: source .*set_env\.sh'):
        convert(artifact, plan_conversion(artifact.manifest))


def test_atc_of_another_machine_is_refused(artifact, tool):
    tool('atc', '').write_bytes(b'\x7fELF of nowhere')
    with pytest.raises(ConversionError, match='Exec format error; is it made for the arch'):
        convert(artifact, plan_conversion(artifact.manifest))


def test_disk_that_may_not_be_written_is_an_error(artifact, compile_with):
    artifact.folder.with_name('.model.atc').write_text('in the way')
    with pytest.raises(ArtifactError, match='could not be written'):
        compile_with(WRITES)


def test_progress_says_stage_and_memory(compile_with, monkeypatch, tmp_path):
    monkeypatch.setattr(atc, 'POLL_S', 0.01)
    os.mkfifo(tmp_path / 'gate')
    seen, opened = [], []

    def report(progress):
        assert len(seen) < 3000, 'neither stage nor memory was reported'
        seen.append(progress)
        if progress.stage == 'OptimizeStage1' and progress.memory > 20_000_000 and not opened:
            opened.append(True)  # once: a second writer would wait for a reader for ever
            (tmp_path / 'gate').write_text('go on')
    compile_with("echo '[INFO] GE(1,atc):[GEPERFTRACE] The time cost of OptimizeStage1 is [7] "
                 "micro seconds.'; (head -c 30000000 /dev/zero; "
                 f'cat {tmp_path}/gate) | tail -c 30000000 > /dev/null; {WRITES}', report=report)
    assert 0 < seen[-1].seconds < 60


def test_interrupt_ends_atc_and_what_it_started(compile_with, monkeypatch, tmp_path, artifact):
    monkeypatch.setattr(atc, 'POLL_S', 0.01)

    def interrupt(progress):
        if (tmp_path / 'seen').exists() and (tmp_path / 'seen').read_text().count('\n') == 2:
            raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt):
        compile_with(f'echo $$ > {tmp_path}/seen; '
                     f"sh -c 'echo $$ >> {tmp_path}/seen; exec sleep 60' & wait", report=interrupt)
    for pid in map(int, (tmp_path / 'seen').read_text().split()):
        assert is_over(pid)
    assert beside(artifact) == {'model.atc.log'}


def is_over(pid):
    """Return whether a process that was killed has ended; a zombie has."""
    for _ in range(100_000):
        try:
            os.kill(pid, 0)
            if ') Z ' in Path(f'/proc/{pid}/stat').read_text():
                return True
            os.sched_yield()
        except (ProcessLookupError, FileNotFoundError):
            return True
    return False


def test_command_prints_what_it_runs_and_then_the_folder(artifact, tool, capfd):
    tool('atc', WRITES)
    assert main(['atc', 'model']) == 1  # no such name
    assert main(['atc', str(artifact.folder)]) == 0
    lines = capfd.readouterr().out.splitlines()
    assert lines == [plan_conversion(artifact.manifest).shell_line, str(artifact.folder)]
    assert artifact.om.exists()


def test_dry_run_stops_at_the_command(artifact, capfd):
    assert main(['atc', str(artifact.folder), '--dry-run', '--soc-version', 'Ascend310B1']) == 0
    assert capfd.readouterr().out == (
        plan_conversion(artifact.manifest, 'Ascend310B1').shell_line + '\n')


def test_what_is_compiled_is_not_compiled_again(artifact, tool, capfd):
    tool('atc', f'echo run >> {artifact.folder.parent}/seen; {WRITES}')
    for options in ([], [], ['--force'], ['--soc-version', 'Ascend310B1']):
        assert main(['atc', str(artifact.folder), *options]) == 0
    assert (artifact.folder.parent / 'seen').read_text() == 'run\n' * 3


def test_error_is_one_line(artifact, tool, capfd):
    tool('atc', 'echo E40020; exit 1')
    assert main(['atc', str(artifact.folder), '--soc-version', 'Ascend310B4', '--jobs', '1']) == 1
    *notes, error = capfd.readouterr().err.splitlines()
    assert notes == ['in the environment of ATC: TE_PARALLEL_COMPILER=1 '
                     'MAX_COMPILE_CORE_NUMBER=1']
    assert error.startswith('tinyllama-model: atc failed with status 1: E40020; ')


def test_chip_is_the_one_of_this_machine(artifact, tool):
    tool('npu-smi', f"echo '{ORANGE_PI.replace('310B4', '310B1')}'")
    conversion, notes = compiling.plan(artifact)
    assert conversion.soc_version == 'Ascend310B1'
    assert not any('NPU' in note or 'not run here' in note for note in notes)


def test_chip_of_another_kind_is_not_taken_unasked(artifact, tool):
    tool('npu-smi', f"echo '{ORANGE_PI.replace('310B4', '910B3')}'")
    conversion, notes = compiling.plan(artifact)
    assert conversion.soc_version == 'Ascend310B4'
    assert any('this machine has an Ascend910B3, which is not the chip of a board; compiling for '
               'Ascend310B4' in note for note in notes)
    conversion, notes = compiling.plan(artifact, 'Ascend910B3')
    assert conversion.soc_version == 'Ascend910B3'
    assert not any('compiling for' in note for note in notes)


def test_chip_of_another_machine_is_pointed_out(artifact, tool):
    tool('npu-smi', f"echo '{ORANGE_PI}'")
    conversion, notes = compiling.plan(artifact, 'Ascend310B1')
    assert conversion.soc_version == 'Ascend310B1'
    assert any('this machine has an Ascend310B4: what is compiled for' in note for note in notes)


def test_machine_without_an_npu_compiles_for_the_8t_board_and_says_so(artifact):
    conversion, notes = compiling.plan(artifact)
    assert conversion.soc_version == 'Ascend310B4'
    assert any('npu-smi shows no NPU here; compiling for Ascend310B4' in note for note in notes)


def test_missing_plugin_is_pointed_out_before_atc_runs(artifact, tmp_path):
    make_toolkit(tmp_path / 'Ascend' / 'latest')
    assert any('opp seems to lack the plugin for MatMulInteger' in note
               for note in compiling.plan(artifact)[1])


def test_news_are_printed_once_a_minute_where_nobody_watches(caplog):
    with caplog.at_level('INFO'), compiling._progress() as report:
        for seconds in (1, 59, 61, 100, 122):
            report(atc.Progress(seconds, 3_140_000_000, 'Stage1'))
    assert caplog.messages == ['ATC 1:01, 3.1 GB Stage1', 'ATC 2:02, 3.1 GB Stage1']

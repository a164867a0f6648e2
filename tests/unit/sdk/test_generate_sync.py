"""The synchronous API is what its generator writes."""

import importlib.util
import inspect
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import sealos_devbox

GENERATOR = Path(__file__).parents[3] / "sdk" / "tools" / "generate_sync.py"
SYNC = Path(sealos_devbox.__file__).parent / "_sync"


def check(target: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, GENERATOR, "--check", "--target", target],
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return Path(shutil.copytree(SYNC, tmp_path / "_sync"))


@pytest.mark.slow
def test_what_is_checked_in_is_what_is_generated() -> None:
    result = check(SYNC)
    assert result.returncode == 0, result.stdout


@pytest.mark.slow
def test_an_added_line_a_missing_file_and_a_surplus_file_are_noticed(copy: Path) -> None:
    with (copy / "files.py").open("a") as file:
        file.write("# added\n")
    (copy / "box.py").unlink()
    (copy / "other.py").write_text("")
    result = check(copy)
    assert result.returncode == 1
    assert "files.py is not as generated" in result.stdout
    assert "box.py is missing" in result.stdout
    assert "other.py is surplus" in result.stdout
    assert "_portal" not in result.stdout


@pytest.mark.parametrize("name", ["Devbox", "Box", "Files", "Process", "Releases", "Watch"])
def test_twins_have_the_same_methods_and_parameters(name: str) -> None:
    twin = getattr(sealos_devbox, name)
    original = getattr(sealos_devbox, f"Async{name}")
    methods = {m for m in vars(original) if not m.startswith("_")} - {"open_transport"}
    renamed = {"close" if m == "aclose" else m for m in methods}
    assert {m for m in vars(twin) if not m.startswith("_")} - {"close"} == renamed - {"close"}
    for method in methods - {"aclose"}:
        ours, theirs = getattr(twin, method), getattr(original, method)
        if not isinstance(theirs, property):
            assert inspect.signature(ours).parameters == inspect.signature(theirs).parameters
            assert not inspect.iscoroutinefunction(ours)
        assert ours.__doc__ == theirs.__doc__.replace("async with", "with")


def test_the_generator_refuses_what_it_has_no_rule_for() -> None:
    spec = importlib.util.spec_from_file_location("generate_sync", GENERATOR)
    assert spec is not None
    assert spec.loader is not None
    generator = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = generator
    try:
        spec.loader.exec_module(generator)
    finally:
        del sys.modules[spec.name]
    with pytest.raises(generator.GenerationError, match="no rule"):
        generator.wrapped("dict[str, AsyncBox]", "call()")
    with pytest.raises(generator.GenerationError, match="no class"):
        generator.Module.read("box").class_named("AsyncNothing")

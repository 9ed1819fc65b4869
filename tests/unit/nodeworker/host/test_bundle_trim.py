"""What a bundle goes without works without it."""

from __future__ import annotations

import compileall
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from nodeworker.host import bundle, bundle_trim
from woodfrog.protocol.failures import FailureError

pytestmark = pytest.mark.timeout(60)


def run(folder: Path, program: str) -> str:
    done = subprocess.run(
        [sys.executable, "-I", "-B", "-c", f"import sys; sys.path.insert(0, {str(folder)!r}); {program}"],
        check=True, capture_output=True, text=True, timeout=30,
    )  # fmt: skip
    return done.stdout.strip()


def test_a_library_without_what_is_never_loaded_of_it_works(tmp_path: Path) -> None:
    shutil.copytree(Path(yaml.__file__).parent, tmp_path / "yaml")
    (library,) = (tmp_path / "yaml").glob("_yaml*.so")
    before = library.stat().st_size
    bundle_trim.keep_loaded(library)
    assert library.stat().st_size < before / 2
    once = library.read_bytes()
    bundle_trim.keep_loaded(library)
    assert library.read_bytes() == once
    program = "import yaml; assert yaml._yaml.__file__ == %r; print(yaml.load('a: [1]', yaml.CSafeLoader))"
    assert run(tmp_path, program % str(library)) == "{'a': [1]}"


def test_python_runs_from_bytecode_alone_and_keeps_what_has_none(tmp_path: Path) -> None:
    package = tmp_path / "other"
    package.mkdir()
    (package / "__init__.py").write_text("from other import part\n")
    (package / "part.py").write_text("answer = 42\n")
    (package / "template.py").write_text("def {{ name }}\n")
    compileall.compile_dir(tmp_path, quiet=2, legacy=True)
    bundle_trim.drop_sources(tmp_path)
    assert sorted(path.name for path in package.iterdir()) == ["__init__.pyc", "part.pyc", "template.py"]
    assert run(tmp_path, "import other; print(other.part.answer)") == "42"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A root with a program and some libraries, one of which it is linked against."""
    folder = tmp_path / "usr/lib/x86_64-linux-gnu"
    folder.mkdir(parents=True)
    (tmp_path / "bin").mkdir()
    shutil.copy2("/lib64/ld-linux-x86-64.so.2", folder)
    for name in ("libc.so.6", "libm.so.6", "libgcc_s.so.1"):
        shutil.copy2(Path("/lib/x86_64-linux-gnu") / name, folder)
    (folder / "libm.so").symlink_to("libm.so.6")
    shutil.copy2("/bin/true", tmp_path / "bin/true")
    (tmp_path / "bin/script").write_text("#!/bin/sh\n")
    return tmp_path


def test_only_libraries_that_a_program_is_linked_against_stay(tree: Path) -> None:
    bundle_trim.drop_libraries(tree)
    left = sorted(path.name for path in (tree / "usr/lib/x86_64-linux-gnu").iterdir())
    assert left == ["ld-linux-x86-64.so.2", "libc.so.6", "libgcc_s.so.1"]


def test_a_program_that_would_take_a_library_of_the_host_makes_no_bundle(tree: Path) -> None:
    (tree / "usr/lib/x86_64-linux-gnu/libc.so.6").unlink()
    with pytest.raises(FailureError, match=r"bin/true needs libc\.so\.6, which the bundle does not bring"):
        bundle_trim.drop_libraries(tree)


def test_what_is_left_out_is_a_requirement_still() -> None:
    """A name that nothing requires any more would be a leftover."""
    entries = bundle.REQUIREMENTS.read_text().splitlines()
    names = {line.partition("==")[0] for line in entries if "==" in line and line[0].isalnum()}
    for kind, left_out in bundle_trim.LEFT_OUT.items():
        assert left_out <= names, (kind, left_out - names)

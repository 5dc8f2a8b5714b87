"""Bake applications in this process, which takes some 30 ms, and use their modules."""

import contextlib
import functools
import importlib
import importlib.util
import itertools
import json
import os
import py_compile
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

TEMPLATE = Path(__file__).parent.parent
APPLICATION = TEMPLATE / "{{cookiecutter.project}}"  # what an application is made from
STORAGES = json.loads((TEMPLATE / "cookiecutter.json").read_text())["state_storage"]
PROJECTS = ["mail-app", "P.1_" + "x" * 60]  # the longest as well
MAIL_DOMAINS = ["example.com", "localhost"]


def combinations():
    """Return every combination of answers worth baking, as dictionaries."""
    questions = {"project": PROJECTS, "mail_domain": MAIL_DOMAINS, "state_storage": STORAGES}
    return [dict(zip(questions, answers, strict=True)) for answers in itertools.product(*questions.values())]


def bake(folder, output_dir=None, template=TEMPLATE, **answers):
    """Return the folder of a new application in `folder`; questions not in `answers` have their defaults.

    What cookiecutter remembers between two calls stays within `folder`, too, also when the
    application goes to `output_dir`.
    """
    from cookiecutter.main import cookiecutter  # here, for many tests do without, and it takes long to import

    configuration = Path(folder) / "cookiecutter.yaml"
    configuration.write_text(f"replay_dir: {folder}/.replay\ncookiecutters_dir: {folder}/.cookiecutters\n")
    return Path(
        cookiecutter(
            str(template),
            no_input=True,
            extra_context=answers,
            output_dir=str(output_dir or folder),
            config_file=str(configuration),
        )
    )


def copy(shared, folder, **answers):
    """Return the folder of an application in `folder` as `bake` makes it, with its package compiled, in a tenth of the time.

    It is a copy of one in `shared`, a folder of all processes that test, where it is baked at the first call. Its
    `mailroom` has the very files of that one: a test may put others in their place, but not write into them.
    """
    name = "-".join(re.sub(r"[^\w.-]", "_", f"{question}-{answer}") for question, answer in sorted(answers.items()))
    original = shared / f"baked-{name}"
    if not original.exists():
        making = Path(tempfile.mkdtemp(dir=shared))
        add_compiled_package(bake(making, **answers))
        with contextlib.suppress(OSError):  # another process was faster
            making.rename(original)
    (package,) = original.glob("*/mailroom")

    def copy_file(source, target):
        return (os.link if source.startswith(str(package)) else shutil.copy)(source, target)

    return Path(shutil.copytree(package.parent, Path(folder) / package.parent.name, copy_function=copy_file))


def assert_originals_are_whole(shared):
    """Fail when a test has written into a file that applications of other tests have, too; see `copy`."""
    for path in shared.glob("baked-*/*/mailroom/**/*.py"):
        template = APPLICATION.joinpath(*path.relative_to(shared).parts[2:])
        assert path.read_bytes() == template.read_bytes(), f"a test has changed {path}"


def import_baked(folder, name):
    """Return the module `name` of `app` or `config` in `folder`, which other applications do not see."""
    outside = {module: sys.modules.pop(module) for module in list(sys.modules) if _is_baked(module)}
    path = list(sys.path)
    sys.path.insert(0, str(folder))
    try:
        return importlib.import_module(name)
    finally:
        sys.path[:] = path  # which `config` changes, too
        for module in [module for module in sys.modules if _is_baked(module)]:
            del sys.modules[module]
        sys.modules.update(outside)


def start_program(folder, program, *arguments, **options):
    """Start a Python program, a file, among the modules of the application in `folder`; return a `Popen` with text pipes."""
    return subprocess.Popen(
        [sys.executable, str(program), *map(str, arguments)],
        env={**without_pytest(os.environ), "PYTHONPATH": str(folder)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def add_compiled_package(folder):
    """Give the application in `folder` the compiled files of its `mailroom`, which each of its processes would need to make.

    A compiled file counts for the source that it was made of only, so a test may change the source.
    """
    for name, octets in _compiled_package().items():
        path = Path(folder) / name
        if not path.exists():
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(octets)


@functools.cache
def _compiled_package():
    source = TEMPLATE / "{{cookiecutter.project}}"
    compiled = {}
    with tempfile.TemporaryDirectory() as folder:
        for path in source.glob("mailroom/**/*.py"):
            file = py_compile.compile(
                str(path),
                cfile=f"{folder}/{path.stem}.pyc",
                doraise=True,
                invalidation_mode=py_compile.PycInvalidationMode.CHECKED_HASH,
            )
            name = Path(importlib.util.cache_from_source(str(path))).relative_to(source)
            compiled[name] = Path(file).read_bytes()
    return compiled


def setting_names(folder):
    """Return the names of the environment variables that the application in `folder` listens to."""
    return re.findall(r'env\.\w+\(\s*"(\w+)"', (Path(folder) / "config" / "settings.py").read_text())


def without_pytest(environment):
    """Return a copy without what pytest has set: settings read `.env` and the environment where there is no pytest."""
    return {name: value for name, value in environment.items() if not name.startswith("PYTEST_")}


def _is_baked(module):
    return module.partition(".")[0] in ("app", "config")

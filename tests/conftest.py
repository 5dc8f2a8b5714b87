"""What all tests of the template share: see `baking`, `application` and `sink` beside this file."""

import contextlib
import os
import sys
import types

import pytest

from tests import baking, warm
from tests.application import Application, speak_smtp
from tests.sink import Sink

# `mailroom` is imported from the template itself, and must not be compiled there: cookiecutter would copy that.
sys.dont_write_bytecode = True
os.environ["PYTHONDONTWRITEBYTECODE"] = "1"  # nor by a process that a test starts
sys.path.append(str(baking.APPLICATION))
import mailroom  # noqa: E402, F401  before one in an application is found

# Files with tests that take ten seconds or more, most of which they wait.
LONG = {"benchmarks", "cruft", "cut_network", "django", "postgresql", "relay", "server_failures", "state_machine"}


def pytest_xdist_auto_num_workers():
    """Three more than there are processors: a test often waits, for a server to start or a client to give up."""
    return (os.cpu_count() or 1) + 3


def pytest_xdist_setupnodes():
    """Make once for all processes what takes seconds to make.

    That is the Python that forks, and what pytest makes of these tests and of Hypothesis, a plugin.
    """
    warm.start()
    sys.dont_write_bytecode = False
    import hypothesis.stateful  # noqa: F401

    (rewriter,) = (finder for finder in sys.meta_path if type(finder).__name__ == "AssertionRewritingHook")
    for path in baking.TEMPLATE.glob("tests/**/*.py"):
        spec = rewriter.find_spec(path.stem, [str(path.parent)])
        if spec is not None:  # it keeps a module before it runs it; here that ends at the first import
            module = types.SimpleNamespace(__name__=path.stem, __spec__=spec, __builtins__={})
            with contextlib.suppress(ImportError):
                rewriter.exec_module(module)
    sys.dont_write_bytecode = True


def pytest_collection_modifyitems(items):
    """Let each process, which gets as many tests as any other, begin with some long ones: else one ends with them."""
    processes = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", 1))
    long, others = [], []
    for item in items:
        (long if item.path.stem.removeprefix("test_") in LONG else others).append(item)
    share = -(-len(items) // processes)
    items.clear()
    for number in range(processes):
        items += long[number::processes]
        rest = share * (number + 1) - len(items)
        items += others[:rest]
        del others[:rest]


def pytest_unconfigure():
    warm.end()


@pytest.fixture(scope="session")
def shared(tmp_path_factory):
    """A folder of all processes that run these tests, for what takes long to make."""
    folder = tmp_path_factory.getbasetemp()
    folder = folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder
    yield folder
    baking.assert_originals_are_whole(folder)


@pytest.fixture
def bake(tmp_path):
    """A function: bake an application below `tmp_path` with these answers, and return its folder."""
    return lambda **answers: baking.bake(tmp_path, **answers)


@pytest.fixture
def sink():
    """A running `Sink`, where replies end up."""
    with Sink() as sink:
        yield sink


@pytest.fixture(scope="session")
def postgresql(tmp_path_factory):
    """A running `tests.postgresql.Server`, which nobody may stop."""
    from tests.postgresql import Server  # here, as in each fixture that few tests need: drivers take long to import

    with Server(tmp_path_factory.mktemp("server")) as server:
        yield server


@pytest.fixture(scope="session")
def mariadb():
    """A running `tests.mariadb.Server`; what needs it is skipped where there is none."""
    from tests.mariadb import IS_THERE, REASON, Server

    if not IS_THERE:
        pytest.skip(REASON)
    with Server() as server:
        yield server


@pytest.fixture
def application(request, tmp_path, shared, sink):
    """A function: bake an application that replies to `sink`; return it as an `Application`, not started.

    Answers of the template's questions are given in small letters, settings in capitals:
    `application(protocol="smtp", state_storage="shelve", LISTS="news,dev")`. One that keeps its states in
    PostgreSQL gets an empty database on a running server, unless STATE_DATABASE is given. It is warm, see
    `tests.warm`, unless the test is marked `cold_start`.
    """
    made = []

    def make(protocol="lmtp", **choices):
        answers = {name: value for name, value in choices.items() if name.islower()}
        settings = {name: value for name, value in choices.items() if name.isupper()}
        if answers.get("state_storage") == "postgresql":
            settings.setdefault("SECRET_KEY", "only for tests, but longer than 32 characters")
            if "STATE_DATABASE" not in settings:
                settings["STATE_DATABASE"] = request.getfixturevalue("postgresql").new_database()
        if "PYTHONDONTWRITEBYTECODE" in settings:  # a test looks at what the application itself compiles
            folder = baking.bake(tmp_path, **answers)
        else:
            folder = baking.copy(shared, tmp_path, **answers)
        made.append(Application(folder, RELAY_HOST=sink.host, RELAY_PORT=sink.port, **settings))
        made[-1].is_warm = not request.node.get_closest_marker("cold_start")
        if protocol == "smtp":
            speak_smtp(made[-1].folder)
        return made[-1]

    yield make
    for application in made:
        application.__exit__()


@pytest.fixture(scope="session")
def baked(tmp_path_factory):
    """A function: the folder of an application with this storage, made once, for reading and importing only."""
    folders = {}

    def baked(state_storage):
        if state_storage not in folders:
            folder = tmp_path_factory.mktemp(state_storage)
            folders[state_storage] = baking.bake(folder, state_storage=state_storage)
        return folders[state_storage]

    return baked

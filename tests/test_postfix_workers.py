"""A real Postfix spreads mail over two workers, with the other `transport_maps` in `deploy/postfix/main.cf`."""

import re

import pytest

from tests import postfix
from tests.ports import free_port
from tests.waiting import wait_until

pytestmark = pytest.mark.skipif(not postfix.IS_THERE, reason=postfix.REASON)

SUBSCRIBE = "news-subscribe@example.com"
ELSEWHERE = ", inline:{ { elsewhere.test = error:somebody else's way } }"
# The maps of one worker, and in comments those of several, which come in their place.
OTHER = re.compile(r"^transport_maps = .*\n(?:#.*\n)*?(?P<other>#transport_maps = .*(?:\n#  .*)+)", re.MULTILINE)


class SpreadingPostfix(postfix.Postfix):
    """With the commented `transport_maps` for several workers, a map of somebody else's, and two ports for the workers."""

    def __init__(self, deploy):
        super().__init__(deploy)
        self.ports = [self.lmtp_port, free_port()]

    def _write_configuration(self):
        super()._write_configuration()
        file = self.folder / "etc" / "main.cf"
        main, changed = OTHER.subn(lambda maps: maps["other"].replace("#", "") + ELSEWHERE, file.read_text())
        assert changed == 1
        assert main.count("127.0.0.1:8824") == 2
        file.write_text(main.replace("127.0.0.1:8824", f"127.0.0.1:{self.ports[1]}"))


@pytest.mark.parametrize("state_storage", ["postgresql", "sqlite"])
def test_two_workers_share_mail_and_one_gets_all_when_the_other_is_down(application, tmp_path, state_storage):
    one = application(state_storage=state_storage)
    if state_storage == "sqlite":
        one.settings.update(STATE_DATABASE=tmp_path / "states.sqlite3", SECRET_KEY="x" * 32)
    two = one.copy(tmp_path / "two")
    with SpreadingPostfix(one.folder / "deploy") as world, one, two:
        for worker, port in zip((one, two), world.ports, strict=True):
            worker.settings["RECEIVER_PORT"] = port
            worker.start()

        for number in range(20):
            world.send(f"{number}@people.test", SUBSCRIBE)
        world.wait_until_empty()
        assert handled(one) + handled(two) == 20, world.log()
        assert handled(one) and handled(two)
        with world.client(stranger=False) as client:
            client.sendmail("alice@people.test", ["bob@elsewhere.test"], "Subject: hello\n\nHello.\n")
        wait_until(lambda: "somebody else's way" in world.log(), 60, world.log)

        two.terminate()
        for number in range(20, 40):
            world.send(f"{number}@people.test", SUBSCRIBE)
        wait_until(lambda: handled(one) + handled(two) == 40, 60, world.log)
        assert world.queued("deferred") == 0


def handled(worker):
    return worker.logged().count("handled mail from ")

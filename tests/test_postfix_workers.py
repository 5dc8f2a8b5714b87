"""A real Postfix spreads mail over two workers as `deploy/postfix/workers` says."""

import re

import pytest

from tests import postfix
from tests.ports import free_port
from tests.waiting import wait_until

pytestmark = pytest.mark.skipif(not postfix.IS_THERE, reason=postfix.REASON)

SUBSCRIBE = "news-subscribe@example.com"


class SpreadingPostfix(postfix.Postfix):
    """With the changes that `deploy/postfix/workers` asks for, and the two ports of the workers."""

    def __init__(self, deploy):
        super().__init__(deploy)
        self.ports = [self.lmtp_port, free_port()]

    def _write_configuration(self):
        super()._write_configuration()
        etc = self.folder / "etc"
        workers = (self.deploy / "postfix" / "workers").read_text()
        (line,) = re.findall(r"^# (transport_maps = .*)$", workers, re.MULTILINE)
        main = (etc / "main.cf").read_text()
        assert re.search(r"^transport_maps = ", main, re.MULTILINE)
        main = re.sub(r"^transport_maps = .*$", line.replace("/etc/postfix/", f"{etc}/"), main, flags=re.MULTILINE)
        (etc / "main.cf").write_text(main)
        with open(etc / "transport", "a") as transport:
            transport.write("elsewhere.test    error:somebody else's way\n")
        for usual, port in zip((8823, 8824), self.ports, strict=True):
            workers = workers.replace(f"127.0.0.1:{usual}", f"127.0.0.1:{port}")
        (etc / "workers").write_text(workers)


@pytest.mark.parametrize("state_storage", ["postgresql", "sqlite"])
def test_both_get_mail_and_one_gets_all_when_the_other_is_down(application, tmp_path, state_storage):
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
